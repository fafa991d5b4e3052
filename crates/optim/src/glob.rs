//! Patterns over parameter names: `*` is any run of characters, `?` any one.

/// How many edits keep `name` from matching `pattern`; 0 is a match.
pub(crate) fn distance(pattern: &str, name: &str) -> usize {
    let name: Vec<char> = name.chars().collect();
    // row[j]: edits between the pattern so far and the first j characters of the name.
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for wanted in pattern.chars() {
        let mut next = Vec::with_capacity(row.len());
        next.push(row[0] + usize::from(wanted != '*'));
        for (j, &got) in name.iter().enumerate() {
            let edited = match wanted {
                '*' => row[j + 1].min(next[j]),
                _ => {
                    let same = wanted == '?' || wanted == got;
                    (row[j] + usize::from(!same)).min(row[j + 1] + 1).min(next[j] + 1)
                }
            };
            next.push(edited);
        }
        row = next;
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::distance;

    #[test]
    fn stars_and_question_marks_match() {
        for (pattern, name) in [
            ("*", ""),
            ("*", "a.b"),
            ("*.norm.*", "layers.0.norm.weight"),
            ("layers.?.attn.*", "layers.3.attn.q.weight"),
            ("*weight", "head.weight"),
            ("a*b*c", "a1b2b3c"),
            ("", ""),
        ] {
            assert_eq!(distance(pattern, name), 0, "{pattern} {name}");
        }
    }

    #[test]
    fn others_do_not_and_the_distance_says_how_far() {
        assert_eq!(distance("*.nrm.*", "layers.0.norm.weight"), 1);
        assert_eq!(distance("layers.?.attn", "layers.12.attn"), 1);
        assert_eq!(distance("head", "head.weight"), 7);
        assert_eq!(distance("abc", ""), 3);
    }

    /// The plain definition, slow and short.
    fn matches(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], rest) => rest.is_empty(),
            ([b'*', tail @ ..], _) => (0..=name.len()).any(|skip| matches(tail, &name[skip..])),
            ([b'?', tail @ ..], [_, rest @ ..]) => matches(tail, rest),
            ([wanted, tail @ ..], [got, rest @ ..]) => wanted == got && matches(tail, rest),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn no_distance_means_a_match(pattern in "[ab.*?]{0,7}", name in "[ab.]{0,7}") {
            let plain = matches(pattern.as_bytes(), name.as_bytes());
            prop_assert_eq!(distance(&pattern, &name) == 0, plain);
        }
    }
}

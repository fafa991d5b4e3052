//! The known name a person probably meant.

/// The name in `known` with the fewest edits from `wrong`, if it is near enough to be a hint.
///
/// ```
/// use smidgen_codec::nearest_name;
/// assert_eq!(nearest_name("cosin", ["constant", "cosine"]), Some("cosine"));
/// assert_eq!(nearest_name("zebra", ["constant", "cosine"]), None);
/// ```
pub fn nearest_name<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) =
        known.into_iter().map(|name| (edits(wrong, name), name)).min_by_key(|&(d, _)| d)?;
    // More than half a word away is a guess, and a wrong guess costs more than none.
    (2 * distance <= wrong.chars().count().max(2)).then_some(name)
}

/// The hint line of an error about a name, or nothing.
pub(crate) fn hint(wrong: &str, known: &[&'static str]) -> String {
    match nearest_name(wrong, known.iter().copied()) {
        Some(name) => format!("\n  hint: did you mean `{name}`?"),
        None => String::new(),
    }
}

/// Insertions, deletions, substitutions and swaps of neighbours between two words.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let mut best = (above[j] + usize::from(a[i] != b[j])).min(above[j + 1] + 1);
            best = best.min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                best = best.min(before[j - 1] + 1usize);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("bf16", "bf16"), 0);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("bf61", "bf16"), 1);
    }

    #[test]
    fn far_names_are_no_hint() {
        assert_eq!(nearest_name("", ["f32"]), None);
        assert_eq!(nearest_name("bf", ["bf16", "f32"]), None);
        assert_eq!(nearest_name("b16", ["f32", "bf16"]), Some("bf16"));
        assert_eq!(nearest_name("x", []), None);
    }
}

//! The nearest known word to a mistyped one.

/// The candidate that `word` was most likely meant to be, or `None` where none is near.
///
/// Near is at most one edit in three characters (a swap of neighbours is one edit), at least one.
/// Of equally near candidates the first wins.
///
/// ```
/// use smidgen_codec::nearest;
/// assert_eq!(nearest("stpes", ["seed", "steps"]), Some("steps"));
/// assert_eq!(nearest("wd", ["lr"]), None);
/// ```
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, candidate)| {
            let longer = word.chars().count().max(candidate.chars().count());
            *distance <= (longer / 3).max(1)
        })
        // Keys of one character are one edit from everything; `min_by_key` keeps the first.
        .filter(|(distance, candidate)| *distance < candidate.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The hint line of an error about a name, or nothing.
pub(crate) fn hint(wrong: &str, known: &[&'static str]) -> String {
    match nearest(wrong, known.iter().copied()) {
        Some(name) => format!("\n  hint: did you mean `{name}`?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_swaps_and_strangers() {
        let known = ["steps", "seed", "batch_tokens", "lr"];
        assert_eq!(nearest("step", known), Some("steps"));
        assert_eq!(nearest("sede", known), Some("seed"));
        assert_eq!(nearest("batch_token", known), Some("batch_tokens"));
        assert_eq!(nearest("batchtoken", known), Some("batch_tokens"));
        assert_eq!(nearest("rl", known), Some("lr"));
        assert_eq!(nearest("momentum", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest("x", ["y"]), None);
        assert_eq!(nearest("x", []), None);
    }
}

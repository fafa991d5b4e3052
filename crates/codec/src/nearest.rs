//! The known name a person probably meant.

/// The name in `known` with the fewest edits from `wrong`, if it is near enough to be a hint.
///
/// ```
/// use smidgen_codec::nearest_name;
/// assert_eq!(nearest_name("cosin", ["constant", "cosine"]), Some("cosine"));
/// assert_eq!(nearest_name("zebra", ["constant", "cosine"]), None);
/// ```
pub fn nearest_name<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let (distance, name) = known
        .into_iter()
        .map(|name| (strsim::osa_distance(wrong, name), name))
        .min_by_key(|&(d, _)| d)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_names_are_no_hint() {
        assert_eq!(nearest_name("", ["f32"]), None);
        assert_eq!(nearest_name("bf", ["bf16", "f32"]), None);
        assert_eq!(nearest_name("b16", ["f32", "bf16"]), Some("bf16"));
        assert_eq!(nearest_name("x", []), None);
    }
}

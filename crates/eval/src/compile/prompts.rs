//! Prompts from held-out Rust: headers of free functions, up to and including the opening brace.
//!
//! A header is asked of the compiler first, with `loop {}` for a body, which has every type: what
//! names types or crates that a single function does not have could never be completed. So a
//! perfect model reaches a rate of 1.

use std::collections::BTreeSet;

use smidgen_codec::Rng;

use super::braces::{Mark, marks};

/// Longer headers are left out: they would fill a small context by themselves.
const LONGEST_BYTES: usize = 400;

/// What may stand before `fn` in a header.
const QUALIFIERS: &[&str] = &["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe"];

/// All distinct headers of the texts, in an order that the seed draws: by a hash of each header, so
/// that other headers, and the order of the texts, move none.
pub(super) fn candidates<'a>(texts: impl Iterator<Item = &'a str>, seed: u64) -> Vec<String> {
    let distinct: BTreeSet<&str> = texts.flat_map(headers).collect();
    let mut drawn: Vec<(u64, &str)> =
        distinct.into_iter().map(|header| (Rng::named(seed, header).at(0, 0, 0), header)).collect();
    drawn.sort_unstable();
    drawn.into_iter().map(|(_, header)| header.to_owned()).collect()
}

/// The headers of one text; functions that are not indented, since only those stand for themselves.
fn headers(text: &str) -> Vec<&str> {
    let marks: Vec<(usize, Mark)> = marks(text).collect();
    let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1));
    starts
        .filter(|&start| begins_function(&text[start..]))
        .filter_map(|start| {
            // Declarations without a body, and lines of strings and comments that look like headers,
            // get in here too; the compiler throws them out.
            let next = marks.partition_point(|&(at, _)| at < start);
            match marks.get(next) {
                Some(&(at, Mark::Open)) if at - start < LONGEST_BYTES => Some(&text[start..=at]),
                _ => None,
            }
        })
        .collect()
}

/// Whether a line is `fn ..` after qualifiers.
fn begins_function(line: &str) -> bool {
    let line = &line[..line.find('\n').unwrap_or(line.len())];
    !line.starts_with(' ')
        && line.split_whitespace().find(|word| !QUALIFIERS.contains(word)) == Some("fn")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "use a::b;\n\npub fn one(x: &[u8; 3]) -> u8 {\n    x[0]\n}\n\
        fn two<'a>(\n    y: &'a str,\n) -> char {\n    '{'\n}\n    fn method(&self) {}\n\
        trait T {\n}\nfn declared();\nfnord {\nasync fn three() {}\n/* \nfn four() */ {}\n";

    #[test]
    fn free_functions_give_their_headers() {
        let expected = [
            "pub fn one(x: &[u8; 3]) -> u8 {",
            "fn two<'a>(\n    y: &'a str,\n) -> char {",
            "fn declared();\nfnord {",
            "async fn three() {",
            "fn four() */ {",
        ];
        assert_eq!(headers(TEXT), expected);
    }

    #[test]
    fn order_depends_on_the_seed_alone() {
        let many: Vec<String> = (0..40).map(|i| format!("fn f{i}() {{\n}}\n")).collect();
        let forward = candidates(many.iter().map(String::as_str), 1);
        let backward = candidates(many.iter().rev().map(String::as_str), 1);
        assert_eq!(forward, backward);
        assert_eq!(forward.len(), 40);
        assert_ne!(forward, candidates(many.iter().map(String::as_str), 2));
        let fewer = candidates(many[..20].iter().map(String::as_str), 1);
        let kept: Vec<_> = forward.iter().filter(|header| fewer.contains(header)).collect();
        assert!(kept.into_iter().eq(&fewer));
    }
}

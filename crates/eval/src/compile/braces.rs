//! Where the braces of Rust text stand: a small lexer that passes over what only looks like one.
//!
//! Strings (raw, byte and C ones too), characters and comments (nested ones too) are passed over; a
//! lifetime is told from a character by what follows. Broken text is read as far as it goes.

/// One thing that [`marks`] tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Open,
    Close,
}

/// Every brace in code, with its place in bytes.
pub(super) fn marks(text: &str) -> impl Iterator<Item = (usize, Mark)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(&byte) = bytes.get(at) {
            let here = at;
            at = match byte {
                b'/' => after_slash(bytes, at),
                b'"' => after_string(bytes, at + 1),
                b'\'' => after_quote(bytes, at),
                b'r' | b'b' | b'c' if !is_word_before(bytes, at) => after_prefix(bytes, at),
                _ => at + 1,
            };
            let mark = match byte {
                b'{' => Mark::Open,
                b'}' => Mark::Close,
                _ => continue,
            };
            return Some((here, mark));
        }
        None
    })
}

/// The end of the block that is open at `start` (one brace deep), behind its closing brace.
pub(super) fn block_end(text: &str, start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, mark) in marks(text) {
        match mark {
            Mark::Open => depth += 1,
            Mark::Close => depth = depth.checked_sub(1)?,
        }
        if at >= start && depth == 0 && mark == Mark::Close {
            return Some(at + 1);
        }
    }
    None
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn is_word_before(bytes: &[u8], at: usize) -> bool {
    at > 0 && is_word(bytes[at - 1])
}

/// Behind a comment, or behind the slash where there is none.
fn after_slash(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at + 1) {
        Some(b'/') => {
            let line_end = bytes[at..].iter().position(|&byte| byte == b'\n');
            line_end.map_or(bytes.len(), |length| at + length)
        }
        Some(b'*') => after_block_comment(bytes, at + 2),
        _ => at + 1,
    }
}

fn after_block_comment(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 1;
    while depth > 0 && at < bytes.len() {
        match bytes.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    at.min(bytes.len())
}

/// Behind the closing quote of a string whose text begins at `at`.
fn after_string(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Behind a character, or behind the quote of a lifetime.
fn after_quote(bytes: &[u8], at: usize) -> usize {
    let Some(&first) = bytes.get(at + 1) else {
        return bytes.len();
    };
    if first == b'\\' {
        // The escaped byte may be the quote itself; `\u{..}` ends with the next one.
        let rest = bytes.get(at + 3..).unwrap_or_default();
        let end = rest.iter().position(|&byte| byte == b'\'' || byte == b'\n');
        return end.map_or(bytes.len(), |length| at + 4 + length);
    }
    let width = match first {
        0xF0.. => 4,
        0xE0.. => 3,
        0xC0.. => 2,
        _ => 1,
    };
    let closed = bytes.get(at + 1 + width) == Some(&b'\'');
    if closed { at + 2 + width } else { at + 1 }
}

/// Behind a literal that begins with `r`, `b`, `c` and their pairs, or behind the letter.
fn after_prefix(bytes: &[u8], at: usize) -> usize {
    let letters = bytes[at..].iter().take(2).take_while(|b| b"rbc".contains(b)).count();
    let raw = bytes[at..at + letters].contains(&b'r');
    let hashes = bytes[at + letters..].iter().take_while(|&&byte| byte == b'#').count();
    let quote = at + letters + hashes;
    if bytes.get(quote) == Some(&b'"') && (raw || hashes == 0) {
        return if raw {
            after_raw(bytes, quote + 1, hashes)
        } else {
            after_string(bytes, quote + 1)
        };
    }
    at + 1
}

/// Behind `"##`, with as many of `#` as the opening had.
fn after_raw(bytes: &[u8], mut at: usize, hashes: usize) -> usize {
    while let Some(length) = bytes[at..].iter().position(|&byte| byte == b'"') {
        at += length + 1;
        let closing = bytes[at..].iter().take(hashes).take_while(|&&byte| byte == b'#').count();
        if closing == hashes {
            return at + hashes;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> String {
        marks(text).map(|(at, _)| text.as_bytes()[at] as char).collect()
    }

    #[test]
    fn what_only_looks_like_a_brace_is_passed_over() {
        for text in [
            r#""}" '}' b'}' b"}" c"}" "\"}""#,
            r###"r"}" r#"}"}"# br##""#}"## "###,
            "// }\n/* } /* } */ } */",
            r"'\'' '\u{7d}' '\\' '}'",
            "'é' 'ß' '}' '😀'",
        ] {
            assert_eq!(shown(text), "", "{text}");
        }
    }

    #[test]
    fn lifetimes_and_names_are_no_literals() {
        assert_eq!(shown("fn f<'a>(x: &'a str) -> &'a str { x }"), "{}");
        assert_eq!(shown("let r = b; let abr = 'a'; {r}"), "{}");
        assert_eq!(shown("let s = br + cr; r#type; { 'l: loop {} }"), "{{}}");
        assert_eq!(shown("a / b { }"), "{}");
    }

    #[test]
    fn a_block_ends_where_its_brace_closes() {
        let text = "fn f() { if x { \"}\" } } fn g() {}";
        assert_eq!(block_end(text, 8).map(|end| &text[..end]), Some("fn f() { if x { \"}\" } }"));
        assert_eq!(block_end("fn f() { {", 8), None);
        assert_eq!(block_end("} {", 0), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_to_its_end(text in "[{}'\"/*\\\\#rbc;\né😀 ]{0,40}") {
            let places: Vec<usize> = marks(&text).map(|(at, _)| at).collect();
            prop_assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(places.iter().all(|&at| text.is_char_boundary(at)));
            let _ = block_end(&text, 1);
        }
    }
}

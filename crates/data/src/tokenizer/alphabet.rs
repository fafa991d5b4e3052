//! How vocabulary files spell bytes.
//!
//! Byte-level files spell every byte as a printable character: printable bytes stand for themselves,
//! the 68 others for the characters from U+0100 on, in order. SentencePiece files spell a blank as `▁`
//! and single bytes as `<0x0A>`.

use std::borrow::Cow;

/// What SentencePiece writes for a blank.
pub(crate) const BLANK: char = '▁';

/// Undoes the byte-level alphabet; `None` for a character outside it.
pub(crate) fn plain_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(plain_byte).collect()
}

/// Spells bytes in the byte-level alphabet.
pub(crate) fn spelled(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| letter(byte)).collect()
}

/// A text with `▁` for every blank.
pub(crate) fn with_marks(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(' ', "▁")
}

/// A text with a blank for every `▁`.
pub(crate) fn without_marks(text: &str) -> Cow<'_, str> {
    if text.contains(BLANK) { text.replace(BLANK, " ").into() } else { text.into() }
}

/// The byte that `<0x0A>` stands for.
pub(crate) fn byte_of_name(name: &[u8]) -> Option<u8> {
    let digits = name.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.len() == 2)?;
    // `from_str_radix` would take a sign.
    let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    hex.then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

fn plain_byte(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8), // 0x00..=0x20
        code @ 0x121..=0x142 => Some((code - 0x121) as u8 + 0x7f), // 0x7f..=0xa0
        0x143 => Some(0xad),
        _ => None,
    }
}

fn letter(byte: u8) -> char {
    let code = u32::from(byte);
    let code = match byte {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => code,
        0x00..=0x20 => code + 0x100,
        0x7f..=0xa0 => code - 0x7f + 0x121,
        0xad => 0x143,
    };
    char::from_u32(code).expect("all of these are characters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_the_librarys() {
        use tokenizers::pre_tokenizers::byte_level::ByteLevel;
        let mut bytes: Vec<u8> = ByteLevel::alphabet().into_iter().filter_map(plain_byte).collect();
        bytes.sort_unstable();
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes, all);
        assert_eq!(plain_bytes(&spelled(&all)), Some(all));
        // `Ġ` is the blank, `Ċ` the line feed, as every GPT-2 vocabulary shows.
        assert_eq!((plain_byte('Ġ'), plain_byte('Ċ')), (Some(b' '), Some(b'\n')));
        assert_eq!(plain_byte('€'), None);
    }

    #[test]
    fn names_of_bytes_are_read() {
        assert_eq!(byte_of_name(b"<0x0A>"), Some(b'\n'));
        for other in ["<0xA>", "<0x0A", "0x0A", "<0x0AB>", "<0xGG>", "<0x+1>", "<0xé>"] {
            assert_eq!(byte_of_name(other.as_bytes()), None, "{other}");
        }
    }
}

//! A keyed checksum: HMAC-SHA-256 over a message, 32 bytes that travel behind it.
//!
//! CRC32C finds damage; it does not stop somebody who means to deceive, for anyone can make one.
//! A tag can only be made with the key. It says nothing about who may read the message.

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 32;
/// The shortest key: 128 bits, below which guessing is thinkable.
pub const KEY_BYTES: usize = 16;

/// What is wrong with a key or a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// A key that could be guessed.
    #[error("key: expected at least {KEY_BYTES} bytes, got {0}")]
    ShortKey(usize),
    /// The message is not from somebody with the key, or has been changed.
    #[error("the tag is not that of the message\n  hint: both sides need the same key")]
    Tag,
}

/// A secret that both sides have. It is never shown.
#[derive(Clone)]
pub struct MacKey(Hmac<Sha256>);

impl MacKey {
    /// A key of at least 16 bytes.
    ///
    /// # Errors
    /// [`MacError::ShortKey`].
    pub fn new(bytes: &[u8]) -> Result<MacKey, MacError> {
        if bytes.len() < KEY_BYTES {
            return Err(MacError::ShortKey(bytes.len()));
        }
        Ok(MacKey(Hmac::new_from_slice(bytes).expect("a key may have any length")))
    }

    fn over(&self, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        mac
    }

    /// The tag of the parts, one behind the other; all but the last have to be of fixed length.
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; TAG_BYTES] {
        self.over(parts).finalize().into_bytes().into()
    }

    /// Checks a tag, in a time that does not depend on where it differs.
    ///
    /// # Errors
    /// [`MacError::Tag`].
    pub fn verify(&self, parts: &[&[u8]], tag: &[u8]) -> Result<(), MacError> {
        self.over(parts).verify_slice(tag).map_err(|_| MacError::Tag)
    }
}

impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tag_is_that_of_rfc_4231() {
        // Test case 1: 20 bytes of 0b, "Hi There".
        let key = MacKey::new(&[0x0b; 20]).unwrap();
        let tag = key.tag(&[b"Hi ", b"There"]);
        assert_eq!(
            super::super::expected::hex(&tag),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(key.verify(&[b"Hi There"], &tag), Ok(()));
    }

    #[test]
    fn any_change_is_found_and_the_key_is_not_shown() {
        let key = MacKey::new(&[7; 16]).unwrap();
        let tag = key.tag(&[b"container"]);
        for bit in 0..256 {
            let mut wrong = tag;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key.verify(&[b"container"], &wrong), Err(MacError::Tag));
        }
        assert_eq!(key.verify(&[b"containes"], &tag), Err(MacError::Tag));
        assert_eq!(key.verify(&[b"container"], &tag[..31]), Err(MacError::Tag));
        let other = MacKey::new(&[8; 16]).unwrap();
        assert_eq!(other.verify(&[b"container"], &tag), Err(MacError::Tag));
        assert_eq!(MacKey::new(&[7; 15]).unwrap_err(), MacError::ShortKey(15));
        assert_eq!(format!("{key:?}"), "MacKey(..)");
    }
}

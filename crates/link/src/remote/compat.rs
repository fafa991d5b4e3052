//! What each side says of itself in the block of `HELLO` that peers compare.

use smidgen_data::Tokenizer;
use smidgen_model::KeySpace;
use smidgen_store::sha256_bytes;

use crate::fuse::LoadedFuser;
use crate::net::Compatibility;
use crate::{Error, Side};

/// The family of every model here: whatever files they came from, one decoder reads them all, and the
/// fingerprint of the weights covers its sizes and constants.
pub const FAMILY: &str = "smidgen";

/// What a sharer has: a model, its tokenizer, keys in one of their spaces, and the fingerprint of a
/// fuser where it insists on one.
///
/// # Errors
/// [`Error::Value`] for a fingerprint that is no SHA-256 in hexadecimal.
pub fn as_sharer(
    side: &Side,
    tokenizer: &Tokenizer,
    keys: KeySpace,
    fuser: Option<&str>,
) -> Result<Compatibility, Error> {
    Ok(Compatibility {
        family: FAMILY.into(),
        shape: side.kv_shape(),
        k_space: keys.into(),
        rope_theta: side.decoder.spec().rope_theta as f32,
        tokenizer: digest("tokenizer", &tokenizer_sha256(tokenizer))?,
        weights: digest("weights", &side.fingerprint())?,
        fuser: fuser.map(|fuser| digest("fuser", fuser)).transpose()?,
    })
}

/// What a receiver wants: the sharer that its fuser was made for.
///
/// # Errors
/// [`Error::Value`] for a fuser that was made for nobody in particular.
pub fn as_wanted(fuser: &LoadedFuser) -> Result<Compatibility, Error> {
    let facts = &fuser.facts;
    Ok(Compatibility {
        family: FAMILY.into(),
        shape: fuser.fuser.pair().sharer,
        k_space: fuser.fuser.config().k_space.into(),
        rope_theta: 0.0,
        tokenizer: match facts.tokenizer.as_str() {
            "" => [0; 32],
            tokenizer => digest("fuser: tokenizer", tokenizer)?,
        },
        weights: digest("fuser: sharer", &facts.sharer)?,
        fuser: Some(digest("fuser", &fuser.fingerprint())?),
    })
}

/// A name for a tokenizer: SHA-256 of its `tokenizer.json` in hexadecimal.
pub fn tokenizer_sha256(tokenizer: &Tokenizer) -> String {
    sha256_bytes(tokenizer.to_json().as_bytes())
}

/// The bytes of a SHA-256 in hexadecimal.
pub(super) fn digest(key: &'static str, hex: &str) -> Result<[u8; 32], Error> {
    let wrong = || Error::value(key, "a SHA-256 in hexadecimal", format!("`{hex}`"));
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return Err(wrong());
    }
    for (byte, at) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_digest_is_one() {
        let hex = "0aff".repeat(16);
        assert_eq!(digest("x", &hex).unwrap()[..3], [0x0a, 0xff, 0x0a]);
        for wrong in ["", "0a", &hex[1..], &hex.replace('f', "g"), &"é".repeat(32)] {
            assert!(digest("x", wrong).is_err(), "{wrong}");
        }
    }
}

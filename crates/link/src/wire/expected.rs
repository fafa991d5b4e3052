//! What a container says of itself, against what its receiver has.

use super::error::Incompatible;
use super::header::Header;
use super::plan::About;
use crate::KvShape;

/// What the receiver of a container expects it to be for.
#[derive(Clone, Debug, PartialEq)]
pub struct Expected {
    /// The sharer's cache.
    pub shape: KvShape,
    /// T of the prompt.
    pub seq_len: usize,
    /// Sequences.
    pub batch: usize,
    /// Fingerprints, spaces and the base of rotations; the rest is not compared.
    pub about: About,
}

impl Header {
    /// Checks what the container says of itself against what this side has.
    ///
    /// # Errors
    /// The first field that differs. A fingerprint of zeros, on either side, says nothing.
    pub fn check(&self, expected: &Expected) -> Result<(), Incompatible> {
        let differs = |field, expected: String, got: String| Incompatible { field, expected, got };
        let shape = self.shape();
        let sizes = [
            ("layers of the sharer", expected.shape.layers, shape.layers),
            ("kv heads", expected.shape.kv_heads, shape.kv_heads),
            ("elements of a key", expected.shape.key_dim, shape.key_dim),
            ("elements of a value", expected.shape.value_dim, shape.value_dim),
            ("batch", expected.batch, self.batch()),
            ("tokens of the sequence", expected.seq_len, self.seq_len as usize),
        ];
        for (field, want, got) in sizes {
            if want != got {
                return Err(differs(field, want.to_string(), got.to_string()));
            }
        }
        let about = &expected.about;
        for (field, want, got) in [
            ("sharer", about.sharer, self.about.sharer),
            ("tokenizer", about.tokenizer, self.about.tokenizer),
            ("prompt", about.prompt, self.about.prompt),
        ] {
            if want != got && want != [0; 8] && got != [0; 8] {
                return Err(differs(field, hex(&want), hex(&got)));
            }
        }
        for (field, want, got) in [
            ("token space", about.tokens.name(), self.about.tokens.name()),
            ("key space", about.keys.name(), self.about.keys.name()),
        ] {
            if want != got {
                return Err(differs(field, want.into(), got.into()));
            }
        }
        if about.rope_theta.to_bits() != self.about.rope_theta.to_bits() {
            let (want, got) = (about.rope_theta, self.about.rope_theta);
            return Err(differs("rope theta", want.to_string(), got.to_string()));
        }
        Ok(())
    }
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

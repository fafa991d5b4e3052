//! `HELLO`: who speaks, which cache it is about, what fits, and a nonce.
//!
//! Body: magic `89 4B 56 4C 0D 0A 1A 0A`, u16 least and u16 greatest version, u8 role, u8 keyed,
//! u16 zero, u64 greatest message, u32 greatest frame body, u32 layers, u32 kv heads, u32 key dim,
//! u32 value dim, u32 k space, f32 rope theta, 32 bytes each of tokenizer, weights, fuser (zero:
//! none) and nonce, family and u32 length with terms: 180 bytes and the two texts.

use super::body::{Fields, put_text};
use super::compat::{Compatibility, Field, Role};
use super::error::{FrameError, NetError};
use super::frame::{Frame, MAX_BODY_BYTES};
use crate::KvShape;
use crate::wire::{KeySpace, hex};

/// Versions of the framing that this side speaks.
pub const VERSIONS: std::ops::RangeInclusive<u16> = 1..=1;
/// The longest name of a model family.
pub const MAX_FAMILY_BYTES: usize = 64;
/// The most that the two programs may tell each other beyond the block.
pub const MAX_TERMS_BYTES: usize = 64 << 10;
/// Every frame but `HELLO` and those of containers fits.
pub(super) const LEAST_FRAME_BYTES: u32 = 4 << 10;
/// The longest `HELLO`; nothing longer is read from a peer before its hello is right.
pub(super) const MAX_HELLO_BYTES: usize = 180 + 2 + MAX_FAMILY_BYTES + 4 + MAX_TERMS_BYTES;

const MAGIC: [u8; 8] = [0x89, b'K', b'V', b'L', 0x0d, 0x0a, 0x1a, 0x0a];

/// What one side says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// Least and greatest version of the framing.
    pub versions: (u16, u16),
    /// Which side.
    pub role: Role,
    /// Whether it has a key.
    pub keyed: bool,
    /// The longest container it takes.
    pub max_message_bytes: u64,
    /// The longest frame body it takes.
    pub max_frame_bytes: u32,
    /// Which cache the link is about.
    pub compatibility: Compatibility,
    /// Drawn anew for every session.
    pub nonce: [u8; 32],
    /// What the two programs agree on themselves: layers that are wanted, a cap. Opaque here.
    pub terms: Vec<u8>,
}

impl Hello {
    pub(super) fn body(&self) -> Result<Vec<u8>, NetError> {
        let block = &self.compatibility;
        let limits = [
            ("family", block.family.len(), MAX_FAMILY_BYTES),
            ("terms", self.terms.len(), MAX_TERMS_BYTES),
        ];
        if let Some((field, got, most)) = limits.into_iter().find(|(_, got, most)| got > most) {
            let (expected, got) = (format!("at most {most} bytes"), got.to_string());
            return Err(NetError::Unsayable { field, expected, got });
        }
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.versions.0.to_le_bytes());
        out.extend_from_slice(&self.versions.1.to_le_bytes());
        out.extend_from_slice(&[self.role as u8, u8::from(self.keyed), 0, 0]);
        out.extend_from_slice(&self.max_message_bytes.to_le_bytes());
        out.extend_from_slice(&self.max_frame_bytes.to_le_bytes());
        for (field, size) in sizes(block.shape) {
            let size = u32::try_from(size).map_err(|_| {
                let (expected, got) = ("a number under 2^32".into(), size.to_string());
                NetError::Unsayable { field: field.name(), expected, got }
            })?;
            out.extend_from_slice(&size.to_le_bytes());
        }
        out.extend_from_slice(&(block.k_space as u32).to_le_bytes());
        out.extend_from_slice(&block.rope_theta.to_le_bytes());
        for hash in [block.tokenizer, block.weights, block.fuser.unwrap_or_default(), self.nonce] {
            out.extend_from_slice(&hash);
        }
        put_text(&mut out, &block.family);
        out.extend_from_slice(&(self.terms.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.terms);
        Ok(out)
    }

    pub(super) fn read(frame: &Frame<'_>) -> Result<Hello, FrameError> {
        let mut fields = Fields::of(frame);
        let magic: [u8; 8] = fields.array("magic")?;
        if magic != MAGIC {
            return Err(fields.wrong("magic", 8, hex(&MAGIC), hex(&magic)));
        }
        let versions = (fields.u16("least version")?, fields.u16("greatest version")?);
        if versions.0 > versions.1 {
            let expected = format!("at least {}", versions.0);
            return Err(fields.wrong("greatest version", 2, expected, versions.1));
        }
        let role = match fields.u8("role")? {
            1 => Role::Sharer,
            2 => Role::Receiver,
            other => return Err(fields.wrong("role", 1, "1 or 2", other)),
        };
        let keyed = match fields.u8("keyed")? {
            flag @ 0..=1 => flag == 1,
            other => return Err(fields.wrong("keyed", 1, "0 or 1", other)),
        };
        let zero = fields.u16("reserved")?;
        if zero != 0 {
            return Err(fields.wrong("reserved", 2, "0", zero));
        }
        let max_message_bytes = fields.u64("max_message_bytes")?;
        let max_frame_bytes = fields.u32("max_frame_bytes")?;
        if !(LEAST_FRAME_BYTES..=MAX_BODY_BYTES as u32).contains(&max_frame_bytes) {
            let expected = format!("{LEAST_FRAME_BYTES} to {MAX_BODY_BYTES}");
            return Err(fields.wrong("max_frame_bytes", 4, expected, max_frame_bytes));
        }
        let (compatibility, nonce) = read_block(&mut fields)?;
        let len = fields.u32("terms")? as usize;
        if len > MAX_TERMS_BYTES {
            let expected = format!("at most {MAX_TERMS_BYTES} bytes");
            return Err(fields.wrong("terms", 4, expected, len));
        }
        let terms = fields.bytes("terms", len)?.to_vec();
        // A later version may say more; what it shares with this one stands first.
        if versions.1 <= *VERSIONS.end() {
            fields.end()?;
        }
        Ok(Hello {
            versions,
            role,
            keyed,
            max_message_bytes,
            max_frame_bytes,
            compatibility,
            nonce,
            terms,
        })
    }

    /// The version that both speak.
    pub(super) fn common_version(&self, peer: &Hello) -> Option<u16> {
        let version = self.versions.1.min(peer.versions.1);
        (version >= self.versions.0.max(peer.versions.0)).then_some(version)
    }
}

fn sizes(shape: KvShape) -> [(Field, usize); 4] {
    [
        (Field::Layers, shape.layers),
        (Field::KvHeads, shape.kv_heads),
        (Field::KeyDim, shape.key_dim),
        (Field::ValueDim, shape.value_dim),
    ]
}

fn read_block(fields: &mut Fields<'_>) -> Result<(Compatibility, [u8; 32]), FrameError> {
    let mut size = |field: Field| {
        let size = fields.u32(field.name())?;
        if size == 0 {
            Err(fields.wrong(field.name(), 4, "at least 1", size))
        } else {
            Ok(size as usize)
        }
    };
    let shape = KvShape {
        layers: size(Field::Layers)?,
        kv_heads: size(Field::KvHeads)?,
        key_dim: size(Field::KeyDim)?,
        value_dim: size(Field::ValueDim)?,
    };
    let number = fields.u32("k_space")?;
    let k_space = KeySpace::ALL.get(number as usize).copied();
    let k_space = k_space.ok_or_else(|| fields.wrong("k_space", 4, "0 to 2", number))?;
    let rope_theta = f32::from_le_bytes(fields.array("rope_theta")?);
    if !(rope_theta.is_finite() && rope_theta.is_sign_positive()) {
        return Err(fields.wrong("rope_theta", 4, "a finite number from 0 on", rope_theta));
    }
    let [tokenizer, weights] = [fields.array("tokenizer")?, fields.array("weights")?];
    let fuser = Some(fields.array("fuser")?).filter(|fuser| *fuser != [0; 32]);
    let nonce = fields.array("nonce")?;
    let family = fields.text("family", MAX_FAMILY_BYTES)?.to_owned();
    let block = Compatibility { family, shape, k_space, rope_theta, tokenizer, weights, fuser };
    Ok((block, nonce))
}

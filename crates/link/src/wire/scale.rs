//! Who shares a scale, in which type it is kept, and where the values of a payload lie.
//!
//! Values lie as `[layer][batch][token][head][dim]`; a row is one head of one token. Scales lie as
//!
//! | granularity | scales of a payload |
//! |---|---|
//! | tensor | `[1]` |
//! | layer | `[layer]` |
//! | head | `[layer][batch][head]` |
//! | block | `[layer][batch][token][head]` |
//! | group of g | `[layer][batch][token][head][dim / g]`, rounded up |
//! | channel of g | `[layer][batch][head][token / g][dim]`, rounded up |
//!
//! A payload is one block of layers, one group of tokens, and keys or values; the scale of a tensor
//! or a layer is that of its part of it, so that a block can be read alone. Channels are those of
//! keys, whose outliers stand in channels (KIVI, arXiv 2402.02750); values then have block scales.

use std::str::FromStr;

use smidgen_codec::element::{bf16, f16};

/// The type of a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleType {
    /// 16-bit floats of IEEE 754.
    F16 = 0,
    /// The upper half of a 32-bit float.
    Bf16 = 1,
    /// 32-bit floats.
    F32 = 2,
}

impl ScaleType {
    /// All types, in the order of their numbers.
    pub const ALL: [ScaleType; 3] = [ScaleType::F16, ScaleType::Bf16, ScaleType::F32];

    /// The name.
    pub fn name(self) -> &'static str {
        ["f16", "bf16", "f32"][self as usize]
    }

    /// Bytes of a scale.
    pub fn bytes(self) -> usize {
        if self == ScaleType::F32 { 4 } else { 2 }
    }

    /// The scale nearest to `exact`, but the smallest one for a positive number that would become 0.
    ///
    /// Infinite where it is past the largest.
    #[inline(always)]
    pub(super) fn round(self, exact: f32) -> f32 {
        let (rounded, smallest) = match self {
            ScaleType::F16 => (f16::expand(f16::round(exact)), f16::expand(1)),
            ScaleType::Bf16 => (bf16::expand(bf16::round(exact)), bf16::expand(1)),
            ScaleType::F32 => (exact, f32::from_bits(1)),
        };
        if rounded == 0.0 && exact > 0.0 { smallest } else { rounded }
    }

    /// Writes a rounded scale.
    #[inline(always)]
    pub(super) fn write(self, scale: f32, out: &mut [u8]) {
        match self {
            ScaleType::F16 => out.copy_from_slice(&f16::round(scale).to_le_bytes()),
            ScaleType::Bf16 => out.copy_from_slice(&bf16::round(scale).to_le_bytes()),
            ScaleType::F32 => out.copy_from_slice(&scale.to_le_bytes()),
        }
    }

    /// Writes rounded scales one after another.
    pub(super) fn write_all(self, scales: &[f32], out: &mut [u8]) {
        match self {
            ScaleType::F16 => f16::pack(scales, out.as_chunks_mut().0),
            ScaleType::Bf16 => bf16::pack(scales, out.as_chunks_mut().0),
            ScaleType::F32 => {
                let slots = out.as_chunks_mut().0;
                scales.iter().zip(slots).for_each(|(scale, slot)| *slot = scale.to_le_bytes());
            }
        }
    }

    /// Reads scales from the one with this number on.
    pub(super) fn read_all(self, bytes: &[u8], first: usize, out: &mut [f32]) {
        let bytes = &bytes[first * self.bytes()..];
        match self {
            ScaleType::F16 => f16::unpack(bytes.as_chunks().0, out),
            ScaleType::Bf16 => bf16::unpack(bytes.as_chunks().0, out),
            ScaleType::F32 => {
                let codes = bytes.as_chunks().0;
                codes.iter().zip(out).for_each(|(code, slot)| *slot = f32::from_le_bytes(*code));
            }
        }
    }

    /// The number of the first scale that is negative, no finite number, or so large that `top` times
    /// it is none.
    pub(super) fn first_wrong(self, bytes: &[u8], top: f32) -> Option<usize> {
        // Without a sign, bits order as numbers do; with one, they are above all of these.
        let halves = |most: u16| {
            let wrong = |code: &[u8; 2]| u16::from_le_bytes(*code) > most;
            first(bytes.as_chunks().0, wrong)
        };
        let most = most_scale(top).to_bits();
        match self {
            // The largest of them times the largest code is far below the largest f32.
            ScaleType::F16 => halves(0x7bff),
            // What is cut off makes a number smaller.
            ScaleType::Bf16 => halves((most >> 16) as u16),
            ScaleType::F32 => first(bytes.as_chunks().0, |code| u32::from_le_bytes(*code) > most),
        }
    }

    /// Reads the scale with this number.
    #[inline(always)]
    pub(super) fn read(self, bytes: &[u8], number: usize) -> f32 {
        match self {
            ScaleType::F32 => f32::from_le_bytes(bytes.as_chunks().0[number]),
            half => {
                let bits = u16::from_le_bytes(bytes.as_chunks().0[number]);
                if half == ScaleType::F16 { f16::expand(bits) } else { bf16::expand(bits) }
            }
        }
    }
}

/// The largest scale of which `top`, at least 1, is a finite multiple.
fn most_scale(top: f32) -> f32 {
    let quotient = f32::MAX / top;
    // Quotient and product are rounded, each up or down.
    let near = [quotient.next_up(), quotient].into_iter().find(|scale| (scale * top).is_finite());
    near.unwrap_or(quotient.next_down())
}

/// The place of the first code of which something is so: all at once where there is none, for the
/// search for a place is not vectorised.
#[inline(always)]
pub(super) fn first<const N: usize>(
    codes: &[[u8; N]],
    is: impl Fn(&[u8; N]) -> bool,
) -> Option<usize> {
    let any = codes.iter().fold(false, |any, code| any | is(code));
    if any { codes.iter().position(is) } else { None }
}

/// Which values share a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// All of a payload.
    Tensor,
    /// Those of a layer.
    Layer,
    /// Those of a head of a layer.
    Head,
    /// Those of a token and head.
    Block,
    /// So many neighbours of a token and head.
    Group(u16),
    /// Those of a head and dimension, of so many tokens.
    Channel(u16),
}

impl Granularity {
    const NAMES: [&str; 6] = ["tensor", "layer", "head", "block", "group", "channel"];

    /// The number in containers.
    pub(super) fn number(self) -> u8 {
        match self {
            Granularity::Tensor => 0,
            Granularity::Layer => 1,
            Granularity::Head => 2,
            Granularity::Block => 3,
            Granularity::Group(_) => 4,
            Granularity::Channel(_) => 5,
        }
    }

    /// Values or tokens that share a scale; 0 where that is no parameter.
    pub(super) fn size(self) -> u16 {
        match self {
            Granularity::Group(size) | Granularity::Channel(size) => size,
            _ => 0,
        }
    }

    /// The granularity with this number and size; both must fit.
    pub(super) fn by_number(number: u8, size: u16) -> Option<Granularity> {
        let granularity = match number {
            0 => Granularity::Tensor,
            1 => Granularity::Layer,
            2 => Granularity::Head,
            3 => Granularity::Block,
            4 => Granularity::Group(size),
            5 => Granularity::Channel(size),
            _ => return None,
        };
        ((number >= 4) == (size > 0)).then_some(granularity)
    }

    /// The granularity of keys or of values where this one is the container's.
    pub(super) fn of(self, side: Side) -> Granularity {
        match (self, side) {
            (Granularity::Channel(_), Side::Values) => Granularity::Block,
            (granularity, _) => granularity,
        }
    }

    /// Whether all values of a row have one scale.
    pub(super) fn by_row(self) -> bool {
        self.number() < 4
    }
}

impl std::fmt::Display for Granularity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Granularity::NAMES[usize::from(self.number())];
        match self.size() {
            0 => f.write_str(name),
            size => write!(f, "{name}/{size}"),
        }
    }
}

/// No granularity is written so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown granularity `{0}`, expected tensor, layer, head, block, group/SIZE or channel/SIZE"
)]
pub struct UnknownGranularity(String);

impl FromStr for Granularity {
    type Err = UnknownGranularity;

    /// Reads `head`, `group/32` and the like.
    fn from_str(text: &str) -> Result<Granularity, UnknownGranularity> {
        let (name, size) = text.split_once('/').unwrap_or((text, "0"));
        let number = Granularity::NAMES.iter().position(|known| *known == name);
        let granularity = number
            .zip(size.parse().ok())
            .and_then(|(number, size)| Granularity::by_number(number as u8, size));
        granularity.ok_or_else(|| UnknownGranularity(text.into()))
    }
}

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Keys.
    Keys,
    /// Values.
    Values,
}

impl Side {
    /// Both, in the order of a container.
    pub const BOTH: [Side; 2] = [Side::Keys, Side::Values];
}

/// The sizes of one payload. A plane is one layer of one sequence of the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) layers: usize,
    pub(super) batch: usize,
    pub(super) tokens: usize,
    pub(super) heads: usize,
    pub(super) dim: usize,
}

impl Grid {
    pub(super) fn planes(&self) -> usize {
        self.layers * self.batch
    }

    /// Rows of a plane.
    pub(super) fn plane_rows(&self) -> usize {
        self.tokens * self.heads
    }

    pub(super) fn rows(&self) -> usize {
        self.planes() * self.plane_rows()
    }

    /// Rows, or `None` where a claim is larger than any memory.
    pub(super) fn checked_rows(&self) -> Option<u64> {
        product(&[self.layers, self.batch, self.tokens, self.heads])
    }

    /// Scales of the payload, or `None` as above.
    pub(super) fn scales(&self, granularity: Granularity) -> Option<u64> {
        let Grid { layers, batch, tokens, heads, dim } = *self;
        match granularity {
            Granularity::Tensor => Some(1),
            Granularity::Layer => Some(layers as u64),
            Granularity::Head => product(&[layers, batch, heads]),
            Granularity::Block => self.checked_rows(),
            Granularity::Group(size) => {
                product(&[layers, batch, tokens, heads, dim.div_ceil(size.into())])
            }
            Granularity::Channel(size) => {
                product(&[layers, batch, heads, tokens.div_ceil(size.into()), dim])
            }
        }
    }

    /// The number of the scale of a value.
    pub(super) fn scale_of(
        &self,
        granularity: Granularity,
        plane: usize,
        token: usize,
        head: usize,
        at: usize,
    ) -> usize {
        let row = (plane * self.tokens + token) * self.heads + head;
        match granularity {
            Granularity::Tensor => 0,
            Granularity::Layer => plane / self.batch,
            Granularity::Head => plane * self.heads + head,
            Granularity::Block => row,
            Granularity::Group(size) => {
                let size = usize::from(size);
                row * self.dim.div_ceil(size) + at / size
            }
            Granularity::Channel(size) => {
                let size = usize::from(size);
                let part = (plane * self.heads + head) * self.tokens.div_ceil(size) + token / size;
                part * self.dim + at
            }
        }
    }
}

fn product(factors: &[usize]) -> Option<u64> {
    factors.iter().try_fold(1u64, |product, factor| product.checked_mul(*factor as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scale_is_used_and_none_lies_outside() {
        let grid = Grid { layers: 3, batch: 2, tokens: 5, heads: 2, dim: 7 };
        use Granularity::*;
        for granularity in [Tensor, Layer, Head, Block, Group(3), Group(7), Channel(2), Channel(9)]
        {
            let mut used = vec![0; grid.scales(granularity).unwrap() as usize];
            for plane in 0..grid.planes() {
                for (token, head, at) in
                    (0..5).flat_map(|t| (0..2).flat_map(move |h| (0..7).map(move |d| (t, h, d))))
                {
                    used[grid.scale_of(granularity, plane, token, head, at)] += 1;
                }
            }
            assert!(used.iter().all(|count| *count > 0), "{granularity}");
            assert_eq!(granularity.to_string().parse(), Ok(granularity));
            let (number, size) = (granularity.number(), granularity.size());
            assert_eq!(Granularity::by_number(number, size), Some(granularity));
        }
        let huge = Grid { layers: usize::MAX, ..grid };
        assert_eq!(huge.scales(Group(1)), None);
        for wrong in ["group", "group/0", "head/4", "rows", "group/x"] {
            assert!(wrong.parse::<Granularity>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_largest_scale_is_the_last_with_a_finite_multiple() {
        for top in [1.0, 2.0, 3.0, 7.0, 8.0, 15.0, 31.0, 63.0, 127.0, 128.0, 255.0, 448.0, 57344.0]
        {
            let most = most_scale(top);
            assert!((most * top).is_finite() && !(most.next_up() * top).is_finite(), "{top}");
            assert_eq!(ScaleType::F32.first_wrong(&most.to_le_bytes(), top), None);
            assert_eq!(ScaleType::F32.first_wrong(&most.next_up().to_le_bytes(), top), Some(0));
            let half = (most.to_bits() >> 16) as u16;
            let halves = [half.to_le_bytes(), (half + 1).to_le_bytes()].concat();
            assert_eq!(ScaleType::Bf16.first_wrong(&halves, top), Some(1), "{top}");
            assert!(!(bf16::expand(half + 1) * top).is_finite());
            assert!((f16::expand(0x7bff) * top).is_finite());
        }
    }

    #[test]
    fn scales_are_rounded_and_never_vanish() {
        assert_eq!(ScaleType::F16.round(1e-9), 2f32.powi(-24));
        assert_eq!(ScaleType::F16.round(0.0), 0.0);
        assert_eq!(ScaleType::F16.round(1e6), f32::INFINITY);
        assert_eq!(ScaleType::Bf16.round(1.0 + 1.0 / 256.0), 1.0);
        for scale_type in ScaleType::ALL {
            assert_eq!(ScaleType::ALL[scale_type as usize], scale_type);
            for exact in [0.0, 1.0, 0.3, 1e-6] {
                let mut bytes = vec![0xff; 2 * scale_type.bytes()];
                let scale = scale_type.round(exact);
                scale_type.write(scale, &mut bytes[scale_type.bytes()..]);
                assert_eq!(scale_type.read(&bytes, 1), scale);
            }
        }
    }
}

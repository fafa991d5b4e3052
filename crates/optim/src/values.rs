//! The values of a parameter as a rule sees them: f32, or bf16 with a way to keep small updates.
//!
//! An update below half a step of bf16 is lost by nearest rounding. Plain bf16 weights are rounded
//! stochastically, so that they move as they should in the mean; with a low part, another bf16 per
//! value holds what rounding left over (Kahan's compensation), and the sum of both is the weight.

use half::bf16;
use smidgen_codec::Rounding;
use smidgen_codec::element;
use smidgen_tensor::{Format, Tensor};

/// The values of one parameter, `rows * cols` of them.
#[derive(Debug)]
pub enum Values<'a> {
    /// Master weights.
    F32(&'a mut [f32]),
    /// 2 bytes per value, rounded stochastically.
    Bf16(&'a mut [bf16]),
    /// 2 bytes per value, and 2 for what rounding left over.
    Kahan {
        /// What the model computes with.
        high: &'a mut [bf16],
        /// The rest of each weight, of the same length.
        low: &'a mut [bf16],
    },
}

impl<'a> From<&'a mut [f32]> for Values<'a> {
    fn from(values: &'a mut [f32]) -> Self {
        Self::F32(values)
    }
}

/// # Panics
/// When somebody else holds the bytes of the tensor.
impl<'a> From<&'a mut Tensor> for Values<'a> {
    fn from(tensor: &'a mut Tensor) -> Self {
        match tensor.format() {
            Format::F32 => Self::F32(tensor.slice_mut()),
            Format::Bf16 => Self::Bf16(tensor.slice_mut()),
        }
    }
}

impl<'a> Values<'a> {
    /// How many values there are; of two parts, the shorter counts.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(codes) => codes.len(),
            Self::Kahan { high, low } => high.len().min(low.len()),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same values for a shorter time.
    pub fn reborrow(&mut self) -> Values<'_> {
        match self {
            Self::F32(values) => Values::F32(values),
            Self::Bf16(codes) => Values::Bf16(codes),
            Self::Kahan { high, low } => Values::Kahan { high, low },
        }
    }

    /// Takes the first `count` values off, or all where there are fewer.
    pub(crate) fn take(&mut self, count: usize) -> Values<'a> {
        fn front<'a, T>(from: &mut &'a mut [T], count: usize) -> &'a mut [T] {
            let count = count.min(from.len());
            from.split_off_mut(..count).expect("no more than there are")
        }
        match self {
            Self::F32(values) => Values::F32(front(values, count)),
            Self::Bf16(codes) => Values::Bf16(front(codes, count)),
            Self::Kahan { high, low } => {
                Values::Kahan { high: front(high, count), low: front(low, count) }
            }
        }
    }

    /// The values in place, where they are f32.
    pub(crate) fn as_f32_mut(&mut self) -> Option<&mut [f32]> {
        match self {
            Self::F32(values) => Some(values),
            Self::Bf16(_) | Self::Kahan { .. } => None,
        }
    }

    /// Widens the values from `at` on into `to`.
    pub(crate) fn load(&self, at: usize, to: &mut [f32]) {
        let end = at + to.len();
        match self {
            Self::F32(values) => to.copy_from_slice(&values[at..end]),
            Self::Bf16(codes) => element::bf16::unpack(pairs(&codes[at..end]), to),
            Self::Kahan { high, low } => {
                for (value, (high, low)) in
                    to.iter_mut().zip(high[at..end].iter().zip(&low[at..end]))
                {
                    *value = high.to_f32() + low.to_f32();
                }
            }
        }
    }

    /// Rounds `from` over the values from `at` on; `rounding` is that of the value at `at`.
    pub(crate) fn store(&mut self, at: usize, from: &[f32], rounding: Rounding) {
        let end = at + from.len();
        match (self, rounding) {
            (Self::F32(values), _) => values[at..end].copy_from_slice(from),
            (Self::Bf16(codes), Rounding::Stochastic { key, first_index }) => {
                element::bf16::pack_stochastic(
                    from,
                    pairs_mut(&mut codes[at..end]),
                    key,
                    first_index,
                );
            }
            (Self::Bf16(codes), Rounding::Nearest) => {
                element::bf16::pack(from, pairs_mut(&mut codes[at..end]));
            }
            (Self::Kahan { high, low }, _) => {
                let parts = high[at..end].iter_mut().zip(&mut low[at..end]);
                for (value, (high, low)) in from.iter().zip(parts) {
                    *high = bf16::from_f32(*value);
                    *low = bf16::from_f32(value - high.to_f32());
                }
            }
        }
    }
}

fn pairs(codes: &[bf16]) -> &[[u8; 2]] {
    bytemuck::cast_slice(codes)
}

fn pairs_mut(codes: &mut [bf16]) -> &mut [[u8; 2]] {
    bytemuck::cast_slice_mut(codes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_part_keeps_what_bf16_drops() {
        let start = [1.0f32, -3.0, 0.1];
        let (mut high, mut low) = ([bf16::ZERO; 3], [bf16::ZERO; 3]);
        let mut values = Values::Kahan { high: &mut high, low: &mut low };
        values.store(0, &start, Rounding::Nearest);
        let mut sum = [0.0; 3];
        for _ in 0..1000 {
            values.load(0, &mut sum);
            sum.iter_mut().for_each(|value| *value += 1e-4);
            values.store(0, &sum, Rounding::Nearest);
        }
        values.load(0, &mut sum);
        for (sum, start) in sum.iter().zip(start) {
            assert!((sum - start - 0.1).abs() < 0.01, "{sum} {start}");
        }
        let mut plain = [bf16::ONE; 1];
        let mut plain = Values::Bf16(&mut plain);
        let mut value = [0.0; 1];
        for _ in 0..1000 {
            plain.load(0, &mut value);
            value[0] += 1e-4;
            plain.store(0, &value, Rounding::Nearest);
        }
        assert_eq!(value[0] - 1e-4, 1.0, "nearest rounding stands still");
    }
}

//! A throw-away block format: a block parameter, a scale per block, a per-tensor header, blocks
//! that may start at each row, short tails, and a map for each sign.
//!
//! code = round(x / scale), scale = absmax / 127 (255 unsigned), stored as a 16-bit share of the
//! largest scale, which is the header. The share is rounded up so that nothing saturates.

use smidgen_codec::{Codec, Format, Layout, Rounding, Sign, rng::bits32};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Toy {
    pub(crate) block: usize,
    pub(crate) row_aligned: bool,
    pub(crate) sign: Sign,
}

impl Toy {
    fn top(&self) -> f32 {
        match self.sign {
            Sign::Signed => 127.0,
            Sign::Unsigned => 255.0,
        }
    }

    fn encode_block(&self, src: &[f32], largest: f32, dst: &mut [u8], rounding: Rounding) {
        let share = (absmax(src) / self.top() / largest * 65535.0).ceil().clamp(0.0, 65535.0);
        let share = if share.is_nan() { 0 } else { share as u16 };
        let (scale_bytes, codes) = dst.split_at_mut(2);
        scale_bytes.copy_from_slice(&share.to_le_bytes());
        let scale = scale(share, largest);
        for (i, (x, code)) in src.iter().zip(codes).enumerate() {
            let exact = if scale > 0.0 { x / scale } else { 0.0 };
            *code = match self.sign {
                Sign::Signed => round(exact, rounding.advance(i)) as i8 as u8,
                Sign::Unsigned => round(exact, rounding.advance(i)) as u8,
            };
        }
    }
}

impl Codec for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }

    fn id(&self) -> u16 {
        u16::MAX
    }

    fn block(&self) -> Option<usize> {
        Some(self.block)
    }

    fn with_block(&self, block: usize) -> Option<Format> {
        (block > 0).then(|| Format::new(Toy { block, ..*self }))
    }

    fn sign(&self) -> Sign {
        self.sign
    }

    fn for_sign(&self, sign: Sign) -> Option<Format> {
        Some(Format::new(Toy { sign, ..*self }))
    }

    fn layout(&self, shape: [usize; 2]) -> Layout {
        let layout = Layout::blocks(shape, self.block, self.block + 2).with_header(4);
        let layout = if self.row_aligned { layout.row_aligned() } else { layout };
        layout.with_tail(|values| values + 2)
    }

    fn header(&self, src: &[f32]) -> Vec<u8> {
        (absmax(src) / self.top()).to_le_bytes().to_vec()
    }

    fn encode(&self, src: &[f32], header: &[u8], dst: &mut [u8], rounding: Rounding) {
        let largest = largest(header);
        let blocks = src.chunks(self.block).zip(dst.chunks_mut(self.block + 2));
        for (i, (src, dst)) in blocks.enumerate() {
            self.encode_block(src, largest, dst, rounding.advance(i * self.block));
        }
    }

    fn decode(&self, src: &[u8], header: &[u8], dst: &mut [f32]) {
        let largest = largest(header);
        for (src, dst) in src.chunks(self.block + 2).zip(dst.chunks_mut(self.block)) {
            let (share, codes) = src.split_at(2);
            let scale = scale(u16::from_le_bytes([share[0], share[1]]), largest);
            for (code, x) in codes.iter().zip(dst) {
                *x = scale
                    * match self.sign {
                        Sign::Signed => f32::from(*code as i8),
                        Sign::Unsigned => f32::from(*code),
                    };
            }
        }
    }
}

fn absmax(src: &[f32]) -> f32 {
    src.iter().fold(0.0, |max, x| max.max(x.abs()))
}

fn largest(header: &[u8]) -> f32 {
    header.try_into().map_or(0.0, f32::from_le_bytes)
}

fn scale(share: u16, largest: f32) -> f32 {
    f32::from(share) / 65535.0 * largest
}

fn round(exact: f32, rounding: Rounding) -> f32 {
    match rounding {
        Rounding::Nearest => exact.round_ties_even(),
        Rounding::Stochastic { key, first_index } => {
            let random = (bits32(key, first_index) >> 8) as f32 / (1 << 24) as f32;
            (exact + random).floor()
        }
    }
}

//! Rotary position embedding in the half-split layout of Hugging Face models.
//!
//! Pair (j, j + E/2) of each head turns by `position * theta^(-2j/E)`; the gradient turns back.
//! Source: Su et al., RoFormer (arXiv 2104.09864).

#![allow(unsafe_code)]

use std::ops::Range;

use super::{by_rows, with_format};
use crate::tensor::{Element, Shared};
use crate::{Device, Tensor};

/// Cosines and sines for positions `0..len` of one head size.
#[derive(Debug)]
pub struct RopeTable {
    head_dim: usize,
    /// `[len][E]`: the cosines of a position, then its sines.
    values: Vec<f32>,
}

impl RopeTable {
    /// A table for `len` positions of heads of `head_dim` values.
    ///
    /// # Panics
    /// When `head_dim` is odd or 0.
    pub fn new(head_dim: usize, len: usize, theta: f64) -> RopeTable {
        let half = head_dim / 2;
        assert!(half > 0 && head_dim == 2 * half, "a head is made of pairs");
        let mut values = Vec::with_capacity(len * head_dim);
        for position in 0..len {
            let angle = |j: usize| position as f64 * theta.powf(-2.0 * j as f64 / head_dim as f64);
            values.extend((0..half).map(|j| angle(j).cos() as f32));
            values.extend((0..half).map(|j| angle(j).sin() as f32));
        }
        RopeTable { head_dim, values }
    }

    /// The size of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Positions it holds.
    pub fn len(&self) -> usize {
        self.values.len() / self.head_dim
    }

    /// Whether it holds no position.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Bytes of the table.
    pub fn byte_len(&self) -> usize {
        self.values.len() * 4
    }

    fn at(&self, position: u32) -> (&[f32], &[f32]) {
        self.values[position as usize * self.head_dim..][..self.head_dim]
            .split_at(self.head_dim / 2)
    }
}

crate::multiversion! {
    fn turn<A: Element>(heads: &mut [A], cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in heads.chunks_exact_mut(2 * half) {
            let (a, b) = head.split_at_mut(half);
            for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                let (u, v, s) = (a.to_f32(), b.to_f32(), sin * sign);
                *a = A::from_f32(u * cos - v * s);
                *b = A::from_f32(v * cos + u * s);
            }
        }
    }
}

/// Turns the heads in columns `range` of every row by the row's position; backwards with sign -1.
pub(crate) fn rotate(
    device: &Device,
    x: &mut Tensor,
    range: Range<usize>,
    table: &RopeTable,
    positions: &[u32],
    sign: f32,
) {
    let (rows, cols, level) = (x.rows(), x.cols(), device.level());
    with_format!(x.format(), A => {
        let shared = Shared::new(x.slice_mut::<A>());
        by_rows(device.team(), rows, |first, count| {
            for (row, position) in (first..first + count).zip(&positions[first..]) {
                let (cos, sin) = table.at(*position);
                // SAFETY: every row belongs to one task.
                turn(level, unsafe { shared.slice(row * cols + range.start, range.len()) }, cos, sin, sign);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, wild};

    fn heads<A: Element>(half: usize) {
        let heads = wild::<A>(1, 6 * half);
        let table = RopeTable::new(2 * half, 5, 1e4);
        let (cos, sin) = table.at(4);
        same_at_every_level("turn", |level| {
            let (mut there, mut back) = (heads.clone(), heads.clone());
            turn(level, &mut there, cos, sin, 1.0);
            turn(level, &mut back, cos, sin, -1.0);
            (bits(&there), bits(&back))
        });
    }

    #[test]
    fn every_level_gives_the_same_bits() {
        for half in LENGTHS.into_iter().skip(1) {
            for_formats!(heads(half));
        }
    }

    #[test]
    fn a_table_knows_its_size() {
        let table = RopeTable::new(6, 7, 1e4);
        assert_eq!((table.len(), table.head_dim(), table.byte_len()), (7, 6, 7 * 6 * 4));
        assert!(RopeTable::new(6, 0, 1e4).is_empty());
        assert_eq!(table.at(0), (&[1.0; 3][..], &[0.0; 3][..]));
    }
}

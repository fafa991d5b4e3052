//! One micro-batch, and how a row of it is cut from a shard.

use crate::Shard;

/// A micro-batch of B rows of T tokens, all arrays row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// B.
    pub rows: usize,
    /// T.
    pub context: usize,
    /// Inputs, [B, T].
    pub tokens: Vec<u32>,
    /// What follows each input, [B, T]; legal ids at weight 0 too.
    pub targets: Vec<u32>,
    /// 1 where the target counts, 0 where it only fills a row, [B, T].
    pub weights: Vec<f32>,
    /// For each position the index within its row at which its document begins, [B, T]: attention
    /// does not look before it, and positions count from it.
    pub starts: Vec<u32>,
    /// Sum of the weights of all micro-batches of the step: what the loss sum is divided by.
    pub step_target_tokens: u64,
}

impl Batch {
    /// A batch without rows, ready for `rows` of them.
    pub(crate) fn with_capacity(rows: usize, context: usize) -> Self {
        let size = rows * context;
        Self {
            rows: 0,
            context,
            tokens: Vec::with_capacity(size),
            targets: Vec::with_capacity(size),
            weights: Vec::with_capacity(size),
            starts: Vec::with_capacity(size),
            step_target_tokens: 0,
        }
    }

    /// Adds the row whose inputs are the tokens `start..start + T` of the shard. What lies behind
    /// the last target is filled with the last token of all, at weight 0.
    pub(crate) fn push_row(&mut self, shard: &Shard, start: u64) {
        let there = (shard.tokens() - 1 - start).min(self.context as u64) as usize;
        let mut window = vec![0; there + 1];
        shard.read(start, &mut window);
        let last = window[there];
        window.resize(self.context + 1, last);
        self.tokens.extend_from_slice(&window[..self.context]);
        self.targets.extend_from_slice(&window[1..]);
        self.weights.extend((0..self.context).map(|i| if i < there { 1.0 } else { 0.0 }));
        self.push_starts(shard, start);
        self.rows += 1;
    }

    /// Adds a row that counts for nothing, to keep the shape.
    pub(crate) fn push_empty_row(&mut self, id: u32) {
        self.tokens.resize(self.tokens.len() + self.context, id);
        self.targets.resize(self.targets.len() + self.context, id);
        self.weights.resize(self.weights.len() + self.context, 0.0);
        self.starts.resize(self.starts.len() + self.context, 0);
        self.rows += 1;
    }

    fn push_starts(&mut self, shard: &Shard, start: u64) {
        let mut next = shard.document_at(start) + 1;
        let mut begin = 0;
        for i in 0..self.context as u64 {
            if next <= shard.documents() && shard.offset(next) == start + i {
                begin = i as u32;
                next += 1;
            }
            self.starts.push(begin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::{EOT, shard};

    #[test]
    fn rows_cross_documents_but_starts_do_not() {
        // 0 5 6 | 0 7 | 0 8 9 | 0
        let (_dir, shard) = shard(&[vec![5, 6], vec![7], vec![8, 9]], 300);
        let mut batch = Batch::with_capacity(2, 4);
        batch.push_row(&shard, 1);
        batch.push_row(&shard, 3);
        assert_eq!(batch.tokens, [5, 6, EOT, 7, EOT, 7, EOT, 8]);
        assert_eq!(batch.targets, [6, EOT, 7, EOT, 7, EOT, 8, 9]);
        assert_eq!(batch.starts, [0, 0, 2, 2, 0, 0, 2, 2]);
        assert_eq!(batch.weights, [1.0; 8]);
        assert_eq!(batch.rows, 2);
    }

    #[test]
    fn the_tail_is_filled_at_weight_zero() {
        let (_dir, shard) = shard(&[vec![5, 6], vec![7], vec![8, 9]], 300);
        let mut batch = Batch::with_capacity(1, 4);
        batch.push_row(&shard, 6);
        assert_eq!(batch.tokens, [8, 9, EOT, EOT]);
        assert_eq!(batch.targets, [9, EOT, EOT, EOT]);
        assert_eq!(batch.weights, [1.0, 1.0, 0.0, 0.0]);
        assert_eq!(batch.starts, [0, 0, 2, 2]);
    }
}

//! The order of rows of query and key maps.
//!
//! Our rotary embedding turns the pairs (j, j + E/2) of a head, as Hugging Face does. llama2.c and
//! GGUF files of the `llama` kind turn neighbours (2j, 2j + 1): the same numbers, rows in another
//! order. Biases are columns of one value per row.

/// The row of a head in our order that is row `paired` in the order of pairs.
pub(super) fn half_of(paired: usize, head_dim: usize) -> usize {
    paired / 2 + paired % 2 * (head_dim / 2)
}

/// Puts the rows of every head from the order of pairs into ours. `scratch` holds one head.
pub(super) fn pairs_to_halves(
    values: &mut [f32],
    head_dim: usize,
    cols: usize,
    scratch: &mut [f32],
) {
    for head in values.chunks_exact_mut(head_dim * cols) {
        scratch.copy_from_slice(head);
        for (paired, row) in scratch.chunks_exact(cols).enumerate() {
            head[half_of(paired, head_dim) * cols..][..cols].copy_from_slice(row);
        }
    }
}

/// Whether a parameter of ours has such rows.
pub(super) fn turns(ours: &str) -> bool {
    [".attn.q.", ".attn.k."].iter().any(|part| ours.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_part() {
        let mut values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        pairs_to_halves(&mut values, 6, 2, &mut [0.0; 12]);
        assert_eq!(values[..12], [0., 1., 4., 5., 8., 9., 2., 3., 6., 7., 10., 11.]);
        assert_eq!(values[12..14], [12., 13.]);
        assert!(turns("layers.3.attn.q.bias") && !turns("layers.3.attn.q_norm.weight"));
    }
}

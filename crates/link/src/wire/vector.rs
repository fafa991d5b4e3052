//! The reference data from which any implementation makes the same containers.
//!
//! splitmix64 of the seed; each draw z gives ((z >> 40) - 2^23) / 2^23, times 4 for keys where the
//! element's number is 3 modulo 16. In order of layer, keys then values, token, head, element.

use crate::{Error, KvShape, KvView};

/// Keys and values, each `[L T K E]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Reference {
    shape: KvShape,
    tokens: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// The reference data of a seed.
pub fn reference(seed: u64, layers: usize, heads: usize, dim: usize, tokens: usize) -> Reference {
    let shape = KvShape { layers, kv_heads: heads, key_dim: dim, value_dim: dim };
    let (mut state, each) = (seed, tokens * heads * dim);
    let mut draw = || {
        let z = splitmix64(&mut state);
        ((z >> 40) as i64 - (1 << 23)) as f32 / (1 << 23) as f32
    };
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for _ in 0..layers {
        keys.extend((0..each).map(|i| draw() * if i % dim % 16 == 3 { 4.0 } else { 1.0 }));
        values.extend((0..each).map(|_| draw()));
    }
    Reference { shape, tokens, keys, values }
}

fn splitmix64(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Reference {
    /// The data, to be sent.
    pub fn view(&self) -> KvView<'_> {
        let Reference { shape, tokens, keys, values } = self;
        KvView { shape: *shape, tokens: *tokens, keys, values }
    }

    /// The same layers as those with these numbers of a sharer that has `of_layers`; its others are
    /// zero.
    ///
    /// # Errors
    /// [`Error::Length`] when there are not as many numbers as layers, or one is not below `of_layers`.
    pub fn spread(&self, of_layers: usize, numbers: &[u16]) -> Result<Reference, Error> {
        let (expected, got) = (self.shape.layers, numbers.len());
        if expected != got || numbers.iter().any(|number| usize::from(*number) >= of_layers) {
            return Err(Error::Length { what: "layers of the reference", expected, got });
        }
        let spread = |from: &[f32]| {
            let each = from.len() / self.shape.layers;
            let mut to = vec![0.0; each * of_layers];
            for (layer, number) in from.chunks_exact(each).zip(numbers) {
                to[usize::from(*number) * each..][..each].copy_from_slice(layer);
            }
            to
        };
        let shape = KvShape { layers: of_layers, ..self.shape };
        let (keys, values) = (spread(&self.keys), spread(&self.values));
        Ok(Reference { shape, tokens: self.tokens, keys, values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_the_published_one() {
        // The first numbers of splitmix64 from 1234567.
        let mut state = 1_234_567;
        let drawn = [(); 3].map(|()| splitmix64(&mut state));
        assert_eq!(drawn, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn layers_go_where_they_are_told() {
        let reference = reference(1, 2, 1, 16, 3);
        let spread = reference.spread(6, &[3, 5]).unwrap();
        assert_eq!(spread.view().key(3, 1), reference.view().key(0, 1));
        assert_eq!(spread.view().value(5, 2), reference.view().value(1, 2));
        assert!(spread.view().value(4, 0).iter().all(|value| *value == 0.0));
        assert!(reference.view().keys.iter().any(|key| key.abs() > 1.0));
        assert!(reference.view().values.iter().all(|value| value.abs() <= 1.0));
        assert!(reference.spread(5, &[3, 5]).is_err() && reference.spread(6, &[3]).is_err());
    }
}

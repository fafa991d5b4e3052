//! How the rows of one token travel: a precision for the key and the value of every layer.

use super::Precision;
use crate::KvShape;

/// One layer of the sharer. None is not sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LayerPrecision {
    /// Of keys.
    pub key: Option<Precision>,
    /// Of values.
    pub value: Option<Precision>,
}

impl LayerPrecision {
    /// Whether anything of the layer travels.
    pub fn is_sent(self) -> bool {
        self.key.is_some() || self.value.is_some()
    }

    /// Which halves travel.
    fn halves(self) -> [bool; 2] {
        [self.key.is_some(), self.value.is_some()]
    }
}

/// A precision for each layer of the sharer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recipe {
    /// `[L]`.
    pub layers: Vec<LayerPrecision>,
}

impl Recipe {
    /// The same precisions in every layer.
    pub fn uniform(layers: usize, key: Precision, value: Precision) -> Recipe {
        Recipe { layers: vec![LayerPrecision { key: Some(key), value: Some(value) }; layers] }
    }

    /// The layers that travel, ascending.
    pub fn sent(&self) -> Vec<usize> {
        let is_sent = |layer: &usize| self.layers[*layer].is_sent();
        (0..self.layers.len()).filter(is_sent).collect()
    }

    /// Whether both send the same halves of the same layers, so that they fit in one message.
    pub fn fits(&self, other: &Recipe) -> bool {
        let halves = |recipe: &Recipe| -> Vec<_> {
            recipe.layers.iter().map(|layer| layer.halves()).collect()
        };
        halves(self) == halves(other)
    }

    /// Blocks of so many layers, or of a divisor, have one precision each; 0 where any number does.
    fn block_step(&self) -> usize {
        let sent: Vec<_> = self.layers.iter().filter(|layer| layer.is_sent()).collect();
        let changes = sent.windows(2).enumerate().filter(|(_, pair)| pair[0] != pair[1]);
        changes.fold(0, |step, (before, _)| gcd(step, before + 1))
    }

    /// Bits of an element on average over all layers; what is not sent has none.
    pub fn effective_bits(&self, shape: &KvShape) -> f64 {
        let bits = |precision: Option<Precision>| precision.map_or(0, Precision::bits) as f64;
        let (keys, values) = (shape.key_row() as f64, shape.value_row() as f64);
        let layer = |layer: &LayerPrecision| keys * bits(layer.key) + values * bits(layer.value);
        let elements = self.layers.len() as f64 * (keys + values);
        self.layers.iter().map(layer).sum::<f64>() / elements.max(1.0)
    }

    /// A name for tables: `int4`, `int8/int4` for key and value, `mixed` where layers differ.
    pub fn name(&self) -> String {
        let mut sent = self.layers.iter().filter(|layer| layer.is_sent());
        let Some(first) = sent.next() else { return "drop".into() };
        if sent.any(|layer| layer != first) {
            return "mixed".into();
        }
        match (
            first.key.map_or("drop", Precision::name),
            first.value.map_or("drop", Precision::name),
        ) {
            (key, value) if key == value => key.into(),
            (key, value) => format!("{key}/{value}"),
        }
    }
}

/// Blocks of so many layers, or of a divisor, have one precision each in all recipes; 0 where any
/// number does.
pub(crate) fn block_step(recipes: &[Recipe]) -> usize {
    recipes.iter().fold(0, |step, recipe| gcd(step, recipe.block_step()))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_end_where_the_precision_changes() {
        let mut recipe = Recipe::uniform(6, Precision::Int4, Precision::Int4);
        assert_eq!((recipe.block_step(), recipe.name().as_str()), (0, "int4"));
        recipe.layers[4].key = Some(Precision::Int8);
        recipe.layers[5].key = Some(Precision::Int8);
        assert_eq!((recipe.block_step(), recipe.name().as_str()), (4, "mixed"));
        recipe.layers[1] = LayerPrecision::default();
        assert_eq!(recipe.sent(), [0, 2, 3, 4, 5]);
        assert_eq!(recipe.block_step(), 3);
    }

    #[test]
    fn bits_count_what_is_not_sent_as_nothing() {
        let shape = KvShape { layers: 2, kv_heads: 1, key_dim: 2, value_dim: 6 };
        let mut recipe = Recipe::uniform(2, Precision::Int8, Precision::Int4);
        assert_eq!(recipe.effective_bits(&shape), 5.0);
        recipe.layers[0].value = None;
        assert_eq!(recipe.effective_bits(&shape), 3.5);
        assert!(!recipe.fits(&Recipe::uniform(2, Precision::Int8, Precision::Int4)));
    }
}

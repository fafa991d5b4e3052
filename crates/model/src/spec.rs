//! What a decoder looks like.

use serde::{Deserialize, Serialize};

use smidgen_tensor::Role;

use crate::Error;

/// Rotary angles are tabulated for every position.
const MOST_POSITIONS: usize = 1 << 20;

/// The shape of a decoder with RMS norms, rotary positions, grouped heads and SwiGLU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Tokens of the vocabulary, V.
    pub vocab: usize,
    /// Width of the residual stream, D.
    pub width: usize,
    /// Blocks, L.
    pub layers: usize,
    /// Query heads, H.
    pub heads: usize,
    /// Key and value heads, K; divides `heads`.
    pub kv_heads: usize,
    /// Size of a head, E; even.
    pub head_dim: usize,
    /// Feed-forward width, F; even.
    pub ffn: usize,
    /// Positions the model is made for, T.
    pub context: usize,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Added to the mean square inside norms.
    pub norm_eps: f32,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Whether the query, key and value maps have biases.
    pub qkv_bias: bool,
    /// Whether the head is the embedding table.
    pub tied: bool,
}

/// A parameter by name, without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamShape {
    /// Unique, dotted: `layers.3.attn.q.weight`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// `[out, in]` for a matrix, `[1, n]` for a vector.
    pub shape: [usize; 2],
}

impl Spec {
    /// A decoder with `width / heads` as head size, as many key-value heads as heads and common constants.
    pub fn new(
        vocab: usize,
        width: usize,
        layers: usize,
        heads: usize,
        ffn: usize,
        context: usize,
    ) -> Spec {
        Spec {
            vocab,
            width,
            layers,
            heads,
            kv_heads: heads,
            head_dim: width / heads.max(1),
            ffn,
            context,
            rope_theta: 10_000.0,
            norm_eps: 1e-5,
            qk_norm: false,
            qkv_bias: false,
            tied: false,
        }
    }

    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Spec`] naming the first key that does not fit.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |key, expected: String, got: usize| {
            Err(Error::Spec { key, expected, got: got.to_string() })
        };
        let sizes = [
            ("vocab", self.vocab),
            ("width", self.width),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("ffn", self.ffn),
            ("context", self.context),
        ];
        for (key, size) in sizes {
            // Far beyond any model, and small enough that no product of two overflows.
            if size == 0 || size > 1 << 28 {
                return wrong(key, format!("1 to {}", 1 << 28), size);
            }
        }
        if self.context > MOST_POSITIONS {
            return wrong("context", format!("at most {MOST_POSITIONS}"), self.context);
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return wrong(
                "kv_heads",
                format!("a divisor of `heads` = {}", self.heads),
                self.kv_heads,
            );
        }
        for (key, size) in [("head_dim", self.head_dim), ("ffn", self.ffn), ("width", self.width)] {
            if size % 2 != 0 {
                return wrong(key, "an even number".into(), size);
            }
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            let got = self.rope_theta.to_string();
            return Err(Error::Spec { key: "rope_theta", expected: "a number over 1".into(), got });
        }
        if !(self.norm_eps.is_finite() && self.norm_eps >= 0.0) {
            let got = self.norm_eps.to_string();
            return Err(Error::Spec {
                key: "norm_eps",
                expected: "a number from 0 on".into(),
                got,
            });
        }
        Ok(())
    }

    /// Columns of the rows `[q | k | v]`.
    pub fn qkv_cols(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of the queries and keys in them: those that positions turn.
    pub(crate) fn qk_cols(&self) -> usize {
        (self.heads + self.kv_heads) * self.head_dim
    }

    /// Every parameter in the order of [`crate::Decoder::new`], without allocating any.
    pub fn params(&self) -> Vec<ParamShape> {
        let (d, e) = (self.width, self.head_dim);
        let (q, kv) = (self.heads * e, self.kv_heads * e);
        let param = |name: String, role, shape| ParamShape { name, role, shape };
        let mut list = vec![param("embed.weight".into(), Role::Embedding, [self.vocab, d])];
        for layer in 0..self.layers {
            let mut add = |name: &str, role, shape| {
                list.push(param(format!("layers.{layer}.{name}"), role, shape));
            };
            add("attn.norm.weight", Role::Norm, [1, d]);
            for (name, out) in [("q", q), ("k", kv), ("v", kv)] {
                add(&format!("attn.{name}.weight"), Role::MatrixHidden, [out, d]);
                if self.qkv_bias {
                    add(&format!("attn.{name}.bias"), Role::Bias, [1, out]);
                }
            }
            if self.qk_norm {
                add("attn.q_norm.weight", Role::Norm, [1, e]);
                add("attn.k_norm.weight", Role::Norm, [1, e]);
            }
            add("attn.o.weight", Role::MatrixHidden, [d, q]);
            add("mlp.norm.weight", Role::Norm, [1, d]);
            add("mlp.gate.weight", Role::MatrixHidden, [self.ffn, d]);
            add("mlp.up.weight", Role::MatrixHidden, [self.ffn, d]);
            add("mlp.down.weight", Role::MatrixHidden, [d, self.ffn]);
        }
        list.push(param("norm.weight".into(), Role::Norm, [1, d]));
        if !self.tied {
            list.push(param("head.weight".into(), Role::Head, [self.vocab, d]));
        }
        list
    }

    /// Numbers in all parameters.
    pub fn param_count(&self) -> usize {
        let attention = self.width * self.qkv_cols() + self.heads * self.head_dim * self.width;
        let extras = usize::from(self.qk_norm) * 2 * self.head_dim
            + usize::from(self.qkv_bias) * self.qkv_cols();
        let block = attention + extras + 3 * self.width * self.ffn + 2 * self.width;
        let tables = self.vocab * self.width * if self.tied { 1 } else { 2 };
        tables + self.layers * block + self.width
    }

    /// Floating-point operations of one training step per token: 6 per weight that multiplies, and the
    /// causal half of attention forward and back.
    pub fn train_flop_per_token(&self, context: usize) -> f64 {
        let tables = if self.tied { 0 } else { self.vocab * self.width };
        let multiplying = self.param_count() - tables;
        6.0 * multiplying as f64 + 6.0 * (self.layers * self.heads * self.head_dim * context) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let good = Spec::new(100, 64, 2, 4, 128, 32);
        good.validate().unwrap();
        for (key, bad) in [
            ("kv_heads", Spec { kv_heads: 3, ..good.clone() }),
            ("head_dim", Spec { head_dim: 7, ..good.clone() }),
            ("ffn", Spec { ffn: 0, ..good.clone() }),
            ("vocab", Spec { vocab: usize::MAX, ..good.clone() }),
            ("context", Spec { context: 99_999_999, ..good.clone() }),
            ("rope_theta", Spec { rope_theta: f64::NAN, ..good.clone() }),
        ] {
            let message = bad.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{key}`")), "{message}");
        }
    }
}

//! The decoder: its parameters, their names and first values, and its forward pass on a tape.

use std::sync::Arc;

use smidgen_codec::{Rng, Stream};
use smidgen_tensor::{
    AttentionShape, Device, Keep, LinearSpec, ParamId, Params, Prefix, Role, RopeTable, Tape,
    Targets, Tensor, Var,
};

use crate::{Error, Spec};

/// Rows of tokens with document boundaries.
#[derive(Clone, Debug)]
pub struct TokenBatch {
    /// Sequences, B.
    pub rows: usize,
    /// Tokens, `[B T]`.
    pub tokens: Arc<[u32]>,
    /// For every token the place in its row where its document begins.
    pub starts: Arc<[u32]>,
    pub(crate) positions: Arc<[u32]>,
}

impl TokenBatch {
    /// `rows` sequences of equal length; positions count from each document's beginning.
    ///
    /// # Errors
    /// [`Error::Spec`] when the tokens do not make whole rows or a start lies behind its token.
    pub fn new(rows: usize, tokens: Vec<u32>, starts: Vec<u32>) -> Result<TokenBatch, Error> {
        let length = tokens.len() / rows.max(1);
        let fits =
            rows > 0 && length > 0 && rows * length == tokens.len() && starts.len() == tokens.len();
        let places = |i: usize| (i % length.max(1)) as u32;
        if !fits || starts.iter().enumerate().any(|(i, start)| *start > places(i)) {
            let got = format!("{} tokens, {} starts", tokens.len(), starts.len());
            return Err(Error::Spec {
                key: "batch",
                expected: format!("{rows} whole rows, starts before their tokens"),
                got,
            });
        }
        let positions = starts.iter().enumerate().map(|(i, start)| places(i) - start).collect();
        Ok(TokenBatch { rows, tokens: tokens.into(), starts: starts.into(), positions })
    }

    /// `rows` sequences that are one document each.
    ///
    /// # Errors
    /// As for [`TokenBatch::new`].
    pub fn whole(rows: usize, tokens: Vec<u32>) -> Result<TokenBatch, Error> {
        let starts = vec![0; tokens.len()];
        TokenBatch::new(rows, tokens, starts)
    }

    /// Sequences that go on where others end: row i after `held[i]` tokens. Rows have one length; what
    /// fills a shorter one stands at its end, where no other token sees it.
    ///
    /// # Errors
    /// As for [`TokenBatch::new`].
    pub fn after(held: &[u32], tokens: Vec<u32>) -> Result<TokenBatch, Error> {
        let mut batch = TokenBatch::whole(held.len(), tokens)?;
        let length = batch.length();
        batch.positions =
            (0..batch.tokens.len()).map(|i| held[i / length] + (i % length) as u32).collect();
        Ok(batch)
    }

    /// Tokens of a row, T.
    pub fn length(&self) -> usize {
        self.tokens.len() / self.rows
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) attn_norm: ParamId,
    pub(crate) qkv: LinearSpec,
    pub(crate) qk_norm: Option<(ParamId, ParamId)>,
    pub(crate) o: LinearSpec,
    pub(crate) mlp_norm: ParamId,
    pub(crate) gate_up: LinearSpec,
    pub(crate) down: LinearSpec,
}

/// A decoder over parameters of a [`Params`].
#[derive(Clone, Debug)]
pub struct Decoder {
    spec: Arc<Spec>,
    pub(crate) embed: ParamId,
    pub(crate) blocks: Arc<[Block]>,
    pub(crate) norm: ParamId,
    pub(crate) head: ParamId,
    pub(crate) rope: Arc<RopeTable>,
}

impl Decoder {
    /// Adds a decoder's parameters, all zero, in the order of the forward pass.
    ///
    /// # Errors
    /// [`Error::Spec`] for sizes that do not fit, and those of the engine.
    pub fn new(device: &Device, spec: Spec, params: &mut Params) -> Result<Decoder, Error> {
        spec.validate()?;
        let (d, e) = (spec.width, spec.head_dim);
        let embed = params.add(device, "embed.weight", Role::Embedding, [spec.vocab, d])?;
        let mut blocks = Vec::with_capacity(spec.layers);
        for layer in 0..spec.layers {
            let mut add = |name: &str, role, shape| {
                params.add(device, &format!("layers.{layer}.{name}"), role, shape)
            };
            let attn_norm = add("attn.norm.weight", Role::Norm, [1, d])?;
            let (q, kv) = (spec.heads * e, spec.kv_heads * e);
            let mut qkv = LinearSpec::new(vec![]);
            for (name, out) in [("q", q), ("k", kv), ("v", kv)] {
                qkv.weights.push(add(
                    &format!("attn.{name}.weight"),
                    Role::MatrixHidden,
                    [out, d],
                )?);
                let bias = match spec.qkv_bias {
                    true => Some(add(&format!("attn.{name}.bias"), Role::Bias, [1, out])?),
                    false => None,
                };
                qkv.biases.push(bias);
            }
            let qk_norm = match spec.qk_norm {
                true => Some((
                    add("attn.q_norm.weight", Role::Norm, [1, e])?,
                    add("attn.k_norm.weight", Role::Norm, [1, e])?,
                )),
                false => None,
            };
            let o = add("attn.o.weight", Role::MatrixHidden, [d, q])?;
            let mlp_norm = add("mlp.norm.weight", Role::Norm, [1, d])?;
            let gate = add("mlp.gate.weight", Role::MatrixHidden, [spec.ffn, d])?;
            let up = add("mlp.up.weight", Role::MatrixHidden, [spec.ffn, d])?;
            let down = add("mlp.down.weight", Role::MatrixHidden, [d, spec.ffn])?;
            blocks.push(Block {
                attn_norm,
                qkv,
                qk_norm,
                o: LinearSpec::new([o]),
                mlp_norm,
                gate_up: LinearSpec::new([gate, up]),
                down: LinearSpec::new([down]),
            });
        }
        let norm = params.add(device, "norm.weight", Role::Norm, [1, d])?;
        let head = if spec.tied {
            embed
        } else {
            params.add(device, "head.weight", Role::Head, [spec.vocab, d])?
        };
        let rope = Arc::new(RopeTable::new(e, spec.context, spec.rope_theta));
        Ok(Decoder { spec: Arc::new(spec), embed, blocks: blocks.into(), norm, head, rope })
    }

    /// Its shape.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What positions turn queries and keys by.
    pub fn rope(&self) -> &Arc<RopeTable> {
        &self.rope
    }

    /// First values: norms 1, biases 0, matrices N(0, 0.02), those that write to the residual stream
    /// divided by sqrt(2 L). The tables are narrower from a width of 1600 on, so that the first logits
    /// stay small and the first loss near ln V. A function of (seed, parameter's place, index) alone.
    pub fn init(&self, params: &mut Params, seed: u64) {
        let rng = Rng::new(seed, Stream::Init);
        let into_residual = 0.02 / (2.0 * self.spec.layers as f32).sqrt();
        let table = (0.8 / (self.spec.width as f32).sqrt()).min(0.02);
        for (id, param) in params.iter_mut() {
            let writes =
                param.name.ends_with("attn.o.weight") || param.name.ends_with("mlp.down.weight");
            let std = match param.role {
                Role::Norm => {
                    param.fill(|_, values| values.fill(1.0));
                    continue;
                }
                Role::Bias => {
                    param.fill(|_, values| values.fill(0.0));
                    continue;
                }
                Role::Embedding | Role::Head => table,
                _ if writes => into_residual,
                _ => 0.02,
            };
            param.fill(|first, values| {
                rng.fill_normal(id.index() as u64, first as u64, std, values);
            });
        }
    }

    /// The last hidden states, normalised: `[B T, D]` in the operand format.
    ///
    /// # Errors
    /// [`Error::Spec`] for rows longer than the context, and those of the engine.
    pub fn hidden<'p>(
        &self,
        tape: &mut Tape<'p>,
        batch: &TokenBatch,
        keep: Keep,
    ) -> Result<Var, Error> {
        self.hidden_after(tape, batch, &[], keep)
    }

    /// The same after keys and values on the tape, one [`Prefix`] for each layer or none at all; their
    /// gradients flow. The batch is a [`TokenBatch::after`] as many tokens as its rows see.
    ///
    /// # Errors
    /// As for [`Decoder::hidden`], and [`Error::Spec`] for another number of prefixes.
    pub fn hidden_after<'p>(
        &self,
        tape: &mut Tape<'p>,
        batch: &TokenBatch,
        prefix: &[Prefix],
        keep: Keep,
    ) -> Result<Var, Error> {
        self.check_positions(batch)?;
        if !prefix.is_empty() && prefix.len() != self.blocks.len() {
            let expected = format!("one for each of {} layers", self.blocks.len());
            return Err(Error::Spec { key: "prefix", expected, got: prefix.len().to_string() });
        }
        let mut x = tape.embedding(self.embed, &batch.tokens)?;
        for layer in 0..self.blocks.len() {
            let (this, batch, front) = (self.clone(), batch.clone(), prefix.get(layer).cloned());
            let inputs: Vec<Var> =
                [x].into_iter().chain(front.iter().flat_map(|f| [f.keys, f.values])).collect();
            let body = move |tape: &mut Tape<'p>, x: &[Var]| {
                let front = front.clone().map(|f| Prefix { keys: x[1], values: x[2], ..f });
                Ok(vec![this.block(tape, layer, x[0], &batch, front.as_ref())?])
            };
            x = tape.block(keep, &inputs, body)?[0];
        }
        Ok(tape.rms_norm(x, self.norm, self.spec.norm_eps)?)
    }

    pub(crate) fn check_positions(&self, batch: &TokenBatch) -> Result<(), Error> {
        let last = batch.positions.iter().max().map_or(0, |last| *last as usize);
        if last < self.rope.len() {
            return Ok(());
        }
        let expected = format!("at least {}, the tokens of a row", last + 1);
        Err(Error::Spec { key: "context", expected, got: self.rope.len().to_string() })
    }

    fn block(
        &self,
        tape: &mut Tape<'_>,
        layer: usize,
        x: Var,
        batch: &TokenBatch,
        prefix: Option<&Prefix>,
    ) -> Result<Var, smidgen_tensor::Error> {
        let qkv = self.qkv(tape, layer, x)?;
        let qkv = tape.rope(qkv, &self.rope, &batch.positions, 0..self.spec.qk_cols())?;
        self.mix(tape, layer, x, qkv, batch, prefix)
    }

    /// Rows `[q | k | v]` of a layer, before positions are applied.
    pub(crate) fn qkv(
        &self,
        tape: &mut Tape<'_>,
        layer: usize,
        x: Var,
    ) -> Result<Var, smidgen_tensor::Error> {
        let (block, spec) = (&self.blocks[layer], &*self.spec);
        let q_cols = spec.heads * spec.head_dim;
        let normed = tape.rms_norm(x, block.attn_norm, spec.norm_eps)?;
        let qkv = tape.linear(normed, &block.qkv, None)?;
        let Some((q_norm, k_norm)) = block.qk_norm else { return Ok(qkv) };
        let qkv = tape.rms_norm_heads(qkv, q_norm, spec.norm_eps, 0..q_cols)?;
        tape.rms_norm_heads(qkv, k_norm, spec.norm_eps, q_cols..spec.qk_cols())
    }

    /// What a layer makes of its rows `[q | k | v]`, positions applied.
    pub(crate) fn mix(
        &self,
        tape: &mut Tape<'_>,
        layer: usize,
        x: Var,
        qkv: Var,
        batch: &TokenBatch,
        prefix: Option<&Prefix>,
    ) -> Result<Var, smidgen_tensor::Error> {
        let (block, spec) = (&self.blocks[layer], &*self.spec);
        let front = prefix.and_then(|prefix| tape.value(prefix.keys)).map_or(0, Tensor::rows);
        let shape = self.attention_shape(batch.rows, batch.length(), front / batch.rows);
        let heads = tape.attention(qkv, shape, Some(&batch.starts), prefix)?;
        let x = tape.linear(heads, &block.o, Some(x))?;
        let normed = tape.rms_norm(x, block.mlp_norm, spec.norm_eps)?;
        let gate_up = tape.linear(normed, &block.gate_up, None)?;
        let act = tape.swiglu(gate_up)?;
        tape.linear(act, &block.down, Some(x))
    }

    pub(crate) fn attention_shape(
        &self,
        batch: usize,
        tokens: usize,
        prefix: usize,
    ) -> AttentionShape {
        let spec = &self.spec;
        AttentionShape {
            batch,
            tokens,
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            prefix,
        }
    }

    /// Cross-entropy of the next tokens, as `targets` weighs them: `[1, 1]`.
    ///
    /// # Errors
    /// As for [`Decoder::hidden`].
    pub fn loss(
        &self,
        tape: &mut Tape<'_>,
        batch: &TokenBatch,
        targets: Targets,
        keep: Keep,
    ) -> Result<Var, Error> {
        self.loss_after(tape, batch, &[], targets, keep)
    }

    /// The same after keys and values on the tape.
    ///
    /// # Errors
    /// As for [`Decoder::hidden_after`].
    pub fn loss_after(
        &self,
        tape: &mut Tape<'_>,
        batch: &TokenBatch,
        prefix: &[Prefix],
        targets: Targets,
        keep: Keep,
    ) -> Result<Var, Error> {
        let hidden = self.hidden_after(tape, batch, prefix, keep)?;
        Ok(tape.head_loss(hidden, self.head, targets)?)
    }
}

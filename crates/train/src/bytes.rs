//! The bytes of a step by ledger tag, before anything is allocated.
//!
//! Weights, state and held gradients are exact. Activations count what the tape keeps of a block (the
//! residual stream in f32, joined heads and gates in the operand format) and the values alive at once
//! on the way back through one.

use std::collections::BTreeMap;

use smidgen_codec::Tag;
use smidgen_model::Spec;
use smidgen_optim::{Assignment, GradMode, ParamSpec};

/// Bytes of logits alive at once.
pub(crate) const LOGIT_BYTES: usize = 8 << 20;

/// What a step's bytes depend on.
pub(crate) struct Load<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) params: &'a [ParamSpec],
    pub(crate) assignment: &'a Assignment,
    pub(crate) grad: GradMode,
    pub(crate) recompute: bool,
    /// Bytes of an operand.
    pub(crate) operand: usize,
    /// Tokens of a micro-batch.
    pub(crate) tokens: usize,
}

/// Peak bytes by tag.
pub(crate) fn predict(load: &Load<'_>) -> BTreeMap<&'static str, u64> {
    let values = |param: &ParamSpec| param.shape[0] * param.shape[1];
    let weights = 4 * load.params.iter().map(values).sum::<usize>();
    let grads = match load.grad {
        GradMode::Held => weights,
        GradMode::Streamed => streamed_grads(load),
    };
    [
        (Tag::Weights, weights as u128),
        (Tag::Packed, packed(load) as u128),
        (Tag::Grads, grads as u128),
        (Tag::State, load.assignment.state_bytes() as u128),
        (Tag::Activations, activations(load)),
        (Tag::Workspace, workspace(load)),
    ]
    .into_iter()
    .map(|(tag, bytes)| (tag.name(), u64::try_from(bytes).unwrap_or(u64::MAX)))
    .collect()
}

/// A tied table waits for its second use while the others come and go.
fn streamed_grads(load: &Load<'_>) -> usize {
    let table = load.spec.vocab * load.spec.width;
    let values = load.params.iter().map(|param| param.shape[0] * param.shape[1]);
    if load.spec.tied {
        4 * (table + values.skip(1).max().unwrap_or(0))
    } else {
        4 * values.max().unwrap_or(0)
    }
}

/// The head is packed twice, once for each way.
fn packed(load: &Load<'_>) -> usize {
    let spec = load.spec;
    let head = 2 * spec.vocab * spec.width;
    let block = spec.width * (2 * spec.ffn).max(spec.qkv_cols());
    load.operand * head.max(block)
}

/// Wide enough for sizes that no machine has: those are refused by their sum.
fn activations(load: &Load<'_>) -> u128 {
    let (spec, b) = (load.spec, load.operand);
    let (stream, qkv) = (4 * spec.width, b * spec.qkv_cols());
    let heads = b * spec.heads * spec.head_dim + 4 * spec.heads;
    // Each normalisation of queries or keys leaves the rows it came from.
    let copies = if spec.qk_norm { 3 } else { 1 };
    let block = 2 * stream + copies * qkv + heads + 2 * b * spec.ffn;
    // Gradients of the gates and of their product, and the product made again.
    let back = (4 * b * spec.ffn).max(2 * qkv + heads);
    let kept = if load.recompute {
        (spec.layers + 2) * stream + block
    } else {
        spec.layers * block + stream
    };
    load.tokens as u128 * (kept + back) as u128
}

/// Logits, their gradient and the packed states, or the packed left operand of a weight's gradient.
fn workspace(load: &Load<'_>) -> u128 {
    let (spec, tokens, b) = (load.spec, load.tokens as u128, load.operand as u128);
    let logits = (LOGIT_BYTES as u128).min(tokens * 4 * spec.vocab as u128);
    let head = logits + logits * b / 4 + tokens * b * spec.width as u128;
    head.max(tokens * b * (spec.ffn + spec.width) as u128)
}

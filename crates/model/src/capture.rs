//! Keys and values of whole prompts, a batch at once, for those who pass caches on.
//!
//! Keys come as the attention reads them and, where asked for, as they were before positions turned
//! them: the same numbers go on to be turned, so turning them again gives the same bits. Turning keys back
//! would be exact only up to rounding. The last layer stops at its keys and values.

use serde::{Deserialize, Serialize};
use smidgen_codec::Tag;
use smidgen_tensor::{Compute, Device, Error as EngineError, Format, Params, Tape, Tensor};

use crate::{Decoder, Error, TokenBatch};

/// Whether positions are applied to keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySpace {
    /// Turned by their positions, as attention reads them.
    #[default]
    PostRope,
    /// Before that: without a place, so another model may put them elsewhere.
    PreRope,
}

/// Keys and values of one layer for a batch of sequences, in f32.
#[derive(Clone, Debug)]
pub struct LayerKv {
    /// Keys `[B T, K E]`, positions applied.
    pub keys: Tensor,
    /// The same before positions, where they were asked for.
    pub plain: Option<Tensor>,
    /// Values `[B T, K E]`.
    pub values: Tensor,
}

impl LayerKv {
    /// The keys of a space, where they are held.
    pub fn keys_in(&self, space: KeySpace) -> Option<&Tensor> {
        match space {
            KeySpace::PostRope => Some(&self.keys),
            KeySpace::PreRope => self.plain.as_ref(),
        }
    }
}

impl Decoder {
    /// Reads a batch and gives keys and values of every layer; `plain` asks for keys before positions
    /// too. Rows behind the end of a shorter sequence hold what its filling came to.
    ///
    /// # Errors
    /// As for [`Decoder::hidden`].
    pub fn capture(
        &self,
        device: &Device,
        compute: Compute,
        params: &Params,
        batch: &TokenBatch,
        plain: bool,
    ) -> Result<Vec<LayerKv>, Error> {
        self.check_positions(batch)?;
        let mut layers = Vec::with_capacity(self.blocks.len());
        let mut tape = Tape::inference(device, compute, params);
        let x = tape.embedding(self.embed, &batch.tokens)?;
        let mut x = held(&tape, x);
        for layer in 0..self.blocks.len() {
            // A tape of its own: the values of a layer go when the next begins.
            let mut tape = Tape::inference(device, compute, params);
            let stream = tape.input(x, false);
            let qkv = self.qkv(&mut tape, layer, stream)?;
            let spec = self.spec();
            let (first, width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
            let plain =
                plain.then(|| columns(device, &held(&tape, qkv), first, width)).transpose()?;
            let qkv = tape.rope(qkv, &self.rope, &batch.positions, 0..spec.qk_cols())?;
            let turned = held(&tape, qkv);
            layers.push(LayerKv {
                keys: columns(device, &turned, first, width)?,
                plain,
                values: columns(device, &turned, first + width, width)?,
            });
            if layer + 1 == self.blocks.len() {
                break;
            }
            let next = self.mix(&mut tape, layer, stream, qkv, batch, None)?;
            x = held(&tape, next);
        }
        Ok(layers)
    }
}

fn held(tape: &Tape<'_>, var: smidgen_tensor::Var) -> Tensor {
    tape.value(var).expect("a tape without blocks holds all its values").clone()
}

/// Columns `at..at + width` of every row, in f32.
fn columns(device: &Device, x: &Tensor, at: usize, width: usize) -> Result<Tensor, EngineError> {
    let mut out = Tensor::uninit(device.pool(), Tag::Kv, [x.rows(), width], Format::F32)?;
    for (row, to) in out.slice_mut::<f32>().chunks_exact_mut(width).enumerate() {
        x.read_f32(row * x.cols() + at, to);
    }
    Ok(out)
}

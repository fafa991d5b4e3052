//! How likely a text is to a model, token by token, also after keys and values of somebody else's making.

use std::sync::Arc;

use smidgen_codec::Tag;
use smidgen_tensor::infer::PackedLinear;
use smidgen_tensor::{Compute, Device, Format, Keep, Params, Prefix, Tape, Tensor};

use crate::{Decoder, Error, TokenBatch};

/// Bytes of logits alive at once.
const LOGIT_BYTES: usize = 16 << 20;

/// Keys and values of every layer that a batch goes on from.
#[derive(Clone, Debug)]
pub struct Front {
    /// Keys, positions applied, and values: `[B P, K E]` each.
    pub layers: Vec<(Tensor, Tensor)>,
    /// How many of the P each row sees.
    pub lens: Arc<[u32]>,
}

/// A decoder that judges whole rows of tokens; its output matrix is packed once.
pub struct Scorer<'p> {
    device: Device,
    compute: Compute,
    decoder: Decoder,
    params: &'p Params,
    head: PackedLinear,
}

impl<'p> Scorer<'p> {
    /// Packs the output matrix.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn new(
        device: &Device,
        compute: Compute,
        decoder: &Decoder,
        params: &'p Params,
    ) -> Result<Scorer<'p>, Error> {
        let head = PackedLinear::new(device, compute, &[params.get(decoder.head)], &[None])?;
        Ok(Scorer { device: device.clone(), compute, decoder: decoder.clone(), params, head })
    }

    /// The decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// The negative log-likelihood of `targets` `[B T]`, in nats: the token behind each of the batch.
    ///
    /// # Errors
    /// [`Error::Spec`] for rows longer than the context or another number of targets, and those of
    /// the engine.
    pub fn nll(&self, batch: &TokenBatch, targets: &[u32]) -> Result<Vec<f64>, Error> {
        self.nll_after(None, batch, targets)
    }

    /// The same for a [`TokenBatch::after`] keys and values.
    ///
    /// # Errors
    /// As for [`Scorer::nll`].
    pub fn nll_after(
        &self,
        front: Option<&Front>,
        batch: &TokenBatch,
        targets: &[u32],
    ) -> Result<Vec<f64>, Error> {
        if targets.len() != batch.tokens.len() {
            let (expected, got) = (batch.tokens.len().to_string(), targets.len().to_string());
            return Err(Error::Spec { key: "targets", expected, got });
        }
        let hidden = self.hidden(front, batch)?;
        Ok(self.head.nll(&self.device, self.compute, &hidden, targets, LOGIT_BYTES)?)
    }

    /// The logits `[B, V]` behind the token at place `ends[i]` of each row i, after keys and values.
    ///
    /// # Errors
    /// As for [`Scorer::nll`], with places in the place of targets.
    pub fn logits_after(
        &self,
        front: Option<&Front>,
        batch: &TokenBatch,
        ends: &[usize],
    ) -> Result<Vec<f32>, Error> {
        let length = batch.length();
        if ends.len() != batch.rows || ends.iter().any(|end| *end >= length) {
            let expected = format!("{} places below {length}", batch.rows);
            return Err(Error::Spec { key: "ends", expected, got: format!("{ends:?}") });
        }
        let hidden = self.hidden(front, batch)?;
        let (width, pool) = (hidden.cols(), self.device.pool());
        let mut last = Tensor::uninit(pool, Tag::Workspace, [batch.rows, width], Format::F32)?;
        for (row, to) in last.slice_mut::<f32>().chunks_exact_mut(width).enumerate() {
            hidden.read_f32((row * length + ends[row]) * width, to);
        }
        let logits = self.head.apply(&self.device, self.compute, &last, None, Format::F32)?;
        Ok(logits.slice::<f32>().to_vec())
    }

    fn hidden(&self, front: Option<&Front>, batch: &TokenBatch) -> Result<Tensor, Error> {
        let mut tape = Tape::inference(&self.device, self.compute, self.params);
        let prefix: Vec<Prefix> = front
            .iter()
            .flat_map(|front| front.layers.iter().map(|layer| (layer, &front.lens)))
            .map(|((keys, values), lens)| Prefix {
                keys: tape.input(keys.clone(), false),
                values: tape.input(values.clone(), false),
                lens: Some(lens.clone()),
            })
            .collect();
        let hidden = self.decoder.hidden_after(&mut tape, batch, &prefix, Keep::Inputs)?;
        Ok(tape.value(hidden).expect("the end of a tape is held").clone())
    }
}

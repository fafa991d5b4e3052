//! How likely a text is to a model, token by token.

use smidgen_tensor::infer::PackedLinear;
use smidgen_tensor::{Compute, Device, Keep, Params, Tape};

use crate::{Decoder, Error, TokenBatch};

/// Bytes of logits alive at once.
const LOGIT_BYTES: usize = 16 << 20;

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
        if targets.len() != batch.tokens.len() {
            let (expected, got) = (batch.tokens.len().to_string(), targets.len().to_string());
            return Err(Error::Spec { key: "targets", expected, got });
        }
        let mut tape = Tape::inference(&self.device, self.compute, self.params);
        let hidden = self.decoder.hidden(&mut tape, batch, Keep::Inputs)?;
        let hidden = tape.value(hidden).expect("the end of a tape is held");
        Ok(self.head.nll(&self.device, self.compute, hidden, targets, LOGIT_BYTES)?)
    }
}

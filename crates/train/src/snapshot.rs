//! Everything a trainer may change, kept aside and put back to the last bit: weights, averages,
//! optimizer state, counters, random streams (functions of the step) and the place in the data.

use serde_json::Value;
use smidgen_codec::Tag;
use smidgen_optim::StateTensor;
use smidgen_tensor::{Buffer, Tensor};

use crate::{Error, Standing, Trainer};

pub(crate) struct Snapshot {
    weights: Vec<Tensor>,
    averages: Vec<Tensor>,
    slots: Vec<(StateTensor<'static>, Buffer)>,
    standing: Standing,
    frontier: u64,
    cursor: Value,
}

impl Trainer<'_> {
    /// Copies it, on the ledger under `weights` and `state`.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, Error> {
        let pool = self.device.pool();
        let copy = |tag, tensor: &Tensor| -> Result<Tensor, Error> {
            let mut copy = Tensor::uninit(pool, tag, tensor.shape(), tensor.format())?;
            copy.as_bytes_mut().copy_from_slice(tensor.as_bytes());
            Ok(copy)
        };
        let slot = |slot: StateTensor<'_>| {
            let mut bytes = pool.bytes(Tag::State, slot.bytes.len())?;
            bytes.as_mut().copy_from_slice(slot.bytes);
            let StateTensor { name, format, shape, .. } = slot;
            Ok((StateTensor { name, format, shape, bytes: &[] }, bytes))
        };
        let weights = self.params.iter().map(|(_, param)| copy(Tag::Weights, &param.value));
        let averages = self.ema.iter().flat_map(|ema| ema.tensors(&self.params));
        Ok(Snapshot {
            weights: weights.collect::<Result<_, _>>()?,
            averages: averages
                .map(|(_, value)| copy(Tag::State, value))
                .collect::<Result<_, _>>()?,
            slots: self.optim.tensors().map(slot).collect::<Result<_, Error>>()?,
            standing: self.standing.clone(),
            frontier: self.frontier,
            cursor: self.objective.cursor(self.standing.step),
        })
    }

    /// Puts it back.
    pub(crate) fn put_back(&mut self, snapshot: Snapshot) -> Result<(), Error> {
        for ((_, param), kept) in self.params.iter_mut().zip(&snapshot.weights) {
            param.value.as_bytes_mut().copy_from_slice(kept.as_bytes());
        }
        if let Some(ema) = &mut self.ema {
            ema.swap(&mut self.params);
            let trained = self.params.iter_mut().filter(|(_, param)| param.trainable);
            for ((_, param), kept) in trained.zip(&snapshot.averages) {
                param.value.as_bytes_mut().copy_from_slice(kept.as_bytes());
            }
            ema.swap(&mut self.params);
        }
        let slots = snapshot.slots.iter().map(|(slot, bytes)| {
            let (name, format, shape) = (slot.name.clone(), slot.format.clone(), slot.shape);
            StateTensor { name, format, shape, bytes: bytes.as_ref() }
        });
        self.optim.load(slots.collect::<Vec<_>>())?;
        self.objective.resume(snapshot.standing.step, &snapshot.cursor)?;
        self.standing = snapshot.standing;
        self.frontier = snapshot.frontier;
        self.norms.clear();
        Ok(())
    }
}

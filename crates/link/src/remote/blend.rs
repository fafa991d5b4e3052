//! A container that is fused as it arrives.
//!
//! A fuser makes a layer of the receiver's cache out of that layer and one of the sharer's, so each can be
//! fused as soon as its block has been read, while the next is on its way. The last block waits for the
//! end of the message, with which there is nothing left to wait for: a container of one block is
//! not touched before its checksum and its code have been compared.

use std::time::{Duration, Instant};

use smidgen_model::Session;

use super::intake::Intake;
use crate::align::Alignment;
use crate::net::{Code, Reject, Sink};
use crate::{Error, Receiver};

/// Takes a container in and fuses its layers over the prompt in a session.
pub(super) struct Blend<'a, 'm> {
    intake: &'a mut Intake,
    receiver: &'a Receiver<'m>,
    session: &'a mut Session<'m>,
    alignment: &'a Alignment,
    /// Layers of the receiver that need no fusing any more.
    done: Vec<bool>,
    /// What fusing took.
    pub(super) spent: Duration,
}

impl<'a, 'm> Blend<'a, 'm> {
    pub(super) fn new(
        intake: &'a mut Intake,
        receiver: &'a Receiver<'m>,
        session: &'a mut Session<'m>,
        alignment: &'a Alignment,
    ) -> Blend<'a, 'm> {
        let done = receiver.fuser().fuser.sources().iter().map(Option::is_none).collect();
        Blend { intake, receiver, session, alignment, done, spent: Duration::ZERO }
    }

    /// Fuses the layers whose source has been read.
    fn fuse(&mut self) -> Result<(), Reject> {
        let Some(coming) = &self.intake.coming else { return Ok(()) };
        let sources = self.receiver.fuser().fuser.sources();
        let is_next = |layer: &usize| {
            !self.done[*layer] && sources[*layer].is_some_and(|source| coming.has_layer(source))
        };
        let next: Vec<usize> = (0..sources.len()).filter(is_next).collect();
        if next.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let present = coming.present();
        let arrival = coming.arrival(&present, self.alignment);
        let fused = self.receiver.fuse_layers(self.session, &arrival, next.iter().copied());
        next.iter().for_each(|layer| self.done[*layer] = true);
        self.spent += started.elapsed();
        fused.map_err(|error: Error| {
            let reject = Reject::new(Code::Failed, "answer", "one", &error);
            self.intake.fault = Some(error);
            reject
        })
    }
}

impl Sink for Blend<'_, '_> {
    fn begin(&mut self, total_bytes: u64, header: &[u8]) -> Result<(), Reject> {
        self.intake.begin(total_bytes, header)
    }

    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Reject> {
        self.intake.chunk(bytes)?;
        let is_read = self.intake.coming.as_ref().is_some_and(|coming| coming.is_read());
        if is_read { Ok(()) } else { self.fuse() }
    }

    fn schema(&mut self, id: u32, fields: &[u8]) -> Result<(), Reject> {
        self.intake.schema(id, fields)
    }

    fn end(&mut self, crc: u32) -> Result<(), Reject> {
        self.intake.unfold()?;
        self.fuse()?;
        self.intake.end(crc)?;
        // Its rows are where they belong.
        self.intake.take();
        Ok(())
    }

    fn discard(&mut self) {
        self.intake.discard();
        // Some layers may be fused; the prompt is to be read anew.
        self.session.truncate(0);
    }
}

#[cfg(test)]
mod tests {
    use smidgen_codec::{Ledger, Rng};
    use smidgen_model::{Decoder, KeySpace, Spec};
    use smidgen_tensor::{Compute, Device, Params, Role};

    use super::*;
    use crate::Side;
    use crate::align::Overlap;
    use crate::fuse::{FuserConfig, FuserFacts, LoadedFuser, PairShape};
    use crate::message;
    use crate::wire::{self, Expected, Header, Limits, Plan, Precision};

    const PROMPT: [u32; 6] = [3, 1, 4, 1, 5, 9];

    fn side(device: &Device, layers: usize, width: usize) -> Side {
        let mut params = Params::new();
        let spec = Spec::new(20, width, layers, 2, 24, 32);
        let decoder = Decoder::new(device, spec, &mut params).unwrap();
        decoder.init(&mut params, 1);
        Side { device: device.clone(), compute: Compute::F32, decoder, params }
    }

    /// A fuser that changes much, with all its gates open.
    fn fuser(sharer: &Side, receiver: &Side, k_space: KeySpace) -> LoadedFuser {
        let pair = PairShape::new(sharer.kv_shape(), receiver.kv_shape());
        let config =
            FuserConfig { hidden: 16, inner: 16, zero_init: false, k_space, ..Default::default() };
        let facts = FuserFacts::default();
        let mut fuser = LoadedFuser::fresh(&receiver.device, config, pair, facts, 3).unwrap();
        let rng = Rng::named(4, "open");
        for (id, param) in fuser.params.iter_mut() {
            match param.role {
                Role::Gate => param.fill(|_, values| values.fill(0.5)),
                _ => param.fill(|at, values| {
                    rng.fill_normal(id.index() as u64, at as u64, 0.3, values);
                }),
            }
        }
        fuser
    }

    /// Keys and values of every layer.
    fn cache(receiver: &Receiver<'_>, session: &Session<'_>) -> Vec<Vec<f32>> {
        let shape = receiver.side().kv_shape();
        let layer = |layer| {
            let mut keys = vec![0.0; session.len() * shape.key_row()];
            let mut values = vec![0.0; session.len() * shape.value_row()];
            session.read_layer(layer, KeySpace::PostRope, &mut keys, &mut values).unwrap();
            [keys, values].concat()
        };
        (0..shape.layers).map(layer).collect()
    }

    #[test]
    fn blocks_of_any_size_fuse_to_the_bits_of_all_at_once() {
        let device = Device::cpu(Ledger::new(), 1);
        let (sharer, own) = (side(&device, 4, 16), side(&device, 3, 12));
        for space in [KeySpace::PostRope, KeySpace::PreRope] {
            let fuser = fuser(&sharer, &own, space);
            let receiver = Receiver::new(&own, &fuser).unwrap();
            let shared = sharer.read(&[&PROMPT], space).unwrap().pop().unwrap();
            let spans: Vec<_> = (0..PROMPT.len()).map(|token| token..token + 1).collect();
            let alignment = Alignment::by_spans(&spans, &spans, Overlap::CoverLast);
            let entered = || {
                let mut session = receiver.session(PROMPT.len()).unwrap();
                receiver.enter(&mut session, &PROMPT).unwrap();
                session
            };
            let alone = cache(&receiver, &entered());
            let plan = message::whole(&fuser, PROMPT.len(), Precision::F32).unwrap();
            let mut sent = Vec::new();
            for layers_per_block in [1, 2, plan.layers.len()] {
                let plan = Plan { layers_per_block, ..plan.clone() };
                let bytes = wire::encode(&device, shared.view(), &plan).unwrap();
                let header = Header::parse(&bytes, &Limits::default()).unwrap();
                let expected =
                    Expected { shape: shared.shape(), seq_len: 6, batch: 1, about: plan.about };
                let mut intake = Intake::new(device.clone(), expected);
                let mut session = entered();
                let mut blend = Blend::new(&mut intake, &receiver, &mut session, &alignment);
                blend.begin(header.total_bytes, &bytes[..header.header_bytes()]).unwrap();
                for block in 0..header.blocks() {
                    let range = header.block_bytes(block);
                    blend.chunk(&bytes[range.start as usize..range.end as usize]).unwrap();
                    // What came is fused, but for the last block.
                    let is_last = block + 1 == header.blocks();
                    let layers = if is_last { block } else { block + 1 } * layers_per_block;
                    let changed = cache(&receiver, blend.session);
                    let changed = changed.iter().zip(&alone).filter(|(now, then)| now != then);
                    assert_eq!(changed.count(), layers, "{layers_per_block}");
                }
                blend.end(0).unwrap();
                assert!(blend.done.iter().all(|done| *done) && blend.spent > Duration::ZERO);
                let logits = receiver.join(&mut session, &PROMPT, None).unwrap();
                assert!(intake.verified > Duration::ZERO);
                sent.push((cache(&receiver, &session), logits));
            }
            assert!(sent.iter().all(|fused| *fused == sent[0]), "{space:?}");
            // As both do in one process.
            let arrival = crate::fuse::Arrival::whole(shared.view(), &alignment);
            let mut session = entered();
            let logits = receiver.join(&mut session, &PROMPT, Some(&arrival)).unwrap();
            assert_eq!((cache(&receiver, &session), logits), sent[0], "{space:?}");
        }
    }
}

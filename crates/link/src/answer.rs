//! The receiver's answer, with what arrived of a sharer's cache.
//!
//! The prompt but for its last token is read as ever and stays unfused; rows that arrived are fused over
//! it at once; then the last token is read over the fused cache, and the answer is decoded over that.
//! Tokens of the answer are never fused, and earlier positions of the prompt do not see what was. No
//! layer waits for another ([`Receiver::fuse_layers`]).
//! A whole batch is scored at once ([`Receiver::logits`], [`Receiver::nll`]); one prompt is answered token by
//! token ([`Receiver::answer`]).

use smidgen_codec::Tag;
use smidgen_model::{Front, KeySpace, LayerKv, Sampler, Sampling, Scorer, Session, TokenBatch};
use smidgen_tensor::{Format, Keep, Tape, Tensor, Var};

use crate::fuse::{Arrival, Extent, FusedLayer, Fuser, LoadedFuser, Mode};
use crate::message::{self, Received};
use crate::side::{FILL, Prefill, Side, padded};
use crate::wire::Precision;
use crate::{Error, KvCache};

/// A receiver with its fuser; its output matrix is packed once.
pub struct Receiver<'a> {
    side: &'a Side,
    fuser: &'a LoadedFuser,
    scorer: Scorer<'a>,
}

/// Prompts of a batch that the receiver has read but for their last tokens.
#[derive(Clone, Debug)]
pub struct Read {
    base: Prefill,
    last: Vec<u32>,
}

impl Read {
    /// The receiver's own cache of the prompts, without their last tokens.
    pub fn base(&self) -> &Prefill {
        &self.base
    }
}

impl<'a> Receiver<'a> {
    /// A receiver and the fuser that was made for it.
    ///
    /// # Errors
    /// [`Error::Value`] for a fuser of another cache, those of the model.
    pub fn new(side: &'a Side, fuser: &'a LoadedFuser) -> Result<Receiver<'a>, Error> {
        let (expected, got) = (side.kv_shape(), fuser.fuser.pair().receiver);
        if expected != got {
            let (expected, got) = (format!("{expected:?}"), format!("{got:?}"));
            return Err(Error::value("fuser: receiver", expected, got));
        }
        let scorer = Scorer::new(&side.device, side.compute, &side.decoder, &side.params)?;
        Ok(Receiver { side, fuser, scorer })
    }

    /// Its model.
    pub fn side(&self) -> &'a Side {
        self.side
    }

    /// Its fuser.
    pub fn fuser(&self) -> &'a LoadedFuser {
        self.fuser
    }

    fn reads_plain(&self) -> bool {
        self.fuser.fuser.config().k_space == KeySpace::PreRope
    }

    /// Reads prompts of at least two tokens, but for the last of each.
    ///
    /// # Errors
    /// [`Error::Value`] for a shorter prompt, those of the model.
    pub fn read(&self, prompts: &[&[u32]]) -> Result<Read, Error> {
        let split = |prompt: &&'_ [u32]| match **prompt {
            [ref first @ .., last] if !first.is_empty() => Ok((first.to_vec(), last)),
            _ => Err(Error::value("prompt", "at least two tokens", prompt.len())),
        };
        let (first, last): (Vec<Vec<u32>>, Vec<u32>) =
            prompts.iter().map(split).collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
        let first: Vec<&[u32]> = first.iter().map(Vec::as_slice).collect();
        Ok(Read { base: self.side.prefill(&first, self.reads_plain())?, last })
    }

    /// The receiver's cache with what arrived fused into it, one arrival for each prompt; without
    /// arrivals its own cache, bit for bit.
    ///
    /// # Errors
    /// As for [`Fuser::fuse`].
    pub fn fused(&self, read: &Read, arrivals: Option<&[Arrival<'_>]>) -> Result<Front, Error> {
        let lens = read.base.lens().iter().map(|len| *len as u32).collect();
        let mut layers: Vec<(Tensor, Tensor)> = read
            .base
            .layers()
            .iter()
            .map(|layer| (layer.keys.clone(), layer.values.clone()))
            .collect();
        if let Some(arrivals) = arrivals {
            let mut tape =
                Tape::inference(&self.side.device, self.side.compute, &self.fuser.params);
            let fused = self.fuse(&mut tape, &read.base, arrivals)?;
            let prefix = Fuser::prefix(&mut tape, &read.base, &fused)?;
            layers = prefix.iter().map(|p| (held(&tape, p.keys), held(&tape, p.values))).collect();
        }
        Ok(Front { layers, lens })
    }

    fn fuse(
        &self,
        tape: &mut Tape<'_>,
        base: &Prefill,
        arrivals: &[Arrival<'_>],
    ) -> Result<Vec<Option<FusedLayer>>, Error> {
        let rope = self.side.decoder.rope();
        self.fuser.fuser.fuse(tape, base, arrivals, rope, &Mode::Answer, Keep::Inputs)
    }

    /// The logits `[V]` behind each prompt.
    ///
    /// # Errors
    /// As for [`Receiver::fused`].
    pub fn logits(
        &self,
        read: &Read,
        arrivals: Option<&[Arrival<'_>]>,
    ) -> Result<Vec<Vec<f32>>, Error> {
        let front = self.fused(read, arrivals)?;
        let batch = TokenBatch::after(&front.lens, read.last.clone())?;
        let logits = self.scorer.logits_after(Some(&front), &batch, &vec![0; read.last.len()])?;
        let vocab = self.side.decoder.spec().vocab;
        Ok(logits.chunks_exact(vocab).map(<[f32]>::to_vec).collect())
    }

    /// The negative log-likelihood of a response to each prompt, in nats, summed over its tokens.
    ///
    /// # Errors
    /// As for [`Receiver::fused`], and [`Error::Value`] for another number of responses or an empty one.
    pub fn nll(
        &self,
        read: &Read,
        arrivals: Option<&[Arrival<'_>]>,
        responses: &[&[u32]],
    ) -> Result<Vec<f64>, Error> {
        if responses.len() != read.last.len() || responses.iter().any(|r| r.is_empty()) {
            let expected = format!("{}, of a token at least", read.last.len());
            return Err(Error::value("responses", expected, responses.len()));
        }
        let front = self.fused(read, arrivals)?;
        let inputs: Vec<Vec<u32>> = read
            .last
            .iter()
            .zip(responses)
            .map(|(last, response)| {
                [last].into_iter().chain(&response[..response.len() - 1]).copied().collect()
            })
            .collect();
        let length = responses.iter().map(|response| response.len()).max().unwrap_or(0);
        let inputs: Vec<&[u32]> = inputs.iter().map(Vec::as_slice).collect();
        let batch = TokenBatch::after(&front.lens, padded(&inputs, length, FILL))?;
        let targets = padded(responses, length, FILL);
        let nll = self.scorer.nll_after(Some(&front), &batch, &targets)?;
        let rows = nll.chunks_exact(length).zip(responses);
        Ok(rows.map(|(row, response)| row[..response.len()].iter().sum()).collect())
    }

    /// A session with room for `capacity` tokens, for [`Receiver::answer`].
    ///
    /// # Errors
    /// Those of the model.
    pub fn session(&self, capacity: usize) -> Result<Session<'a>, Error> {
        let Side { device, compute, decoder, params } = self.side;
        let mut session = Session::new(device, *compute, decoder, params, capacity)?;
        if self.reads_plain() {
            session.keep_plain_keys()?;
        }
        Ok(session)
    }

    /// Reads a prompt into a session, fuses what arrived, and gives the logits `[V]` behind the prompt.
    /// Whatever the session held before is forgotten.
    ///
    /// # Errors
    /// [`Error::Value`] for a prompt of less than two tokens, as for [`Fuser::fuse`], and those of the
    /// model.
    pub fn begin(
        &self,
        session: &mut Session<'_>,
        prompt: &[u32],
        arrival: Option<&Arrival<'_>>,
    ) -> Result<Vec<f32>, Error> {
        self.enter(session, prompt)?;
        self.join(session, prompt, arrival)
    }

    /// The first half of [`Receiver::begin`], for which nothing needs to have arrived: reads a prompt but
    /// for its last token.
    ///
    /// # Errors
    /// [`Error::Value`] for a prompt of less than two tokens, and those of the model.
    pub fn enter(&self, session: &mut Session<'_>, prompt: &[u32]) -> Result<(), Error> {
        let Some((_, first)) = prompt.split_last().filter(|(_, first)| !first.is_empty()) else {
            return Err(Error::value("prompt", "at least two tokens", prompt.len()));
        };
        session.truncate(0);
        session.feed(first)?;
        Ok(())
    }

    /// Rounds what a session holds as the wire would round it: the cache of a receiver that keeps its own in
    /// that precision. A token that is read later is not rounded.
    ///
    /// # Errors
    /// Those of wire and model.
    pub fn keep_in(&self, session: &mut Session<'_>, precision: Precision) -> Result<(), Error> {
        let (side, tokens) = (self.side, session.len());
        let (shape, space) = (side.kv_shape(), self.fuser.fuser.config().k_space);
        let mut cache = KvCache::zeroed(side.device.ledger(), shape, tokens)?;
        let (keys, values) = cache.parts_mut();
        let rows = [shape.key_row() * tokens, shape.value_row() * tokens];
        for layer in 0..shape.layers {
            let [keys, values] = [(&mut *keys, rows[0]), (&mut *values, rows[1])]
                .map(|(all, len)| &mut all[layer * len..][..len]);
            session.read_layer(layer, space, keys, values)?;
        }
        let all: Vec<u32> = (0..tokens as u32).collect();
        let needed = vec![[true; 2]; shape.layers];
        let plan = message::plan(&needed, &[(all.clone(), [precision; 2])], space);
        let plan = plan.expect("every layer is needed");
        let rounded = Received::through(&side.device, cache.view(), &plan)?.cache;
        let view = rounded.view();
        for layer in 0..shape.layers {
            let [keys, values] = [(view.keys, rows[0]), (view.values, rows[1])]
                .map(|(all, len)| &all[layer * len..][..len]);
            session.write_layer(layer, space, &all, keys, values)?;
        }
        Ok(())
    }

    /// The second half: fuses what arrived over the prompt that was read, and reads its last token.
    ///
    /// # Errors
    /// [`Error::Value`] where another number of tokens was read, as for [`Fuser::fuse`], and those of the
    /// model.
    pub fn join(
        &self,
        session: &mut Session<'_>,
        prompt: &[u32],
        arrival: Option<&Arrival<'_>>,
    ) -> Result<Vec<f32>, Error> {
        let Some(last) = prompt.last().filter(|_| session.len() + 1 == prompt.len()) else {
            let expected = format!("{} tokens read", prompt.len().saturating_sub(1));
            return Err(Error::value("session", expected, session.len()));
        };
        if let Some(arrival) = arrival {
            self.fuse_layers(session, arrival, 0..self.side.kv_shape().layers)?;
        }
        Ok(session.feed(&[*last])?)
    }

    /// Fuses what arrived over the prompt that was read, in these layers of the receiver: each once, in
    /// any order, as soon as the sharer's layer that it listens to is there. No layer reads another,
    /// so the bits are those of [`Receiver::join`], which then is to be given no arrival.
    ///
    /// # Errors
    /// As for [`Fuser::fuse`], and those of the model; the session is then of no further use.
    pub fn fuse_layers(
        &self,
        session: &mut Session<'_>,
        arrival: &Arrival<'_>,
        layers: impl IntoIterator<Item = usize>,
    ) -> Result<(), Error> {
        let (fuser, arrivals) = (&self.fuser.fuser, std::slice::from_ref(arrival));
        let lens = [session.len()];
        let extent = Extent { shape: self.side.kv_shape(), lens: &lens, length: lens[0] };
        fuser.check(extent, arrivals)?;
        let Side { device, compute, decoder, .. } = self.side;
        let (rope, mode, keep) = (decoder.rope(), Mode::Answer, Keep::Inputs);
        for layer in layers {
            if fuser.sources().get(layer) == Some(&None) {
                continue;
            }
            let own = self.own_layer(session, layer)?;
            let mut tape = Tape::inference(device, *compute, &self.fuser.params);
            let of_layer = (layer, &own);
            let fused =
                fuser.fuse_layer(&mut tape, of_layer, extent, arrivals, rope, &mode, keep)?;
            if let Some(fused) = fused {
                put(session, of_layer, &tape, &fused)?;
            }
        }
        Ok(())
    }

    /// The most likely continuation of a prompt, of at most `limit` tokens; ends behind the first token
    /// for which `ends` holds.
    ///
    /// # Errors
    /// As for [`Receiver::begin`].
    pub fn answer(
        &self,
        session: &mut Session<'_>,
        prompt: &[u32],
        arrival: Option<&Arrival<'_>>,
        limit: usize,
        ends: impl Fn(u32) -> bool,
    ) -> Result<Vec<u32>, Error> {
        self.enter(session, prompt)?;
        self.answer_entered(session, prompt, arrival, limit, ends)
    }

    /// The second half of [`Receiver::answer`], behind [`Receiver::enter`].
    ///
    /// # Errors
    /// As for [`Receiver::join`].
    pub fn answer_entered(
        &self,
        session: &mut Session<'_>,
        prompt: &[u32],
        arrival: Option<&Arrival<'_>>,
        limit: usize,
        ends: impl Fn(u32) -> bool,
    ) -> Result<Vec<u32>, Error> {
        let mut logits = self.join(session, prompt, arrival)?;
        let mut greedy = Sampler::new(Sampling { temperature: 0.0, ..Sampling::default() })?;
        let mut answer = Vec::new();
        while answer.len() < limit {
            let token = greedy.draw(&logits);
            answer.push(token);
            if ends(token) || answer.len() == limit {
                break;
            }
            logits = session.feed(&[token])?;
        }
        Ok(answer)
    }

    /// A layer of a session's cache.
    fn own_layer(&self, session: &Session<'_>, layer: usize) -> Result<LayerKv, Error> {
        let (shape, tokens, pool) = (self.side.kv_shape(), session.len(), self.side.device.pool());
        let make = |width| Tensor::uninit(pool, Tag::Kv, [tokens, width], Format::F32);
        let (mut keys, mut values) = (make(shape.key_row())?, make(shape.value_row())?);
        let mut read = |space, keys: &mut Tensor| {
            session.read_layer(layer, space, keys.slice_mut(), values.slice_mut())
        };
        read(KeySpace::PostRope, &mut keys)?;
        let plain = match self.reads_plain() {
            true => {
                let mut plain = make(shape.key_row())?;
                read(KeySpace::PreRope, &mut plain)?;
                Some(plain)
            }
            false => None,
        };
        Ok(LayerKv { keys, plain, values })
    }
}

/// Writes fused rows over those of a session; a part whose gate is closed keeps its own.
fn put(
    session: &mut Session<'_>,
    (layer, own): (usize, &LayerKv),
    tape: &Tape<'_>,
    fused: &FusedLayer,
) -> Result<(), Error> {
    let rows = |var: Option<Var>, own: &Tensor| match var {
        Some(var) => held(tape, var).to_vec(),
        None => {
            let (width, values) = (own.cols(), own.slice::<f32>());
            let row = |place: &u32| &values[*place as usize * width..][..width];
            fused.places.iter().flat_map(row).copied().collect()
        }
    };
    let (keys, values) = (rows(fused.keys, &own.keys), rows(fused.values, &own.values));
    Ok(session.write_layer(layer, KeySpace::PostRope, &fused.places, &keys, &values)?)
}

fn held(tape: &Tape<'_>, var: Var) -> Tensor {
    tape.value(var).expect("what leaves a block is held").clone()
}

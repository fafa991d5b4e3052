//! The fuser: what a receiver makes of its own cache and a sharer's.
//!
//! It works row by row (one layer, one token) and never mixes tokens, so rows that did not arrive are
//! simply not fused. A variant is one file and one line in [`FUSERS`]. Read [`Fuser`] and [`Arrival`]
//! first; [`FuserObjective`] trains one, [`LoadedFuser`] is one out of a file.

mod any_rate;
mod blocks;
mod c2c;
mod checkpoint;
mod config;
mod fit;
mod linear;
mod lite;
mod mapping;
mod objective;
mod rows;

use std::fmt::Debug;
use std::sync::Arc;

use smidgen_codec::Rng;
use smidgen_model::LayerKv;
use smidgen_tensor::{
    Device, Dropout, Error as EngineError, Gate, GateNoise, Keep, ParamId, Params, Prefix,
    RopeTable, Tape, Var,
};

pub use any_rate::{AnyRate, Quantise, through_wire};
pub(crate) use checkpoint::FILE as FUSER_FILE;
pub use checkpoint::{FuserFacts, LoadedFuser};
pub use config::{FuserConfig, PairShape, Part};
pub use fit::LinearFit;
pub use mapping::{Mapping, Rule};
pub use objective::{FuserData, FuserObjective, FuserTraining, Item};
pub use rows::{Arrival, Fill, Present};

use crate::side::Prefill;
use crate::{Error, KvShape};
pub(crate) use rows::Extent;
use rows::LayerRows;

/// Every variant, by name.
pub static FUSERS: &[&dyn Variant] = &[&c2c::C2c, &linear::Linear, &lite::Lite];

/// What the names of a fuser's parameters begin with.
pub(crate) const PREFIX: &str = "fuser.";

/// A kind of fuser.
pub trait Variant: Sync {
    /// The name in configurations.
    fn name(&self) -> &'static str;

    /// One line about it.
    fn about(&self) -> &'static str;

    /// Adds its parameters, all zero, for the receiver layers that have a source.
    ///
    /// # Errors
    /// Those of the engine.
    fn add(
        &self,
        device: &Device,
        config: &FuserConfig,
        pair: &PairShape,
        sources: &[Option<usize>],
        params: &mut Params,
    ) -> Result<Box<dyn Network>, EngineError>;

    /// How many numbers that is, for so many layers that have a source.
    fn param_count(&self, config: &FuserConfig, pair: &PairShape, layers: usize) -> usize;
}

/// The variant of a name.
///
/// # Errors
/// [`Error::Value`] naming those there are.
pub fn variant_by_name(name: &str) -> Result<&'static dyn Variant, Error> {
    let known = || FUSERS.iter().map(|variant| variant.name()).collect::<Vec<_>>().join(", ");
    let found = FUSERS.iter().copied().find(|variant| variant.name() == name);
    found.ok_or_else(|| Error::value("variant", format!("one of: {}", known()), name))
}

/// Keys or values of a receiver layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct At {
    /// The receiver's layer.
    pub layer: usize,
    /// Keys or values.
    pub part: Part,
}

/// A variant with its parameters in place.
pub trait Network: Debug + Send + Sync {
    /// Fused rows `[N, O]` from `input` `[N, I + O]`, the sharer's row and then the receiver's, and
    /// `own` `[N, O]`, the receiver's alone in f32.
    ///
    /// # Errors
    /// Those of the engine.
    fn fuse(
        &self,
        tape: &mut Tape<'_>,
        at: At,
        input: Var,
        own: Var,
        mode: &Mode,
    ) -> Result<Var, EngineError>;

    /// The parameter `[1, 1]` that opens it where it is over 0.
    fn gate(&self, at: At) -> ParamId;

    /// Whether the matrix of this name begins at zero where training starts from the receiver alone.
    fn begins_at_zero(&self, name: &str) -> bool;
}

/// What a fuser is run for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// Gates are open or closed, nothing is dropped.
    Answer,
    /// Gates are soft and noisy, values are dropped.
    Train {
        /// Temperature of the gates.
        tau: f32,
        /// What is drawn for them.
        noise: GateNoise,
        /// Share of dropped values.
        dropout: f32,
        /// Key of all draws: a function of seed, step and micro-batch.
        key: u64,
    },
}

impl Mode {
    pub(crate) fn gate(&self, at: At) -> Gate {
        match *self {
            Mode::Answer => Gate::Hard,
            Mode::Train { tau, noise, key, .. } => {
                let key = Rng::named(key, "gate").at(at.layer as u64, at.part as u64, 0);
                Gate::Soft { tau, noise, key }
            }
        }
    }

    /// For the block at a place of a network.
    pub(crate) fn dropout(&self, at: At, place: u64) -> Option<Dropout> {
        match *self {
            Mode::Train { dropout: rate, key, .. } if rate > 0.0 => {
                let key = Rng::named(key, "dropout").at(at.layer as u64, at.part as u64, place);
                Some(Dropout { rate, key })
            }
            _ => None,
        }
    }
}

/// A fuser over parameters of a [`Params`].
#[derive(Clone, Debug)]
pub struct Fuser {
    config: Arc<FuserConfig>,
    pair: PairShape,
    sources: Arc<[Option<usize>]>,
    network: Arc<dyn Network>,
}

/// Rows of a layer that were fused.
#[derive(Clone, Debug)]
pub struct FusedLayer {
    /// Their places among the rows `[B P]` of the batch, ascending.
    pub places: Arc<[u32]>,
    /// Keys `[N, K E]`, positions applied; none where their gate is closed.
    pub keys: Option<Var>,
    /// Values `[N, K E]`; none where their gate is closed.
    pub values: Option<Var>,
}

impl Fuser {
    /// Adds a fuser's parameters to `params`, all zero.
    ///
    /// # Errors
    /// [`Error::Value`] for settings that cannot be, and those of the engine.
    pub fn add(
        device: &Device,
        config: FuserConfig,
        pair: PairShape,
        params: &mut Params,
    ) -> Result<Fuser, Error> {
        config.validate()?;
        let sources = config.mapping.resolve(pair.sharer.layers, pair.receiver.layers)?;
        let variant = variant_by_name(&config.variant)?;
        let network = variant.add(device, &config, &pair, &sources, params)?;
        Ok(Fuser {
            config: Arc::new(config),
            pair,
            sources: sources.into(),
            network: network.into(),
        })
    }

    /// Sets first values: a pure function of the seed and of each parameter's place.
    pub fn init(&self, params: &mut Params, seed: u64) {
        let zero = |name: &str| self.config.zero_init && self.network.begins_at_zero(name);
        blocks::init(params, PREFIX, seed, zero);
    }

    /// Its settings.
    pub fn config(&self) -> &FuserConfig {
        &self.config
    }

    /// The caches it is for.
    pub fn pair(&self) -> &PairShape {
        &self.pair
    }

    /// The sharer's layer for each of the receiver's.
    pub fn sources(&self) -> &[Option<usize>] {
        &self.sources
    }

    /// Whether keys or values of a receiver layer are changed at all in answers.
    pub fn is_open(&self, params: &Params, at: At) -> bool {
        let gate = || params.get(self.network.gate(at)).value.slice::<f32>()[0];
        self.sources[at.layer].is_some() && gate() > 0.0
    }

    /// For every layer of the sharer whether its keys and its values are read by an open gate: what
    /// is not need never be sent.
    pub fn needed(&self, params: &Params) -> Vec<[bool; 2]> {
        let mut needed = vec![[false; 2]; self.pair.sharer.layers];
        for (layer, source) in self.sources.iter().enumerate() {
            for part in Part::BOTH {
                if let Some(source) = source.filter(|_| self.is_open(params, At { layer, part })) {
                    needed[source][part as usize] = true;
                }
            }
        }
        needed
    }

    /// Fuses what arrived into the cache of a batch, on a tape over this fuser's parameters: one entry
    /// for each receiver layer, none where no row is fused. `rope` turns keys that are fused before
    /// positions.
    ///
    /// # Errors
    /// [`Error::Value`] for caches of another shape or space, and those of the engine.
    pub fn fuse(
        &self,
        tape: &mut Tape<'_>,
        base: &Prefill,
        arrivals: &[Arrival<'_>],
        rope: &Arc<RopeTable>,
        mode: &Mode,
        keep: Keep,
    ) -> Result<Vec<Option<FusedLayer>>, Error> {
        let extent = Extent::of(base);
        self.check(extent, arrivals)?;
        let layers = base.layers().iter().enumerate();
        layers.map(|own| self.fuse_layer(tape, own, extent, arrivals, rope, mode, keep)).collect()
    }

    /// Whether what arrived fits a batch.
    pub(crate) fn check(&self, extent: Extent<'_>, arrivals: &[Arrival<'_>]) -> Result<(), Error> {
        rows::check(&self.pair, extent, arrivals)
    }

    /// [`Fuser::fuse`] of a layer, which reads no other one: behind [`Fuser::check`].
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn fuse_layer(
        &self,
        tape: &mut Tape<'_>,
        (layer, own): (usize, &LayerKv),
        extent: Extent<'_>,
        arrivals: &[Arrival<'_>],
        rope: &Arc<RopeTable>,
        mode: &Mode,
        keep: Keep,
    ) -> Result<Option<FusedLayer>, Error> {
        let Some(source) = self.sources[layer] else { return Ok(None) };
        let is_run = |part| {
            matches!(mode, Mode::Train { .. }) || self.is_open(tape.params(), At { layer, part })
        };
        let run = Part::BOTH.map(is_run);
        let rows = LayerRows::find(extent, arrivals, source);
        if rows.is_empty() || run == [false; 2] {
            return Ok(None);
        }
        let mut fused = [None, None];
        for part in Part::BOTH.into_iter().filter(|part| run[*part as usize]) {
            let space = self.config.k_space;
            let device = tape.device().clone();
            let [input, own] = rows.gather(&device, own, arrivals, source, part, space)?;
            let (input, own) = (tape.input(input, false), tape.input(own, false));
            let (network, at, mode) = (self.network.clone(), At { layer, part }, *mode);
            let body = move |tape: &mut Tape<'_>, x: &[Var]| {
                Ok(vec![network.fuse(tape, at, x[0], x[1], &mode)?])
            };
            let mut out = tape.block(keep, &[input, own], body)?[0];
            if part == Part::Keys && space == smidgen_model::KeySpace::PreRope {
                let width = part.width(&self.pair.receiver);
                out = tape.rope(out, rope, &rows.positions, 0..width)?;
            }
            fused[part as usize] = Some(out);
        }
        let [keys, values] = fused;
        Ok(Some(FusedLayer { places: rows.places, keys, values }))
    }

    /// Puts fused rows over those of a batch: what a decoder reads its suffix after.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn prefix(
        tape: &mut Tape<'_>,
        base: &Prefill,
        fused: &[Option<FusedLayer>],
    ) -> Result<Vec<Prefix>, Error> {
        let lens: Arc<[u32]> = base.lens().iter().map(|len| *len as u32).collect();
        let mut prefix = Vec::with_capacity(fused.len());
        for (own, fused) in base.layers().iter().zip(fused) {
            let (mut keys, mut values) =
                (tape.input(own.keys.clone(), false), tape.input(own.values.clone(), false));
            if let Some(FusedLayer { places, keys: new_keys, values: new_values }) = fused {
                if let Some(rows) = new_keys {
                    keys = tape.put_rows(keys, *rows, places)?;
                }
                if let Some(rows) = new_values {
                    values = tape.put_rows(values, *rows, places)?;
                }
            }
            prefix.push(Prefix { keys, values, lens: Some(lens.clone()) });
        }
        Ok(prefix)
    }
}

impl PairShape {
    /// The caches of two models.
    pub fn new(sharer: KvShape, receiver: KvShape) -> PairShape {
        PairShape { sharer, receiver }
    }
}

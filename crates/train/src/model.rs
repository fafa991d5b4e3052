//! A trained model out of a run directory, for generation and evaluation.

use smidgen_data::{Dataset, Tokenizer};
use smidgen_model::exchange::ModelSource;
use smidgen_model::{Decoder, Spec};
use smidgen_store::{Checkpoint, RUN_TOML, RunView, Which, config, sha256_bytes, sha256_file};
use smidgen_tensor::{Compute, Device, Params};

use crate::checkpoint::{EMA, Exact, MODEL, load_weights};
use crate::run::same_dataset;
use crate::{Config, Error, Facts, Machine, TokenFacts, resolve};

/// A decoder with its weights and its tokenizer.
pub struct TrainedModel {
    /// The decoder.
    pub decoder: Decoder,
    /// Its parameters.
    pub params: Params,
    /// Text <-> ids.
    pub tokenizer: Tokenizer,
    /// The operand format it was trained with.
    pub compute: Compute,
    /// Tokens it saw at once in training; what it was made for where that is not known.
    pub context: usize,
    /// Steps it was trained for, where it is of a run.
    pub step: Option<u64>,
}

/// Which weights of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// Those that were trained.
    #[default]
    Trained,
    /// Their average, where the run keeps one (`train.ema`).
    Ema,
}

/// A model that was found and checked; its weights are still on the disk.
pub(crate) struct Found {
    /// The shape of its decoder.
    pub(crate) spec: Spec,
    pub(crate) tokenizer: Tokenizer,
    compute: Compute,
    context: usize,
    place: Place,
}

/// Where the weights lie.
enum Place {
    Run { checkpoint: Checkpoint, weights: Weights },
    Other(ModelSource),
}

impl Found {
    pub(crate) fn other(source: ModelSource, tokenizer: Tokenizer) -> Found {
        // Exactly as the weights are given; bf16 operands would be another rounding.
        let (spec, compute) = (source.spec().clone(), Compute::F32);
        Found { context: spec.context, spec, tokenizer, compute, place: Place::Other(source) }
    }

    /// Fills the parameters of a decoder of its shape.
    pub(crate) fn load(&self, device: &Device, params: &mut Params) -> Result<(), Error> {
        match &self.place {
            Place::Run { checkpoint, weights } => {
                load_weights(checkpoint, MODEL, Exact::No, params)?;
                if *weights == Weights::Ema {
                    load_weights(checkpoint, EMA, Exact::No, params)?;
                }
            }
            Place::Other(source) => source.load(device, params)?,
        }
        Ok(())
    }

    pub(crate) fn open(self, device: &Device) -> Result<TrainedModel, Error> {
        let mut params = Params::new();
        let decoder = Decoder::new(device, self.spec.clone(), &mut params)?;
        self.load(device, &mut params)?;
        let Found { tokenizer, compute, context, place, .. } = self;
        let step = match place {
            Place::Run { checkpoint, .. } => Some(checkpoint.step()),
            Place::Other(_) => None,
        };
        Ok(TrainedModel { decoder, params, tokenizer, compute, context, step })
    }

    /// A name for the weights, tokenizer included: other bytes have another.
    pub(crate) fn fingerprint(&self) -> Result<String, Error> {
        let mut names = self.tokenizer.to_json();
        match &self.place {
            Place::Run { checkpoint, weights } => {
                let file = if *weights == Weights::Ema { EMA } else { MODEL };
                names += &checkpoint.manifest().files[file].sha256;
            }
            Place::Other(source) => {
                for file in source.files() {
                    names += &sha256_file(file)?;
                }
            }
        }
        Ok(sha256_bytes(names.as_bytes()))
    }
}

/// Reads a model from a run, also from one that is still going. The optimizer's state is left alone.
///
/// # Errors
/// [`Error::Store`] and [`Error::Data`] naming the damaged or missing file, [`Error::Foreign`],
/// [`Error::NoEma`].
pub fn open_model(
    run: &RunView,
    which: Which,
    weights: Weights,
    device: &Device,
) -> Result<TrainedModel, Error> {
    find_in_run(run, which, weights)?.open(device)
}

pub(crate) fn find_in_run(run: &RunView, which: Which, weights: Weights) -> Result<Found, Error> {
    let checkpoint = run.checkpoint(which)?;
    let config: Config = config::parse(&run.read_text(RUN_TOML)?, &run.file(RUN_TOML))?;
    let tokenizer = Dataset::tokenizer_of(run.path())?;
    check_dataset(run, &checkpoint)?;
    // The run is resolved: only the vocabulary that came out is still a fact to it.
    let machine = Machine { memory_bytes: u64::MAX, ..Machine::detect() };
    let tokens = TokenFacts { vocab: tokenizer.vocab_size(), train: u64::MAX, val: 0 };
    let facts = Facts { train_bytes: 0, val_bytes: 0, tokens: Some(tokens), machine };
    let plan = resolve(&Config { memory: None, ..config }, &facts)?;
    if weights == Weights::Ema && !checkpoint.manifest().files.contains_key(EMA) {
        let (step, run) = (checkpoint.step(), run.path().to_path_buf());
        return Err(Error::NoEma { step, run });
    }
    let (compute, context) = (plan.compute(), plan.context());
    let place = Place::Run { checkpoint, weights };
    Ok(Found { spec: plan.spec, tokenizer, compute, context, place })
}

/// The tokenizer beside a checkpoint must be the one it was trained with.
fn check_dataset(run: &RunView, checkpoint: &Checkpoint) -> Result<(), Error> {
    let path = run.data_folder().join("dataset.json");
    same_dataset(checkpoint, &sha256_file(&path)?)
}

//! A trained model out of a run directory, for generation and evaluation.

use smidgen_data::{Dataset, Tokenizer};
use smidgen_model::Decoder;
use smidgen_store::{Checkpoint, RUN_TOML, RunView, Which, config, sha256_file};
use smidgen_tensor::{Compute, Device, Params};

use crate::checkpoint::{EMA, MODEL, load_weights};
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
    let checkpoint = run.checkpoint(which)?;
    let config: Config = config::parse(&run.read_text(RUN_TOML)?, &run.file(RUN_TOML))?;
    let tokenizer = Dataset::tokenizer_of(run.path())?;
    check_dataset(run, &checkpoint)?;
    // The run is resolved: only the vocabulary that came out is still a fact to it.
    let machine = Machine { memory_bytes: u64::MAX, ..Machine::detect() };
    let tokens = TokenFacts { vocab: tokenizer.vocab_size(), train: u64::MAX, val: 0 };
    let facts = Facts { train_bytes: 0, val_bytes: 0, tokens: Some(tokens), machine };
    let plan = resolve(&Config { memory: None, ..config }, &facts)?;
    let mut params = Params::new();
    let decoder = Decoder::new(device, plan.spec.clone(), &mut params)?;
    load_weights(&checkpoint, MODEL, &mut params)?;
    if weights == Weights::Ema {
        if !checkpoint.manifest().files.contains_key(EMA) {
            let (step, run) = (checkpoint.step(), run.path().to_path_buf());
            return Err(Error::NoEma { step, run });
        }
        load_weights(&checkpoint, EMA, &mut params)?;
    }
    Ok(TrainedModel {
        decoder,
        params,
        tokenizer,
        compute: plan.compute(),
        step: Some(checkpoint.step()),
    })
}

/// The tokenizer beside a checkpoint must be the one it was trained with.
fn check_dataset(run: &RunView, checkpoint: &Checkpoint) -> Result<(), Error> {
    let path = run.data_folder().join("dataset.json");
    same_dataset(checkpoint, &sha256_file(&path)?)
}

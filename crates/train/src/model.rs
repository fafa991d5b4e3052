//! A trained model out of a run directory, for generation and evaluation.

use smidgen_data::{Dataset, Tokenizer};
use smidgen_model::Decoder;
use smidgen_store::{RUN_TOML, RunView, Which, config};
use smidgen_tensor::{Compute, Device, Params};

use crate::checkpoint::load_weights;
use crate::plan::{compute, settle};
use crate::source::dataset_facts;
use crate::{Config, Error, Machine, resolve};

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
    /// Steps it was trained for.
    pub step: u64,
}

/// Reads a model from a run, also from one that is still going. The optimizer's state is left alone.
///
/// # Errors
/// [`Error::Store`] and [`Error::Data`] naming the damaged or missing file, [`Error::Foreign`].
pub fn open_model(run: &RunView, which: Which, device: &Device) -> Result<TrainedModel, Error> {
    let config: Config = config::parse(&run.read_text(RUN_TOML)?, &run.file(RUN_TOML))?;
    let dataset = Dataset::open(run.path())?;
    let machine = Machine { memory_bytes: u64::MAX, ..Machine::detect() };
    let config = Config { memory: None, ..config };
    let plan = resolve(&settle(&config, &machine), &dataset_facts(&dataset, machine))?;
    let checkpoint = run.checkpoint(which)?;
    let mut params = Params::new();
    let decoder = Decoder::new(device, plan.spec.clone(), &mut params)?;
    load_weights(&checkpoint, &mut params)?;
    Ok(TrainedModel {
        decoder,
        params,
        tokenizer: dataset.tokenizer,
        compute: compute(plan.config.train.compute),
        step: checkpoint.step(),
    })
}

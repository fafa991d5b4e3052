//! Which model a command is about: options that `generate`, `eval` and `export` share.

use std::path::PathBuf;

use anyhow::Result;
use smidgen_codec::Ledger;
use smidgen_data::Tokenizer;
use smidgen_store::{RunView, Which};
use smidgen_tensor::{Device, available_threads};
use smidgen_train::{Opening, TrainedModel, Weights, is_run, open, open_tokenizer};

use crate::exit::Fault;

/// A model and how it is opened.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// A run directory, a Hugging Face folder, a GGUF file or a llama2.c file
    #[arg(value_name = "RUN|MODEL")]
    pub(crate) model: PathBuf,
    /// Which checkpoint of a run: best, last or a step [default: best]
    #[arg(long, value_name = "best|last|STEP")]
    pub(crate) ckpt: Option<Which>,
    /// Take the averaged weights of a run with `train.ema`
    #[arg(long)]
    pub(crate) ema: bool,
    /// The tokenizer of a model that has none: tokenizer.json, a folder, a .model or a llama2.c .bin
    #[arg(long, value_name = "PATH")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Compute threads [default: all this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
}

impl ModelArgs {
    /// Opens the model on a device of its own.
    pub(crate) fn open(&self) -> Result<(Device, TrainedModel)> {
        let threads = self.threads.map_or_else(available_threads, usize::from);
        let device = Device::cpu(Ledger::new(), threads);
        let model = self.open_on(&device)?;
        Ok((device, model))
    }

    /// Opens the model on a device that is there.
    pub(crate) fn open_on(&self, device: &Device) -> Result<TrainedModel> {
        self.check_step()?;
        Ok(open(&self.model, &self.opening(), device)?)
    }

    /// The tokenizer alone.
    pub(crate) fn open_tokenizer(&self) -> Result<Tokenizer> {
        self.check_step()?;
        Ok(open_tokenizer(&self.model, &self.opening())?)
    }

    /// The options as the library takes them.
    fn opening(&self) -> Opening {
        let weights = if self.ema { Weights::Ema } else { Weights::Trained };
        Opening { which: self.ckpt, weights, tokenizer: self.tokenizer.clone() }
    }

    /// Says which steps there are where the one asked for is not.
    fn check_step(&self) -> Result<()> {
        let Some(Which::Step(step)) = self.ckpt.filter(|_| is_run(&self.model)) else {
            return Ok(());
        };
        let steps = RunView::open(&self.model)?.steps()?;
        if steps.contains(&step) {
            return Ok(());
        }
        let steps: Vec<String> = steps.iter().rev().map(u64::to_string).collect();
        let known = if steps.is_empty() { "none".into() } else { steps.join(", ") };
        let run = self.model.display();
        let text = format!("no checkpoint of step {step} in {run}, there are: {known}");
        Err(Fault::unreadable(text).into())
    }
}

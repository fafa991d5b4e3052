//! What can go wrong in a run.

use std::path::PathBuf;

use smidgen_store::Bytes;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, a run directory or a configuration.
    #[error(transparent)]
    Store(#[from] smidgen_store::Error),
    /// Documents, tokenizer or shards.
    #[error(transparent)]
    Data(#[from] smidgen_data::Error),
    /// Groups, rules or the gradient policy.
    #[error(transparent)]
    Optim(#[from] smidgen_optim::Error),
    /// The model's shape.
    #[error(transparent)]
    Model(#[from] smidgen_model::Error),
    /// The engine.
    #[error(transparent)]
    Tensor(#[from] smidgen_tensor::Error),
    /// A path that leads to no model.
    #[error(
        "expected a run directory, a model folder with `config.json`, a GGUF file or a llama2.c file, \
         got {got} at {}", path.display()
    )]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is there.
        got: &'static str,
    },
    /// A model without a tokenizer.
    #[error(
        "{} has no tokenizer, expected one of these beside it: {names}\n  hint: name one with `--tokenizer`",
        path.display()
    )]
    NoTokenizer {
        /// The model.
        path: PathBuf,
        /// Names that are looked for.
        names: String,
    },
    /// The compiler that judges completions, or its sandbox.
    #[error(transparent)]
    Eval(#[from] smidgen_eval::Error),
    /// A setting that cannot be.
    #[error("`{key}`: expected {expected}, got {got}")]
    Value {
        /// The dotted key.
        key: &'static str,
        /// What it can be.
        expected: String,
        /// What it is.
        got: String,
    },
    /// A configuration that names no source.
    #[error("`data.path`: expected a folder or a file of text, got none\n  hint: `train PATH`")]
    NoSource,
    /// A preset that is not there.
    #[error("unknown preset `{name}`, expected one of: {known}{hint}")]
    UnknownPreset {
        /// As written.
        name: String,
        /// All there are.
        known: String,
        /// The nearest one, as a line of its own, or nothing.
        hint: String,
    },
    /// The plan needs more memory than it may have.
    #[error(
        "`memory`: expected at least {}, which the smallest plan needs, got {}\n  hint: {hint}",
        Bytes(*needed_bytes), Bytes(*limit_bytes)
    )]
    OverBudget {
        /// What the smallest plan needs, the process included.
        needed_bytes: u64,
        /// What it may have.
        limit_bytes: u64,
        /// What would help.
        hint: String,
    },
    /// The run's configuration is not the one its checkpoint was made with.
    #[error(
        "the configuration changed since the checkpoint of step {step}:\n  {}\n  \
         hint: undo the change in {}, or continue with `--override`",
        diff.join("\n  "), path.display()
    )]
    ConfigChanged {
        /// Step of the checkpoint.
        step: u64,
        /// One line for each key that differs.
        diff: Vec<String>,
        /// The run's `run.toml`.
        path: PathBuf,
    },
    /// Changes that no checkpoint can follow, `--override` or not.
    #[error(
        "the checkpoint of step {step} cannot go on with these changes, not even with `--override`:\n  {}\n  \
         because {reason}\n  hint: nothing was changed; begin a new run for them",
        diff.join("\n  ")
    )]
    CannotOverride {
        /// Step of the checkpoint.
        step: u64,
        /// One line for each key that differs.
        diff: Vec<String>,
        /// What does not fit.
        reason: String,
    },
    /// A checkpoint that belongs to something else.
    #[error("checkpoint of step {step}: `{what}`: expected {expected}, got {got}")]
    Foreign {
        /// Its step.
        step: u64,
        /// What does not fit.
        what: String,
        /// What this run has.
        expected: String,
        /// What the checkpoint has.
        got: String,
    },
    /// The first loss shows that model or data are not what they seem.
    #[error(
        "loss of the first step: expected {expected:.3} within 0.5, got {got:.3}\n  \
         hint: this is a bug in the model, its first values or the data"
    )]
    FirstLoss {
        /// That of a model that knows nothing.
        expected: f64,
        /// That of the first step.
        got: f64,
    },
    /// Memory was refused, and the step cannot be done in smaller pieces.
    #[error("step {step}: {refusal}{}", saved_at(*saved))]
    NoRelief {
        /// The step, counted from 1.
        step: u64,
        /// The step of the checkpoint that is saved, if there is one.
        saved: Option<u64>,
        /// What was refused.
        refusal: Box<Error>,
    },
    /// Gradients were not finite for too many steps in a row.
    #[error(
        "gradients of {in_a_row} steps in a row were not finite, the last in step {step}; \
         a checkpoint of step {saved} is saved\n  hint: a lower learning rate, or `train.compute = \"f32\"`"
    )]
    NotFinite {
        /// How many steps.
        in_a_row: u32,
        /// The last of them, counted from 1.
        step: u64,
        /// The checkpoint's step.
        saved: u64,
    },
    /// The loss spiked more often than the run was to go back for it.
    #[error(
        "the loss spiked once more in step {step}, after going back {rollbacks} times; a checkpoint of step \
         {saved} is saved\n  hint: a lower learning rate, a larger `alarm.spike`, or `alarm.rollback = 0` to \
         train on through it"
    )]
    Spikes {
        /// The step, counted from 1.
        step: u64,
        /// How often the run went back.
        rollbacks: u32,
        /// The checkpoint's step.
        saved: u64,
    },
    /// A longer schedule whose rate would rise again at the present step.
    #[error(
        "`train.steps`: from {old} to {new} sends the rate of step {step} up again, from {from:.3} to {to:.3} \
         of its base\n  hint: `--extend N` adds steps with a schedule of their own once the run is finished"
    )]
    RateRises {
        /// Steps done.
        step: u64,
        /// The present multiplier.
        from: f64,
        /// The multiplier that it would have.
        to: f64,
        /// The present end of the schedule.
        old: u64,
        /// The new one.
        new: u64,
    },
    /// Steps can be added to a run that has ended alone.
    #[error(
        "{} is not finished\n  hint: go on with `--resume` alone, then `--extend`",
        run.display()
    )]
    NotFinished {
        /// The run directory.
        run: PathBuf,
    },
    /// A range test at whose rates the loss never fell.
    #[error(
        "no learning rate of the range test made the loss fall in {tried} steps\n  \
         hint: name one with `--lr`, or look at the curve with `lr-find`"
    )]
    NoRate {
        /// Steps that gave numbers.
        tried: usize,
    },
    /// A checkpoint without averaged weights.
    #[error(
        "the checkpoint of step {step} in {} has no averaged weights\n  \
         hint: a run keeps them with `train.ema = 0.999`",
        run.display()
    )]
    NoEma {
        /// Its step.
        step: u64,
        /// The run directory.
        run: PathBuf,
    },
    /// Something an objective of another crate reports.
    #[error(transparent)]
    Objective(Box<dyn std::error::Error + Send + Sync>),
}

fn saved_at(step: Option<u64>) -> String {
    step.map_or(String::new(), |step| format!("\n  a checkpoint of step {step} is saved"))
}

impl Error {
    /// Whether memory was refused.
    pub fn is_refusal(&self) -> bool {
        match self {
            Error::Tensor(error) | Error::Model(smidgen_model::Error::Tensor(error)) => {
                refuses(error)
            }
            Error::Optim(smidgen_optim::Error::Tensor(error)) => refuses(error),
            _ => false,
        }
    }

    pub(crate) fn first_line(&self) -> String {
        self.to_string().lines().next().unwrap_or_default().to_string()
    }

    pub(crate) fn value(
        key: &'static str,
        expected: impl Into<String>,
        got: impl ToString,
    ) -> Error {
        Error::Value { key, expected: expected.into(), got: got.to_string() }
    }
}

/// Also a refusal that a rule met inside a receiver of gradients.
fn refuses(error: &smidgen_tensor::Error) -> bool {
    let inside = match error {
        smidgen_tensor::Error::Sink(inside) => inside.downcast_ref::<smidgen_optim::Error>(),
        other => return other.is_refusal(),
    };
    matches!(inside, Some(smidgen_optim::Error::Tensor(error)) if error.is_refusal())
}

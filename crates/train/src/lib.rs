//! The loop: from a configuration and a folder to a trained model, and on from wherever it stopped.
//!
//! It trains any [`Objective`] (parameters, a loss on a tape, a validation); the language model is the
//! first. It is not a user interface: what happens is told to a [`Progress`], and a flag stops it.
//!
//! Three types to read first: [`Config`] (what a person writes), [`Plan`] (what was decided),
//! [`Trainer`] (one step after another). The verbs are [`train`], [`resume`] and [`dry_run`].
//!
//! ```
//! use smidgen_train::{Config, Context, Silent, train};
//! use std::sync::atomic::AtomicBool;
//!
//! # let source = tempfile::tempdir()?;
//! # for i in 0..4 {
//! #     let text = format!("{i} is a number, and so is {}.\n", i * i).repeat(60);
//! #     std::fs::write(source.path().join(format!("{i}.txt")), text)?;
//! # }
//! # let runs = tempfile::tempdir()?;
//! let sets = ["train.steps=3".to_string(), "model.preset=tiny".to_string()];
//! let config = Config::read(source.path(), &sets)?;
//! let (mut progress, stop) = (Silent, AtomicBool::new(false));
//! let run = runs.path().join("first");
//! let outcome = train(&config, &run, Context::new(&mut progress, &stop))?;
//! assert_eq!(outcome.steps, 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod alarms;
mod budget;
mod bytes;
mod cgroup;
mod checkpoint;
mod compiling;
mod config;
mod ema;
mod environment;
mod error;
mod export;
mod fit;
mod init;
mod language;
mod logged;
mod lr_find;
mod machine;
mod model;
mod objective;
mod open;
mod outcome;
mod outlook;
mod paging;
mod patience;
mod phase;
mod plan;
mod process;
mod progress;
mod promise;
mod request;
mod run;
mod samples;
mod shape;
mod sink;
mod size;
mod snapshot;
mod source;
mod thrift;
mod track;
mod trainer;
mod watch;

pub use alarms::{Kind, Watched};
pub use budget::{Choice, Offer, Rejected, Relax};
pub use checkpoint::{CURSOR, EMA, MODEL, STATE};
pub use compiling::{CompileOptions, compile_rate, held_out_texts};
pub use config::{Config, DataConfig, ModelConfig, Precision, Rate, TrainConfig};
pub use environment::{Computed, note_environment};
pub use error::Error;
pub use export::{Export, Exported, export_folder, export_gguf};
pub use fit::{Course, fit};
pub use language::LanguageModel;
pub use lr_find::{LrCurve, LrPoint, RangeTest, lr_find};
pub use machine::{Machine, anonymous_bytes, cpu_name, peak_rss_bytes};
pub use model::{TrainedModel, Weights, open_model};
pub use objective::{CompileRate, DORMANT, Objective, Sample, Samples, Validation};
pub use open::{Opening, is_run, open, open_tokenizer};
pub use outcome::{OUTCOME_JSON, Outcome, Status};
pub use outlook::{Outlook, TIERS, Tier, outlook, run_facts, source_facts};
pub use patience::Patience;
pub use plan::{Facts, Plan, TokenFacts, consider, resolve};
pub use progress::{Event, Progress, Silent, StepEvent};
pub use request::find_done;
pub use run::{
    Changes, Context, dry_run, fresh_run_dir, lr_find_run, lr_find_source, resume, train,
};
pub use thrift::Thrift;
pub use track::TrackConfig;
pub use trainer::{Recipe, Scored, Scores, Standing, StepReport, Trainer};
pub use watch::{AlarmConfig, Metric, StopConfig, ValidateConfig};

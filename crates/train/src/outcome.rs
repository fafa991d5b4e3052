//! What came out of a run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a finished run keeps it.
pub const OUTCOME_JSON: &str = "outcome.json";

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// By its schedule, its limit of steps or its clock.
    Finished,
    /// By the stop flag; a checkpoint is saved.
    Interrupted,
}

/// The object that `train --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Steps done.
    pub steps: u64,
    /// Targets of these steps.
    pub tokens: u64,
    /// Seconds, data preparation and earlier parts of a resumed run included.
    pub seconds: f64,
    /// Running mean of the training loss.
    pub train_loss: f64,
    /// Loss of the last validation.
    pub val_loss: Option<f64>,
    /// Bits per byte of the last validation.
    pub val_bpb: Option<f64>,
    /// Bits per byte of the best validation.
    pub best_val_bpb: Option<f64>,
    /// Its step.
    pub best_step: Option<u64>,
    /// Targets per second of training, validations left out.
    pub tokens_per_s: f64,
    /// The most memory the process had resident.
    pub peak_rss_mib: f64,
    /// The run directory.
    pub run_dir: PathBuf,
}

//! What came out of a run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use smidgen_optim::GroupCost;

use crate::CompileRate;

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
    /// Whether its validations no longer improved before the schedule was done.
    #[serde(default)]
    pub stopped_early: bool,
    /// The step whose weights are the result: the best one where `stop.restore_best` says so, and
    /// the last one otherwise. The figures of the validation are its own.
    #[serde(default)]
    pub result_step: u64,
    /// Loss of the averaged weights at that step, where they are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_loss: Option<f64>,
    /// Their bits per byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_bpb: Option<f64>,
    /// How much of what the model writes compiles, where that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compile: Option<CompileRate>,
    /// How often each alarm went off; steps done again after a roll-back count again.
    #[serde(default)]
    pub alarms: BTreeMap<String, u64>,
    /// How often the run went back because of a loss spike.
    #[serde(default)]
    pub rollbacks: u32,
    /// Share of the run's time spent writing metrics.
    #[serde(default)]
    pub tracking_share: f64,
    /// Share of the steps' time spent waiting for data.
    #[serde(default)]
    pub loader_share: f64,
    /// Share of the run's time spent writing checkpoints.
    #[serde(default)]
    pub checkpoint_share: f64,
    /// Seconds of the updates, in the process that finished the run.
    #[serde(default)]
    pub update_seconds: f64,
    /// What the optimizer's state holds, by group.
    #[serde(default)]
    pub optim: Vec<GroupCost>,
    /// The most memory the process had resident.
    pub peak_rss_mib: f64,
    /// The most of that which was private and no file's, sampled after each step: what `memory`
    /// promises about.
    #[serde(default)]
    pub peak_rss_anon_mib: f64,
    /// How often memory was refused, and the work cut into smaller pieces.
    #[serde(default)]
    pub pressures: u64,
    /// The run directory.
    pub run_dir: PathBuf,
}

//! The run directory: the one place where training, generation, evaluation and reports meet.
//!
//! ```text
//! run.toml       configuration, resolved     ckpt/step-00001000/  checkpoints
//! env.json       machine, kernels, versions  ckpt/latest          names the newest
//! request.json   what was asked for          ckpt/best            names the best
//! metrics.jsonl  one line per record
//! events/        the same for TensorBoard
//! plan.json      what was planned            data/                tokenizer and shards
//! ledger.json    bytes by tag
//! run.lock       held by the running program
//! ```

mod dir;
mod leftovers;
mod lock;
mod metrics;
mod reader;
mod view;

pub use dir::RunDir;
pub use leftovers::{Leftover, Waste, remove_leftovers, size_bytes};
pub use metrics::Metrics;
pub use reader::{MetricsReader, Past};
pub(crate) use view::names;
pub use view::{RunView, Which};

/// The resolved configuration; its presence makes a folder a run directory.
pub const RUN_TOML: &str = "run.toml";
/// Machine, kernels and versions.
pub const ENV_JSON: &str = "env.json";
/// What the run was asked for, to see whether the same was done before.
pub const REQUEST_JSON: &str = "request.json";
/// One line per record.
pub const METRICS_JSONL: &str = "metrics.jsonl";
/// What was planned, before anything was spent.
pub const PLAN_JSON: &str = "plan.json";
/// Bytes by tag.
pub const LEDGER_JSON: &str = "ledger.json";

const DATA: &str = "data";
const CKPT: &str = "ckpt";
const EVENTS: &str = "events";
const LATEST: &str = "latest";
const BEST: &str = "best";
const LOCK: &str = "run.lock";

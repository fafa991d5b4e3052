//! The run directory: the one place where training, generation, evaluation and reports meet.
//!
//! ```text
//! run.toml       configuration, resolved     ckpt/step-00001000/  checkpoints
//! env.json       machine, kernels, versions  ckpt/latest          names the newest
//! metrics.jsonl  one line per record         ckpt/best            names the best
//! events/        the same for TensorBoard
//! ledger.json    bytes by tag                data/                tokenizer and shards
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
/// One line per record.
pub const METRICS_JSONL: &str = "metrics.jsonl";
/// Bytes by tag.
pub const LEDGER_JSON: &str = "ledger.json";

const DATA: &str = "data";
const CKPT: &str = "ckpt";
const EVENTS: &str = "events";
const LATEST: &str = "latest";
const BEST: &str = "best";
const LOCK: &str = "run.lock";

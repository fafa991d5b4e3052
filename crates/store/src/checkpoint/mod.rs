//! Checkpoints: a folder that is there whole or not at all, and that proves it when opened.
//!
//! `ckpt/step-00001000/` holds tensor and JSON files and, written last, `manifest.json` with the
//! size and SHA-256 of each, and of itself. `ckpt/latest` and `ckpt/best` name a step's folder.

mod manifest;
mod read;
mod write;

pub use manifest::{FileFacts, Manifest};
pub use read::{Checkpoint, Skipped};
pub use write::{CheckpointWriter, Commit};
pub(crate) use write::{remove_checkpoint, replaced};

/// The folder of a step.
pub(crate) fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// The step a folder's name stands for; names that [`step_name`] does not make are `None`.
pub(crate) fn step_of(name: &str) -> Option<u64> {
    let step = name.strip_prefix("step-")?.parse().ok()?;
    (step_name(step) == name).then_some(step)
}

/// Marks a checkpoint that is being replaced by another of the same step.
pub(crate) const REPLACED: &str = ".old";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_names_and_steps() {
        for step in [0, 1000, 99_999_999, 100_000_000, u64::MAX] {
            assert_eq!(step_of(&step_name(step)), Some(step));
        }
        assert_eq!(step_name(1000), "step-00001000");
        for name in ["step-1000", "step-", "step-+0000001", "latest", "step-00001000.old"] {
            assert_eq!(step_of(name), None, "{name}");
        }
    }
}

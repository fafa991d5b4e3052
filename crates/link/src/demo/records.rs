//! What each line of a demonstration leaves behind: a run directory with the record of the link.
//!
//! `evals/TASK/LINE-HASH` under the folder of the demonstration. The hash is that of everything that
//! decides the figures, so a line that is measured with another fuser gets a folder of its own, and one
//! that was measured before is left as it is.

use std::path::Path;

use serde_json::{Value, json};
use smidgen_train::Context;

use super::lines::{IDENTICAL, Linked, METHODS, TUNED};
use super::pair::Model;
use super::table::{Asking, Parts};
use crate::Error;
use crate::fuse::LoadedFuser;
use crate::methods::{Column, Measured};
use crate::record::{LinkRecord, ModelFacts, Setting, Worth};
use crate::stats::bootstrap;
use crate::world::{MOST_TOKENS, Task, World};

/// How prompts of a world are worded.
const TEMPLATE: &str = "factworld";

/// What the records of a task have in common.
pub(super) struct Records<'a> {
    pub(super) world: &'a World,
    pub(super) task: &'a dyn Task,
    pub(super) parts: &'a Parts<'a>,
    /// Of the pair, and of the receiver with itself.
    pub(super) asking: &'a [Asking; 2],
}

impl Records<'_> {
    /// Writes a record for each column; the last ones are those of [`METHODS`].
    ///
    /// # Errors
    /// [`Error::Record`] for figures that contradict each other, [`Error::Store`].
    pub(super) fn write(
        &self,
        out: &Path,
        measured: &Measured,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        let parent = out.join("evals").join(self.task.id());
        let others = measured.columns.len() - METHODS.len();
        for (place, column) in measured.columns.iter().enumerate() {
            let method = place.checked_sub(others).map(|place| METHODS[place].0);
            let setting = self.setting(measured, column, method)?;
            let record = LinkRecord::of(column, setting, &cx.machine)?;
            let (title, config) = (column.title(), self.config(column));
            record.keep(&parent, &title, &config, &self.parts.receiver.side, cx)?;
        }
        Ok(())
    }

    /// The configuration of a line, for its run directory.
    fn config(&self, column: &Column) -> Value {
        let preset = self.world.preset().name;
        let (seed, task) = (self.world.seed(), self.task.id());
        let budget = column.budget.to_string();
        json!({ "preset": preset, "seed": seed, "task": task, "line": column.method, "budget": budget })
    }

    fn setting(
        &self,
        measured: &Measured,
        column: &Column,
        method: Option<&Linked>,
    ) -> Result<Setting<'_>, Error> {
        let (world, Parts { sharer, receiver, .. }) = (self.world, self.parts);
        let is_own = column.method == IDENTICAL;
        let asking = &self.asking[usize::from(is_own)];
        let mut answering = about("receiver", receiver);
        if column.method == TUNED {
            (answering.id, answering.fingerprint) =
                ("receiver-tuned".into(), self.parts.tuned.0.into());
        }
        let sharing = match is_own {
            true => answering.clone(),
            false => about(self.task.sharer().name(), sharer),
        };
        let allocator = method.and_then(|method| method.allocator());
        // What tokens and precisions weigh under a cap.
        let calibration = self.parts.known.filter(|_| allocator.is_some());
        let calibration = calibration.map(|known| &known.calibration.sha256);
        let right = column.right();
        Ok(Setting {
            template: TEMPLATE,
            pair_id: format!("{}-{}", world.preset().name, self.task.sharer().name()),
            receiver: answering,
            sharer: sharing,
            fuser: self.fuser(column, method),
            max_new_tokens: MOST_TOKENS as u64,
            choice: "logits",
            task: self.task.id(),
            example_ids_hash: measured.ids_sha256()?,
            prompt_tokens: &asking.tokens,
            corpus_version: world.fingerprint(),
            one_to_one: asking.one_to_one,
            unmapped: asking.unmapped,
            selection: method.and_then(|method| method.selection()),
            allocator,
            decided_by: json!({ "calibration": calibration, "world": world.fingerprint() }),
            seed: ("world", world.seed()),
            worth: Worth::Accuracy(bootstrap(&right, Some(&measured.clusters), world.seed())?),
        })
    }

    /// Through which fuser a column's caches went.
    fn fuser(&self, column: &Column, method: Option<&Linked>) -> Option<&LoadedFuser> {
        match method {
            Some(_) => Some(self.parts.linked.fuser()),
            None if column.method == IDENTICAL => Some(self.parts.identical.fuser()),
            None => None,
        }
    }
}

fn about(id: &str, model: &Model) -> ModelFacts {
    ModelFacts::of(id, &model.side, &model.tokenizer)
}

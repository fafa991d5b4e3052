//! What each line of a demonstration leaves behind: a run directory with the record of the link.
//!
//! `evals/TASK/LINE-HASH` under the folder of the demonstration. The hash is that of everything that
//! decides the figures, so a line that is measured with another fuser gets a folder of its own, and one
//! that was measured before is left as it is.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use smidgen_train::{Context, cpu_name};

use super::lines::{IDENTICAL, Linked, METHODS, TUNED};
use super::pair::Model;
use super::table::{Asking, Parts};
use crate::Error;
use crate::fuse::LoadedFuser;
use crate::message;
use crate::methods::{Column, Measured, PayloadKind};
use crate::record::{
    Alignment, BudgetRecord, Decoding, FuserFacts, Host, LinkRecord, LinkRun, ModelFacts,
    PrecisionRecord, RunKey, SCHEMA_VERSION, SelectionRecord, ShapeSource, Spread, Status,
    WireRecord, config_hash, find_done,
};
use crate::remote::tokenizer_sha256;
use crate::stats::bootstrap;
use crate::wire::Precision;
use crate::world::{MOST_TOKENS, Task, World};

/// How prompts of a world are worded.
const TEMPLATE: &str = "factworld";
/// Digits of a hash in the name of a folder.
const HASH_DIGITS: usize = 8;

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
        cx: &Context<'_>,
    ) -> Result<(), Error> {
        let parent = out.join("evals").join(self.task.id());
        let others = measured.columns.len() - METHODS.len();
        for (place, column) in measured.columns.iter().enumerate() {
            let method = place.checked_sub(others).map(|place| METHODS[place].0);
            let record = self.record(measured, column, method, cx)?;
            if find_done(&parent, &record.key, &record.config_hash)?.is_some() {
                continue;
            }
            let slug = column.title().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            let path = parent.join(format!("{slug}-{}", &record.config_hash[..HASH_DIGITS]));
            let (files, config) = (cx.files.clone(), self.config(column)?);
            LinkRun::create(files, &path, &config, &record.key, &record.config_hash)?
                .finish(&record)?;
        }
        Ok(())
    }

    /// The configuration of a line, for its run directory.
    fn config(&self, column: &Column) -> Result<String, Error> {
        let preset = self.world.preset().name;
        let (seed, task) = (self.world.seed(), self.task.id());
        let budget = column.budget.to_string();
        let link = json!({ "preset": preset, "seed": seed, "task": task, "line": column.method, "budget": budget });
        Ok(smidgen_store::config::to_text(&json!({ "link": link }))?)
    }

    fn record(
        &self,
        measured: &Measured,
        column: &Column,
        method: Option<&Linked>,
        cx: &Context<'_>,
    ) -> Result<LinkRecord, Error> {
        let (world, Parts { sharer, receiver, .. }) = (self.world, self.parts);
        let fuser = self.fuser(column, method);
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
        let is_kv = column.rows.iter().any(|row| row.kind == PayloadKind::Kv);
        let wire = fuser.filter(|_| is_kv).map(|fuser| wire(fuser, column));
        let selection = method.and_then(|method| method.selection());
        let allocator = method.and_then(|method| method.allocator());
        let precision = is_kv.then(|| PrecisionRecord::of(column, allocator));
        let key = self.key(column, method, wire.as_ref())?;
        let right = column.right();
        let decoding =
            json!({ "temperature": 0, "max_new_tokens": MOST_TOKENS, "choice": "logits" });
        // What tokens and precisions weigh under a cap.
        let calibration = self.parts.known.filter(|_| allocator.is_some());
        let facts = json!({
            "key": key,
            "calibration": calibration.map(|known| &known.calibration.sha256),
            "world": world.fingerprint(),
            "models": [&answering.fingerprint, &sharing.fingerprint],
            "fuser": fuser.map(LoadedFuser::fingerprint),
            "version": env!("CARGO_PKG_VERSION"),
        });
        let planned = column.rows.iter().map(|row| row.contents.planned_bytes).sum();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(LinkRecord {
            schema_version: SCHEMA_VERSION,
            status: Status::Complete,
            reason: None,
            key,
            config_hash: config_hash(&facts)?,
            finished_unix_s: now.map_or(0, |since| since.as_secs()),
            pair_id: self.pair(),
            receiver: answering,
            sharer: sharing,
            fuser: fuser.map(|fuser| FuserFacts {
                fingerprint: fuser.fingerprint(),
                layers_loaded: fuser.layers() as u64,
                parameters: fuser.param_count() as u64,
            }),
            prompt_template_id: TEMPLATE.into(),
            decoding: Decoding {
                settings_hash: config_hash(&decoding)?,
                temperature: 0.0,
                max_new_tokens: MOST_TOKENS as u64,
            },
            task: self.task.id().into(),
            n: column.rows.len() as u64,
            example_ids_hash: measured.ids_sha256()?,
            context_len_bucket: "baseline".into(),
            prompt_tokens: Spread::of(&asking.tokens)?,
            corpus_version: world.fingerprint().into(),
            longctx_seed: None,
            alignment: Alignment {
                on: true,
                strategy: Some("cover_last".into()),
                one_to_one_rate: Some(asking.one_to_one),
                unmapped_rate: Some(asking.unmapped),
            },
            method: column.method.clone(),
            payload: if is_kv { PayloadKind::Kv } else { PayloadKind::Empty },
            is_upper_bound: column.is_upper_bound,
            selection: selection
                .map(|config| {
                    let stats: Vec<_> =
                        column.rows.iter().filter_map(|row| row.selection).collect();
                    SelectionRecord::of(config, &stats)
                })
                .filter(|_| is_kv)
                .transpose()?,
            precision,
            budget: BudgetRecord::of(column)?,
            bytes_estimated_total: planned,
            bytes_estimate: planned,
            bytes_measured_total: column.rows.iter().map(|row| row.bytes).sum(),
            bytes_measured_breakdown: column.breakdown(),
            wire,
            timings_ms: column.timings_ms(),
            text: None,
            answer_histogram: column.answer_histogram(),
            mean_output_tokens: column.rows.iter().map(|row| row.answer_tokens as f64).sum::<f64>()
                / column.rows.len().max(1) as f64,
            accuracy: bootstrap(&right, Some(&measured.clusters), world.seed())?,
            seeds: [("world".into(), world.seed())].into(),
            code_version: env!("CARGO_PKG_VERSION").into(),
            host: Host {
                cpu: cpu_name(),
                os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
                threads: cx.machine.threads as u64,
                kernels: cx.machine.level.name().into(),
            },
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

    fn pair(&self) -> String {
        format!("{}-{}", self.world.preset().name, self.task.sharer().name())
    }

    fn key(
        &self,
        column: &Column,
        method: Option<&Linked>,
        wire: Option<&WireRecord>,
    ) -> Result<String, Error> {
        let mut key = RunKey {
            milestone: TEMPLATE.into(),
            pair: self.pair(),
            task: self.task.id().into(),
            context: "baseline".into(),
            method: column.method.clone(),
            alignment: "cover_last".into(),
            budget: column.budget.to_string(),
            exec_mode: "simultaneous".into(),
            seed: self.world.seed().to_string(),
            ..RunKey::default()
        };
        if let Some(selection) = method.and_then(|method| method.selection()) {
            key.selection = RunKey::selection_part(&selection)?;
        }
        if let Some(wire) = wire {
            key.fill = "receiver_only".into();
            key.k_space = "pre_rope".into();
            key.wire_format = wire.format.clone();
            key.wire_version = wire.version.clone();
            key.scale_granularity = wire.scale_granularity.clone();
            key.scale_dtype = wire.scale_dtype.clone();
            key.index_policy = wire.index.clone();
            key.compression = wire.compression.clone();
            key.profile = wire.profile.clone();
        }
        key.line()
    }
}

fn about(id: &str, model: &Model) -> ModelFacts {
    ModelFacts {
        id: id.into(),
        fingerprint: model.side.fingerprint(),
        kv: model.side.kv_shape(),
        shape_from: ShapeSource::Config,
        tokenizer_sha256: tokenizer_sha256(&model.tokenizer),
    }
}

fn wire(fuser: &LoadedFuser, column: &Column) -> WireRecord {
    let plan = message::whole(fuser, 1, Precision::Int8).expect("something was sent");
    let versions = column.rows.iter().map(|row| &row.contents.version);
    WireRecord {
        format: "kvw".into(),
        version: versions.max().cloned().unwrap_or_default(),
        profile: "standalone".into(),
        index: "auto".into(),
        scale_dtype: plan.scale.name().into(),
        scale_granularity: plan.granularity.to_string(),
        compression: "none".into(),
        layers_per_block: plan.layers_per_block as u64,
    }
}

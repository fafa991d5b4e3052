//! A record out of a column that was measured, and its run directory: one way for every evaluation.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use smidgen_data::Tokenizer;
use smidgen_train::{Computed, Context, Machine, cpu_name, note_environment};

use super::{
    Alignment, BudgetRecord, Decoding, FuserFacts, Host, LinkRecord, LinkRun, ModelFacts,
    PrecisionRecord, RunKey, SCHEMA_VERSION, SelectionRecord, ShapeSource, Spread, Status,
    WireRecord, config_hash, find_done,
};
use crate::fuse::LoadedFuser;
use crate::methods::{Column, PayloadKind};
use crate::plan::SelectionConfig;
use crate::remote::tokenizer_sha256;
use crate::stats::Interval;
use crate::wire::Precision;
use crate::{Error, Side, message};

/// Digits of a hash in the name of a folder.
const HASH_DIGITS: usize = 8;
/// The rule by which tokens of the two models meet.
const ALIGNMENT: &str = "cover_last";
/// The one range of lengths that is measured so far.
const CONTEXT: &str = "baseline";

/// Everything of a record that its column does not say.
pub(crate) struct Setting<'a> {
    /// How prompts are worded, which is also what the evaluation is called in keys.
    pub(crate) template: &'a str,
    pub(crate) pair_id: String,
    pub(crate) receiver: ModelFacts,
    pub(crate) sharer: ModelFacts,
    /// Through which caches went.
    pub(crate) fuser: Option<&'a LoadedFuser>,
    /// Most tokens of an answer; 0 where nothing is written and only scored.
    pub(crate) max_new_tokens: u64,
    /// How one of several answers is chosen, or a text scored.
    pub(crate) choice: &'a str,
    pub(crate) task: &'a str,
    pub(crate) example_ids_hash: String,
    /// Tokens of each prompt at the receiver.
    pub(crate) prompt_tokens: &'a [f64],
    /// Of the world or text.
    pub(crate) corpus_version: &'a str,
    /// Mean share of the receiver's tokens with one token of the sharer that stands for no other.
    pub(crate) one_to_one: f64,
    /// Mean share without any.
    pub(crate) unmapped: f64,
    pub(crate) selection: Option<SelectionConfig>,
    pub(crate) allocator: Option<&'a str>,
    /// An object with what decides the figures besides key, models, fuser and version.
    pub(crate) decided_by: Value,
    /// What it is for, and the seed.
    pub(crate) seed: (&'a str, u64),
    pub(crate) worth: Worth,
}

/// What was measured at the receiver.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Worth {
    /// It answered: the share of right answers.
    Accuracy(Interval),
    /// It said how likely a text is, and wrote nothing.
    Bpb(Interval),
}

impl LinkRecord {
    /// The record of a column.
    ///
    /// # Errors
    /// [`Error::Length`] for no rows, [`Error::Value`] for a name that no key may hold.
    pub(crate) fn of(
        column: &Column,
        setting: Setting<'_>,
        machine: &Machine,
    ) -> Result<LinkRecord, Error> {
        let is_kv = column.rows.iter().any(|row| row.kind == PayloadKind::Kv);
        let fuser = setting.fuser;
        let wire = fuser.filter(|_| is_kv).map(|fuser| WireRecord::of(fuser, column));
        let key = setting.key(column, wire.as_ref())?;
        let config_hash = setting.config_hash(&key)?;
        let planned = column.rows.iter().map(|row| row.contents.planned_bytes).sum();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let (accuracy, bpb) = match setting.worth {
            Worth::Accuracy(accuracy) => (Some(accuracy), None),
            Worth::Bpb(bpb) => (None, Some(bpb)),
        };
        let output_tokens = column.rows.iter().map(|row| row.answer_tokens as f64).sum::<f64>();
        Ok(LinkRecord {
            schema_version: SCHEMA_VERSION,
            status: Status::Complete,
            reason: None,
            key,
            config_hash,
            finished_unix_s: now.map_or(0, |since| since.as_secs()),
            decoding: setting.decoding()?,
            pair_id: setting.pair_id,
            receiver: setting.receiver,
            sharer: setting.sharer,
            fuser: fuser.map(|fuser| FuserFacts {
                fingerprint: fuser.fingerprint(),
                layers_loaded: fuser.layers() as u64,
                parameters: fuser.param_count() as u64,
            }),
            prompt_template_id: setting.template.into(),
            task: setting.task.into(),
            n: column.rows.len() as u64,
            example_ids_hash: setting.example_ids_hash,
            context_len_bucket: CONTEXT.into(),
            prompt_tokens: Spread::of(setting.prompt_tokens)?,
            corpus_version: setting.corpus_version.into(),
            longctx_seed: None,
            alignment: Alignment {
                on: true,
                strategy: Some(ALIGNMENT.into()),
                one_to_one_rate: Some(setting.one_to_one),
                unmapped_rate: Some(setting.unmapped),
            },
            method: column.method.clone(),
            payload: if is_kv { PayloadKind::Kv } else { PayloadKind::Empty },
            is_upper_bound: column.is_upper_bound,
            selection: setting
                .selection
                .filter(|_| is_kv)
                .map(|config| {
                    let stats: Vec<_> =
                        column.rows.iter().filter_map(|row| row.selection).collect();
                    SelectionRecord::of(config, &stats)
                })
                .transpose()?,
            precision: is_kv.then(|| PrecisionRecord::of(column, setting.allocator)),
            budget: BudgetRecord::of(column)?,
            bytes_estimated_total: planned,
            bytes_estimate: planned,
            bytes_measured_total: column.rows.iter().map(|row| row.bytes).sum(),
            bytes_measured_breakdown: column.breakdown(),
            wire,
            timings_ms: column.timings_ms(),
            text: None,
            answer_histogram: match setting.worth {
                Worth::Accuracy(_) => column.answer_histogram(),
                Worth::Bpb(_) => BTreeMap::new(),
            },
            mean_output_tokens: output_tokens / column.rows.len().max(1) as f64,
            accuracy,
            bpb,
            seeds: [(setting.seed.0.into(), setting.seed.1)].into(),
            code_version: env!("CARGO_PKG_VERSION").into(),
            host: Host {
                cpu: cpu_name(),
                os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
                threads: machine.threads as u64,
                kernels: machine.level.name().into(),
            },
        })
    }

    /// Writes the record into a run directory of its own under `parent`, named after the line and the
    /// hash of everything that decides its figures. A line that was measured before is left as it is.
    ///
    /// # Errors
    /// As for [`LinkRun::finish`].
    pub(crate) fn keep(
        &self,
        parent: &Path,
        title: &str,
        config: &Value,
        receiver: &Side,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        if find_done(parent, &self.key, &self.config_hash)?.is_some() {
            return Ok(());
        }
        let slug = title.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        let path = parent.join(format!("{slug}-{}", &self.config_hash[..HASH_DIGITS]));
        let config = smidgen_store::config::to_text(&json!({ "link": config }))?;
        let run = LinkRun::create(cx.files.clone(), &path, &config, &self.key, &self.config_hash)?;
        let computed = Computed {
            objective: "link",
            seed: self.seeds.values().next().copied().unwrap_or_default(),
            compute: receiver.compute,
            source: None,
        };
        note_environment(run.dir(), &computed, &receiver.device, cx.progress)?;
        run.finish(self)
    }
}

impl Setting<'_> {
    fn key(&self, column: &Column, wire: Option<&WireRecord>) -> Result<String, Error> {
        let mut key = RunKey {
            milestone: self.template.into(),
            pair: self.pair_id.clone(),
            task: self.task.into(),
            context: CONTEXT.into(),
            method: column.method.clone(),
            alignment: ALIGNMENT.into(),
            budget: column.budget.to_string(),
            exec_mode: "simultaneous".into(),
            seed: self.seed.1.to_string(),
            ..RunKey::default()
        };
        if let Some(selection) = &self.selection {
            key.selection = RunKey::selection_part(selection)?;
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

    fn config_hash(&self, key: &str) -> Result<String, Error> {
        let mut facts = self.decided_by.clone();
        facts["key"] = json!(key);
        facts["models"] = json!([self.receiver.fingerprint, self.sharer.fingerprint]);
        facts["fuser"] = json!(self.fuser.map(LoadedFuser::fingerprint));
        facts["version"] = json!(env!("CARGO_PKG_VERSION"));
        config_hash(&facts)
    }

    fn decoding(&self) -> Result<Decoding, Error> {
        let most = self.max_new_tokens;
        let all = json!({ "temperature": 0, "max_new_tokens": most, "choice": self.choice });
        Ok(Decoding { settings_hash: config_hash(&all)?, temperature: 0.0, max_new_tokens: most })
    }
}

impl ModelFacts {
    /// A model that is loaded.
    pub(crate) fn of(id: impl Into<String>, side: &Side, tokenizer: &Tokenizer) -> ModelFacts {
        ModelFacts {
            id: id.into(),
            fingerprint: side.fingerprint(),
            kv: side.kv_shape(),
            shape_from: ShapeSource::Config,
            tokenizer_sha256: tokenizer_sha256(tokenizer),
        }
    }
}

impl WireRecord {
    /// How the caches of a column travelled to a fuser of which a gate is open.
    fn of(fuser: &LoadedFuser, column: &Column) -> WireRecord {
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
}

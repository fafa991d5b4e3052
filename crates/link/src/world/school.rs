//! From a world to trained models: run directories as `train` makes them, and gates between them.
//!
//! Nothing that comes after the sharer means anything where it does not know its own facts, or where
//! the receiver knows them too. So a model is examined when its schedule is done; where it falls short
//! it is taught on, a bounded number of times, and then refused with the figures.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;
use smidgen_codec::Ledger;
use smidgen_data::{Corpus, Dataset, Piece, Split as Sides, SplitRule, Tokenizer};
use smidgen_model::{Decoder, Session};
use smidgen_optim::{Decay, GradPolicy, GroupConfig, Role as Part, Schedule, Weights};
use smidgen_store::{PLAN_JSON, RUN_TOML, RunDir, config};
use smidgen_tensor::{Compute, Device, Params};
use smidgen_train::{
    Config, Context, Event, Facts, ModelConfig, OUTCOME_JSON, Plan, Recipe, Status, TokenFacts,
    TrainConfig, Trainer, fit, resolve,
};

use super::exams::exams;
use super::scoring::{Alone, accuracy, score};
use super::teaching::Teaching;
use super::{Course, Exam, Mark, ROPE_THETA, ROW_TOKENS, Role, Term, Tokenizers, World};
use crate::Error;

/// Beside a model's run: which world it belongs to, and how it was examined.
pub const WORLD_JSON: &str = "world.json";

/// Documents that are written into a run, for the record and for `eval`.
const DOCUMENTS: usize = 2000;
/// One in so many of them is held out.
const HELD_OUT: usize = 10;
/// How often a model that falls short is taught on, each time for half its schedule.
const MORE: u64 = 4;

/// A model that passed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Graduate {
    /// Fingerprint of its world.
    pub world: String,
    /// Name of the world's preset.
    pub preset: String,
    /// Seed of the world.
    pub seed: u64,
    /// Whose model it is.
    pub role: Role,
    /// SHA-256 of its tokenizer's file.
    pub tokenizer: String,
    /// Steps it was taught for; 0 while it is being taught.
    pub steps: u64,
    /// How it was examined.
    pub marks: Vec<Mark>,
}

impl World {
    /// Trains the models of some roles, each in a run directory of its name under `out`. What is
    /// finished there already is kept, and what was cut off goes on.
    ///
    /// # Errors
    /// [`Error::Gate`] for a model that falls short after all, [`Error::OtherWorld`] for runs of
    /// another world, [`Error::Interrupted`], and those of trainer and store.
    pub fn train_models(
        &self,
        out: &Path,
        roles: &[Role],
        tokenizers: &Tokenizers,
        cx: &mut Context<'_>,
    ) -> Result<Vec<Graduate>, Error> {
        let teach = |role: &Role| {
            let tokenizer = tokenizers.of(*role);
            Class { world: self, role: *role, tokenizer, dir: out.join(role.name()) }.teach(cx)
        };
        roles.iter().map(teach).collect()
    }
}

/// One model and where it is kept.
struct Class<'a> {
    world: &'a World,
    role: Role,
    tokenizer: &'a Tokenizer,
    dir: PathBuf,
}

impl Class<'_> {
    fn teach(&self, cx: &mut Context<'_>) -> Result<Graduate, Error> {
        let exists = self.dir.join(RUN_TOML).is_file();
        let run = match exists {
            true => RunDir::open(cx.files.clone(), &self.dir)?,
            false => RunDir::create(cx.files.clone(), &self.dir, "")?,
        };
        if let Some(finished) = self.check_record(&run)? {
            return Ok(finished);
        }
        run.write_json(WORLD_JSON, &self.record(0, Vec::new()))?;
        let dataset = match Dataset::exists(&self.dir) {
            true => Dataset::open(&self.dir)?,
            false => self.prepare(&run, cx.machine.threads)?,
        };
        let plan = self.plan(&dataset, cx)?;
        cx.progress.event(Event::Plan(&plan));
        run.write_json(PLAN_JSON, &plan)?;
        self.train(&run, &plan, &dataset, cx)
    }

    /// The record of a run that is finished; nothing where there is more to do.
    fn check_record(&self, run: &RunDir) -> Result<Option<Graduate>, Error> {
        if !run.file(WORLD_JSON).exists() {
            return Ok(None);
        }
        let record: Graduate = run.read_json(WORLD_JSON)?;
        let expected = self.record(record.steps, record.marks.clone());
        if record != expected {
            let name = |record: &Graduate| {
                format!("{} of {} {}", record.world, record.preset, record.seed)
            };
            let (expected, got) = (name(&expected), name(&record));
            return Err(Error::OtherWorld { path: self.dir.clone(), expected, got });
        }
        Ok(Some(record).filter(|record| record.steps > 0 && run.file(OUTCOME_JSON).exists()))
    }

    fn record(&self, steps: u64, marks: Vec<Mark>) -> Graduate {
        Graduate {
            world: self.world.fingerprint().into(),
            preset: self.world.preset().name.into(),
            seed: self.world.seed(),
            role: self.role,
            tokenizer: smidgen_store::sha256_bytes(self.tokenizer.to_json().as_bytes()),
            steps,
            marks,
        }
    }

    /// Writes tokenizer and a sample of the course into the run.
    fn prepare(&self, run: &RunDir, threads: usize) -> Result<Dataset, Error> {
        let course = Course::of(self.role);
        let document = |i: usize| {
            let text = course.document(self.world, "sample", Term::Both, [i as u64, 0]).text;
            smidgen_data::Document { name: format!("{i}"), group: format!("{i}"), text }
        };
        let documents: Vec<_> = (0..DOCUMENTS).map(document).collect();
        let bytes = documents.iter().map(|document| document.text.len() as u64).sum();
        let corpus = Corpus { documents, skipped: Vec::new(), bytes };
        let piece = |i: usize| Piece { document: i, range: 0..corpus.documents[i].text.len() };
        let (val, train) = (0..DOCUMENTS).partition(|i| i % HELD_OUT == 0);
        let pieces = |places: Vec<usize>| places.into_iter().map(piece).collect();
        let split = Sides { train: pieces(train), val: pieces(val) };
        let rule = SplitRule { salt: "world".into(), ratio: 1.0 / HELD_OUT as f64 };
        let (files, tokenizer) = (run.files(), self.tokenizer);
        Ok(smidgen_data::prepare(files, run.path(), &corpus, &split, &rule, tokenizer, threads)?)
    }

    /// The configuration that the run would have had, so that it opens like any other.
    fn plan(&self, dataset: &Dataset, cx: &Context<'_>) -> Result<Plan, Error> {
        let student = self.world.preset().student(self.role);
        let (steps, manifest) = (student.steps, &dataset.manifest);
        let model = ModelConfig {
            width: Some(student.width),
            layers: Some(student.layers),
            heads: Some(student.heads),
            kv_heads: Some(student.kv_heads),
            head_dim: Some(student.head_dim),
            ffn: Some(student.ffn),
            context: Some(ROW_TOKENS),
            tied: Some(true),
            rope_theta: Some(ROPE_THETA),
            ..ModelConfig::default()
        };
        let train = TrainConfig {
            steps: Some(steps),
            batch: Some(student.rows),
            context: Some(ROW_TOKENS),
            val_every: Some(u64::MAX >> 24),
            ckpt_every: Some(steps.div_ceil(4)),
            keep: 1,
            ..TrainConfig::default()
        };
        let mut config = Config {
            seed: self.world.seed(),
            model,
            train,
            schedule: Some(schedule(steps)),
            optim: groups(student.lr),
            ..Config::default()
        };
        config.data.vocab = Some(manifest.tokenizer.vocab_size);
        let tokens = TokenFacts {
            vocab: manifest.tokenizer.vocab_size,
            train: manifest.train.tokens,
            val: manifest.val.tokens,
        };
        let facts = Facts {
            train_bytes: manifest.train.source_bytes,
            val_bytes: manifest.val.source_bytes,
            tokens: Some(tokens),
            machine: cx.machine,
        };
        Ok(resolve(&config, &facts)?)
    }

    fn train(
        &self,
        run: &RunDir,
        plan: &Plan,
        dataset: &Dataset,
        cx: &mut Context<'_>,
    ) -> Result<Graduate, Error> {
        let device = Device::cpu_at(Ledger::new(), plan.threads(), cx.machine.level);
        let mut params = Params::new();
        let decoder = Decoder::new(&device, plan.spec.clone(), &mut params)?;
        let mut teaching = Teaching::new(self.world, self.role, self.tokenizer, decoder.clone());
        let mut trainer = Trainer::new(&device, recipe(plan), &mut teaching, params)?;
        if let Some((checkpoint, _)) = run.newest_valid()? {
            trainer.load(&checkpoint)?;
            cx.progress.event(Event::Resumed { step: checkpoint.step() });
        }
        let first = plan.steps;
        let mut steps = first;
        loop {
            self.fit(run, plan, dataset, &mut trainer, steps, cx)?;
            let marks = self.examine(&device, plan, &decoder, trainer.params())?;
            for mark in &marks {
                cx.progress.event(Event::Notice(&mark.to_string()));
            }
            let is_last = steps >= first + MORE * (first / 2);
            if marks.iter().all(Mark::is_wanted) || is_last {
                if let Some(mark) = marks.iter().find(|mark| !mark.is_enough()) {
                    return Err(mark.refusal(self.role, steps));
                }
                let record = self.record(steps, marks);
                run.set_best(steps)?;
                run.write_json(WORLD_JSON, &record)?;
                return Ok(record);
            }
            steps += (first / 2).max(1);
        }
    }

    /// Trains up to `steps`; where the trainer stands there already, nothing is done.
    fn fit(
        &self,
        run: &RunDir,
        plan: &Plan,
        dataset: &Dataset,
        trainer: &mut Trainer<'_>,
        steps: u64,
        cx: &mut Context<'_>,
    ) -> Result<(), Error> {
        if trainer.standing().step >= steps {
            return Ok(());
        }
        let mut config = plan.config.clone();
        config.train.steps = Some(steps);
        let text = config::to_text(&config)?;
        run.write_text(RUN_TOML, &text)?;
        let facts = json!({ "config": text, "dataset": dataset.sha256 });
        let train = &config.train;
        let course = smidgen_train::Course {
            val_every: train.val_every.expect("a plan's configuration is complete"),
            ckpt_every: train.ckpt_every.expect("a plan's configuration is complete"),
            keep: train.keep,
            alarm: config.alarm,
            track: config.track,
            ..smidgen_train::Course::of(steps, steps, facts)
        };
        let outcome = fit(trainer, &course, run, cx.progress, cx.stop)?;
        match outcome.status {
            Status::Finished => Ok(()),
            Status::Interrupted => Err(Error::Interrupted { path: self.dir.clone() }),
        }
    }

    fn examine(
        &self,
        device: &Device,
        plan: &Plan,
        decoder: &Decoder,
        params: &Params,
    ) -> Result<Vec<Mark>, Error> {
        let session = Session::new(device, plan.compute(), decoder, params, 2 * ROW_TOKENS)?;
        let mut alone = Alone::sharer(session, self.tokenizer);
        let mark = |exam: Exam| {
            let got = accuracy(&score(&mut alone, &exam.items)?);
            Ok(Mark::new(&exam, got))
        };
        exams(self.world, self.role).into_iter().map(mark).collect()
    }
}

/// How a model that is there already learns more: as it was taught, in f32 weights, without a plan.
pub(crate) fn further(seed: u64, compute: Compute, lr: f64, steps: u64) -> Recipe {
    Recipe {
        seed,
        compute,
        policy: GradPolicy::default(),
        schedule: schedule(steps),
        groups: groups(lr),
        ema: None,
        weights: Weights::F32,
    }
}

fn recipe(plan: &Plan) -> Recipe {
    Recipe {
        seed: plan.config.seed,
        compute: plan.compute(),
        policy: plan.config.policy(),
        schedule: plan.schedule(),
        groups: plan.config.optim.clone(),
        ema: None,
        weights: plan.config.train.weights,
    }
}

fn schedule(steps: u64) -> Schedule {
    let warmup_steps = (steps / 20).max(1);
    Schedule::Wsd { warmup_steps, decay_ratio: 0.4, decay: Decay::Linear, min_ratio: 0.0 }
}

/// Hidden matrices by orthogonal momentum, which learns facts in a third of the steps; the rest by
/// AdamW.
fn groups(lr: f64) -> Vec<GroupConfig> {
    let hidden = GroupConfig {
        name: "hidden".into(),
        role: vec![Part::MatrixHidden],
        rule: "muon".into(),
        lr,
        weight_decay: Some(0.01),
        ..GroupConfig::default()
    };
    let rest = GroupConfig {
        name: "rest".into(),
        lr: 0.5 * lr,
        weight_decay: Some(0.0),
        ..GroupConfig::default()
    };
    vec![hidden, rest]
}

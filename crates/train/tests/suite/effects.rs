//! Every option does what it says, and nothing else.

use std::sync::Arc;

use smidgen_codec::Ledger;
use smidgen_data::Dataset;
use smidgen_store::{Disk, RunDir, RunView, Which};
use smidgen_tensor::{Compute, Device, Params, Tape, Var};
use smidgen_train::{
    Error, Facts, LanguageModel, Machine, Objective, Recipe, TokenFacts, Trainer, Validation,
    Weights, open_model, resolve,
};

use crate::common::{Place, tensors};

/// Whether two runs end with the same weights and state.
fn same(place: &Place, a: &[&str], b: &[&str]) -> bool {
    let name = |sets: &[&str]| format!("run {}", sets.join(" "));
    for sets in [a, b] {
        if !place.run(&name(sets)).exists() {
            place.train(&name(sets), sets);
        }
    }
    tensors(&place.run(&name(a)), 8) == tensors(&place.run(&name(b)), 8)
}

#[test]
fn options_that_change_the_numbers_do() {
    let place = Place::new();
    for sets in [
        &["seed=8"][..],
        &["train.compute=bf16"],
        &["optim.rest.weight_decay=0.5"],
        &["optim.rest.lr=1e-2"],
        &["optim.rest.betas=[0.8, 0.9]"],
        &["optim.rest.eps=1e-3"],
        &["optim.rest.state=bf16"],
        &["schedule.kind=constant"],
        &["schedule.kind=linear"],
        &["schedule.kind=inverse-sqrt"],
        &["schedule={kind='wsd', warmup_steps=2}"],
        &["schedule={kind='one-cycle'}"],
        &["train.max_norm=0.01"],
        &["train.clip=tensor", "train.max_norm=0.01"],
        &["model.qk_norm=true"],
        &["model.qkv_bias=true"],
        &["model.rope_theta=100"],
        &["model.norm_eps=0.1"],
        &["model.kv_heads=1"],
        &["model.tied=false"],
        &["data.vocab=280"],
        &["data.val_ratio=0.4"],
        &["data.salt=other"],
        &["train.context=16"],
    ] {
        let changed: Vec<&str> = WRITTEN_OUT.iter().chain(sets).copied().collect();
        assert!(!same(&place, &WRITTEN_OUT, &changed), "{sets:?} changes nothing");
    }
}

#[test]
fn every_part_of_a_cycle_counts() {
    let place = Place::new();
    let plain = "schedule={kind='one-cycle'}";
    for part in ["rise=0.5", "div=10", "cycle_momentum=false", "momentum=[0.5, 0.95]"] {
        let changed = format!("schedule={{kind='one-cycle', {part}}}");
        assert!(!same(&place, &[plain], &[&changed]), "{part} changes nothing");
    }
    let still = "schedule={kind='one-cycle', cycle_momentum=false}";
    let unused = "schedule={kind='one-cycle', cycle_momentum=false, momentum=[0.5, 0.6]}";
    assert!(same(&place, &[still], &[unused]));
}

/// What is automatic in groups and schedule, written out as settings: a part can be changed then.
const WRITTEN_OUT: [&str; 2] = [
    "optim=[{name='norms', role='norm', weight_decay=0.0}, {name='rest', lr=3e-3}]",
    "schedule={kind='cosine', warmup_steps=2}",
];

#[test]
fn options_that_must_not_change_the_numbers_do_not() {
    let place = Place::new();
    for sets in [
        &["threads=2"][..],
        &["memory=8GiB"],
        &["train.recompute=true"],
        &["train.val_every=3"],
        &["train.ckpt_every=1"],
        &["train.keep=1"],
        &["data.val_tokens=64"],
        &["train.max_steps=100"],
    ] {
        assert!(same(&place, &[], sets), "{sets:?} changes the weights");
    }
}

#[test]
fn a_limit_that_no_norm_exceeds_clips_nothing() {
    let place = Place::new();
    let off = ["train.clip=off"];
    assert!(same(&place, &off, &["train.clip=global", "train.max_norm=1e9"]));
    assert!(same(&place, &off, &["train.clip=tensor", "train.max_norm=1e9"]));
    assert!(!same(&place, &off, &["train.clip=global", "train.max_norm=0.1"]));
}

#[test]
fn streamed_gradients_are_held_ones_without_a_global_clip() {
    let place = Place::new();
    let streamed = ["train.grad=streamed"];
    assert!(same(&place, &["train.clip=off"], &streamed));
    let tensor = ["train.clip=tensor", "train.max_norm=0.1"];
    assert!(same(&place, &tensor, &[tensor[0], tensor[1], "train.grad=streamed"]));
}

#[test]
fn accumulation_is_a_larger_batch_to_rounding() {
    let place = Place::new();
    place.train("parts", &["train.batch=2", "train.grad_accum=3"]);
    place.train("whole", &["train.batch=6"]);
    let (parts, whole) = (place.losses("parts"), place.losses("whole"));
    assert_eq!((parts.len(), whole.len()), (8, 8));
    for (a, b) in parts.iter().zip(&whole) {
        assert!((a - b).abs() < 2e-4, "{parts:?} {whole:?}");
    }
}

#[test]
fn recomputation_takes_fewer_bytes_of_activations_and_streaming_fewer_of_gradients() {
    let place = Place::new();
    let sets = ["model.layers=6", "train.batch=8"];
    place.train("plain", &sets);
    place.train("recomputed", &[&sets[..], &["train.recompute=true"]].concat());
    place.train("streamed", &[&sets[..], &["train.grad=streamed"]].concat());
    let peak = |name: &str, tag: &str| {
        let view = RunView::open(&place.run(name)).unwrap();
        let ledger: serde_json::Value = view.read_json("ledger.json").unwrap();
        ledger[tag]["peak"].as_u64().unwrap()
    };
    let (plain, less) = (peak("plain", "activations"), peak("recomputed", "activations"));
    assert!(2 * less < plain, "{less} of {plain}");
    assert!(tensors(&place.run("plain"), 8) == tensors(&place.run("recomputed"), 8));
    assert!(3 * peak("streamed", "grads") < peak("plain", "grads"));
}

#[test]
fn a_smaller_chunk_of_the_loss_takes_fewer_bytes_and_leaves_the_losses() {
    let place = Place::new();
    let more = ["train.batch=16", "model.context=64", "train.steps=8"];
    let train = |name, sets: &[&str]| place.train(name, &[&more[..], sets].concat());
    train("absent", &[]);
    train("written", &["train.loss_chunk=8MiB"]);
    train("small", &["train.loss_chunk=4KiB"]);
    assert!(tensors(&place.run("written"), 8) == tensors(&place.run("absent"), 8));
    let workspace = |name: &str| {
        let ledger: serde_json::Value =
            RunView::open(&place.run(name)).unwrap().read_json("ledger.json").unwrap();
        ledger["workspace"]["peak"].as_u64().unwrap()
    };
    assert!(2 * workspace("small") < workspace("absent"));
    let (plain, small) = (place.losses("absent"), place.losses("small"));
    assert!(plain.iter().zip(&small).all(|(a, b)| (a - b).abs() < 1e-5), "{plain:?} {small:?}");
}

#[test]
fn the_plan_is_what_the_ledger_finds() {
    let place = Place::new();
    let qk_norm = "model.qk_norm=true";
    for sets in [
        &[][..],
        &["train.recompute=true"],
        &["train.grad=streamed"],
        &[qk_norm],
        &[qk_norm, "train.recompute=true"],
    ] {
        let size = ["model.width=128", "model.ffn=352", "model.layers=6", "train.batch=8"];
        let more = ["model.context=64", "train.steps=2"];
        let sets = [&size[..], &more, sets].concat();
        let name = sets.join(" ");
        place.train(&name, &sets);
        let plan = plan_of(&place, &name);
        let view = RunView::open(&place.run(&name)).unwrap();
        let ledger: serde_json::Value = view.read_json("ledger.json").unwrap();
        for (tag, planned) in plan.bytes.iter().chain([(&"total", &plan.total_bytes)]) {
            assert_eq!(ledger[tag]["peak"].as_u64(), Some(*planned), "{tag}: {name}");
        }
    }
}

/// The plan of a run that has its data.
pub(crate) fn plan_of(place: &Place, name: &str) -> smidgen_train::Plan {
    let view = RunView::open(&place.run(name)).unwrap();
    let text = view.read_text("run.toml").unwrap();
    let config = smidgen_store::config::parse(&text, "run.toml".as_ref()).unwrap();
    let manifest = Dataset::open(view.path()).unwrap().manifest;
    let tokens = TokenFacts {
        vocab: manifest.tokenizer.vocab_size,
        train: manifest.train.tokens,
        val: manifest.val.tokens,
    };
    let facts = Facts {
        train_bytes: manifest.train.source_bytes,
        val_bytes: manifest.val.source_bytes,
        tokens: Some(tokens),
        machine: Machine::detect(),
    };
    resolve(&config, &facts).unwrap()
}

#[test]
fn validations_and_checkpoints_come_when_they_should() {
    let place = Place::new();
    place.train("run", &["train.val_every=3", "train.ckpt_every=2", "train.keep=2"]);
    let validated: Vec<u64> = place
        .metrics("run")
        .iter()
        .filter(|line| line.get("val_loss").is_some())
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(validated, [3, 6, 8]);
    let view = RunView::open(&place.run("run")).unwrap();
    let kept = std::collections::BTreeSet::from([6, 8, view.best().unwrap().unwrap()]);
    assert_eq!(view.steps().unwrap().into_iter().collect::<std::collections::BTreeSet<_>>(), kept);
}

#[test]
fn the_clock_ends_a_run_after_a_step_with_a_validation_and_a_checkpoint() {
    let place = Place::new();
    let config = smidgen_train::Config {
        train: smidgen_train::TrainConfig {
            steps: None,
            max_minutes: Some(0.05),
            ..place.config(&[]).train
        },
        ..place.config(&[])
    };
    let run = place.run("run");
    let outcome = crate::common::Watch::new().train(&config, &run, Arc::new(Disk)).unwrap();
    let view = RunView::open(&run).unwrap();
    assert_eq!(view.latest().unwrap(), Some(outcome.steps));
    assert!(outcome.val_loss.is_some() && outcome.steps > 0);
    // The horizon was estimated once and written down.
    let text = view.read_text("run.toml").unwrap();
    assert!(text.contains("\nsteps = ") || outcome.steps < 8, "{text}");
    assert_eq!(place.resume("run"), outcome);
}

#[test]
fn the_first_loss_is_that_of_a_guess() {
    let place = Place::new();
    place.train("run", &[]);
    let first = place.losses("run")[0];
    assert!((first - 300f64.ln()).abs() < 0.5, "{first}");
}

#[test]
fn the_first_twenty_losses_are_the_same_for_one_and_four_threads() {
    let place = Place::new();
    let sets = ["train.steps=20", "train.batch=4"];
    place.train("one", &sets);
    place.train("four", &[&sets[..], &["threads=4"]].concat());
    let losses = place.losses("one");
    assert_eq!(losses, place.losses("four"));
    // Written down on AVX-512; other kernels round otherwise.
    let golden: Vec<f64> = serde_json::from_str(include_str!("losses.json")).unwrap();
    for (step, (loss, golden)) in losses.iter().zip(&golden).enumerate() {
        assert!((loss - golden).abs() < 2e-3, "step {step}: {losses:?}");
    }
    assert_eq!(losses.len(), golden.len(), "{losses:?}");
}

/// A language model that always gets its first batch.
struct OneBatch(LanguageModel);

impl Objective for OneBatch {
    fn name(&self) -> &'static str {
        "one-batch"
    }
    fn init(&self, params: &mut Params, seed: u64) -> Result<(), Error> {
        self.0.init(params, seed)
    }
    fn step_targets(&self) -> u64 {
        self.0.step_targets()
    }
    fn loss(&mut self, tape: &mut Tape<'_>, _step: u64, micro: usize) -> Result<Var, Error> {
        self.0.loss(tape, 0, micro)
    }
    fn validate(&mut self, d: &Device, c: Compute, params: &Params) -> Result<Validation, Error> {
        self.0.validate(d, c, params)
    }
    fn validation_targets(&self) -> u64 {
        self.0.validation_targets()
    }
}

#[test]
fn one_batch_is_learnt_by_heart() {
    let place = Place::new();
    place.train("data", &["train.steps=1", "model.width=64", "model.ffn=128"]);
    let plan = plan_of(&place, "data");
    let dataset = Dataset::open(&place.run("data")).unwrap();
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let model = LanguageModel::new(&device, &plan, &dataset, &mut params).unwrap();
    let recipe = Recipe {
        seed: 1,
        compute: plan.compute(),
        policy: plan.config.policy(),
        schedule: smidgen_optim::Schedule::Constant { warmup_steps: 5 },
        groups: plan.config.optim.clone(),
        ema: None,
        weights: smidgen_optim::Weights::F32,
    };
    let mut model = OneBatch(model);
    let mut trainer = Trainer::new(&device, recipe, &mut model, params).unwrap();
    let last = (0..150).map(|_| trainer.step().unwrap().loss).last().unwrap();
    assert!(last < 0.05, "{last}");
}

#[test]
fn a_finished_run_gives_its_model_back() {
    let place = Place::new();
    let outcome = place.train("run", &[]);
    let view = RunDir::read(&place.run("run")).unwrap();
    let device = Device::cpu(Ledger::new(), 1);
    let model = open_model(&view, Which::Last, Weights::Trained, &device).unwrap();
    assert_eq!((model.step, model.compute), (Some(outcome.steps), Compute::F32));
    assert_eq!(model.params.len(), model.params.iter().len());
    assert_eq!(model.decoder.spec().vocab, model.tokenizer.vocab_size());
    assert_eq!(
        open_model(&view, Which::Best, Weights::Trained, &device).unwrap().step,
        outcome.best_step
    );
}

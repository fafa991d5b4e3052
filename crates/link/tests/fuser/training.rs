//! Training: it learns, it goes on where it stopped, and what a link lets through may be trained for.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use smidgen_link::fuse::{
    AnyRate, Arrival, FUSERS, FuserConfig, FuserData, FuserObjective, FuserTraining, LoadedFuser,
};
use smidgen_link::{KvCache, KvView, Receiver};
use smidgen_model::KeySpace;
use smidgen_store::{Disk, RunDir, RunView, Which};
use smidgen_tensor::{Compute, Device, Keep, Params};
use smidgen_train::{Course, Objective, Trainer, fit};

use crate::models::*;

fn objective(
    device: &Device,
    compute: Compute,
    config: FuserConfig,
    training: FuserTraining,
) -> (FuserObjective, Params) {
    let (sharer, receiver) = (sharer_arc(device, compute), receiver(device, compute));
    FuserObjective::new(sharer, receiver, config, data(), training).unwrap()
}

fn zero_init(variant: &str, space: KeySpace) -> FuserConfig {
    FuserConfig { zero_init: true, ..config(variant, space) }
}

/// Weights of the fuser, and the losses of the steps.
fn train(trainer: &mut Trainer<'_>, steps: u64) -> (Vec<f32>, Vec<f64>) {
    let losses = (0..steps).map(|_| trainer.step().unwrap().loss).collect();
    (fuser_values(trainer.params()), losses)
}

fn fuser_values(params: &Params) -> Vec<f32> {
    params.iter().filter(|(_, p)| p.trainable).flat_map(|(_, p)| p.value.to_vec()).collect()
}

/// Responses that the receiver cannot guess are learnt by heart, and the models stay what they were.
#[test]
fn a_fuser_learns_what_the_receiver_cannot_know() {
    let device = device();
    for (variant, space) in [("c2c", KeySpace::PreRope), ("lite", KeySpace::PostRope)] {
        let steps = 120;
        let items = items(0..6);
        let data = FuserData { train: items.clone(), val: items };
        let training = FuserTraining { batch: 6, micro_batches: 1, ..training(steps) };
        let config = FuserConfig { dropout: 0.0, ..zero_init(variant, space) };
        let (sharer, receiver) =
            (sharer_arc(&device, Compute::F32), receiver(&device, Compute::F32));
        let (before, receiver_before) = (sharer.fingerprint(), receiver.fingerprint());
        let (mut objective, params) =
            FuserObjective::new(sharer.clone(), receiver, config, data.clone(), training.clone())
                .unwrap();
        let (fuser, facts) = (objective.fuser().clone(), objective.facts().clone());
        let recipe = training.recipe(Compute::F32, 1e-2);
        let mut trainer = Trainer::new(&device, recipe, &mut objective, params).unwrap();
        trainer.set_horizon(steps);
        // Gates are closed at first: the score is that of the receiver alone.
        let first = trainer.validate(smidgen_train::Metric::Loss).unwrap().score;
        train(&mut trainer, steps);
        let last = trainer.validate(smidgen_train::Metric::Loss).unwrap().score;
        // About the least that this receiver can come to: it is never very sure of a token.
        assert!(last.loss < 0.6 * first.loss, "{variant}: {} {}", first.loss, last.loss);
        assert_eq!(last.targets, data.val.iter().map(|i| i.response.len() as u64).sum::<u64>());
        let bits = last.loss * last.targets as f64 / std::f64::consts::LN_2;
        assert!((last.bpb.unwrap() - bits / 12.0).abs() < 1e-9);
        // Taken out and used, it answers with the loss that training saw.
        let loaded = LoadedFuser::taken_from(&device, &fuser, trainer.params(), facts).unwrap();
        let receiver = self::receiver(&device, Compute::F32);
        loaded.check(&before, &receiver_before).unwrap();
        assert_eq!(sharer.fingerprint(), before);
        let linked = Receiver::new(&receiver, &loaded).unwrap();
        let nll = |with: bool| {
            let prompts: Vec<&[u32]> = data.val.iter().map(|item| &*item.receiver).collect();
            let responses: Vec<&[u32]> = data.val.iter().map(|item| &*item.response).collect();
            let caches = shared(&sharer, &data.val, space);
            let arrivals: Vec<Arrival<'_>> = caches
                .iter()
                .zip(&data.val)
                .map(|(cache, item)| Arrival::whole(cache.view(), &item.alignment))
                .collect();
            let read = linked.read(&prompts).unwrap();
            let nll = linked.nll(&read, with.then_some(&*arrivals), &responses).unwrap();
            nll.iter().sum::<f64>() / last.targets as f64
        };
        assert!((nll(true) - last.loss).abs() < 1e-4, "{} {}", nll(true), last.loss);
        assert!((nll(false) - first.loss).abs() < 1e-4, "{} {}", nll(false), first.loss);
    }
}

fn course(steps: u64, max_steps: Option<u64>) -> Course {
    let every = Course::of(steps, 4, serde_json::Value::Null);
    Course { max_steps, ckpt_every: 3, keep: 2, ..every }
}

/// The run as far as `until`, from its newest checkpoint if it has one.
fn run(folder: &Path, compute: Compute, config: &FuserConfig, any: bool, until: u64) -> Vec<f32> {
    let device = device();
    let training =
        FuserTraining { any_rate: any.then(any_rate), keep: Keep::Inputs, ..training(13) };
    let recipe = training.recipe(compute, 3e-3);
    let (mut objective, params) = objective(&device, compute, config.clone(), training);
    let mut trainer = Trainer::new(&device, recipe, &mut objective, params).unwrap();
    let run = if folder.exists() {
        let run = RunDir::open(Arc::new(Disk), folder).unwrap();
        trainer.load(&run.checkpoint(Which::Last).unwrap()).unwrap();
        run
    } else {
        RunDir::create(Arc::new(Disk), folder, "").unwrap()
    };
    let stop = AtomicBool::new(false);
    fit(&mut trainer, &course(13, Some(until)), &run, &mut smidgen_train::Silent, &stop).unwrap();
    fuser_values(trainer.params())
}

fn halved(kv: &KvView<'_>) -> Result<KvCache, smidgen_link::Error> {
    let mut cache = KvCache::zeroed(&smidgen_codec::Ledger::new(), kv.shape, kv.tokens)?;
    let (keys, values) = cache.parts_mut();
    keys.iter_mut().zip(kv.keys).for_each(|(to, x)| *to = (x * 4.0).round() / 4.0);
    values.iter_mut().zip(kv.values).for_each(|(to, x)| *to = (x * 4.0).round() / 4.0);
    Ok(cache)
}

fn any_rate() -> AnyRate {
    let precisions =
        vec![("as it is".into(), None), ("quarters".into(), Some(Arc::new(halved) as _))];
    AnyRate { precisions, keep_tokens: vec![1.0, 0.5, 0.2], drop_layers: 0.2 }
}

#[test]
fn a_run_that_stopped_goes_on_to_the_same_bits() {
    for (variant, compute, any) in
        [("c2c", Compute::F32, false), ("c2c", Compute::Bf16, true), ("lite", Compute::F32, true)]
    {
        let folder = tempfile::tempdir().unwrap();
        let config = zero_init(variant, KeySpace::PreRope);
        let whole = run(&folder.path().join("whole"), compute, &config, any, 13);
        let path = folder.path().join("parts");
        run(&path, compute, &config, any, 5);
        run(&path, compute, &config, any, 6);
        let parts = run(&path, compute, &config, any, 13);
        assert!(parts == whole, "{variant} {compute:?}");
        let checkpoint = RunView::open(&path).unwrap().checkpoint(Which::Last).unwrap();
        assert_eq!(checkpoint.step(), 13);
        // The frozen receiver is not copied into every checkpoint.
        let names = checkpoint.tensors("model.safetensors").unwrap().names();
        assert!(names.iter().all(|name| name.starts_with("fuser.")), "{names:?}");
    }
}

#[test]
fn a_checkpoint_of_other_data_or_models_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = zero_init("c2c", KeySpace::PostRope);
    let path = folder.path().join("run");
    run(&path, Compute::F32, &config, false, 3);
    let device = device();
    let checkpoint = RunView::open(&path).unwrap().checkpoint(Which::Last).unwrap();
    let refused = |data: FuserData, training: FuserTraining, seed| {
        let receiver = side(&device, Compute::F32, receiver_spec(), seed);
        let recipe = training.recipe(Compute::F32, 3e-3);
        let (mut objective, params) = FuserObjective::new(
            sharer_arc(&device, Compute::F32),
            receiver,
            config.clone(),
            data,
            training,
        )
        .unwrap();
        let mut trainer = Trainer::new(&device, recipe, &mut objective, params).unwrap();
        trainer.load(&checkpoint).is_err()
    };
    assert!(!refused(data(), training(13), 2));
    let other = FuserData { train: items(1..11), ..data() };
    assert!(refused(other, training(13), 2), "other items");
    assert!(refused(data(), training(14), 2), "gates annealed over other steps");
    assert!(refused(data(), training(13), 4), "another receiver");
}

/// Draws that let everything through are no draws.
#[test]
fn any_rate_training_contains_plain_training() {
    let device = device();
    let losses = |any_rate: Option<AnyRate>| {
        let training = FuserTraining { any_rate, ..training(6) };
        let recipe = training.recipe(Compute::F32, 3e-3);
        let config = config("c2c", KeySpace::PostRope);
        let (mut objective, params) = objective(&device, Compute::F32, config, training);
        let mut trainer = Trainer::new(&device, recipe, &mut objective, params).unwrap();
        train(&mut trainer, 6).1
    };
    let plain = losses(None);
    let everything = AnyRate {
        precisions: vec![("as it is".into(), None)],
        keep_tokens: vec![1.0],
        drop_layers: 0.0,
    };
    assert_eq!(losses(Some(everything.clone())), plain);
    let rounded = vec![("quarters".into(), Some(Arc::new(halved) as _))];
    assert_ne!(losses(Some(AnyRate { precisions: rounded, ..everything.clone() })), plain);
    assert_ne!(losses(Some(AnyRate { keep_tokens: vec![0.5], ..everything.clone() })), plain);
    assert_ne!(losses(Some(AnyRate { drop_layers: 0.5, ..everything })), plain);
}

/// The same bits for any number of threads, and from a fuser that was trained before.
#[test]
fn threads_do_not_change_a_bit() {
    for variant in FUSERS {
        let of = |threads| {
            let device = Device::cpu(smidgen_codec::Ledger::new(), threads);
            let training = training(4);
            let recipe = training.recipe(Compute::Bf16, 3e-3);
            let config = config(variant.name(), KeySpace::PreRope);
            let (mut objective, params) = objective(&device, Compute::Bf16, config, training);
            let mut trainer = Trainer::new(&device, recipe, &mut objective, params).unwrap();
            train(&mut trainer, 4)
        };
        let one = of(1);
        assert!(one == of(3), "{}", variant.name());
    }
}

#[test]
fn training_may_begin_with_another_fuser() {
    let device = device();
    let (sharer, receiver) = (sharer(&device, Compute::F32), receiver(&device, Compute::F32));
    let config = config("c2c", KeySpace::PostRope);
    let first = open_fuser(config.clone(), &sharer, &receiver);
    let expected: Vec<f32> =
        first.params.iter().flat_map(|(_, param)| param.value.to_vec()).collect();
    let (objective, params) = objective(&device, Compute::F32, config.clone(), training(4));
    let mut objective = objective.starting_from(first.params);
    let recipe = training(4).recipe(Compute::F32, 1e-3);
    let trainer = Trainer::new(&device, recipe, &mut objective, params).unwrap();
    assert!(fuser_values(trainer.params()) == expected);
    let other = open_fuser(FuserConfig { blocks: 2, ..config.clone() }, &sharer, &receiver);
    let (objective, mut params) = self::objective(&device, Compute::F32, config, training(4));
    let error = objective.starting_from(other.params).init(&mut params, 1).unwrap_err();
    assert!(error.to_string().contains("`start`: expected a fuser of the same shape"), "{error}");
}

#[test]
fn items_that_cannot_be_are_named() {
    let device = device();
    let refused = |change: &dyn Fn(&mut FuserData, &mut FuserTraining)| {
        let (mut data, mut training) = (data(), training(4));
        change(&mut data, &mut training);
        let (sharer, receiver) =
            (sharer_arc(&device, Compute::F32), receiver(&device, Compute::F32));
        let config = config("c2c", KeySpace::PostRope);
        FuserObjective::new(sharer, receiver, config, data, training).err().unwrap().to_string()
    };
    assert!(refused(&|data, _| data.val.clear()).starts_with("`val`"));
    assert!(refused(&|data, _| data.train[3].response.clear()).starts_with("`train`"));
    assert!(refused(&|data, _| data.train[3].receiver.truncate(1)).starts_with("`train`"));
    assert!(refused(&|data, _| data.train[3].sharer.truncate(2)).starts_with("`train`"));
    assert!(refused(&|_, training| training.batch = 0).starts_with("`batch`"));
    let none = AnyRate { keep_tokens: vec![], ..any_rate() };
    assert!(refused(&|_, t| t.any_rate = Some(none.clone())).starts_with("`any_rate.keep_tokens`"));
}

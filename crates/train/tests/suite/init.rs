//! Runs that begin with another model.

use std::path::Path;
use std::sync::Arc;

use smidgen_codec::{Format, Ledger};
use smidgen_store::{Disk, TensorFile};
use smidgen_tensor::Device;
use smidgen_train::{
    Changes, Config, Context, Export, Machine, Opening, Silent, dry_run, export_gguf, open, train,
};

use crate::common::{Place, TINY, Watch, tensors};

/// A small model of another text, as a GGUF file and as a run.
fn other(place: &Place) -> (std::path::PathBuf, std::path::PathBuf) {
    let run = place.run("other");
    place.until("other", &["seed=99", "model.tied=false", "model.kv_heads=1"], 3);
    let device = Device::cpu(Ledger::new(), 1);
    let model = open(&run, &Opening::default(), &device).unwrap();
    let out = place.run("other.gguf");
    let (format, progress) = (Format::F32, &mut |_| {});
    let export = Export { model: &model, from: &run, format, files: &Disk, progress };
    export_gguf(export, &out).unwrap();
    (out, run)
}

/// The settings of a tiny run, without those that the model decides.
fn config(place: &Place, init: &Path, sets: &[&str]) -> Config {
    let free = TINY.iter().filter(|set| !set.starts_with("model.") && !set.starts_with("data."));
    let mut sets: Vec<String> = free.chain(sets).map(|set| set.to_string()).collect();
    sets.push(format!("model.init={}", init.display()));
    Config::read(&place.dir.path().join("text"), &sets).unwrap()
}

#[test]
fn weights_shape_and_tokenizer_are_the_models() {
    let place = Place::new();
    let (gguf, run) = other(&place);
    for (name, init) in [("from-file", &gguf), ("from-run", &run)] {
        let config = config(&place, init, &["train.max_steps=1"]);
        Watch::new().train(&config, &place.run(name), Arc::new(Disk)).unwrap();
        let device = Device::cpu(Ledger::new(), 1);
        let [ours, theirs] =
            [&place.run(name), &run].map(|path| open(path, &Opening::default(), &device).unwrap());
        assert_eq!(ours.decoder.spec(), theirs.decoder.spec());
        assert_eq!(ours.tokenizer.to_json(), theirs.tokenizer.to_json());
        let first = TensorFile::open(&place.run(name).join("init.safetensors")).unwrap();
        for (_, param) in theirs.params.iter() {
            assert_eq!(first.tensor(&param.name).unwrap().data, param.value.as_bytes());
        }
        // One small step away from there.
        let distance: f32 = ours
            .params
            .iter()
            .zip(theirs.params.iter())
            .map(|((_, a), (_, b))| {
                let pairs = a.value.slice::<f32>().iter().zip(b.value.slice::<f32>());
                pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
            })
            .fold(0.0, f32::max);
        assert!(distance > 0.0 && distance < 0.01, "{distance}");
    }
}

#[test]
fn a_resume_needs_the_model_no_more() {
    let place = Place::new();
    let (gguf, _) = other(&place);
    let begin = |name: &str, stop_at| {
        let config = config(&place, &gguf, &["train.steps=6"]);
        Watch::stopping_at(stop_at).train(&config, &place.run(name), Arc::new(Disk)).unwrap()
    };
    begin("whole", u64::MAX);
    begin("early", 0);
    begin("late", 3);
    std::fs::remove_file(&gguf).unwrap();
    for name in ["early", "late"] {
        let outcome = place.resume(name);
        assert_eq!(outcome.steps, 6);
        assert_eq!(tensors(&place.run(name), 6), tensors(&place.run("whole"), 6), "{name}");
    }
    // The first values lie in the run; a run that has steps needs not even them.
    std::fs::remove_file(place.run("late").join("init.safetensors")).unwrap();
    let changes = Changes { sets: vec!["train.max_steps=6".into()], ..Changes::default() };
    Watch::new().resume(&place.run("late"), &changes, Arc::new(Disk)).unwrap();
}

#[test]
fn what_contradicts_the_model_is_named_with_both() {
    let place = Place::new();
    let (gguf, _) = other(&place);
    let fails = |set: &str| {
        let config = config(&place, &gguf, &[set]);
        let message = dry_run(&config, Machine::detect(), &mut Silent).unwrap_err().to_string();
        assert!(message.contains("model.init") && message.contains("other.gguf"), "{message}");
        message
    };
    assert!(fails("model.width=64").starts_with("`model.width`: expected 32, as in"));
    assert!(fails("model.tied=true").starts_with("`model.tied`: expected false"));
    assert!(fails("data.vocab=400").starts_with("`data.vocab`: expected 300"));
    assert!(fails("model.preset=tiny").starts_with("`model.preset`: expected none beside"));
    let agreeing = config(&place, &gguf, &["model.width=32"]);
    let plan = dry_run(&agreeing, Machine::detect(), &mut Silent).unwrap().plan;
    assert_eq!((plan.spec.width, plan.spec.vocab), (32, 300));
}

/// A vocabulary of characters is smaller than any of ours, and its model knows more than chance.
#[test]
fn a_real_model_goes_on() {
    let Some(data) = crate::reference::data("") else { return };
    let place = Place::new();
    let story = std::fs::read_to_string(data.join("corpus/tinystories_sample.txt")).unwrap();
    let text = place.run("story.txt");
    std::fs::write(&text, &story[..story.floor_char_boundary(40_000)]).unwrap();
    for model in ["babyllama_tok105/model5000.bin", "stories260k/stories260K.bin"] {
        let init = data.join("models").join(model);
        let name = model.split('/').next().unwrap();
        let sets = ["seed=1", "threads=1", "train.steps=2", "train.batch=2", "train.lr=1e-5"];
        let mut sets: Vec<String> = sets.map(str::to_string).into();
        sets.push(format!("model.init={}", init.display()));
        sets.push("train.compute=f32".into());
        let config = Config::read(&text, &sets).unwrap();
        let (mut progress, stop) = (Silent, Default::default());
        let cx = Context::new(&mut progress, &stop);
        let outcome = train(&config, &place.run(name), cx).unwrap();
        let bpb = outcome.val_bpb.unwrap();
        assert!(bpb < 2.0, "{name}: {bpb} bits per byte, far better than by chance");
    }
}

#[test]
fn another_model_means_another_run() {
    let place = Place::new();
    let (gguf, run) = other(&place);
    let done = |init: &Path| {
        let config = config(&place, init, &["train.steps=2"]);
        smidgen_train::find_done(&config, place.dir.path(), Machine::detect()).unwrap()
    };
    let first = config(&place, &gguf, &["train.steps=2"]);
    Watch::new().train(&first, &place.run("first"), Arc::new(Disk)).unwrap();
    assert!(done(&gguf).is_some());
    assert!(done(&run).is_none(), "the same weights in another file may be others tomorrow");
    let mut bytes = std::fs::read(&gguf).unwrap();
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    std::fs::write(&gguf, bytes).unwrap();
    assert!(done(&gguf).is_none(), "one bit of a weight changed");
}

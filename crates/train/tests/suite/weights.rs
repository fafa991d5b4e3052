//! Weights in bf16: half the bytes, the same lessons, and every bit of them in a checkpoint.

use smidgen_codec::Ledger;
use smidgen_store::{RunDir, RunView, Which};
use smidgen_tensor::{Device, Format};
use smidgen_train::{Status, Weights, open_model};

use crate::common::{Place, tensors};

fn peak(place: &Place, run: &str, tag: &str) -> u64 {
    let view = RunView::open(&place.run(run)).unwrap();
    let ledger: serde_json::Value = view.read_json("ledger.json").unwrap();
    ledger[tag]["peak"].as_u64().unwrap()
}

#[test]
fn bf16_weights_take_half_the_bytes_and_learn_the_same() {
    let place = Place::new();
    let mut last = Vec::new();
    for weights in ["f32", "bf16", "bf16-kahan"] {
        let set = format!("train.weights={weights}");
        place.train(weights, &[&set, "train.steps=60", "train.val_every=60", "train.lr=3e-3"]);
        last.push(*place.losses(weights).last().unwrap());
    }
    let [wide, narrow, kahan] =
        ["f32", "bf16", "bf16-kahan"].map(|run| peak(&place, run, "weights"));
    // Norms stay f32.
    assert!(narrow < wide * 52 / 100 && kahan == narrow, "{narrow} and {kahan} of {wide}");
    let [plain, less, more] = ["f32", "bf16", "bf16-kahan"].map(|run| peak(&place, run, "state"));
    assert!(less == plain && more > plain, "{more} {less} {plain}");
    assert!(last[0] < 4.0, "the run is too short to show anything: {last:?}");
    for loss in &last[1..] {
        assert!((loss - last[0]).abs() < 0.15, "{last:?}");
    }
    let absent = place.train("absent", &["train.steps=60", "train.val_every=60", "train.lr=3e-3"]);
    assert_eq!(absent.status, Status::Finished);
    assert!(tensors(&place.run("absent"), 60) == tensors(&place.run("f32"), 60));
}

#[test]
fn bf16_weights_go_on_to_the_last_bit() {
    let place = Place::new();
    for weights in ["bf16", "bf16-kahan"] {
        let set = format!("train.weights={weights}");
        let mut bytes = Vec::new();
        for threads in ["threads=1", "threads=2"] {
            for grad in ["train.grad=held", "train.grad=streamed"] {
                let sets = [set.as_str(), threads, grad, "train.ema=0.9", "train.clip=off"];
                let (whole, halves) = (format!("{sets:?}"), format!("{sets:?}-h"));
                place.train(&whole, &sets);
                place.until(&halves, &sets, 3);
                place.resume(&halves);
                let (a, b) = (tensors(&place.run(&whole), 8), tensors(&place.run(&halves), 8));
                assert!(a == b, "{whole}: bits differ after a resume");
                bytes.push(a);
            }
        }
        assert!(bytes.iter().all(|other| *other == bytes[0]), "{weights}: bits depend on the way");
    }
}

/// Whoever opens such a run computes with the very values it has; they fit into f32.
#[test]
fn a_bf16_run_opens_as_any_other() {
    let place = Place::new();
    place.train("run", &["train.weights=bf16", "train.ema=0.9"]);
    let view = RunDir::read(&place.run("run")).unwrap();
    let device = Device::cpu(Ledger::new(), 1);
    for which in [Weights::Trained, Weights::Ema] {
        let model = open_model(&view, Which::Last, which, &device).unwrap();
        let narrow = |value: f32| value.to_bits() & 0xffff == 0;
        for (_, param) in model.params.iter() {
            assert_eq!(param.value.format(), Format::F32);
            let exact = which == Weights::Trained && param.value.rows() > 1;
            assert!(!exact || param.value.to_vec().into_iter().all(narrow), "{}", param.name);
        }
    }
    // Another run may begin with it, in either format.
    let init = format!("model.init={}", place.run("run").display());
    let free = ["data.vocab", "model."];
    let base = crate::common::TINY.iter().filter(|set| !free.iter().any(|f| set.starts_with(f)));
    let sets = base.map(|set| set.to_string()).chain([init, "train.weights=bf16".into()]);
    let text = place.run("text");
    let config = smidgen_train::Config::read(&text, &sets.collect::<Vec<_>>()).unwrap();
    let watch = crate::common::Watch::new();
    let files = std::sync::Arc::new(smidgen_store::Disk);
    let outcome = watch.train(&config, &place.run("next"), files).unwrap();
    assert_eq!(outcome.status, Status::Finished);
}

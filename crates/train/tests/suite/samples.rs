//! What a language model writes at its validations, and its averaged weights.

use smidgen_codec::Ledger;
use smidgen_store::{RunView, Which};
use smidgen_tensor::Device;
use smidgen_train::{Error, Weights, open_model};

use crate::common::{Place, tensors};

/// Step, prompts, texts and entropy of every line of samples.
fn samples(place: &Place, name: &str) -> Vec<(u64, Vec<String>, Vec<String>, f64)> {
    let lines = place.metrics(name);
    let ours = lines.iter().filter(|line| line.get("samples").is_some());
    ours.map(|line| {
        let all = line["samples"].as_array().unwrap();
        let texts = |key: &str| all.iter().map(|s| s[key].as_str().unwrap().into()).collect();
        let step = line["step"].as_u64().unwrap();
        (step, texts("prompt"), texts("text"), line["entropy"].as_f64().unwrap())
    })
    .collect()
}

#[test]
fn the_same_prompts_are_continued_at_every_validation_and_after_a_resume() {
    let place = Place::new();
    place.train("whole", &[]);
    let whole = samples(&place, "whole");
    let steps: Vec<u64> = whole.iter().map(|(step, ..)| *step).collect();
    assert_eq!(steps, [4, 8]);
    let (_, prompts, texts, entropy) = &whole[0];
    assert_eq!((prompts, prompts.len()), (&whole[1].1, 3));
    assert!(!prompts[0].is_empty() && prompts[0] != prompts[1] && prompts[2].is_empty());
    assert_ne!(texts, &whole[1].2, "the model has learnt nothing");
    assert!(*entropy > 1.0 && *entropy < 300f64.ln(), "{entropy}");
    place.until("parts", &[], 3);
    place.resume("parts");
    assert_eq!(whole, samples(&place, "parts"));
}

#[test]
fn every_option_of_samples_does_what_it_says() {
    let place = Place::new();
    place.train("plain", &[]);
    let plain = samples(&place, "plain");
    place.train("none", &["validate.sample_tokens=0"]);
    assert!(samples(&place, "none").is_empty());
    place.train("short", &["validate.sample_tokens=3"]);
    let short = samples(&place, "short");
    assert!(plain[0].2[0].starts_with(&short[0].2[0]) && short[0].2[0].len() < plain[0].2[0].len());
    place.train("cold", &["validate.temperature=0"]);
    assert_ne!(plain[1].2, samples(&place, "cold")[1].2);
    place.train("own", &["validate.prompts=['the river', 'under']"]);
    assert_eq!(samples(&place, "own")[0].1, ["the river", "under"]);
    for name in ["none", "short", "cold", "own"] {
        let same = tensors(&place.run("plain"), 8) == tensors(&place.run(name), 8);
        assert!(same, "`{name}` changes the weights");
    }
}

#[test]
fn the_averaged_weights_can_be_opened_where_they_are_kept() {
    let place = Place::new();
    place.train("plain", &[]);
    place.train("averaged", &["train.ema=0.9"]);
    assert!(tensors(&place.run("plain"), 8) == tensors(&place.run("averaged"), 8));
    let device = Device::cpu(Ledger::new(), 1);
    let open = |name: &str, weights| {
        let model =
            open_model(&RunView::open(&place.run(name)).unwrap(), Which::Last, weights, &device);
        model.map(|model| {
            model.params.iter().flat_map(|(_, p)| p.value.to_vec()).collect::<Vec<f32>>()
        })
    };
    let (trained, averaged) =
        (open("averaged", Weights::Trained).unwrap(), open("averaged", Weights::Ema).unwrap());
    let far = trained.iter().zip(&averaged).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(far > 1e-4 && far < 0.1, "{far}");
    let error = open("plain", Weights::Ema).unwrap_err();
    assert!(matches!(error, Error::NoEma { step: 8, .. }), "{error}");
}

#[test]
fn an_average_may_begin_in_the_middle_of_a_run() {
    let place = Place::new();
    place.until("run", &[], 3);
    let changes = smidgen_train::Changes {
        sets: vec!["train.ema=0.5".into()],
        override_config: true,
        extend: None,
    };
    let watch = crate::common::Watch::new();
    let disk = std::sync::Arc::new(smidgen_store::Disk);
    let outcome = watch.resume(&place.run("run"), &changes, disk).unwrap();
    assert!(outcome.ema_bpb.is_some());
    place.train("whole", &[]);
    assert!(tensors(&place.run("whole"), 8) == tensors(&place.run("run"), 8));
}

//! Finished runs made longer, and schedules that may not rise a second time.

use std::sync::Arc;

use smidgen_store::Disk;
use smidgen_train::{Changes, Error, Outcome};

use crate::common::{Place, Watch, tensors};

fn extend(place: &Place, name: &str, more: u64, stop_at: u64) -> Result<Outcome, Error> {
    let changes = Changes { extend: Some(more), ..Changes::default() };
    Watch::stopping_at(stop_at).resume(&place.run(name), &changes, Arc::new(Disk))
}

fn multipliers(place: &Place, name: &str) -> Vec<(u64, f64)> {
    let lines = place.metrics(name);
    let rate =
        |line: &serde_json::Value| Some((line["step"].as_u64()?, line["lr_multiplier"].as_f64()?));
    lines.iter().filter_map(rate).collect()
}

const SCHEDULE: &str = "schedule={kind='cosine', warmup_steps=2, min_ratio=0.1}";

#[test]
fn a_longer_run_begins_its_schedule_again_where_it_had_ended() {
    let place = Place::new();
    let first = place.train("run", &[SCHEDULE]);
    let outcome = extend(&place, "run", 20, u64::MAX).unwrap();
    assert_eq!((first.steps, outcome.steps), (8, 28));
    let rates = multipliers(&place, "run");
    let steps: Vec<u64> = rates.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, (1..=28).collect::<Vec<_>>(), "a step is missing or doubled");
    let at = |step: u64| rates[step as usize - 1].1;
    assert!((at(8) - 0.1).abs() < 1e-9 && (at(28) - 0.1).abs() < 1e-9, "{rates:?}");
    // Warmed up again over two steps, then down along the same cosine.
    assert_eq!((at(9), at(10)), (0.5, 1.0));
    assert!((11..28).all(|step| at(step) >= at(step + 1)), "{rates:?}");
    let lines = place.metrics("run");
    let told: Vec<_> = lines.iter().filter(|line| line["event"] == "extend").collect();
    assert_eq!((told.len(), &told[0]["step"]), (1, &9.into()));
    // A finished run stays as it is, the longer one too.
    assert_eq!(place.resume("run"), outcome);
    assert_eq!(extend(&place, "run", 2, u64::MAX).unwrap().steps, 30);
}

#[test]
fn a_longer_run_may_be_interrupted_like_any_other() {
    let place = Place::new();
    for name in ["whole", "parts"] {
        place.train(name, &[SCHEDULE, "train.ema=0.9"]);
    }
    extend(&place, "whole", 10, u64::MAX).unwrap();
    // Stopped before its first step, so that the newest checkpoint is that of the shorter run.
    extend(&place, "parts", 10, 0).unwrap();
    for stop_at in [9, 13] {
        let watch = Watch::stopping_at(stop_at);
        watch.resume(&place.run("parts"), &Changes::default(), Arc::new(Disk)).unwrap();
    }
    assert_eq!(place.resume("parts").steps, 18);
    assert!(tensors(&place.run("whole"), 18) == tensors(&place.run("parts"), 18));
    assert_eq!(multipliers(&place, "whole"), multipliers(&place, "parts"));
}

#[test]
fn limits_that_ended_a_run_do_not_end_the_longer_one() {
    let place = Place::new();
    place.train("run", &["train.max_steps=5"]);
    assert_eq!(extend(&place, "run", 6, u64::MAX).unwrap().steps, 11);
}

#[test]
fn patience_begins_again_with_the_longer_run() {
    let place = Place::new();
    let sets = ["stop.patience=1", "stop.min_delta=100", "train.val_every=2"];
    let first = place.train("run", &sets);
    assert_eq!((first.steps, first.stopped_early), (4, true));
    assert_eq!(place.resume("run"), first, "a stopped run is finished");
    let longer = extend(&place, "run", 20, u64::MAX).unwrap();
    assert_eq!((longer.steps, longer.stopped_early), (8, true));
}

#[test]
fn only_a_finished_run_is_made_longer() {
    let place = Place::new();
    place.until("run", &[], 3);
    let error = extend(&place, "run", 5, u64::MAX).unwrap_err();
    assert!(matches!(error, Error::NotFinished { .. }), "{error}");
    place.resume("run");
    let error = extend(&place, "run", 0, u64::MAX).unwrap_err();
    assert!(error.to_string().starts_with("`--extend`: expected 1 to"), "{error}");
}

#[test]
fn a_schedule_that_came_down_does_not_rise_again() {
    let place = Place::new();
    place.train("finished", &[SCHEDULE]);
    place.until("stopped", &[SCHEDULE], 6);
    let before = std::fs::read(place.run("finished").join("run.toml")).unwrap();
    let sets = vec!["train.steps=16".to_string()];
    let changes = Changes { sets, override_config: true, extend: None };
    for name in ["finished", "stopped"] {
        let error = Watch::new().resume(&place.run(name), &changes, Arc::new(Disk)).unwrap_err();
        assert!(matches!(error, Error::RateRises { old: 8, new: 16, .. }), "{error}");
        assert!(error.to_string().contains("--extend N"), "{error}");
    }
    assert!(before == std::fs::read(place.run("finished").join("run.toml")).unwrap());
    // A constant rate does not rise, so that run may simply go on; and shorter is no rise either.
    place.train("constant", &["schedule.kind=constant"]);
    let watch = Watch::new();
    assert_eq!(watch.resume(&place.run("constant"), &changes, Arc::new(Disk)).unwrap().steps, 16);
    let changes = Changes { sets: vec!["train.steps=7".into()], ..changes };
    assert_eq!(watch.resume(&place.run("stopped"), &changes, Arc::new(Disk)).unwrap().steps, 7);
}

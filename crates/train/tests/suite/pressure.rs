//! Memory that is refused in the middle of a run: the same step in smaller pieces, or a way back.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use smidgen_codec::Ledger;
use smidgen_data::Dataset;
use smidgen_optim::{Clip, GradMode, GradPolicy, Schedule, Verdict};
use smidgen_store::{Disk, RunDir};
use smidgen_tensor::{Device, Params};
use smidgen_train::{
    Course, Error, Event, LanguageModel, Metric, Plan, Progress, Recipe, Silent, Thrift, Trainer,
    fit,
};

use crate::common::Place;
use crate::effects::plan_of;
use crate::objective::course;

/// A prepared text and the plan of a small model with all that can be saved.
struct Setting {
    place: Place,
    plan: Plan,
    dataset: Dataset,
}

impl Setting {
    fn new() -> Setting {
        let place = Place::new();
        let sets = ["train.batch=4", "model.context=64", "model.layers=1", "train.steps=1"];
        place.train("data", &[&sets[..], &["data.vocab=512"]].concat());
        let plan = plan_of(&place, "data");
        let dataset = Dataset::open(&place.run("data")).unwrap();
        Setting { place, plan, dataset }
    }

    /// Calls `body` with a fresh trainer.
    fn with<R>(&self, grad: GradMode, body: impl FnOnce(&mut Trainer<'_>, &Ledger) -> R) -> R {
        let device = Device::cpu(Ledger::new(), 1);
        let mut params = Params::new();
        let mut model =
            LanguageModel::new(&device, &self.plan, &self.dataset, &mut params).unwrap();
        let clip = if grad == GradMode::Held { Clip::Global } else { Clip::Off };
        let recipe = Recipe {
            seed: 1,
            compute: self.plan.compute(),
            policy: GradPolicy { grad, clip, ..GradPolicy::default() },
            schedule: Schedule::Constant { warmup_steps: 1 },
            groups: self.plan.config.optim.clone(),
            ema: None,
            weights: smidgen_optim::Weights::F32,
        };
        let mut trainer = Trainer::new(&device, recipe, &mut model, params).unwrap();
        body(&mut trainer, device.ledger())
    }

    /// Losses of four steps with the `n`-th booking of the second one refused; nothing when there are
    /// fewer.
    fn refused(&self, grad: GradMode, n: u64) -> Option<(Vec<f64>, Verdict)> {
        self.with(grad, |trainer, ledger| {
            let mut losses = vec![trainer.step().unwrap().loss];
            ledger.refuse_nth(n);
            let report = trainer.step().unwrap();
            if ledger.refusals() == 0 {
                return None;
            }
            assert_eq!(trainer.standing().pressures, 1);
            assert_ne!(trainer.standing().thrift, Thrift::default());
            losses.push(report.loss);
            if report.verdict == Verdict::Apply {
                losses.extend([(); 2].map(|()| trainer.step().unwrap().loss));
            }
            Some((losses, report.verdict))
        })
    }

    fn losses(&self, grad: GradMode) -> Vec<f64> {
        self.with(grad, |trainer, _| (0..4).map(|_| trainer.step().unwrap().loss).collect())
    }
}

/// Six steps, a checkpoint every second one.
fn six() -> Course {
    Course { val_every: 100, ckpt_every: 2, keep: 10, ..course(6) }
}

fn close(a: &[f64], b: &[f64]) -> bool {
    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 2e-5)
}

#[test]
fn any_refused_booking_of_a_held_step_leaves_the_losses() {
    let setting = Setting::new();
    let plain = setting.losses(GradMode::Held);
    let mut count = 0;
    while let Some((losses, verdict)) = setting.refused(GradMode::Held, count) {
        assert_eq!(verdict, Verdict::Apply, "booking {count}");
        assert!(close(&losses, &plain), "booking {count}: {losses:?} {plain:?}");
        count += 1;
    }
    assert!(count > 50, "{count} bookings");
}

#[test]
fn a_refusal_after_a_streamed_update_asks_for_the_checkpoint() {
    let setting = Setting::new();
    let plain = setting.losses(GradMode::Streamed);
    let (mut count, mut restored) = (0, 0);
    while let Some((losses, verdict)) = setting.refused(GradMode::Streamed, count) {
        match verdict {
            Verdict::Restore => restored += 1,
            _ => assert!(close(&losses, &plain), "booking {count}: {losses:?} {plain:?}"),
        }
        count += 1;
    }
    assert!(restored > 10 && count > restored + 10, "{restored} of {count}");
}

#[test]
fn cures_come_in_their_order_and_end() {
    let setting = Setting::new();
    let plain = setting.losses(GradMode::Held);
    setting.with(GradMode::Held, |trainer, ledger| {
        let mut saved = Vec::new();
        let mut losses = Vec::new();
        for _ in 0..4 {
            ledger.refuse_nth(0);
            losses.push(trainer.step().unwrap().loss);
            saved.push(trainer.standing().thrift);
        }
        assert!(saved[0].chunk_parts > 1 && !saved[0].recompute && saved[0].batch_parts == 1);
        assert!(saved[1].recompute && saved[1].batch_parts == 1);
        assert_eq!([saved[2].batch_parts, saved[3].batch_parts], [2, 4]);
        assert!(close(&losses, &plain), "{losses:?} {plain:?}");
        // Validations go by the same parts.
        trainer.validate(Metric::Loss).unwrap();
        ledger.refuse_nth(0);
        assert!(trainer.validate(Metric::Loss).unwrap_err().is_refusal());
        ledger.refuse_nth(0);
        assert!(trainer.step().unwrap_err().is_refusal());
        assert_eq!(trainer.standing().step, 4);
    });
}

/// Refuses the first booking after certain steps, and remembers what it was told.
struct Squeeze {
    ledger: Ledger,
    after: Vec<u64>,
    notes: Vec<String>,
}

impl Progress for Squeeze {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Step(step) if self.after.contains(&step.step) => self.ledger.refuse_nth(0),
            Event::Notice(text) => self.notes.push(text.into()),
            _ => {}
        }
    }
}

impl Setting {
    fn run(&self, name: &str) -> RunDir {
        RunDir::create(Arc::new(Disk), &self.place.run(name), "").unwrap()
    }
}

#[test]
fn what_was_saved_is_in_the_checkpoint_and_a_resume_repeats_it() {
    let setting = Setting::new();
    let stop = AtomicBool::new(false);
    let run = setting.run("whole");
    let (weights, notes) = setting.with(GradMode::Held, |trainer, ledger| {
        let mut squeeze = Squeeze { ledger: ledger.clone(), after: vec![1, 2], notes: vec![] };
        fit(trainer, &six(), &run, &mut squeeze, &stop).unwrap();
        (bits(trainer), squeeze.notes)
    });
    assert!(
        notes[0].starts_with("step 2: memory budget") || notes[0].contains("step 2"),
        "{notes:?}"
    );
    let lines = run.metrics().unwrap();
    let events: Vec<_> = lines.iter().filter(|line| line["event"] == "pressure").collect();
    assert_eq!(events.len(), 2, "{lines:?}");
    let resumed = setting.with(GradMode::Held, |trainer, _| {
        trainer.load(&run.checkpoint(smidgen_store::Which::Step(4)).unwrap()).unwrap();
        assert_eq!(trainer.standing().pressures, 2);
        assert!(trainer.standing().thrift.recompute);
        let again = setting.run("again");
        fit(trainer, &six(), &again, &mut Silent, &stop).unwrap();
        bits(trainer)
    });
    assert!(resumed == weights);
}

#[test]
fn without_a_cure_the_run_is_saved_and_says_so() {
    let setting = Setting::new();
    let (run, stop) = (setting.run("end"), AtomicBool::new(false));
    let error = setting.with(GradMode::Held, |trainer, ledger| {
        let mut squeeze =
            Squeeze { ledger: ledger.clone(), after: (1..6).collect(), notes: vec![] };
        fit(trainer, &six(), &run, &mut squeeze, &stop).unwrap_err()
    });
    let Error::NoRelief { step, saved, .. } = &error else { panic!("{error}") };
    assert_eq!((*step, *saved), (6, Some(5)), "{error}");
    assert_eq!(run.steps().unwrap()[0], 5);
}

#[test]
fn a_streamed_run_goes_back_and_does_every_step() {
    let setting = Setting::new();
    let stop = AtomicBool::new(false);
    let plain = setting.losses(GradMode::Streamed);
    /// Refuses a booking deep in the way back of the fourth step.
    struct Deep(Ledger);
    impl Progress for Deep {
        fn event(&mut self, event: Event<'_>) {
            if matches!(event, Event::Step(step) if step.step == 3 && self.0.refusals() == 0) {
                self.0.refuse_nth(70);
            }
        }
    }
    let run = setting.run("streamed");
    setting.with(GradMode::Streamed, |trainer, ledger| {
        fit(trainer, &six(), &run, &mut Deep(ledger.clone()), &stop).unwrap();
        assert_eq!(ledger.refusals(), 1);
        assert_eq!((trainer.standing().step, trainer.standing().passed_over.len()), (6, 0));
    });
    let lines = run.metrics().unwrap();
    let losses: Vec<f64> = lines.iter().filter_map(|line| line.get("loss")?.as_f64()).collect();
    assert_eq!(losses.len(), 6);
    assert!(close(&losses, &plain), "{losses:?} {plain:?}");
}

fn bits(trainer: &Trainer<'_>) -> Vec<u8> {
    trainer.params().iter().flat_map(|(_, param)| param.value.as_bytes().to_vec()).collect()
}

//! Small text, small runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use smidgen_store::{Disk, Files, RunView};
use smidgen_train::{
    Changes, Config, Context, Error, Event, MODEL, Machine, Outcome, STATE, resume, train,
};

/// A folder with text, and room for runs; gone when dropped.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
}

/// Settings that make a run of a fraction of a second.
pub(crate) const TINY: [&str; 14] = [
    "seed=7",
    "threads=1",
    "data.vocab=300",
    "model.width=32",
    "model.layers=2",
    "model.heads=2",
    "model.ffn=64",
    "model.context=32",
    "train.batch=2",
    "train.steps=8",
    "train.val_every=4",
    "train.ckpt_every=2",
    "train.keep=3",
    "train.compute=f32",
];

impl Place {
    pub(crate) fn new() -> Place {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let text = dir.path().join("text");
        std::fs::create_dir(&text).unwrap();
        for i in 0..12u64 {
            std::fs::write(text.join(format!("{i}.txt")), prose(i)).unwrap();
        }
        Place { dir }
    }

    pub(crate) fn run(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self, sets: &[&str]) -> Config {
        self.try_config(sets).unwrap()
    }

    pub(crate) fn try_config(&self, sets: &[&str]) -> Result<Config, Error> {
        let sets: Vec<String> = TINY.iter().chain(sets).map(|set| set.to_string()).collect();
        Config::read(&self.dir.path().join("text"), &sets)
    }

    /// A whole run.
    pub(crate) fn train(&self, name: &str, sets: &[&str]) -> Outcome {
        self.until(name, sets, u64::MAX)
    }

    /// A run that is stopped after a step.
    pub(crate) fn until(&self, name: &str, sets: &[&str], stop_at: u64) -> Outcome {
        let watch = Watch::stopping_at(stop_at);
        watch.train(&self.config(sets), &self.run(name), Arc::new(Disk)).unwrap()
    }

    pub(crate) fn resume(&self, name: &str) -> Outcome {
        Watch::new().resume(&self.run(name), &Changes::default(), Arc::new(Disk)).unwrap()
    }

    pub(crate) fn metrics(&self, name: &str) -> Vec<serde_json::Value> {
        RunView::open(&self.run(name)).unwrap().metrics().unwrap()
    }

    /// The losses of every step.
    pub(crate) fn losses(&self, name: &str) -> Vec<f64> {
        self.metrics(name).iter().filter_map(|line| line.get("loss")?.as_f64()).collect()
    }
}

/// Text of a few common words in an order that looks random.
pub(crate) fn prose(seed: u64) -> String {
    const WORDS: [&str; 16] = [
        "the", "river", "turns", "slowly", "under", "old", "bridges", "and", "every", "stone",
        "keeps", "a", "quiet", "name", "of", "water",
    ];
    let rng = smidgen_codec::Rng::named(seed, "prose");
    let word = |i| WORDS[rng.below(0, 0, i, WORDS.len() as u64) as usize];
    let sentence = |s: u64| (0..8).map(|i| word(s * 8 + i)).collect::<Vec<_>>().join(" ") + ".\n";
    (0..30).map(sentence).collect()
}

/// Listens to a run, and stops it where it is told to.
pub(crate) struct Watch {
    stop: AtomicBool,
    stop_at: u64,
    notices: std::cell::RefCell<Vec<String>>,
}

impl Watch {
    pub(crate) fn new() -> Watch {
        Watch::stopping_at(u64::MAX)
    }

    pub(crate) fn stopping_at(stop_at: u64) -> Watch {
        Watch { stop: AtomicBool::new(stop_at == 0), stop_at, notices: Default::default() }
    }

    pub(crate) fn notices(&self) -> Vec<String> {
        self.notices.borrow().clone()
    }

    pub(crate) fn hear(&self, event: Event<'_>) {
        match event {
            Event::Step(step) if step.step >= self.stop_at => self.stop.store(true, Relaxed),
            Event::Notice(text) => self.notices.borrow_mut().push(text.to_string()),
            _ => {}
        }
    }

    pub(crate) fn train(
        &self,
        config: &Config,
        dir: &Path,
        files: Arc<dyn Files>,
    ) -> Result<Outcome, Error> {
        let mut progress = |event: Event<'_>| self.hear(event);
        let machine = Machine::detect();
        train(config, dir, Context { files, progress: &mut progress, stop: &self.stop, machine })
    }

    pub(crate) fn resume(
        &self,
        dir: &Path,
        changes: &Changes,
        files: Arc<dyn Files>,
    ) -> Result<Outcome, Error> {
        let mut progress = |event: Event<'_>| self.hear(event);
        let machine = Machine::detect();
        resume(dir, changes, Context { files, progress: &mut progress, stop: &self.stop, machine })
    }
}

/// Weights and state of a step, as they lie on the disk.
pub(crate) fn tensors(run: &Path, step: u64) -> [Vec<u8>; 2] {
    let folder = run.join(format!("ckpt/step-{step:08}"));
    [MODEL, STATE].map(|file| std::fs::read(folder.join(file)).unwrap())
}

//! A disk that fails at every single operation: whatever fails, a checkpoint loads afterwards.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{create, fresh, healthy, keep_one, open, salt_of, save, tree};
use smidgen_store::{Commit, Error, Fault, Faulty, RunDir};

/// Runs `disturbed` once per operation, fault and persistence, each on its own copy of what
/// `prepare` makes, and hands the folder and the failure to `check`.
fn walk(
    prepare: impl Fn(&Path),
    disturbed: impl Fn(Faulty, &Path) -> Result<(), Error>,
    check: impl Fn(&Path, Error),
) {
    let (_dir, path) = fresh();
    prepare(&path);
    let counting = Faulty::counting();
    disturbed(counting.clone(), &path).expect("nothing fails");
    assert!(counting.operations() > 5, "{} operations", counting.operations());

    for n in 0..counting.operations() {
        for fault in Fault::ALL {
            for files in [Faulty::once(n, fault), Faulty::from(n, fault)] {
                let (_dir, path) = fresh();
                prepare(&path);
                let error = disturbed(files, &path)
                    .err()
                    .unwrap_or_else(|| panic!("{fault:?} at operation {n} was swallowed"));
                let message = error.to_string();
                // The folder that a new run's own folder is in may be the one that failed.
                let folder = path.parent().expect("in a temporary folder").to_string_lossy();
                assert!(message.contains(&*folder), "{n}: {message}");
                check(&path, error);
            }
        }
    }
}

fn one_checkpoint(path: &Path) {
    save(&create(path), 1, 0, keep_one()).unwrap();
}

/// What an undisturbed run looks like after the same saves.
fn undisturbed(saves: &[(u64, u8)]) -> std::collections::BTreeMap<std::path::PathBuf, String> {
    let (_dir, path) = fresh();
    let run = create(&path);
    for (step, salt) in saves {
        save(&run, *step, *salt, keep_one()).unwrap();
    }
    tree(&path)
}

/// Opens the run and saves: the opening's operations are walked too.
fn save_with(files: Faulty, path: &Path, step: u64, salt: u8) -> Result<(), Error> {
    save(&open(files, path)?, step, salt, keep_one())
}

#[test]
fn a_second_checkpoint_with_retention() {
    let goal = undisturbed(&[(1, 0), (2, 0)]);
    walk(
        one_checkpoint,
        |files, path| save_with(files, path, 2, 0),
        |path, _| {
            // A reader looks first, before anything is cleaned.
            let seen = RunDir::read(path).unwrap().newest_valid().unwrap().unwrap();
            assert!(seen.1.is_empty(), "no half-made checkpoint is taken for one: {:?}", seen.1);
            salt_of(&seen.0);

            let run = open(healthy(), path).unwrap();
            let (checkpoint, skipped) = run.newest_valid().unwrap().expect("a checkpoint");
            assert!(skipped.is_empty());
            assert!(matches!(checkpoint.step(), 1 | 2));
            salt_of(&checkpoint);
            let best = run.checkpoint(smidgen_store::Which::Best).expect("best loads too");
            assert!(best.step() <= checkpoint.step());

            // The run goes on as if nothing had been.
            save(&run, 2, 0, keep_one()).unwrap();
            drop(run);
            assert_eq!(tree(path), goal);
        },
    );
}

#[test]
fn a_checkpoint_that_replaces_one_of_the_same_step() {
    let goal = undisturbed(&[(1, 9)]);
    walk(
        one_checkpoint,
        |files, path| save_with(files, path, 1, 9),
        |path, _| {
            let (checkpoint, skipped) =
                RunDir::read(path).unwrap().newest_valid().unwrap().unwrap();
            assert!(skipped.is_empty());
            assert!(matches!(salt_of(&checkpoint), 0 | 9));

            let run = open(healthy(), path).unwrap();
            salt_of(&run.newest_valid().unwrap().unwrap().0);
            save(&run, 1, 9, keep_one()).unwrap();
            drop(run);
            assert_eq!(tree(path), goal);
        },
    );
}

#[test]
fn the_creation_of_a_run() {
    let creating = |files: Faulty, path: &Path| {
        RunDir::create(Arc::new(files), path, "seed = 1\n").map(|_| ())
    };
    walk(
        |_| (),
        creating,
        |path, _| {
            let again = RunDir::create(Arc::new(healthy()), path, "seed = 1\n").map(|_| ());
            match again {
                Ok(()) => {}
                Err(Error::RunExists { .. }) => {
                    let run = open(healthy(), path).expect("what exists can be resumed");
                    save(&run, 1, 0, keep_one()).unwrap();
                }
                Err(error) => panic!("{error}"),
            }
        },
    );
}

#[test]
fn the_opening_of_a_run_that_needs_healing() {
    let wounded = |path: &Path| {
        let run = create(path);
        save(&run, 1, 0, keep_one()).unwrap();
        save(&run, 2, 0, Commit { best: true, keep_last: 2, ..Commit::default() }).unwrap();
        let ckpt = run.ckpt_folder();
        std::fs::rename(ckpt.join("step-00000002"), ckpt.join("step-00000002.old")).unwrap();
        std::fs::create_dir(ckpt.join("step-00000001.old")).unwrap();
        std::fs::create_dir(ckpt.join(".tmp-step-00000003-1")).unwrap();
        std::fs::write(ckpt.join("best"), "step-00000001\n").unwrap();
    };
    walk(
        wounded,
        |files, path| open(files, path).map(|_| ()),
        |path, _| {
            let run = open(healthy(), path).unwrap();
            assert_eq!(run.newest_valid().unwrap().unwrap().0.step(), 2);
            assert_eq!(run.best().unwrap(), Some(2));
            assert_eq!(run.steps().unwrap(), [2, 1]);
        },
    );
}

#[test]
fn a_full_disk_is_said_to_be_full() {
    let (_dir, path) = fresh();
    one_checkpoint(&path);
    let counting = Faulty::counting();
    drop(open(counting.clone(), &path).unwrap());
    let run = open(Faulty::from(counting.operations() + 3, Fault::NoSpace), &path).unwrap();
    let message = save(&run, 2, 0, keep_one()).unwrap_err().to_string();
    assert!(message.contains("hint: free some space"), "{message}");
    assert_eq!(run.latest().unwrap(), Some(1));
}

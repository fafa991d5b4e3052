//! Checkpoints that are damaged, foreign, missing, replaced, deleted: typed errors, and the run
//! falls back on the newest sound one.

mod common;

use std::path::Path;

use common::{FILES, create, fresh, keep_one, salt_of, save, tree};
use smidgen_store::{Checkpoint, Commit, Dtype, Error, RunDir, TensorInfo, Which};

fn keep(keep_last: usize) -> Commit {
    Commit { keep_last, ..Commit::default() }
}

/// A run with sound checkpoints 1 and 2.
fn two(path: &Path) -> RunDir {
    let run = create(path);
    save(&run, 1, 0, keep(9)).unwrap();
    save(&run, 2, 0, keep(9)).unwrap();
    run
}

/// Damages a file of checkpoint 2, checks that the run falls back to 1, and repairs it.
/// Gives the error for which 2 was passed over.
fn fallen_back(run: &RunDir, file: &str, damage: impl FnOnce(&Path)) -> Error {
    let path = run.step_folder(2).join(file);
    let sound = std::fs::read(&path).unwrap();
    damage(&path);
    let (checkpoint, mut skipped) = run.newest_valid().unwrap().expect("one is sound");
    assert_eq!(checkpoint.step(), 1);
    salt_of(&checkpoint);
    assert_eq!((skipped.len(), skipped[0].step), (1, 2));
    std::fs::write(&path, sound).unwrap();
    let error = skipped.remove(0).error;
    assert!(error.to_string().contains(file), "{error}");
    error
}

fn all_files() -> impl Iterator<Item = &'static str> {
    FILES.into_iter().chain(["manifest.json"])
}

#[test]
fn what_was_saved_is_read() {
    let (_dir, path) = fresh();
    let run = two(&path);
    let checkpoint = Checkpoint::open(&run.step_folder(2)).unwrap();
    salt_of(&checkpoint);
    assert_eq!(checkpoint.step(), 2);
    assert_eq!(checkpoint.manifest().facts["tokenizer"], "00ff");
    assert!(checkpoint.manifest().files.keys().eq(FILES));
    assert!(matches!(checkpoint.tensors("no.safetensors"), Err(Error::Missing { .. })));
    assert!(matches!(checkpoint.tensor("model.safetensors", "no"), Err(Error::Tensor { .. })));
    assert!(matches!(checkpoint.json::<u64>("cursor.json"), Err(Error::Corrupt { .. })));
}

#[test]
fn the_same_state_gives_the_same_bytes() {
    let (_a, a) = fresh();
    let (_b, b) = fresh();
    two(&a);
    save(&two(&b), 2, 0, keep(9)).unwrap();
    assert_eq!(tree(&a), tree(&b));
}

#[test]
fn every_flipped_bit_of_every_file_is_found() {
    let (_dir, path) = fresh();
    let run = two(&path);
    for file in all_files() {
        let len = std::fs::metadata(run.step_folder(2).join(file)).unwrap().len() as usize;
        for at in [0, 1, 7, 8, 9, len / 3, len / 2, len - 2, len - 1] {
            let error = fallen_back(&run, file, |path| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes[at] ^= 1 << (at % 8);
                std::fs::write(path, bytes).unwrap();
            });
            assert!(matches!(error, Error::Corrupt { .. }), "{file} at {at}: {error}");
        }
    }
}

#[test]
fn every_truncation_is_found() {
    let (_dir, path) = fresh();
    let run = two(&path);
    for file in all_files() {
        let len = std::fs::metadata(run.step_folder(2).join(file)).unwrap().len() as usize;
        for cut in [0, 1, 8, len / 2, len - 2] {
            let error = fallen_back(&run, file, |path| {
                let bytes = std::fs::read(path).unwrap();
                std::fs::write(path, &bytes[..cut]).unwrap();
            });
            assert!(matches!(error, Error::Corrupt { .. }), "{file} cut at {cut}: {error}");
        }
    }
}

#[test]
fn foreign_and_missing_files_are_found() {
    let (_dir, path) = fresh();
    let run = two(&path);
    for file in all_files() {
        for foreign in [&b"GGUF\x03\0\0\0"[..], b"{}", b"PK\x03\x04", b"", &[0xff; 4096]] {
            let error = fallen_back(&run, file, |path| std::fs::write(path, foreign).unwrap());
            assert!(matches!(error, Error::Corrupt { .. }), "{file}: {error}");
        }
        let error = fallen_back(&run, file, |path| std::fs::remove_file(path).unwrap());
        assert!(matches!(error, Error::Missing { .. }), "{file}: {error}");
    }
}

#[test]
fn a_checkpoint_under_another_steps_name_is_refused() {
    let (_dir, path) = fresh();
    let run = two(&path);
    std::fs::rename(run.step_folder(2), run.step_folder(3)).unwrap();
    let error = Checkpoint::open(&run.step_folder(3)).unwrap_err();
    assert!(error.to_string().starts_with("expected step 3, got step 2 in "), "{error}");
}

#[test]
fn with_none_sound_the_run_says_why() {
    let (_dir, path) = fresh();
    let run = two(&path);
    for step in [1, 2] {
        std::fs::write(run.step_folder(step).join("cursor.json"), "{}").unwrap();
    }
    let error = run.newest_valid().unwrap_err();
    assert!(matches!(error, Error::NoCheckpoint { .. }));
    let message = error.to_string();
    assert!(message.contains("step-00000001") && message.contains("step-00000002"), "{message}");
}

#[test]
fn a_peek_checks_each_file_when_it_is_used() {
    let (_dir, path) = fresh();
    let run = two(&path);
    let state = run.step_folder(2).join("state.safetensors");
    let mut bytes = std::fs::read(&state).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&state, bytes).unwrap();
    let checkpoint = run.checkpoint(Which::Step(2)).unwrap();
    assert!(checkpoint.tensors("model.safetensors").is_ok());
    assert!(matches!(checkpoint.tensors("state.safetensors"), Err(Error::Corrupt { .. })));
    assert!(matches!(Checkpoint::open(&run.step_folder(2)), Err(Error::Corrupt { .. })));
}

#[test]
fn retention_keeps_the_last_and_the_best() {
    let (_dir, path) = fresh();
    let run = create(&path);
    for step in 1..=6 {
        save(&run, step, 0, Commit { best: step == 2, ..keep(2) }).unwrap();
    }
    assert_eq!(run.steps().unwrap(), [6, 5, 2]);
    assert_eq!((run.latest().unwrap(), run.best().unwrap()), (Some(6), Some(2)));
    for (which, step) in [(Which::Best, 2), (Which::Last, 6), (Which::Step(5), 5)] {
        assert_eq!(run.checkpoint(which).unwrap().step(), step);
    }
    assert!(matches!(run.checkpoint(Which::Step(4)), Err(Error::Missing { .. })));
    // A new best frees the old one; nothing else is ever left in the folder.
    save(&run, 7, 0, Commit { best: true, ..keep(0) }).unwrap();
    let names: Vec<_> = tree(&run.ckpt_folder()).into_keys().collect();
    assert!(names.iter().all(|name| {
        name.starts_with("step-00000007")
            || name == Path::new("best")
            || name == Path::new("latest")
    }));
}

#[test]
fn going_back_gives_up_the_later_course() {
    let (_dir, path) = fresh();
    let run = two(&path);
    save(&run, 9, 0, keep(9)).unwrap();
    save(&run, 3, 0, keep(9)).unwrap();
    assert_eq!(run.steps().unwrap(), [3, 2, 1]);
    assert_eq!(run.checkpoint(Which::Last).unwrap().step(), 3);
}

#[test]
fn before_a_best_one_is_marked_the_last_is_given() {
    let (_dir, path) = fresh();
    let run = create(&path);
    assert!(matches!(run.checkpoint(Which::Best), Err(Error::NoCheckpoint { .. })));
    save(&run, 4, 0, keep(1)).unwrap();
    assert_eq!(run.checkpoint(Which::Best).unwrap().step(), 4);
}

#[test]
fn a_writer_that_gives_up_leaves_nothing() {
    let (_dir, path) = fresh();
    let run = two(&path);
    let before = tree(&path);
    let mut writer = run.begin_checkpoint(3).unwrap();
    let infos = [TensorInfo::new("a", Dtype::F32, [4])];
    let short = writer.tensors("model.safetensors", &infos, |_, out| out.write_all(&[0; 15]));
    let message = short.unwrap_err().to_string();
    assert!(message.contains("model.safetensors: expected 16 bytes, got 15 bytes"), "{message}");
    drop(writer);
    assert_eq!(tree(&path), before);
    save(&run, 3, 0, keep_one()).unwrap();
}

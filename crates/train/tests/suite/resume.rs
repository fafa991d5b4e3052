//! Going on after a stop: to the last bit, from what is sound, and never by surprise.

use std::sync::Arc;

use smidgen_store::{Disk, RunDir};
use smidgen_train::{Changes, Error, Status};

use crate::common::{Place, Watch, tensors};

#[test]
fn twice_n_steps_are_n_and_resume_and_n() {
    let place = Place::new();
    for compute in ["train.compute=f32", "train.compute=bf16"] {
        for grad in ["train.grad=held", "train.grad=streamed"] {
            let mut bytes = Vec::new();
            for threads in ["threads=1", "threads=2"] {
                let (whole, halves) =
                    (format!("{compute}{grad}{threads}"), format!("{compute}{grad}{threads}-h"));
                let sets = [compute, grad, threads];
                let straight = place.train(&whole, &sets);
                let stopped = place.until(&halves, &sets, 3);
                assert_eq!((stopped.status, stopped.steps), (Status::Interrupted, 3));
                let resumed = place.resume(&halves);
                assert_eq!((resumed.status, resumed.steps), (Status::Finished, 8));
                let (a, b) = (tensors(&place.run(&whole), 8), tensors(&place.run(&halves), 8));
                assert!(a == b, "{whole}: bits differ after a resume");
                assert_eq!(straight.val_loss, resumed.val_loss);
                assert_eq!(straight.train_loss, resumed.train_loss);
                assert_eq!(place.losses(&whole), place.losses(&halves));
                bytes.push(a);
            }
            assert!(bytes[0] == bytes[1], "{compute} {grad}: bits depend on the threads");
        }
    }
}

#[test]
fn a_resume_may_use_other_threads_and_another_length_of_the_first_part() {
    let place = Place::new();
    place.train("whole", &[]);
    for stop_at in [1, 4, 7] {
        let name = format!("stopped-{stop_at}");
        place.until(&name, &[], stop_at);
        let changes =
            Changes { sets: vec!["threads=2".into()], override_config: false, extend: None };
        Watch::new().resume(&place.run(&name), &changes, Arc::new(Disk)).unwrap();
        assert!(tensors(&place.run("whole"), 8) == tensors(&place.run(&name), 8), "{stop_at}");
    }
}

#[test]
fn a_stop_before_the_first_step_leaves_a_run_that_begins_at_step_0() {
    let place = Place::new();
    place.train("whole", &[]);
    assert_eq!(place.until("stopped", &[], 0).steps, 0);
    assert!(!place.run("stopped/ckpt/latest").exists());
    place.resume("stopped");
    assert!(tensors(&place.run("whole"), 8) == tensors(&place.run("stopped"), 8));
}

#[test]
fn the_source_is_not_needed_after_the_data_is_prepared() {
    let place = Place::new();
    place.train("whole", &[]);
    place.until("stopped", &[], 3);
    std::fs::remove_dir_all(place.run("text")).unwrap();
    place.resume("stopped");
    assert!(tensors(&place.run("whole"), 8) == tensors(&place.run("stopped"), 8));
}

#[test]
fn resuming_a_finished_run_changes_nothing_and_says_the_same() {
    let place = Place::new();
    let outcome = place.train("done", &[]);
    let listing = |dir: &std::path::Path| -> Vec<(std::path::PathBuf, std::time::SystemTime)> {
        let mut open = vec![dir.to_path_buf()];
        let mut found = Vec::new();
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                found.push((path.clone(), path.metadata().unwrap().modified().unwrap()));
                if path.is_dir() {
                    open.push(path);
                }
            }
        }
        found.sort();
        found
    };
    let before = listing(&place.run("done"));
    assert_eq!(place.resume("done"), outcome);
    assert_eq!(place.resume("done"), outcome);
    assert!(before == listing(&place.run("done")), "a finished run was written to");
}

#[test]
fn a_changed_configuration_is_refused_with_its_difference() {
    let place = Place::new();
    place.until("run", &[], 3);
    let sets = vec!["optim.rest.weight_decay=0.5".to_string(), "seed=8".into()];
    let mut changes = Changes { sets, override_config: false, extend: None };
    let error = Watch::new().resume(&place.run("run"), &changes, Arc::new(Disk)).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::ConfigChanged { step: 3, .. }), "{message}");
    assert!(message.contains("`optim.rest.weight_decay`: 0.1 -> 0.5"), "{message}");
    assert!(message.contains("`seed`: 7 -> 8") && message.contains("--override"), "{message}");
    changes.override_config = true;
    let outcome = Watch::new().resume(&place.run("run"), &changes, Arc::new(Disk)).unwrap();
    assert_eq!(outcome.steps, 8);
}

#[test]
fn an_edited_run_toml_is_a_changed_configuration() {
    let place = Place::new();
    place.until("run", &[], 3);
    let path = place.run("run").join("run.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("max_norm = 1.0", "max_norm = 2.0")).unwrap();
    let error =
        Watch::new().resume(&place.run("run"), &Changes::default(), Arc::new(Disk)).unwrap_err();
    assert!(error.to_string().contains("`train.max_norm`: 1.0 -> 2.0"), "{error}");
}

/// `run.toml` once kept a change that the checkpoint could not follow, and no resume worked any more.
#[test]
fn a_change_the_checkpoint_cannot_follow_changes_nothing() {
    let place = Place::new();
    place.train("whole", &[]);
    place.until("run", &[], 3);
    for set in ["train.batch=3", "model.width=48", "optim.rest.state=bf16", "data.vocab=290"] {
        let changes = Changes { sets: vec![set.into()], override_config: true, extend: None };
        let error = Watch::new().resume(&place.run("run"), &changes, Arc::new(Disk)).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::CannotOverride { step: 3, .. }), "{set}: {message}");
        assert!(message.contains(set.split('=').next().unwrap()), "{set}: {message}");
    }
    place.resume("run");
    assert!(tensors(&place.run("whole"), 8) == tensors(&place.run("run"), 8));
}

/// Data was once prepared anew from whatever the source held, over the tokenizer of the checkpoints.
#[test]
fn lost_data_is_not_made_again_under_a_checkpoint() {
    let place = Place::new();
    place.until("run", &[], 3);
    let tokenizer = std::fs::read(place.run("run").join("tokenizer.json")).unwrap();
    std::fs::remove_dir_all(place.run("run").join("data")).unwrap();
    let error =
        Watch::new().resume(&place.run("run"), &Changes::default(), Arc::new(Disk)).unwrap_err();
    assert!(error.to_string().contains("dataset.json"), "{error}");
    assert!(tokenizer == std::fs::read(place.run("run").join("tokenizer.json")).unwrap());
}

#[test]
fn a_damaged_outcome_is_made_again() {
    let place = Place::new();
    let outcome = place.train("run", &[]);
    std::fs::write(place.run("run").join("outcome.json"), "{").unwrap();
    let again = place.resume("run");
    assert_eq!((again.steps, again.val_loss), (outcome.steps, outcome.val_loss));
}

#[test]
fn limits_may_be_raised_on_a_finished_run() {
    let place = Place::new();
    place.train("whole", &[]);
    let short = place.train("short", &["train.max_steps=5"]);
    assert_eq!((short.status, short.steps), (Status::Finished, 5));
    assert_eq!(place.resume("short").steps, 5);
    let changes =
        Changes { sets: vec!["train.max_steps=100".into()], override_config: false, extend: None };
    let outcome = Watch::new().resume(&place.run("short"), &changes, Arc::new(Disk)).unwrap();
    assert_eq!(outcome.steps, 8);
    assert!(tensors(&place.run("whole"), 8) == tensors(&place.run("short"), 8));
    // Where the schedule has ended, no limit makes it go on.
    let changes =
        Changes { sets: vec!["train.max_steps=200".into()], override_config: false, extend: None };
    let again = Watch::new().resume(&place.run("short"), &changes, Arc::new(Disk)).unwrap();
    assert_eq!(again, outcome);
}

#[test]
fn a_damaged_checkpoint_is_passed_over_with_a_word() {
    let place = Place::new();
    place.train("whole", &[]);
    for file in ["model.safetensors", "state.safetensors", "cursor.json", "manifest.json"] {
        let name = format!("run-{file}");
        place.until(&name, &[], 6);
        let path = place.run(&name).join("ckpt/step-00000006").join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let watch = Watch::new();
        watch.resume(&place.run(&name), &Changes::default(), Arc::new(Disk)).unwrap();
        let notices = watch.notices();
        let told = notices.iter().any(|text| {
            text.contains("step 6") && text.contains(file) && text.contains("going back to step 4")
        });
        assert!(told, "{notices:?}");
        assert!(tensors(&place.run("whole"), 8) == tensors(&place.run(&name), 8), "{file}");
    }
}

#[test]
fn foreign_parts_are_refused() {
    let place = Place::new();
    place.until("a", &[], 3);
    place.until("b", &["model.width=48"], 3);
    place.until("c", &["data.salt=other"], 3);
    for (from, what) in [("b", "model.width"), ("c", "dataset")] {
        let to = place.run(&format!("mix-{from}"));
        copy(&place.run("a"), &to);
        std::fs::remove_dir_all(to.join("ckpt")).unwrap();
        copy(&place.run(from).join("ckpt"), &to.join("ckpt"));
        let error = Watch::new().resume(&to, &Changes::default(), Arc::new(Disk)).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    for file in ["tokenizer.json", "data/train.tokens", "data/val.tokens", "data/dataset.json"] {
        for cut in [true, false] {
            let to = place.run("damaged");
            copy(&place.run("a"), &to);
            let mut bytes = std::fs::read(to.join(file)).unwrap();
            let middle = bytes.len() / 2;
            if cut {
                bytes.truncate(middle)
            } else {
                bytes[middle] ^= 4
            }
            std::fs::write(to.join(file), bytes).unwrap();
            let error = Watch::new().resume(&to, &Changes::default(), Arc::new(Disk)).unwrap_err();
            let name = file.rsplit('/').next().unwrap();
            // A manifest that still parses names the file that no longer fits it.
            let named = error.to_string().contains(name) || file.ends_with("dataset.json");
            assert!(named, "{file}: {error}");
            std::fs::remove_dir_all(&to).unwrap();
        }
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target)
        } else {
            std::fs::copy(&path, &target).map(drop).unwrap()
        }
    }
}

#[test]
fn a_run_in_use_is_refused() {
    let place = Place::new();
    place.until("run", &[], 3);
    let held = RunDir::open(Arc::new(Disk), &place.run("run")).unwrap();
    let error =
        Watch::new().resume(&place.run("run"), &Changes::default(), Arc::new(Disk)).unwrap_err();
    assert!(error.to_string().contains("in use by another process"), "{error}");
    drop(held);
    assert_eq!(place.resume("run").steps, 8);
}

#[test]
fn another_kernel_set_is_named() {
    let place = Place::new();
    place.until("run", &[], 3);
    let path = place.run("run").join("env.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let level = smidgen_tensor::Level::detect().name();
    std::fs::write(&path, text.replace(&format!("\"{level}\""), "\"abacus\"")).unwrap();
    let watch = Watch::new();
    watch.resume(&place.run("run"), &Changes::default(), Arc::new(Disk)).unwrap();
    assert!(watch.notices().iter().any(|text| text.contains("`abacus`")), "{:?}", watch.notices());
}

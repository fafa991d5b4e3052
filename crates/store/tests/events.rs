//! Event files of a run: killed, resumed, on a failing disk, mutated, and before the real reader.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{create, fresh, open};
use proptest::prelude::*;
use smidgen_store::events::{Curves, Event, EventFile, EventWriter};
use smidgen_store::{Disk, Error, Fault, Faulty, RunView};

/// The event files of a run in the order of readers.
fn files(run: &RunView) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(run.events_folder()).into_iter().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn shown(run: &RunView) -> Curves {
    Curves::read(&run.events_folder()).unwrap()
}

fn steps(writer: &mut EventWriter, range: std::ops::RangeInclusive<u64>) -> Result<(), Error> {
    for step in range {
        writer.scalars(step, &[("train/loss".into(), 8.0 / step as f32)])?;
        if step % 2 == 0 {
            writer.text(step, "samples/1", &format!("text of {step}"))?;
        }
    }
    Ok(())
}

/// A run that was killed after step 5, in the middle of a record, and resumed from step 3.
fn killed_and_resumed(path: &Path) -> RunView {
    let run = create(path);
    let mut writer = EventWriter::create(&run, 0).unwrap();
    steps(&mut writer, 1..=5).unwrap();
    let torn = std::fs::read(writer.path()).unwrap();
    std::fs::write(writer.path(), &torn[..torn.len() - 7]).unwrap();
    drop((writer, run));
    let run = open(Disk, path).unwrap();
    let mut writer = EventWriter::create(&run, 4).unwrap();
    steps(&mut writer, 4..=6).unwrap();
    RunView::open(path).unwrap()
}

#[test]
fn a_resumed_run_shows_every_step_once() {
    let (_dir, path) = fresh();
    let run = killed_and_resumed(&path);
    assert_eq!(files(&run).len(), 2, "every process has its own file");
    let shown = shown(&run);
    let losses: Vec<(u64, f32)> = (1..=6).map(|step| (step, 8.0 / step as f32)).collect();
    assert_eq!(shown.scalars["train/loss"], losses);
    let texts: Vec<(u64, String)> = [2, 4, 6].map(|s| (s, format!("text of {s}"))).into();
    assert_eq!(shown.texts["samples/1"], texts);
}

#[test]
fn a_run_that_goes_back_takes_its_steps_back() {
    let (_dir, path) = fresh();
    let run = create(&path);
    let mut writer = EventWriter::create(&run, 0).unwrap();
    steps(&mut writer, 1..=4).unwrap();
    writer.restart(3).unwrap();
    steps(&mut writer, 3..=3).unwrap();
    let found: Vec<u64> = shown(&run).scalars["train/loss"].iter().map(|(step, _)| *step).collect();
    assert_eq!(found, [1, 2, 3]);
}

#[test]
#[ignore = "needs the `tensorboard` package in the Python that SMIDGEN_TENSORBOARD_PYTHON names"]
fn tensorboards_own_reader_shows_the_same() {
    let python = std::env::var_os("SMIDGEN_TENSORBOARD_PYTHON").unwrap_or("python3".into());
    let (_dir, path) = fresh();
    let run = killed_and_resumed(&path);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/read_events.py");
    let output = Command::new(python).arg(script).arg(run.events_folder()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let ours = shown(&run);
    let losses = found["scalars"]["train/loss"].as_array().unwrap();
    assert_eq!(losses.len(), 6);
    for (theirs, (step, value)) in losses.iter().zip(&ours.scalars["train/loss"]) {
        assert_eq!(theirs[0].as_u64(), Some(*step));
        assert_eq!(theirs[1].as_f64().map(|value| value as f32), Some(*value));
    }
    let texts = &found["texts"]["samples/1"];
    let expected: Vec<serde_json::Value> = ours.texts["samples/1"]
        .iter()
        .map(|(step, text)| serde_json::json!([step, text]))
        .collect();
    assert_eq!(texts.as_array().unwrap(), &expected);
}

#[test]
fn every_fault_is_told_and_the_next_record_is_whole() {
    let work = |files: Faulty, path: &Path| -> Vec<Error> {
        let run = open(files, path).unwrap();
        let mut writer = match EventWriter::create(&run, 0) {
            Ok(writer) => writer,
            Err(error) => return vec![error],
        };
        let lines = [
            writer.scalars(1, &[("a".into(), 1.0)]),
            writer.text(2, "b", "text"),
            writer.scalars(3, &[("a".into(), 3.0)]),
        ];
        lines.into_iter().filter_map(Result::err).collect()
    };
    let (_dir, path) = fresh();
    drop(create(&path));
    let opening = Faulty::counting();
    drop(open(opening.clone(), &path).unwrap());
    let counting = Faulty::counting();
    work(counting.clone(), &path);
    for n in opening.operations()..counting.operations() {
        for fault in Fault::ALL {
            let (_dir, path) = fresh();
            drop(create(&path));
            let errors = work(Faulty::once(n, fault), &path);
            assert_eq!(errors.len(), 1, "{fault:?} at {n}: {errors:?}");
            let message = errors[0].to_string();
            assert!(message.contains("events"), "{message}");
            // Whatever was written is whole, but for a record that nothing followed.
            for path in files(&RunView::open(&path).unwrap()) {
                let file = EventFile::open(&path).unwrap();
                let torn = file.events().filter(Result::is_err).count();
                assert!(torn == 0 || fault == Fault::ShortWrite, "{fault:?} at {n}");
            }
        }
    }
}

#[test]
fn a_folder_that_cannot_be_written_is_told_at_once() {
    let (_dir, path) = fresh();
    let run = create(&path);
    std::fs::write(run.events_folder(), "a file in the way").unwrap();
    let error = EventWriter::create(&run, 0).err().unwrap();
    assert!(matches!(&error, Error::Io { action: "create", .. }), "{error}");
    assert!(error.to_string().contains("events"), "{error}");
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let golden = include_bytes!("../../../testdata/golden/events.out.tfevents");
    let edits = prop::collection::vec((0..golden.len(), any::<u8>()), 0..6);
    (edits, 0..=golden.len()).prop_map(move |(edits, len)| {
        let mut bytes = golden.to_vec();
        edits.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes.truncate(len);
        bytes
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in mutated()) {
        let len = bytes.len();
        let file = EventFile::from_bytes(Path::new("mutated"), bytes);
        let events: Vec<Result<Event<'_>, Error>> = file.events().collect();
        prop_assert!(events.len() <= len / 16 + 1);
        prop_assert!(events.iter().rev().skip(1).all(Result::is_ok), "an error is the end");
        for event in events.iter().flatten() {
            prop_assert!(event.values().all(|value| value.tag.len() < len));
        }
    }
}

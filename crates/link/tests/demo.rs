//! The whole chain on a world of a moment: every part runs, is measured, and is taken over.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use smidgen_link::Error;
use smidgen_link::demo::{LINK_JSON, Shown, TableLine, demo, evaluate, shown};
use smidgen_link::record::LinkRecord;
use smidgen_link::world::{Bar, Bridge, Preset, Sets, Student, World, task};
use smidgen_train::{Context, Silent};

/// Too small to learn anything: gates that ask for nothing let it pass.
fn preset() -> Preset {
    let tiny = *Preset::named("tiny").unwrap();
    let student = |student: Student| Student { steps: 2, rows: 2, ..student };
    Preset {
        sets: Sets { train: 4, dev: 2, test: 3, receiver: 2, both: 4, neither: 6 },
        documents: 4,
        sharer: student(tiny.sharer),
        receiver: student(tiny.receiver),
        fuser: Bridge { steps: 4, batch: 4, rounds: 1, ..tiny.fuser },
        knows: Bar { wanted: 0.0, least: 0.0 },
        understands: Bar { wanted: 0.0, least: 0.0 },
        ..tiny
    }
}

fn run(folder: &Path, preset: Preset, stop: bool) -> Result<Shown, Error> {
    let stop = AtomicBool::new(stop);
    demo(&World::of(preset, 3), folder, &mut Context::new(&mut Silent, &stop))
}

#[test]
fn a_model_that_does_not_know_its_own_facts_ends_it_by_name() {
    let asked = Bar { wanted: 1.0, least: 0.9 };
    for (preset, role) in [
        (Preset { understands: asked, ..preset() }, "receiver"),
        (Preset { knows: asked, ..preset() }, "sharer"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = run(folder.path(), preset, false).unwrap_err();
        assert!(matches!(error, Error::Gate { .. }), "{error}");
        assert!(
            error.to_string().contains(role) && error.to_string().contains("90.0 %"),
            "{error}"
        );
        // Nothing is measured with a model that failed.
        assert!(!folder.path().join("evals").exists() && !folder.path().join(LINK_JSON).exists());
    }
}

/// What `env.json` says that was computed.
fn objective(run: &std::path::Path) -> String {
    let env: serde_json::Value = smidgen_store::read_json(&run.join("env.json")).unwrap();
    assert!(env["kernels"].is_string() && env["seed"] == 3, "{env}");
    env["objective"].as_str().unwrap().into()
}

#[test]
fn every_line_of_every_task_is_measured_and_kept() {
    let folder = tempfile::tempdir().unwrap();
    // A stop is an end with everything saved, and the same call goes on.
    let stopped = run(folder.path(), preset(), true).unwrap_err();
    assert!(matches!(stopped, Error::Interrupted { .. }), "{stopped}");
    let first = run(folder.path(), preset(), false).unwrap();
    let ids: Vec<&str> = first.tasks.iter().map(|task| &*task.task).collect();
    assert_eq!(ids, ["t1", "t2", "t3", "t4", "t8", "t7"]);
    assert_eq!(first.models.len(), 3);
    assert!(first.fusers.iter().all(|fuser| fuser.layers == 2 && fuser.params > 1000));
    let mut sent = 0;
    for task in &first.tasks {
        let names: Vec<&str> = task.lines.iter().map(|line| &*line.name).collect();
        let controls = ["receiver fine-tuned on the fuser's data", "identical sharer c2c f16"];
        let first = [&["receiver alone", "sharer alone"][..], &controls, &["c2c f16"]].concat();
        assert_eq!(names[..5], first, "{}", task.task);
        for compared in &task.compared {
            assert!(names.contains(&&*compared.line) && names.contains(&&*compared.against));
        }
        let alone = &task.lines[0];
        assert_eq!((alone.wire_bytes, alone.gain.mean), (0.0, 0.0));
        let bytes = |name: &str| {
            task.lines.iter().find(|line| line.name == name).map(|line| line.wire_bytes).unwrap()
        };
        if bytes("c2c f16") > 0.0 {
            sent += 1;
            assert!(bytes("c2c int4") < bytes("c2c int8") && bytes("c2c int8") < bytes("c2c f16"));
            assert!(bytes("back p=0.25 int8") < bytes("back p=0.5 int8"));
            assert!(bytes("rd_hull 1/8") <= bytes("c2c int8") / 4.0);
        }
    }
    assert!(sent > 0, "no gate is open, and nothing was sent");
    // Every prediction is held against what was measured.
    let of = |task: &str| first.targets.iter().filter(|judged| judged.task == task).count();
    assert_eq!(["t1", "t2", "t3", "t4", "t7", "t8"].map(of), [14, 6, 10, 7, 5, 6]);
    let together = first.targets.iter().find(|judged| judged.asked == 0.3).unwrap();
    let t4 = first.tasks.iter().find(|task| task.task == "t4").unwrap();
    let share = |name: &str| t4.lines.iter().find(|line| line.name == name).unwrap();
    let better = ["receiver alone", "sharer alone"].map(|name| share(name).accuracy.mean);
    let gain = share("c2c f16").accuracy.mean - better[0].max(better[1]);
    assert!((together.measured.mean - gain).abs() < 1e-9, "{together:?}");
    // Every line has a run of its own, with all that a record must say.
    let (mut records, mut receivers) = (0, BTreeSet::new());
    for task in &first.tasks {
        for run in std::fs::read_dir(folder.path().join("evals").join(&task.task)).unwrap() {
            let run = run.unwrap().path();
            let record: LinkRecord = smidgen_store::read_json(&run.join("link.json")).unwrap();
            assert_eq!(objective(&run), "link");
            record.check().unwrap();
            let title = |line: &&TableLine| {
                let name = line.name.strip_suffix(" (upper bound)").unwrap_or(&line.name);
                let budget = record.budget.budget.to_string();
                name == record.method || name == format!("{} {budget}", record.method)
            };
            let line = task.lines.iter().find(title).unwrap();
            let bytes = record.bytes_measured_total as f64 / record.n as f64;
            assert!((bytes - line.wire_bytes).abs() < 1e-9, "{}", record.key);
            assert_eq!(record.bytes_estimated_total, record.bytes_measured_total);
            assert_eq!((record.accuracy, record.bpb), (Some(line.accuracy), None));
            // Who answered, and who was asked.
            let (answering, sharing) = (&record.receiver.fingerprint, &record.sharer.fingerprint);
            assert_eq!(answering == sharing, record.method.starts_with("identical"));
            let is_tuned = record.method.starts_with("receiver fine-tuned");
            assert_eq!(record.receiver.id == "receiver-tuned", is_tuned);
            receivers.insert((is_tuned, answering.clone()));
            records += 1;
        }
    }
    assert_eq!(records, first.tasks.iter().map(|task| task.lines.len()).sum::<usize>());
    // Every run that was trained says where and with what, like any other.
    for (run, trained) in [
        ("sharer", "world"),
        ("receiver", "world"),
        ("mute", "world"),
        ("fuser-sharer", "fuser"),
        ("fuser-mute-identical", "fuser"),
        ("receiver-tuned-sharer", "world"),
    ] {
        assert_eq!(objective(&folder.path().join(run)), trained, "{run}");
    }
    // One receiver for both sharers, and one that was taught for each.
    assert_eq!(receivers.iter().filter(|(is_tuned, _)| !is_tuned).count(), 1);
    assert_eq!(receivers.len(), 3);
    // What is there is taken over, to the last bit.
    assert_eq!(run(folder.path(), preset(), false).unwrap(), first);
    assert_eq!(shown(folder.path()).unwrap(), first);
    assert!(folder.path().join(LINK_JSON).is_file());
    // A part that was lost is named and not made again in passing.
    let stop = AtomicBool::new(false);
    let fuser = folder.path().join("fuser-mute/fuser.safetensors");
    std::fs::rename(&fuser, fuser.with_extension("away")).unwrap();
    let wanted = [task("t7").unwrap()];
    let lost = evaluate(folder.path(), &wanted, &mut Context::new(&mut Silent, &stop));
    assert!(matches!(lost, Err(Error::Unfinished { path }) if path == fuser));
    // It was made with a preset of another size than the one of its name.
    let stop = AtomicBool::new(false);
    let again = evaluate(folder.path(), &[], &mut Context::new(&mut Silent, &stop));
    assert!(matches!(again, Err(Error::OtherWorld { .. })), "{again:?}");
}

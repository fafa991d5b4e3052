//! Two models in files, linked over a text: trained, measured, stopped and gone on with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use serde_json::Value;
use smidgen_codec::Rng;
use smidgen_data::Tokenizer;
use smidgen_link::methods::Stage;
use smidgen_link::record::{LinkRecord, check_schema};
use smidgen_link::text::{Documents, FUSER, TextConfig, TextJob, TextModel, TextRecord, fuse_text};
use smidgen_link::{Error, KvShape};
use smidgen_store::{Disk, read_json};
use smidgen_train::{Context, Event, Progress, Silent};

/// A text of some documents.
fn text() -> String {
    let animals = ["cat", "dog", "owl", "fox", "hen"];
    let mut text = String::new();
    for i in 0..40 {
        let (one, two) = (animals[i % 5], animals[(i / 5 + i) % 5]);
        write!(text, "Once {i} apples lay by the river.\n\nThe {one} met the {two} and ate ")
            .unwrap();
        writeln!(text, "{} apples. The {two} ran home to the hill.\n", i * 7 % 13).unwrap();
    }
    text
}

/// A model of drawn weights in the llama2.c form, with a tokenizer beside it.
fn model(folder: &Path, name: &str, vocab: usize, [dim, kv_heads, seed]: [usize; 3]) -> PathBuf {
    let folder = folder.join(name);
    fs::create_dir(&folder).unwrap();
    let tokenizer = Tokenizer::train(&[&*text()], vocab, 1).unwrap();
    tokenizer.save(&Disk, &folder.join("tokenizer.json")).unwrap();
    let (layers, heads, ffn, context) = (2, 4, 24, 160);
    let (vocab, head) = (tokenizer.vocab_size(), dim / heads);
    let sizes = [dim, ffn, layers, heads, kv_heads, vocab, context];
    let mut bytes: Vec<u8> = sizes.iter().flat_map(|size| (*size as i32).to_le_bytes()).collect();
    let (square, kv, up) = (dim * dim, dim * kv_heads * head, dim * ffn);
    let norms = [1, 6];
    let kinds = [dim, square, kv, kv, square, dim, up, up, up].map(|size| size * layers);
    let kinds = [&[vocab * dim], &kinds[..], &[dim, context * head]].concat();
    let rng = Rng::named(seed as u64, name);
    for (kind, size) in kinds.iter().enumerate() {
        let mut values = vec![1.0; *size];
        if !norms.contains(&kind) && kind != 10 {
            rng.fill_normal(kind as u64, 0, 0.4, &mut values);
        }
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
    let path = folder.join("model.bin");
    fs::write(&path, bytes).unwrap();
    path
}

fn job(folder: &Path, run: &str) -> TextJob {
    let path = |name: &str| folder.join(name).join("model.bin");
    if !path("sharer").exists() {
        model(folder, "sharer", 300, [24, 2, 1]);
        model(folder, "receiver", 265, [16, 4, 2]);
    }
    TextJob {
        sharer: (path("sharer"), None),
        receiver: (path("receiver"), None),
        text: text(),
        from: None,
        config: TextConfig {
            hidden: 12,
            steps: 16,
            batch: 4,
            lr: 5e-3,
            context_bytes: 40,
            continuation_bytes: 16,
            document_start: Some("Once".into()),
            ..TextConfig::default()
        },
        out: folder.join(run),
    }
}

fn run(job: &TextJob) -> Result<TextRecord, Error> {
    let stop = AtomicBool::new(false);
    fuse_text(job, &mut Context::new(&mut Silent, &stop))
}

fn bytes_of(record: &TextRecord, name: &str) -> f64 {
    let line = record.lines.iter().find(|line| line.name == name);
    line.unwrap_or_else(|| panic!("no line `{name}`")).wire_bytes
}

/// The records of a run's lines, which say of each line what the table says, and with what.
fn records(job: &TextJob, record: &TextRecord) -> BTreeMap<String, LinkRecord> {
    let folder = job.out.join("evals/text");
    let mut found = BTreeMap::new();
    for run in fs::read_dir(&folder).unwrap() {
        let run = run.unwrap().path();
        let kept: LinkRecord = read_json(&run.join("link.json")).unwrap();
        kept.check().unwrap();
        check_schema(&read_json(&run.join("link.json")).unwrap()).unwrap();
        assert_eq!(objective(&run), "link");
        found.insert(kept.method.clone(), kept);
    }
    assert_eq!(found.len(), record.lines.len());
    let alignment = record.alignment;
    for line in &record.lines {
        let kept = &found[&line.name];
        assert_eq!((kept.bpb, kept.accuracy), (Some(line.bpb), None), "{}", line.name);
        assert_eq!((kept.n, kept.answer_histogram.len()), (record.items as u64, 0));
        assert!((kept.bytes_measured_total as f64 / kept.n as f64 - line.wire_bytes).abs() < 1e-9);
        assert_eq!(kept.bytes_estimated_total, kept.bytes_measured_total, "{}", line.name);
        assert_eq!((&kept.sharer.fingerprint, kept.sharer.kv), facts(&record.sharer));
        assert_eq!((&kept.receiver.fingerprint, kept.receiver.kv), facts(&record.receiver));
        assert_eq!(kept.alignment.one_to_one_rate, Some(alignment.one_to_one));
        assert_eq!((&*kept.corpus_version, &*kept.task), (&*record.text_sha256, "text"));
        let fuser = match line.name.split_once(' ').unwrap() {
            ("receiver" | "sharer", _) => None,
            ("first", _) => record.from.as_ref(),
            _ => Some(&record.fuser.fingerprint),
        };
        assert_eq!(kept.fuser.as_ref().map(|fuser| &fuser.fingerprint), fuser, "{}", line.name);
        let sent = line.wire_bytes > 0.0;
        let stages = [Stage::Encode, Stage::Decode].map(|stage| kept.timings_ms[&stage].is_some());
        assert_eq!((kept.wire.is_some(), stages), (sent, [sent; 2]), "{}", line.name);
        let last = line.name.contains("last p=");
        assert_eq!(kept.selection.is_some(), last && sent, "{}", line.name);
    }
    found
}

fn facts(model: &TextModel) -> (&String, KvShape) {
    (&model.fingerprint, model.kv)
}

/// What `env.json` says that was computed.
fn objective(run: &Path) -> String {
    let env: Value = read_json(&run.join("env.json")).unwrap();
    assert!(env["kernels"].is_string() && env["seed"] == 1, "{env}");
    env["objective"].as_str().unwrap().into()
}

#[test]
fn a_fuser_is_trained_and_measured_beside_its_controls() {
    let folder = tempfile::tempdir().unwrap();
    let job = job(folder.path(), "run");
    let record = run(&job).unwrap();
    assert!(job.out.join(FUSER).is_file() && job.out.join("link.json").is_file());
    assert_eq!(objective(&job.out), "fuser");
    assert_eq!((record.fuser.layers, record.documents.left_out), (2, 0));
    assert_eq!(record.documents.train + record.documents.val + record.documents.test, 40);
    let names: Vec<&str> = record.lines.iter().map(|line| &*line.name).collect();
    assert_eq!(names[..3], ["receiver alone", "sharer alone", "link f16"]);
    assert!(names.contains(&"shuffled payload") && names.contains(&"zero payload"));
    assert!(record.fuser.open_gates > 0, "nothing would be sent");
    assert!(bytes_of(&record, "link int4") < bytes_of(&record, "link int8"));
    assert!(bytes_of(&record, "link int8") < bytes_of(&record, "link f16"));
    assert_eq!(bytes_of(&record, "link f16"), bytes_of(&record, "shuffled payload"));
    assert_eq!(bytes_of(&record, "zero payload"), 0.0);
    assert_eq!((record.lines[0].gain.low, record.lines[0].gain.high), (0.0, 0.0));
    assert!(record.lines.iter().all(|line| line.bpb.low > 0.0 && line.bpb.high.is_finite()));
    assert!(record.alignment.one_to_one < 1.0, "the tokenizers are two");
    let kept = records(&job, &record);
    // What is finished is taken over and measured to the same bits; another job is refused.
    assert_eq!(run(&job).unwrap(), record);
    assert_eq!(records(&job, &record), kept, "a line that was measured before is left as it is");
    let mut other = job.clone();
    other.config.lr = 1e-3;
    let refused = run(&other).unwrap_err().to_string();
    assert!(refused.contains("`lr`") && refused.contains("run.toml"), "{refused}");
}

/// Stops at a step.
struct StopAt<'a>(u64, &'a AtomicBool);

impl Progress for StopAt<'_> {
    fn event(&mut self, event: Event<'_>) {
        if matches!(event, Event::Step(step) if step.step >= self.0) {
            self.1.store(true, Relaxed);
        }
    }
}

#[test]
fn a_run_that_was_stopped_ends_with_the_same_fuser() {
    let folder = tempfile::tempdir().unwrap();
    for any_rate in [false, true] {
        let mut whole = job(folder.path(), &format!("whole-{any_rate}"));
        whole.config.any_rate = any_rate;
        let record = run(&whole).unwrap();
        let parts =
            TextJob { out: folder.path().join(format!("parts-{any_rate}")), ..whole.clone() };
        for at in [3, 9] {
            let stop = AtomicBool::new(false);
            let stopped = fuse_text(&parts, &mut Context::new(&mut StopAt(at, &stop), &stop));
            assert!(matches!(stopped, Err(Error::Interrupted { .. })), "{stopped:?}");
        }
        assert_eq!(run(&parts).unwrap(), record);
        let [a, b] = [&whole, &parts].map(|job| fs::read(job.out.join(FUSER)).unwrap());
        assert!(a == b, "other bits, any rate: {any_rate}");
    }
}

#[test]
fn one_fuser_begins_with_another_and_is_compared_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = job(folder.path(), "first");
    let before = run(&first).unwrap();
    let mut second = TextJob { from: Some(first.out.clone()), ..job(folder.path(), "second") };
    second.config.any_rate = true;
    let record = run(&second).unwrap();
    assert_eq!(record.from, Some(before.fuser.fingerprint.clone()));
    assert_ne!(record.fuser.fingerprint, before.fuser.fingerprint);
    records(&second, &record);
    for line in &before.lines[2..] {
        let again = record.lines.iter().find(|it| it.name == format!("first fuser, {}", line.name));
        assert_eq!(again.map(|it| (it.wire_bytes, it.bpb)), Some((line.wire_bytes, line.bpb)));
    }
    let against = |name: &str| {
        let found =
            record.comparisons.iter().find(|it| it.line == name && it.over.contains("first"));
        found.is_some()
    };
    assert!(against("link int4") && against("link int2") && against("last p=0.1 int4"));
}

#[test]
fn a_sharer_may_read_more_and_the_closed_form_needs_no_steps() {
    let folder = tempfile::tempdir().unwrap();
    let plain = run(&job(folder.path(), "plain")).unwrap();
    let mut more = job(folder.path(), "more");
    more.config.more_context_bytes = 60;
    let more = run(&more).unwrap();
    // The receiver's text is the same, and no token travels that stands for none of its.
    assert_eq!(more.lines[0], plain.lines[0]);
    assert_ne!(more.lines[1], plain.lines[1]);
    let mut linear = job(folder.path(), "linear");
    linear.config.variant = "linear".into();
    let (linear, out) = (run(&linear).unwrap(), linear.out);
    assert_eq!(objective(&out), "fuser");
    assert_eq!(linear.lines[0], plain.lines[0]);
    assert_eq!(linear.fuser.layers, 2);
}

#[test]
fn what_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = |change: &dyn Fn(&mut TextJob)| {
        let mut job = job(folder.path(), "wrong");
        change(&mut job);
        let said = run(&job).unwrap_err().to_string();
        assert!(!job.out.exists(), "{said}");
        said
    };
    assert!(wrong(&|job| job.config.steps = 0).contains("`steps`"));
    assert!(wrong(&|job| job.config.context_bytes = 0).contains("`context_bytes`"));
    assert!(wrong(&|job| job.config.context_bytes = 4000).contains("`text`"));
    assert!(wrong(&|job| job.text = "Once.".into()).contains("`text`"));
    // One document of the test: the control has no other whose cache it could send.
    let one = wrong(&|job| {
        let documents = Documents::of(&job.text, Some("Once")).unwrap();
        let part = [&documents.train[..], &documents.val, &documents.test[..1]].concat();
        job.text = part.join("<|endoftext|>");
    });
    assert!(one.contains("at least 2 documents") && one.ends_with("got 1"), "{one}");
    let none = wrong(&|job| job.from = Some(folder.path().join("nothing")));
    assert!(none.contains("no fuser layer"), "{none}");
}

/// The two small models that were really trained.
#[test]
#[allow(clippy::print_stderr)] // A skipped test says so.
fn two_real_models() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let (sharer, receiver) = (
        data.join("models/babyllama_tok105/model5000.bin"),
        data.join("models/stories260k/stories260K.bin"),
    );
    let text = fs::read_to_string(data.join("corpus/tinystories_sample.txt"));
    let (Ok(text), true, true) = (text, sharer.exists(), receiver.exists()) else {
        return eprintln!("skipped: no models in {}", data.display());
    };
    let folder = tempfile::tempdir().unwrap();
    let start = text.char_indices().map(|(at, _)| at).find(|at| *at >= 30_000).unwrap();
    let mut job = TextJob {
        sharer: (sharer, None),
        receiver: (receiver, None),
        text: text[..start].into(),
        ..job(folder.path(), "run")
    };
    job.config = TextConfig { hidden: 16, steps: 4, one_line: true, ..job.config };
    let record = run(&job).unwrap();
    // Bits per byte of stories that both were trained for.
    assert!(record.lines[..2].iter().all(|line| line.bpb.mean < 2.0), "{:?}", record.lines);
    assert_eq!(record.fuser.layers, 5);
}

//! `link.json` field by field, runs that are not done twice, and the table.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use smidgen_link::methods::{PayloadKind, Stage};
use smidgen_link::plan::{Budget, ScoreStats, SelectionConfig, SelectionStats};
use smidgen_link::record::{
    Alignment, BudgetRecord, ByteBreakdown, Decoding, FuserFacts, Host, Kind, LINK_JSON,
    LinkRecord, LinkRun, ModelFacts, PrecisionRecord, SCHEMA, SCHEMA_VERSION, SelectionRecord,
    ShapeSource, Spread, Status, TextRecord, WireRecord, check_schema, find_done,
};
use smidgen_link::stats::Interval;
use smidgen_link::{Error, KvShape};
use smidgen_store::{Disk, Fault, Faulty};

const ITEMS: [SelectionStats; 2] = [
    SelectionStats {
        tokens: 48,
        scope_tokens: 40,
        selected_tokens: 10,
        fraction: 0.25,
        min_tokens_bound: false,
        score: Some(ScoreStats { mean: 1.0, min: 0.0, max: 3.0 }),
    },
    SelectionStats {
        tokens: 40,
        scope_tokens: 2,
        selected_tokens: 1,
        fraction: 0.5,
        min_tokens_bound: true,
        score: None,
    },
];

fn model(id: &str) -> ModelFacts {
    ModelFacts {
        id: id.into(),
        fingerprint: "f".into(),
        kv: KvShape { layers: 6, kv_heads: 2, key_dim: 32, value_dim: 32 },
        shape_from: ShapeSource::Weights,
        tokenizer_sha256: "t".into(),
    }
}

fn spread(value: f64) -> Spread {
    Spread::of(&[value]).unwrap()
}

/// A record in which nothing is null that need not be.
fn full() -> LinkRecord {
    let breakdown = ByteBreakdown {
        header: 240,
        table: 320,
        indices: 6,
        payload_k: 1000,
        payload_v: 1000,
        scales: 100,
        ..ByteBreakdown::default()
    };
    let map = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect()
    };
    LinkRecord {
        schema_version: SCHEMA_VERSION,
        status: Status::Complete,
        reason: None,
        key: "small|T1".into(),
        config_hash: "c".into(),
        finished_unix_s: 1_700_000_000,
        pair_id: "small".into(),
        receiver: model("r"),
        sharer: model("s"),
        fuser: Some(FuserFacts { fingerprint: "f".into(), layers_loaded: 4, parameters: 570_000 }),
        prompt_template_id: "mc-v1".into(),
        decoding: Decoding { settings_hash: "d".into(), temperature: 0.0, max_new_tokens: 64 },
        task: "T1".into(),
        n: 2,
        example_ids_hash: "e".into(),
        context_len_bucket: "baseline".into(),
        prompt_tokens: spread(48.0),
        corpus_version: "world-1".into(),
        longctx_seed: Some(1),
        alignment: Alignment {
            on: true,
            strategy: Some("native_offset".into()),
            one_to_one_rate: Some(0.6),
            unmapped_rate: Some(0.0),
        },
        method: "kv".into(),
        payload: PayloadKind::Kv,
        is_upper_bound: false,
        selection: Some(SelectionRecord::of(SelectionConfig::default(), &ITEMS).unwrap()),
        precision: Some(PrecisionRecord {
            tokens: map(&[("drop", 31), ("int4", 8), ("int8", 3)]),
            effective_bits: 5.1,
            allocator: Some("rd_hull".into()),
        }),
        budget: BudgetRecord {
            budget: Budget::Share { numerator: 1, denominator: 8 },
            cap_bytes: Some(spread(1400.0)),
            actual_bytes: spread(1333.0),
            slack_bytes: Some(spread(67.0)),
            empty_items: 0,
        },
        bytes_estimated_total: 2670,
        bytes_estimate: 2670,
        bytes_measured_total: breakdown.total(),
        bytes_measured_breakdown: breakdown,
        wire: Some(WireRecord {
            format: "kvw".into(),
            version: "1.0".into(),
            profile: "standalone".into(),
            index: "auto".into(),
            scale_dtype: "f16".into(),
            scale_granularity: "block".into(),
            compression: "none".into(),
            layers_per_block: 6,
        }),
        timings_ms: Stage::ALL.map(|stage| (stage, Some(spread(1.5)))).into(),
        text: None,
        answer_histogram: map(&[("A", 2)]),
        mean_output_tokens: 1.0,
        accuracy: Some(Interval { mean: 0.5, low: 0.0, high: 1.0 }),
        bpb: None,
        seeds: map(&[("world", 1)]),
        code_version: "0.1.0".into(),
        host: Host { cpu: "c".into(), os: "linux".into(), threads: 2, kernels: "avx2".into() },
    }
}

/// The same as words, so that the fields of words are there too.
fn text() -> LinkRecord {
    LinkRecord {
        method: "text".into(),
        payload: PayloadKind::Text,
        precision: None,
        wire: None,
        text: Some(TextRecord { style: "hint".into(), max_new_tokens: 20, truncation_rate: 0.1 }),
        bytes_measured_total: 60,
        bytes_measured_breakdown: ByteBreakdown { text: 60, ..ByteBreakdown::default() },
        ..full()
    }
}

/// A text that is scored, and nothing answered.
fn scored() -> LinkRecord {
    LinkRecord {
        answer_histogram: BTreeMap::new(),
        mean_output_tokens: 0.0,
        accuracy: None,
        bpb: Some(Interval { mean: 1.2, low: 1.1, high: 1.4 }),
        ..full()
    }
}

/// The place that a path leads to; none where a part of it is null or not there.
fn at<'a>(value: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (parents, last) = path.rsplit_once('.').unwrap_or(("", path));
    let mut place = value;
    for key in parents.split('.').filter(|key| !key.is_empty()) {
        place = place.get_mut(key)?;
    }
    place.get(last)?;
    Some((place, last.to_owned()))
}

#[test]
fn every_required_field_is_there_with_its_type_and_null_only_where_it_may_be() {
    let mut seen = 0;
    for record in [full(), text(), scored()] {
        record.check().unwrap();
        let value = serde_json::to_value(&record).unwrap();
        for field in SCHEMA {
            let mut changed = value.clone();
            let Some((place, key)) = at(&mut changed, field.path) else { continue };
            seen += 1;
            let own = place[&key].clone();
            let wrong = if field.kind == Kind::Text { Value::from(3) } else { Value::from("3") };
            for (instead, fits) in
                [(Value::Null, field.may_be_null || own.is_null()), (wrong, false)]
            {
                at(&mut changed, field.path).unwrap().0[&key] = instead;
                assert_eq!(check_schema(&changed).is_ok(), fits, "{}", field.path);
            }
            let parent = at(&mut changed, field.path).unwrap().0;
            parent.as_object_mut().unwrap().remove(&key);
            let error = check_schema(&changed).unwrap_err().to_string();
            assert!(error.contains(&format!("`{}`", field.path)), "{error}");
            // What the schema misses the reader misses too, but for settings with defaults, and for what
            // records of before did not say.
            let read = serde_json::from_value::<LinkRecord>(changed);
            let by_default =
                [".config.", "timings_ms."].iter().any(|part| field.path.contains(part));
            let by_default = by_default || field.path == "bpb";
            assert!(read.is_err() || by_default, "{}", field.path);
        }
    }
    assert!(seen > SCHEMA.len());
    for field in SCHEMA {
        let in_any = [full(), text(), scored()]
            .iter()
            .any(|record| at(&mut serde_json::to_value(record).unwrap(), field.path).is_some());
        assert!(in_any, "no record has `{}`", field.path);
    }
}

#[test]
fn a_record_reads_back_and_strangers_are_refused() {
    for record in [full(), text(), scored()] {
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<LinkRecord>(&text).unwrap(), record);
        let mut value = serde_json::to_value(&record).unwrap();
        value["extra"] = Value::from(1);
        assert!(serde_json::from_value::<LinkRecord>(value).is_err());
    }
}

/// Records of before texts were scored say nothing of it, and read as they did.
#[test]
fn a_record_without_bits_per_byte_still_reads() {
    let mut value = serde_json::to_value(full()).unwrap();
    value.as_object_mut().unwrap().remove("bpb");
    assert_eq!(serde_json::from_value::<LinkRecord>(value).unwrap(), full());
}

#[test]
fn figures_that_contradict_each_other_are_errors() {
    let nothing = ByteBreakdown::default();
    let mut cases: Vec<(&str, LinkRecord)> = vec![
        (
            "bytes_measured_total",
            LinkRecord { bytes_measured_total: 0, bytes_measured_breakdown: nothing, ..full() },
        ),
        ("bytes_measured_breakdown", LinkRecord { bytes_measured_total: 5, ..full() }),
        ("bytes_estimate", LinkRecord { bytes_estimate: 1, ..full() }),
        ("schema_version", LinkRecord { schema_version: 2, ..full() }),
        ("reason", LinkRecord { status: Status::Failed, ..full() }),
        ("wire", LinkRecord { wire: None, ..full() }),
        ("text", LinkRecord { text: None, ..text() }),
        ("answer_histogram", LinkRecord { n: 3, ..full() }),
        ("timings_ms", LinkRecord { timings_ms: BTreeMap::new(), ..full() }),
    ];
    let mut record = full();
    record.fuser.as_mut().unwrap().layers_loaded = 0;
    cases.push(("fuser.layers_loaded", record));
    let mut record = full();
    record.receiver.kv.key_dim = 0;
    cases.push(("receiver", record));
    let mut record = full();
    record.budget.actual_bytes = spread(1500.0);
    cases.push(("budget.actual_bytes", record));
    let mut record = full();
    record.accuracy.as_mut().unwrap().low = 0.9;
    cases.push(("accuracy", record));
    // What has ended has measured one of two things, and nobody answers while a text is scored.
    cases.push(("accuracy", LinkRecord { bpb: scored().bpb, ..full() }));
    cases.push(("accuracy", LinkRecord { bpb: None, ..scored() }));
    let answers = full().answer_histogram;
    cases.push(("answer_histogram", LinkRecord { answer_histogram: answers, ..scored() }));
    let mut record = scored();
    record.bpb.as_mut().unwrap().high = 1.0;
    cases.push(("bpb", record));
    let mut record = scored();
    record.bpb.as_mut().unwrap().mean = f64::NAN;
    cases.push(("bpb", record));
    let mut record = full();
    record.mean_output_tokens = f64::NAN;
    cases.push(("mean_output_tokens", record));
    for (field, record) in cases {
        let error = record.check().unwrap_err().to_string();
        assert!(error.contains(field), "{field}: {error}");
    }
}

#[test]
fn a_cache_that_was_measured_at_nothing_is_an_error_only_where_tokens_were_selected() {
    let mut record = full();
    (record.bytes_measured_total, record.bytes_measured_breakdown) = (0, ByteBreakdown::default());
    record.selection = None;
    assert!(record.check().is_err(), "eleven tokens travelled as nothing");
    record.precision.as_mut().unwrap().tokens.retain(|name, _| name == "drop");
    record.check().unwrap();
}

#[test]
fn selection_over_items_says_how_often_the_floor_bound() {
    let record = SelectionRecord::of(SelectionConfig::default(), &ITEMS).unwrap();
    assert_eq!(record.min_tokens_bound_items, 1);
    assert_eq!(record.fraction.mean, 0.375);
    assert_eq!(record.score.unwrap().max, 3.0);
    assert!(SelectionRecord::of(SelectionConfig::default(), &[]).is_err());
}

fn run(files: Arc<dyn smidgen_store::Files>, path: &Path) -> Result<LinkRun, Error> {
    LinkRun::create(files, path, "seed = 1\n", "small|T1", "c")
}

#[test]
fn what_was_done_is_found_and_only_that() {
    let dir = tempfile::tempdir().unwrap();
    let find = || find_done(dir.path(), "small|T1", "c").unwrap();
    assert_eq!(find(), None);
    assert_eq!(find_done(&dir.path().join("none"), "k", "c").unwrap(), None);
    let states = [
        ("a-unfinished", None),
        ("b-smoke", Some(LinkRecord { status: Status::Smoke, ..full() })),
        (
            "c-failed",
            Some(LinkRecord { status: Status::Failed, reason: Some("gate".into()), ..full() }),
        ),
    ];
    for (name, record) in states {
        let run = run(Arc::new(Disk), &dir.path().join(name)).unwrap();
        if let Some(record) = record {
            run.finish(&record).unwrap();
        }
        drop(run);
        assert_eq!(find(), None, "{name}");
    }
    let path = dir.path().join("d-done");
    let done = run(Arc::new(Disk), &path).unwrap();
    done.finish(&full()).unwrap();
    assert_eq!(find(), None, "a process still has it");
    drop(done);
    assert_eq!(find().unwrap().run, path);
    assert_eq!(find_done(dir.path(), "small|T1", "other").unwrap(), None);
    assert_eq!(find_done(dir.path(), "small|T2", "c").unwrap(), None);
    // A later version may have more fields.
    let mut value: Value =
        serde_json::from_str(&std::fs::read_to_string(path.join(LINK_JSON)).unwrap()).unwrap();
    value["later"] = Value::from(1);
    std::fs::write(path.join(LINK_JSON), value.to_string()).unwrap();
    assert_eq!(find().unwrap().run, path);
}

#[test]
fn a_run_takes_its_own_record_alone() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(Arc::new(Disk), &dir.path().join("run")).unwrap();
    let other = LinkRecord { config_hash: "other".into(), ..full() };
    let error = run.finish(&other).unwrap_err().to_string();
    assert_eq!(error, "link.json, `config_hash`: expected c, got other");
    let broken = LinkRecord { bytes_estimate: 0, ..full() };
    assert!(run.finish(&broken).is_err());
    assert!(!run.dir().file(LINK_JSON).exists());
}

#[test]
fn a_fault_while_writing_leaves_no_record_or_a_whole_one() {
    let counting = Arc::new(Faulty::counting());
    let dir = tempfile::tempdir().unwrap();
    run(counting.clone(), &dir.path().join("count")).unwrap().finish(&full()).unwrap();
    for n in 0..counting.operations() {
        let path = dir.path().join(format!("run-{n}"));
        let files = Arc::new(Faulty::once(n, Fault::Device));
        let _ = run(files, &path).and_then(|run| run.finish(&full()));
        if path.join(LINK_JSON).exists() {
            let text = std::fs::read_to_string(path.join(LINK_JSON)).unwrap();
            assert_eq!(serde_json::from_str::<LinkRecord>(&text).unwrap(), full());
        } else {
            // What was cut off goes on.
            run(Arc::new(Disk), &path).unwrap().finish(&full()).unwrap();
        }
    }
    // Another request does not.
    let path = dir.path().join("begun");
    drop(run(Arc::new(Disk), &path).unwrap());
    assert!(LinkRun::create(Arc::new(Disk), &path, "", "k", "other").is_err());
}

//! Preparation: same bytes for any number of threads, all or nothing, and every damage has a name.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{prepared, rule, sides, stories, tokenizer};
use smidgen_data::{Dataset, Error, prepare};
use smidgen_store::{Fault, Faulty};

const FILES: [&str; 5] = [
    "tokenizer.json",
    "data/train.tokens",
    "data/val.tokens",
    "data/documents.jsonl",
    "data/dataset.json",
];

fn bytes(run: &Path) -> Vec<Vec<u8>> {
    FILES.iter().map(|file| std::fs::read(run.join(file)).unwrap()).collect()
}

#[test]
fn the_number_of_threads_leaves_no_trace() {
    let (one, _) = prepared(1);
    for threads in [2, 5] {
        let (other, _) = prepared(threads);
        assert!(bytes(one.path()) == bytes(other.path()), "{threads} threads");
    }
}

/// Hash seeds are drawn anew in every process, so one process alone would prove little.
#[test]
fn processes_and_thread_settings_leave_no_trace() {
    if let Some(answer) = std::env::var_os("SMIDGEN_TEST_ANSWER") {
        let (_run, dataset) = prepared(2);
        std::fs::write(PathBuf::from(answer), dataset.sha256).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_run, here) = prepared(1);
    for (name, parallelism, threads) in [("a", "false", "1"), ("b", "true", "2")] {
        let answer = dir.path().join(name);
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes_and_thread_settings_leave_no_trace"])
            .env("SMIDGEN_TEST_ANSWER", &answer)
            .env("TOKENIZERS_PARALLELISM", parallelism)
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        assert!(status.status.success());
        assert_eq!(std::fs::read_to_string(answer).unwrap(), here.sha256);
    }
}

#[test]
fn the_stream_decodes_to_the_documents() {
    let source = stories();
    let (corpus, split) = sides(source.path());
    let (_run, dataset) = prepared(2);
    for (shard, pieces) in [(&dataset.train, &split.train), (&dataset.val, &split.val)] {
        let mut tokens = vec![0; shard.tokens() as usize];
        shard.read(0, &mut tokens);
        assert_eq!(tokens.last(), Some(&dataset.tokenizer.prefix()));
        let mut documents = tokens.split(|&id| id == dataset.tokenizer.prefix());
        assert_eq!(documents.next(), Some(&[][..]), "the first document is opened too");
        for piece in pieces {
            let ids = documents.next().expect("as many documents as pieces");
            assert_eq!(dataset.tokenizer.decode(ids), corpus.text(piece));
        }
        let text: usize = pieces.iter().map(|piece| corpus.text(piece).len()).sum();
        assert_eq!(shard.source_bytes(), text as u64);
        assert_eq!(shard.documents(), pieces.len() as u64);
    }
}

#[test]
fn opens_again_without_the_source() {
    let (run, dataset) = prepared(1);
    assert!(Dataset::exists(run.path()));
    let again = Dataset::open(run.path()).unwrap();
    assert_eq!((again.manifest, again.sha256), (dataset.manifest, dataset.sha256));
    let tokenizer = Dataset::tokenizer_of(run.path()).unwrap();
    assert_eq!(tokenizer.to_json(), dataset.tokenizer.to_json());
}

#[test]
fn any_flipped_bit_is_found_and_the_file_named() {
    let (run, _) = prepared(1);
    for file in ["tokenizer.json", "data/train.tokens", "data/val.tokens"] {
        let path = run.path().join(file);
        let good = std::fs::read(&path).unwrap();
        for at in [0, 9, 17, good.len() / 2, good.len() - 20, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, bad).unwrap();
            let error = Dataset::open(run.path()).unwrap_err();
            assert!(matches!(error, Error::Hash { .. } | Error::Shard { .. }), "{error}");
            assert!(error.to_string().contains(file), "{error}");
        }
        std::fs::write(&path, good).unwrap();
    }
    assert!(Dataset::open(run.path()).is_ok());
}

#[test]
fn cut_foreign_and_missing_files_are_named() {
    let (run, _) = prepared(1);
    let shard = run.path().join("data/val.tokens");
    let good = std::fs::read(&shard).unwrap();
    std::fs::write(&shard, &good[..good.len() - 8]).unwrap();
    assert!(matches!(Dataset::open(run.path()), Err(Error::Length { .. })));

    // A whole shard of another run: right in itself, wrong here.
    std::fs::copy(run.path().join("data/train.tokens"), &shard).unwrap();
    assert!(matches!(Dataset::open(run.path()), Err(Error::Length { .. } | Error::Hash { .. })));
    std::fs::remove_file(&shard).unwrap();
    let error = Dataset::open(run.path()).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
    assert!(error.to_string().contains("val.tokens"), "{error}");
    std::fs::write(&shard, &good).unwrap();

    let manifest = run.path().join("data/dataset.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let newer = text.replacen("\"format\": 1", "\"format\": 9", 1);
    for (bad, message) in [
        (&newer, "`format`: expected 1, got 9"),
        (&text[..40].to_owned(), "EOF while parsing"),
        (&text.replacen("salt", "pepper", 1), "unknown field `pepper`"),
    ] {
        std::fs::write(&manifest, bad).unwrap();
        let error = Dataset::open(run.path()).unwrap_err().to_string();
        assert!(error.contains("dataset.json") && error.contains(message), "{error}");
    }
}

#[test]
fn whatever_write_fails_the_next_attempt_succeeds() {
    let source = stories();
    let (corpus, split) = sides(source.path());
    let tokenizer = tokenizer(&corpus, &split, 1);
    let (_whole, expected) = prepared(1);
    let run = tempfile::tempdir().unwrap();
    let attempt =
        |files: &Faulty| prepare(files, run.path(), &corpus, &split, &rule(), &tokenizer, 1);

    let counting = Faulty::counting();
    attempt(&counting).unwrap();
    assert!(counting.operations() > 15, "{}", counting.operations());
    for fault in Fault::ALL {
        for n in 0..=counting.operations() {
            let failed = attempt(&Faulty::once(n, fault));
            if let Err(error) = failed {
                let message = error.to_string();
                assert!(message.contains(run.path().to_str().unwrap()), "{message}");
                // Unfinished, or finished with only the last folder sync missing.
                let left = Dataset::open(run.path()).map(|dataset| dataset.sha256);
                assert!(left.is_err() || left.unwrap() == expected.sha256);
            }
        }
        assert_eq!(attempt(&Faulty::counting()).unwrap().sha256, expected.sha256);
    }
}

#[test]
fn documents_are_listed_with_their_side() {
    let (run, dataset) = prepared(1);
    let list = std::fs::read_to_string(run.path().join("data/documents.jsonl")).unwrap();
    let rows: Vec<serde_json::Value> =
        list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len() as u64, dataset.train.documents() + dataset.val.documents());
    let tokens: u64 = rows.iter().map(|row| row["tokens"].as_u64().unwrap()).sum();
    assert_eq!(tokens + 2, dataset.train.tokens() + dataset.val.tokens());
    assert!(rows.iter().any(|row| row["side"] == "val"));
}

//! Training text is kept apart from held-out text and from tests to come.

use std::collections::BTreeMap;
use std::path::Path;

use smidgen_train::Error;

use crate::common::{Place, tensors};

/// Side and reason of each document of a run.
fn documents(run: &Path) -> BTreeMap<String, (String, String)> {
    let rows = std::fs::read_to_string(run.join("data/documents.jsonl")).unwrap();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or("").to_owned();
    rows.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|row| (text(&row, "name"), (text(&row, "side"), text(&row, "reason"))))
        .collect()
}

/// The name of a document on this side.
fn one_of(run: &Path, side: &str) -> String {
    let documents = documents(run);
    documents.into_iter().find(|(_, row)| row.0 == side).expect("both sides have documents").0
}

#[test]
fn a_copy_of_held_out_text_is_not_trained_on() {
    let place = Place::new();
    place.train("first", &["train.steps=1"]);
    let held_out = one_of(&place.run("first"), "val");
    let text = place.dir.path().join("text");
    let copy = std::fs::read_to_string(text.join(&held_out)).unwrap().replacen("water", "wine", 2);
    // Nine of ten names train.
    for name in ["copy 1.txt", "copy 2.txt", "copy 3.txt"] {
        std::fs::write(text.join(name), format!("{copy}{name}")).unwrap();
    }
    place.train("off", &["train.steps=1", "data.near_duplicates=false"]);
    place.until("on", &[], 2);
    let (off, on) = (documents(&place.run("off")), documents(&place.run("on")));
    let trained: Vec<_> = off.iter().filter(|(_, row)| row.0 == "train").collect();
    let copies: Vec<_> = trained.iter().filter(|(name, _)| name.starts_with("copy")).collect();
    assert!(!copies.is_empty());
    for (name, _) in copies {
        let (side, reason) = &on[*name];
        assert_eq!(side, "skipped");
        assert!(reason.starts_with("near-duplicate of held-out "), "{reason}");
        assert!(off.contains_key(&reason["near-duplicate of held-out ".len()..]), "{reason}");
    }
    let others = trained.iter().filter(|(name, _)| !name.starts_with("copy"));
    assert!(others.into_iter().all(|(name, row)| on[*name] == **row));
    // What was drawn stays drawn, whatever becomes of the source.
    std::fs::remove_dir_all(&text).unwrap();
    place.resume("on");
    assert_eq!(documents(&place.run("on")), on);
}

#[test]
fn text_of_a_test_is_not_trained_on() {
    let place = Place::new();
    place.train("plain", &[]);
    let trained = one_of(&place.run("plain"), "train");
    let file = place.dir.path().join("test.txt");
    let set = format!("data.contamination=[{:?}]", file.to_str().unwrap());
    // Nothing in common: nothing changes, to the last bit.
    std::fs::write(&file, "another text of words that stand in no document of this corpus at all")
        .unwrap();
    place.train("clean", &[&set]);
    assert_eq!(tensors(&place.run("clean"), 8), tensors(&place.run("plain"), 8));
    assert_eq!(documents(&place.run("clean")), documents(&place.run("plain")));
    let passage = std::fs::read_to_string(place.dir.path().join("text").join(&trained)).unwrap();
    let passage: Vec<&str> = passage.split_whitespace().skip(40).take(13).collect();
    std::fs::write(&file, passage.join(" ")).unwrap();
    place.train("contaminated", &[&set]);
    let (side, reason) = &documents(&place.run("contaminated"))[&trained];
    assert_eq!(side, "skipped");
    assert!(reason.starts_with("shares 13 words in a row with "), "{reason}");
}

#[test]
fn a_test_that_is_not_there_leaves_no_run() {
    let place = Place::new();
    let config = place.config(&["data.contamination=['no/such/test.jsonl']"]);
    let run = place.run("none");
    let error = crate::common::Watch::new()
        .train(&config, &run, std::sync::Arc::new(smidgen_store::Disk))
        .unwrap_err();
    assert!(matches!(error, Error::Data(smidgen_data::Error::Reference { .. })), "{error}");
    assert!(error.to_string().contains("no/such/test.jsonl"), "{error}");
    assert!(!run.exists());
}

#[test]
fn without_near_duplicates_the_option_changes_nothing() {
    let place = Place::new();
    place.train("on", &[]);
    place.train("off", &["data.near_duplicates=false"]);
    assert_eq!(tensors(&place.run("on"), 8), tensors(&place.run("off"), 8));
}

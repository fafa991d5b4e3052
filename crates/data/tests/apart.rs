//! Near-duplicates and contamination on real text: the shared corpora and test sets, where they are.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use smidgen_data::{
    Corpus, Document, Reason, Split, drop_contaminated, drop_near_duplicates, split,
};

/// A shared file; who runs the tests is told where there is none.
#[allow(clippy::print_stderr)]
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(path);
    if !path.exists() {
        eprintln!("skipped: no test data `{}`", path.display());
        return None;
    }
    Some(path)
}

fn corpus(texts: &[String]) -> (Corpus, Split) {
    let document = |(at, text): (usize, &String)| Document {
        name: at.to_string(),
        group: at.to_string(),
        text: text.clone(),
    };
    let documents: Vec<_> = texts.iter().enumerate().map(document).collect();
    let bytes = documents.iter().map(|document| document.text.len() as u64).sum();
    let corpus = Corpus { documents, skipped: Vec::new(), bytes };
    let split = split(&corpus, "salt", 0.2).unwrap();
    (corpus, split)
}

/// Pieces of a text of about this many bytes, cut at line ends.
fn pieces(text: &str, bytes: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for line in text.lines() {
        if pieces.last().is_some_and(|piece| piece.len() > bytes) {
            pieces.push(String::new());
        }
        let piece = pieces.last_mut().expect("never empty");
        piece.push_str(line);
        piece.push('\n');
    }
    pieces
}

#[test]
fn edited_copies_of_plays_leave_and_other_scenes_stay() {
    let Some(path) = shared("corpus/tinyshakespeare.txt") else { return };
    let scenes = pieces(&fs::read_to_string(path).unwrap(), 4000);
    // One word in a hundred changes five runs in a hundred: J is about 0.9. One in ten leaves 0.3.
    let edited = |every: usize, scene: &String| -> String {
        let word = |(at, word): (usize, &str)| {
            if at % every == every - 1 { format!("else{at} ") } else { format!("{word} ") }
        };
        scene.split_whitespace().enumerate().map(word).collect()
    };
    let mut texts = scenes.clone();
    texts.extend(scenes.iter().map(|scene| edited(100, scene)));
    texts.extend(scenes.iter().map(|scene| edited(10, scene)));
    let (mut corpus, mut split) = corpus(&texts);
    let number = |name: &str| name.parse::<usize>().unwrap();
    let held_out: Vec<usize> =
        split.val.iter().map(|piece| number(&corpus.documents[piece.document].name)).collect();
    drop_near_duplicates(&mut corpus, &mut split, 2).unwrap();
    // A scene and its lightly edited copy go for one another; the heavily edited one for nobody.
    let n = scenes.len();
    let partner = |at: usize| if at < n { at + n } else { at - n };
    let mut expected: Vec<usize> = held_out
        .iter()
        .filter(|&&at| at < 2 * n)
        .map(|&at| partner(at))
        .filter(|at| !held_out.contains(at))
        .collect();
    expected.sort_unstable();
    let left: Vec<usize> = corpus.skipped.iter().map(|skipped| number(&skipped.name)).collect();
    assert_eq!(left, expected);
    assert!(left.len() > 50, "{}", left.len());
    for skipped in &corpus.skipped {
        let of = partner(number(&skipped.name)).to_string();
        assert_eq!(skipped.reason, Reason::NearDuplicate { of });
    }
}

#[test]
fn text_of_the_shared_test_sets_is_found() {
    let sets = [
        ("eval/humaneval_rust/humaneval_x_rust.jsonl", "canonical_solution"),
        ("eval/gsm8k/gsm8k_test.jsonl", "question"),
        ("eval/arc/arc_challenge_test.jsonl", "question"),
        ("eval/openbookqa/openbookqa_test.jsonl", "question"),
    ];
    let Some(files) = sets.iter().map(|(path, _)| shared(path)).collect::<Option<Vec<_>>>() else {
        return;
    };
    let Some(stories) = shared("corpus/tinystories_sample.txt") else { return };
    let mut texts = pieces(&fs::read_to_string(stories).unwrap(), 3000);
    let clean = texts.len();
    for (path, (_, field)) in files.iter().zip(sets) {
        let rows = fs::read_to_string(path).unwrap();
        let field =
            |line| serde_json::from_str::<Value>(line).unwrap()[field].as_str().unwrap().to_owned();
        let long = |text: &String| text.split_whitespace().count() > 20;
        let passages = rows.lines().map(field).filter(long).take(20);
        // In other words before and behind, in other letters, on other lines.
        texts.extend(passages.map(|passage| {
            let passage = passage.to_uppercase().replace(' ', "\n");
            format!("# notes of a student\n{passage}\nand what it is about\n")
        }));
    }
    let (mut corpus, mut split) = corpus(&texts);
    let trained = split.train.len();
    let contaminated = |corpus: &Corpus, split: &Split| {
        let names = split.train.iter().map(|piece| &corpus.documents[piece.document].name);
        names.filter(|name| name.parse::<usize>().unwrap() >= clean).count()
    };
    let expected = contaminated(&corpus, &split);
    assert!(expected > 40, "{expected}");
    drop_contaminated(&mut corpus, &mut split, &files, 2).unwrap();
    assert_eq!(contaminated(&corpus, &split), 0);
    assert_eq!((corpus.skipped.len(), split.train.len()), (expected, trained - expected));
    let label = corpus.summary().by_reason["shares 13 words with a test"];
    assert_eq!(label.count, expected as u64);
}

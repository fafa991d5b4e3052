//! Prompts answered over a link in one process, with both models in memory and with one after the other.

mod common;
#[path = "common/pair.rs"]
mod pair;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::SystemTime;

use common::{fails, stdout};
use pair::Pair;
use serde_json::Value;
use smidgen_link::fuse::FuserFacts;
use smidgen_link::{Question, Receiver, answer_together};

const PROMPTS: [&str; 4] = [
    "7. The cat met the owl, and they ate",
    "The fox",
    "12. The hen met the dog, and",
    "3. The owl met the fox, and they ate 8",
];
/// Tokens of an answer.
const LIMIT: usize = 8;

/// The command, with more options.
fn answer(pair: &Pair, more: &[&str]) -> assert_cmd::Command {
    fs::write(pair.place.path("prompts.txt"), PROMPTS.join("\n") + "\n").unwrap();
    let limit = LIMIT.to_string();
    let head = ["link", "answer", "sharer", "receiver", "--threads", "1", "--max-tokens", &limit];
    let files = ["--fuser", "fuser.safetensors", "--prompts", "prompts.txt"];
    // What is given twice is what a test changes.
    let files = files.chunks(2).filter(|option| !more.contains(&option[0])).flatten().copied();
    let files: Vec<&str> = files.collect();
    pair.place.smidgen(&[&head[..], &files, more].concat())
}

/// The objects of the answers, and the one at the end.
fn objects(command: assert_cmd::Command) -> (Vec<Value>, Value) {
    let text = stdout(command);
    let mut objects: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let summary = objects.pop().expect("an object at the end");
    (objects, summary)
}

/// Tokens of every answer, in this process.
fn expected(pair: &Pair) -> Vec<Vec<u32>> {
    let (fuser, (receiver, ours)) = (pair.fuser("fuser.safetensors"), &pair.receiver);
    let linked = Receiver::new(receiver, &fuser).unwrap();
    let questions: Vec<Question> = PROMPTS
        .iter()
        .map(|prompt| Question::of_text(prompt, &pair.sharer.1, ours).unwrap())
        .collect();
    let (ends, on) = (|token| ours.ends(token), |_: &[u32]| ControlFlow::Continue(()));
    answer_together(&pair.sharer.0, &linked, &questions, LIMIT, ends, on).unwrap()
}

/// When each file in a folder was written.
fn written(folder: &Path) -> BTreeMap<String, SystemTime> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let at = |entry: fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().modified().unwrap())
    };
    entries.map(at).collect()
}

#[test]
fn one_model_after_the_other_gives_the_same_answers_in_less_memory() {
    let pair = Pair::new();
    let (together, summary) = objects(answer(&pair, &["--json"]));
    let tokens: Vec<Vec<u32>> = together
        .iter()
        .map(|answer| serde_json::from_value(answer["tokens"].clone()).unwrap())
        .collect();
    assert_eq!(tokens, expected(&pair));
    let prompts: Vec<&str> = together.iter().map(|it| it["prompt"].as_str().unwrap()).collect();
    assert_eq!(prompts, PROMPTS);
    let (apart, other) = objects(answer(&pair, &["--json", "--sequential", "between"]));
    assert_eq!(apart, together);
    for (summary, execution) in [(&summary, "simultaneous"), (&other, "sequential")] {
        assert_eq!(summary["execution"], execution);
        assert_eq!((&summary["prompts"], &summary["answered"]), (&4.into(), &4.into()));
    }
    // Each peak holds the weights it must, and the sequential one no two models.
    let weights = |side: &smidgen_link::Side| {
        side.params.iter().map(|(_, param)| param.value.as_bytes().len() as u64).sum::<u64>()
    };
    let [sharer, receiver] = [&pair.sharer, &pair.receiver].map(|(side, _)| weights(side));
    let [both, one] = [&summary, &other].map(|object| object["peak_bytes"].as_u64().unwrap());
    assert!(both >= sharer + receiver, "{both} for {sharer} and {receiver}");
    assert!(one >= sharer.max(receiver) && one < both, "{one} and {both}");

    // For people every answer is a line; what was answered is said again.
    let lines = stdout(answer(&pair, &["--sequential", "between"]));
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines.len(), PROMPTS.len());
    for (line, answer) in lines.iter().zip(&together) {
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        let answer: String = answer["answer"].as_str().unwrap().chars().map(plain).collect();
        assert_eq!(*line, answer);
    }
    let piped = answer(&pair, &["--prompts", "-"]).write_stdin(PROMPTS[1]).output().unwrap();
    assert_eq!(String::from_utf8(piped.stdout).unwrap().trim_end_matches('\n'), lines[1]);
}

#[test]
fn what_was_cut_off_goes_on_where_it_stopped() {
    let pair = Pair::new();
    let run = || objects(answer(&pair, &["--json", "--sequential", "between"]));
    let (answers, _) = run();
    let folders = ["caches", "answers"].map(|name| pair.place.path("between").join(name));
    let [caches, first] = folders.each_ref().map(|folder| written(folder));
    assert_eq!((caches.len(), first.len()), (4, 4));
    // Cut between the phases: no cache is made again.
    fs::remove_dir_all(&folders[1]).unwrap();
    assert_eq!(run().0, answers);
    assert_eq!(written(&folders[0]), caches);
    // Cut in a file: that one is made again, in either phase, and no other.
    let names = ["000002.safetensors", "000001.json"];
    let whole = [0, 1].map(|i| fs::read(folders[i].join(names[i])).unwrap());
    let before = written(&folders[1]);
    for i in [0, 1] {
        fs::write(folders[i].join(names[i]), &whole[i][..whole[i].len() / 2]).unwrap();
    }
    assert_eq!(run().0, answers);
    for i in [0, 1] {
        assert!(fs::read(folders[i].join(names[i])).unwrap() == whole[i], "{}", names[i]);
    }
    let [mut caches_now, mut answers_now] = folders.each_ref().map(|folder| written(folder));
    let (mut caches, mut before) = (caches, before);
    assert_ne!(caches_now.remove(names[0]), caches.remove(names[0]));
    assert_ne!(answers_now.remove(names[1]), before.remove(names[1]));
    assert_eq!((caches_now, answers_now), (caches, before));
    // Another prompt in the place of one is no prompt that was read.
    fs::write(pair.place.path("other.txt"), "Another.\n").unwrap();
    let other = ["--prompts", "other.txt", "--sequential", "between"];
    fails(answer(&pair, &other), 3, "`prompt` in between/caches/000000.safetensors");
}

#[test]
fn what_does_not_fit_is_named() {
    let pair = Pair::new();
    let zeros = "00".repeat(31) + "01";
    let facts = pair.facts();
    pair.save("sharer.safetensors", 3, FuserFacts { sharer: zeros.clone(), ..facts.clone() });
    pair.save("tokenizer.safetensors", 3, FuserFacts { tokenizer: zeros.clone(), ..facts.clone() });
    pair.save("receiver.safetensors", 3, FuserFacts { receiver: zeros, ..facts });
    for (fuser, field) in [
        ("sharer.safetensors", "`sharer` in sharer.safetensors"),
        ("receiver.safetensors", "`receiver` in receiver.safetensors"),
        ("tokenizer.safetensors", "`tokenizer` in tokenizer.safetensors"),
    ] {
        for more in [&[][..], &["--sequential", "between"]] {
            let command = answer(&pair, &[&["--fuser", fuser], more].concat());
            fails(command, 3, field);
        }
    }
    fails(answer(&pair, &["--fuser", "nothing"]), 3, "no fuser layer");
    let prompts = |text: &str, code, message: &str| {
        fs::write(pair.place.path("wrong.txt"), text).unwrap();
        fails(answer(&pair, &["--prompts", "wrong.txt"]), code, message);
    };
    prompts("", 3, "expected prompts, one a line, got none in wrong.txt");
    prompts("The cat\n\nThe dog\n", 2, "line 2 of wrong.txt: `prompt`: expected a text, got none");
    fails(
        answer(&pair, &["--prompts", "missing.txt"]),
        3,
        "cannot read the prompts from missing.txt",
    );
    fails(answer(&pair, &["--max-tokens", "0"]), 2, "--max-tokens");
    let step = ["--sharer-ckpt", "99"];
    fails(answer(&pair, &step), 3, "no checkpoint of step 99 in sharer");
}

//! Every two options of training together: they compose and go on to the last bit, or are refused by
//! name. What comes out is the page of combinations in the documentation.

// In a process of its own: runs of the other suite watch the memory of theirs.
#[allow(dead_code)]
#[path = "suite/common.rs"]
mod common;

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use smidgen_store::Disk;
use smidgen_train::Error;

use common::{Place, Watch, tensors};

/// A value of an axis, as a configuration has it: keys of the group of matrices, and others.
struct Choice {
    axis: &'static str,
    name: &'static str,
    group: &'static str,
    sets: &'static [&'static str],
}

const fn of_group(axis: &'static str, name: &'static str, group: &'static str) -> Choice {
    Choice { axis, name, group, sets: &[] }
}

const fn of_run(name: &'static str, sets: &'static [&'static str]) -> Choice {
    Choice { axis: name, name, group: "", sets }
}

/// What is not named here is AdamW in f32 on whole matrices, with gradients held.
const CHOICES: &[Choice] = &[
    of_group("rule", "lion", "rule='lion'"),
    of_group("rule", "sgd", "rule='sgd'"),
    of_group("rule", "adafactor", "rule='adafactor'"),
    of_group("rule", "muon", "rule='muon'"),
    of_group("state", "bf16", "state='bf16'"),
    of_group("state", "int8/256", "state='int8/256', second='int8-dynamic'"),
    of_group("state", "int8-dynamic", "state='int8-dynamic'"),
    of_group("state", "nf4", "state='nf4', second='int8-dynamic'"),
    of_group("projection", "galore", "projection='galore', galore_rank=0.25, refresh=2"),
    of_group("projection", "galore2", "projection='galore2', galore_rank=0.25, refresh=2"),
    of_group("projection", "adarank", "projection='adarank', galore_rank=0.25, refresh=2"),
    of_group("state_paged", "state_paged", "state_paged=true"),
    Choice { axis: "weights", ..of_run("weights = bf16", &["train.weights=bf16"]) },
    Choice { axis: "weights", ..of_run("weights = bf16-kahan", &["train.weights=bf16-kahan"]) },
    of_run("grad = streamed", &["train.grad=streamed"]),
    Choice { axis: "clip", ..of_run("clip = global", &["train.clip=global"]) },
    Choice { axis: "clip", ..of_run("clip = tensor", &["train.clip=tensor"]) },
    of_run("grad_accum = 2", &["train.grad_accum=2"]),
    of_run("compute = bf16", &["train.compute=bf16"]),
    of_run("recompute", &["train.recompute=true"]),
    of_run("ema", &["train.ema=0.9"]),
    of_run("fire_at", &["train.fire_at=[2]"]),
    of_run("plasticity", &["track.plasticity=true"]),
    of_run("one-cycle", &["schedule.kind=one-cycle"]),
];

/// The smallest matrices that state in blocks is made for, and four steps with a stop in the middle.
const SIZES: [&str; 8] = [
    "model.width=64",
    "model.ffn=128",
    "model.layers=1",
    "data.vocab=280",
    "train.steps=4",
    "train.val_every=4",
    "train.ckpt_every=2",
    "train.keep=1",
];

fn sets(choices: &[&Choice]) -> Vec<String> {
    let keys: Vec<&str> = choices.iter().map(|c| c.group).filter(|keys| !keys.is_empty()).collect();
    let keys = keys.iter().fold(String::new(), |all, keys| all + ", " + keys);
    let groups =
        format!("optim=[{{name='matrices', role='matrix_hidden'{keys}}}, {{name='rest'}}]");
    let others = choices.iter().flat_map(|choice| choice.sets).copied();
    SIZES.into_iter().chain(others).map(str::to_string).chain([groups]).collect()
}

/// Why the choices are refused together, or nothing: then a stop changed no bit.
fn refusal(place: &Place, choices: &[&Choice]) -> Option<String> {
    let sets = sets(choices);
    let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
    let [whole, halves] = ["whole", "halves"].map(|run| {
        let _ = std::fs::remove_dir_all(place.run(run));
        place.run(run)
    });
    let config = match place.try_config(&sets) {
        Ok(config) => config,
        Err(error) => return Some(error.to_string()),
    };
    match Watch::new().train(&config, &whole, Arc::new(Disk)) {
        Ok(_) => {}
        Err(error @ (Error::Value { .. } | Error::Optim(_))) => return Some(error.to_string()),
        Err(other) => panic!("{sets:?}: {other}"),
    }
    place.until("halves", &sets, 2);
    place.resume("halves");
    assert!(tensors(&whole, 4) == tensors(&halves, 4), "{sets:?}: bits differ after a resume");
    None
}

/// Each of the sets of choices in a place of its own, several at once: most of a small run is waiting
/// for the disk.
fn refusals(sets: &[Vec<&Choice>]) -> Vec<Option<String>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let place = Place::new();
        let mut found = Vec::new();
        loop {
            let at = next.fetch_add(1, Relaxed);
            let Some(choices) = sets.get(at) else { return found };
            found.push((at, refusal(&place, choices)));
        }
    };
    let mut found: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    found.sort_by_key(|(at, _)| *at);
    found.into_iter().map(|(_, why)| why).collect()
}

/// Each pair of choices of two axes, by their places, with why it is refused.
fn pairs() -> Vec<(usize, usize, Option<String>)> {
    let places = 0..CHOICES.len();
    let all = places.clone().flat_map(|a| places.clone().skip(a + 1).map(move |b| (a, b)));
    let pairs: Vec<_> = all.filter(|(a, b)| CHOICES[*a].axis != CHOICES[*b].axis).collect();
    let sets: Vec<_> = pairs.iter().map(|(a, b)| vec![&CHOICES[*a], &CHOICES[*b]]).collect();
    pairs.into_iter().zip(refusals(&sets)).map(|((a, b), why)| (a, b, why)).collect()
}

fn page(pairs: &[(usize, usize, Option<String>)]) -> String {
    let mut text = String::from(
        "# What composes\n\nEvery two options of training were tried together on a small run: the whole of it, and its two halves with a\n\
         resume between them. `=`: both end in the same weights and the same state, bit for bit. `x`: the pair is refused before\n\
         the first step. Columns have the numbers of the rows; what a row does not name is AdamW in f32 on whole matrices,\n\
         gradients held.\n\n    UPDATE_DOCS=1 cargo test -p smidgen-train --test pairs\n\nmakes this page; without the variable the \
         test compares it.\n\n```\n",
    );
    let width = CHOICES.iter().map(|choice| choice.name.len()).max().unwrap_or_default();
    let numbers = |from: usize| (from..CHOICES.len()).map(|b| format!(" {:>2}", b + 1));
    writeln!(text, "{:width$}   {}", "", numbers(1).collect::<String>()).expect("a string");
    for (a, choice) in CHOICES.iter().enumerate() {
        let mark = |b: usize| match pairs.iter().find(|pair| (pair.0, pair.1) == (a, b)) {
            _ if b <= a => "   ",
            None => "  .",
            Some((.., None)) => "  =",
            Some((.., Some(_))) => "  x",
        };
        let marks: String = (1..CHOICES.len()).map(mark).collect();
        let row = format!("{:>2} {:width$}{marks}", a + 1, choice.name);
        writeln!(text, "{}", row.trim_end()).expect("a string");
    }
    text +=
        "```\n\n`.`: two values of one option.\n\n| refused | with | because |\n|---|---|---|\n";
    for (a, b, refused) in pairs {
        let Some(why) = refused else { continue };
        let why = why.replace('\n', " ").replace('|', "\\|");
        let [a, b] = [a, b].map(|place| CHOICES[*place].name);
        writeln!(text, "| {a} | {b} | {why} |").expect("a string");
    }
    text
}

#[test]
fn pairs_compose_or_are_refused_as_the_page_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/combinations.md");
    let made = page(&pairs());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, made).unwrap();
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == made, "docs/combinations.md is not what was found:\n{made}");
}

/// Three axes at once, for what makes, keeps and reads state.
#[test]
fn every_rule_in_every_state_and_subspace_goes_on_to_the_last_bit() {
    let of = |axis: &'static str| {
        let given = CHOICES.iter().filter(move |choice| choice.axis == axis).map(Some);
        given.chain([None])
    };
    let mut sets = Vec::new();
    for rule in of("rule") {
        for state in of("state") {
            let in_projection =
                |projection| [rule, state, projection].into_iter().flatten().collect();
            sets.extend(of("projection").map(in_projection));
        }
    }
    for (choices, why) in sets.iter().zip(refusals(&sets)) {
        let names: Vec<&str> = choices.iter().map(|choice| choice.name).collect();
        assert_eq!(why, None, "{names:?}");
    }
}

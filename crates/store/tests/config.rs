//! Strict configuration as a command would use it: every mistake has its own clear message.

use std::path::Path;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use smidgen_store::{Bytes, Error, config};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Config {
    seed: u64,
    memory: Option<Bytes>,
    name: Option<String>,
    train: Train,
    optim: Vec<Group>,
    schedule: Schedule,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Train {
    steps: u32,
    lr: f32,
    resume: bool,
    betas: [f64; 2],
    #[serde(skip_serializing_if = "Option::is_none")]
    max_minutes: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Group {
    name: String,
    #[serde(default)]
    lr: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Schedule {
    Constant,
    Cosine { warmup: u32 },
}

impl Default for Config {
    fn default() -> Self {
        Config {
            seed: 0,
            memory: None,
            name: None,
            train: Train::default(),
            optim: vec![Group { name: "rest".into(), lr: 1e-3 }],
            schedule: Schedule::Cosine { warmup: 10 },
        }
    }
}

impl Default for Train {
    fn default() -> Self {
        Train { steps: 10, lr: 0.5, resume: false, betas: [0.9, 0.95], max_minutes: None }
    }
}

fn parse(text: &str) -> Result<Config, Error> {
    config::parse(text, Path::new("run.toml"))
}

fn message(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn set(argument: &str) -> Result<Config, Error> {
    config::load("", Path::new("run.toml"), &[argument.to_string()])
}

#[test]
fn what_is_left_out_has_its_default() {
    assert_eq!(parse("").unwrap(), Config::default());
    let config = parse("memory = '2 GiB'\n[train]\nlr = 1").unwrap();
    assert_eq!(config.memory, Some(Bytes(2 << 30)));
    assert_eq!(config.train, Train { lr: 1.0, ..Train::default() });
}

#[test]
fn written_configurations_read_back() {
    let mut config = Config { memory: Some(Bytes(1000)), ..Config::default() };
    config.train.max_minutes = Some(0.5);
    config.train.lr = 3e-4;
    assert_eq!(parse(&config::to_text(&config).unwrap()).unwrap(), config);

    // A value after tables, and a short form for a narrow number.
    config.schedule = Schedule::Constant;
    let text = config::to_text(&config).unwrap();
    assert!(text.contains("lr = 0.0003\n"), "{text}");
    assert_eq!(parse(&text).unwrap(), config);
}

#[test]
fn unknown_keys_are_named_with_line_and_nearest() {
    for (text, expected) in [
        ("sede = 1", "unknown key `sede` in run.toml line 1, did you mean `seed`?"),
        ("memroy = 1", "unknown key `memroy` in run.toml line 1, did you mean `memory`?"),
        (
            "[train]\nlr = 0.1\nstpes = 1",
            "unknown key `train.stpes` in run.toml line 3, did you mean `train.steps`?",
        ),
        (
            "[train]\nmax_minute = 1",
            "unknown key `train.max_minute` in run.toml line 2, did you mean `train.max_minutes`?",
        ),
        (
            "[[optim]]\nname = 'a'\n[[optim]]\nname = 'b'\nrl = 1",
            "unknown key `optim.b.rl` in run.toml line 5, did you mean `optim.b.lr`?",
        ),
        ("steps = 1", "unknown key `steps` in run.toml line 1, did you mean `train.steps`?"),
        (
            "schedule = { cosine = { warmpu = 1 } }",
            "unknown key `schedule.cosine.warmpu` in run.toml line 1, \
             did you mean `schedule.cosine.warmup`?",
        ),
        (
            "[[optim]]\nname = 'a'\nweird = 1",
            "unknown key `optim.a.weird` in run.toml line 3, expected one of: name, lr",
        ),
    ] {
        assert_eq!(message(text), expected);
    }
}

#[test]
fn wrong_types_name_key_expected_and_got() {
    for (text, expected) in [
        (
            "seed = 'one'",
            "`seed`: expected a whole number, not negative (u64), got the text \"one\" \
             in run.toml line 1",
        ),
        (
            "seed = -1",
            "`seed`: expected a whole number, not negative (u64), got `-1` in run.toml line 1",
        ),
        (
            "[train]\nsteps = 1.5",
            "`train.steps`: expected a whole number, not negative (u32), got `1.5` \
             in run.toml line 2",
        ),
        (
            "[train]\nsteps = 5_000_000_000",
            "`train.steps`: expected a whole number, not negative (u32), got `5000000000` \
             in run.toml line 2",
        ),
        ("train = 1", "`train`: expected a table, got `1` in run.toml line 1"),
        (
            "[train]\nresume = 1",
            "`train.resume`: expected `true` or `false`, got `1` in run.toml line 2",
        ),
        ("optim = 1", "`optim`: expected an array, got `1` in run.toml line 1"),
        ("optim = [{ name = 'a' }, 2]", "`optim.1`: expected a table, got `2` in run.toml line 1"),
        (
            "memory = '2G'",
            "`memory`: expected bytes such as `64 KiB`, `1.5GiB` or `1234`, got the text \"2G\" \
             in run.toml line 1",
        ),
        (
            "schedule = 'cosin'",
            "`schedule`: expected one of: constant, cosine, got `cosin` (did you mean `cosine`?) \
             in run.toml line 1",
        ),
        (
            "[train]\nbetas = [0.9]",
            "`train.betas`: expected an array of length 2, got length 1 in run.toml line 2",
        ),
        (
            "[train]\nbetas = [0.9, 0.95, 0.99]",
            "`train.betas`: expected length 2, got length 3 in run.toml line 2",
        ),
    ] {
        assert_eq!(message(text), expected);
    }
}

#[test]
fn missing_keys_and_broken_text() {
    assert_eq!(
        message("[[optim]]\nlr = 1.0"),
        "expected key `optim.0.name`, got none in run.toml line 1"
    );
    let broken = message("seed = 1\nname = \n");
    assert!(broken.starts_with("expected TOML, got ") && broken.ends_with("run.toml line 2"));
    assert!(matches!(parse("a = 1\na = 2"), Err(Error::Toml { .. })));
}

#[test]
fn arguments_override_file_and_defaults() {
    assert_eq!(set("train.steps=100").unwrap().train.steps, 100);
    assert_eq!(set("optim.rest.lr=1e-4").unwrap().optim[0].lr, 1e-4);
    assert_eq!(set("memory=2 GiB").unwrap().memory, Some(Bytes(2 << 30)));
    assert_eq!(set("name=bf16").unwrap().name.as_deref(), Some("bf16"));
    assert_eq!(set("schedule=constant").unwrap().schedule, Schedule::Constant);
    assert_eq!(set("train.max_minutes=3").unwrap().train.max_minutes, Some(3.0));
    let sets = ["seed=2".to_string(), "seed=3".to_string()];
    let config: Config = config::load("seed = 1", Path::new("run.toml"), &sets).unwrap();
    assert_eq!(config.seed, 3);
}

#[test]
fn arguments_are_checked_like_the_file() {
    for (argument, expected) in [
        ("train.stpes=1", "unknown key `train.stpes` in `--set`, did you mean `train.steps`?"),
        (
            "optim.rest.rl=1",
            "unknown key `optim.rest.rl` in `--set`, did you mean `optim.rest.lr`?",
        ),
        (
            "train.steps=many",
            "`train.steps`: expected a whole number, not negative (u32), got the text \"many\" \
             in `--set`",
        ),
    ] {
        assert_eq!(set(argument).unwrap_err().to_string(), expected);
    }
}

#[test]
fn differences_between_runs() {
    let (before, mut after) = (Config::default(), Config::default());
    after.train.steps = 20;
    after.train.lr = 3e-4;
    after.optim[0].lr = 0.1;
    let table = |config: &Config| config::to_table(config).unwrap();
    assert_eq!(
        config::diff(&table(&before), &table(&after)),
        ["`optim.rest.lr`: 0.001 -> 0.1", "`train.lr`: 0.5 -> 0.0003", "`train.steps`: 10 -> 20"]
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*") {
        let _ = parse(&text);
    }

    #[test]
    fn no_toml_panics(
        text in "(\\[\\[?(train|optim|schedule)\\]?\\]\n|(seed|name|lr|train|optim|schedule|betas)(\\.[a-z]{1,4})? = (1|-1|1e9|'x'|\\[1, 2\\]|\\{ cosine = 1 \\}|2020-01-01)\n){0,6}"
    ) {
        let _ = parse(&text);
    }
}

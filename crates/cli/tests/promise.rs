//! `--memory` is a promise about private memory: kept under the system's own limits, and sampled.
#![cfg(target_os = "linux")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Place, fails, object, program};
use serde_json::Value;

const MEMORY: u64 = 112 << 20;

/// A run that needs levers to keep within [`MEMORY`].
const RUN: [&str; 20] = [
    "--memory",
    "112MiB",
    "--threads",
    "2",
    "--set",
    "data.vocab=400",
    "--set",
    "model.width=256",
    "--set",
    "model.layers=3",
    "--set",
    "model.context=128",
    "--set",
    "train.batch=8",
    "--set",
    "train.steps=3",
    "--set",
    "train.val_every=2",
    "--set",
    "data.val_tokens=512",
];

/// The program behind a line of shell that prepares its process.
fn under(place: &Place, prepare: &str, out: &str) -> Child {
    let line = format!("{prepare} && exec \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &line, program(), "train", "text", "--out", out, "--json"]).args(RUN);
    command.current_dir(place.path("")).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("a shell")
}

/// The run's object and the most private resident bytes it was seen with.
fn watched(mut child: Child) -> (Value, u64) {
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut most = 0;
    while child.try_wait().expect("a child").is_none() {
        most = most.max(anonymous(&status));
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().expect("its output");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    (serde_json::from_slice(&output.stdout).expect("an object"), most)
}

fn anonymous(status: &Path) -> u64 {
    let text = fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap_or_default();
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn keeps_to_it(outcome: &Value, most: u64) {
    assert_eq!(outcome["steps"], 3);
    assert!(most > 0 && most <= MEMORY, "{most} of {MEMORY}");
    let mib = |key: &str| outcome[key].as_f64().expect("a figure");
    assert!(mib("peak_rss_anon_mib") <= mib("peak_rss_mib"));
    assert!(mib("peak_rss_anon_mib") * f64::from(1 << 20) <= MEMORY as f64);
}

#[test]
fn a_run_keeps_within_a_limit_on_its_data() {
    let place = Place::new();
    let mut args = vec!["plan", "text", "--json"];
    args.extend(RUN);
    let plan = object(place.smidgen(&args));
    assert_eq!(plan["fits"], true, "{plan}");
    assert!(!plan["levers"].as_array().expect("a list").is_empty(), "{plan}");
    let prepare = format!("ulimit -d {}", MEMORY >> 10);
    let (outcome, most) = watched(under(&place, &prepare, "run"));
    keeps_to_it(&outcome, most);
}

#[test]
fn a_run_keeps_within_a_control_group() {
    let Some(group) = Group::new() else {
        return skipped("no memory control group can be written here");
    };
    let place = Place::new();
    let prepare = format!("echo $$ > {}/cgroup.procs", group.0.display());
    let (outcome, most) = watched(under(&place, &prepare, "run"));
    keeps_to_it(&outcome, most);
}

#[allow(clippy::print_stderr)] // A skipped test says so.
fn skipped(why: &str) {
    eprintln!("skipped: {why}");
}

/// A control group of [`MEMORY`], gone when dropped.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Group> {
        let name = format!("smidgen-test-{}", std::process::id());
        let folders =
            ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(|root| Path::new(root).join(&name));
        folders.into_iter().find_map(|folder| {
            fs::create_dir(&folder).ok()?;
            let group = Group(folder);
            let limits = ["memory.limit_in_bytes", "memory.max"];
            let mut written =
                limits.iter().map(|file| group.0.join(file)).filter(|file| file.exists());
            let limit = written.next()?;
            fs::write(limit, MEMORY.to_string()).ok()?;
            group.0.join("cgroup.procs").exists().then_some(group)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn too_small_a_budget_names_the_smallest_that_works() {
    let place = Place::new();
    let tight = ["--memory", "30MiB", "--set", "data.vocab=400", "--set", "model.width=256"];
    let mut args = vec!["plan", "text", "--json"];
    args.extend(tight);
    let output = place.smidgen(&args).output().expect("it starts");
    assert_eq!(output.status.code(), Some(4));
    let plan: Value = serde_json::from_slice(&output.stdout).expect("an object");
    assert_eq!(plan["fits"], false);
    let needed = plan["needed_bytes"].as_u64().expect("bytes");
    let enough = format!("{needed}B");
    let mut args = vec!["plan", "text", "--json", "--set", "data.vocab=400"];
    args.extend(["--set", "model.width=256", "--memory", &enough]);
    assert_eq!(object(place.smidgen(&args))["fits"], true);
    let mut args = vec!["train", "text", "--out", "run"];
    args.extend(tight);
    fails(place.smidgen(&args), 4, "which the smallest plan needs");
    assert!(!place.path("run").exists());
}

#[test]
fn a_plan_shows_its_tiers_and_refuses_those_beyond_the_model() {
    let place = Place::new();
    let sets = ["--set", "data.vocab=300", "--set", "model.width=64", "--set", "model.layers=1"];
    let mut args = vec!["plan", "text", "--json", "--memory", "4GiB"];
    args.extend(sets);
    let plan = object(place.smidgen(&args));
    let tiers = plan["tiers"].as_array().expect("a list");
    assert_eq!(tiers.len(), 6);
    // The text of the test has some thousand tokens.
    assert_eq!(tiers[0]["granted"], true, "{plan}");
    assert_eq!(tiers[5]["granted"], false, "{plan}");
    assert!(tiers[5]["reason"].as_str().expect("a text").contains("tokens there are"), "{plan}");
    args.extend(["--tier", "t1"]);
    assert_eq!(object(place.smidgen(&args))["spec"]["context"], 4096);
    args.extend(["--set", "model.context=256"]);
    fails(place.smidgen(&args), 2, "expected at least the 4096 positions of t1, got 256");
    fails(place.smidgen(&["plan", "text", "--tier", "T9"]), 2, "T1, T2, T3, T4, T5, T6");
    let known = "precision, state, weights, context";
    fails(place.smidgen(&["plan", "text", "--allow", "all"]), 2, known);
}

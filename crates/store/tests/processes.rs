//! Other processes: the lock of a living one holds, that of a killed one is gone, and a kill in
//! the middle of saving leaves a run that loads.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{create, fresh, keep_one, open, salt_of, save};
use smidgen_store::{Disk, Error};

/// Tells a child process which run it is about; without it the child's tests do nothing.
const RUN: &str = "SMIDGEN_STORE_TEST_RUN";

/// Starts this test binary again, to run one of the children's tests below.
fn child(test: &str, run: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(RUN, run)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (child, out)
}

/// Reads until the child has said `word` so many times.
fn wait_for(out: &mut BufReader<ChildStdout>, word: &str, times: usize) {
    let mut seen = 0;
    for line in out.lines() {
        seen += usize::from(line.unwrap().contains(word));
        if seen == times {
            return;
        }
    }
    panic!("the child ended after saying `{word}` {seen} times");
}

fn say(word: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{word}").and_then(|()| out.flush()).unwrap();
}

#[test]
#[ignore = "a child process of `a_killed_owner_leaves_no_lock`"]
fn child_holds_the_lock() {
    let Some(path) = std::env::var_os(RUN) else { return };
    let _run = open(Disk, Path::new(&path)).unwrap();
    say("locked");
    // Until the parent kills this process or ends itself.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
#[ignore = "a child process of `a_kill_while_saving_leaves_a_run_that_loads`"]
fn child_saves_for_ever() {
    let Some(path) = std::env::var_os(RUN) else { return };
    let run = open(Disk, Path::new(&path)).unwrap();
    for step in 2.. {
        say("saving");
        save(&run, step, 0, keep_one()).unwrap();
    }
}

#[test]
fn a_killed_owner_leaves_no_lock() {
    let (_dir, path) = fresh();
    drop(create(&path));
    let (mut owner, mut out) = child("child_holds_the_lock", &path);
    wait_for(&mut out, "locked", 1);
    let error = open(Disk, &path).err().expect("the child holds the lock");
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    owner.kill().unwrap();
    owner.wait().unwrap();
    open(Disk, &path).expect("the lock ended with its process");
}

fn kill_while_saving(times: usize) {
    let (_dir, path) = fresh();
    let run = create(&path);
    save(&run, 1, 0, keep_one()).unwrap();
    drop(run);
    for round in 0..times {
        let (mut saver, mut out) = child("child_saves_for_ever", &path);
        wait_for(&mut out, "saving", 1 + round % 4);
        // A different way into the save each time, without a clock.
        (0..round * 40_000).for_each(|i| _ = std::hint::black_box(i));
        saver.kill().unwrap();
        saver.wait().unwrap();
        let run = open(Disk, &path).unwrap();
        let (checkpoint, skipped) = run.newest_valid().unwrap().expect("a checkpoint");
        assert!(skipped.is_empty(), "{skipped:?}");
        salt_of(&checkpoint);
        assert_eq!(run.best().unwrap(), Some(checkpoint.step()));
    }
}

#[test]
fn a_kill_while_saving_leaves_a_run_that_loads() {
    kill_while_saving(3);
}

#[test]
#[ignore = "the long tier: cargo xtask soak"]
fn soak_kill_while_saving() {
    kill_while_saving(200);
}

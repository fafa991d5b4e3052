//! The compile rate against a real compiler; absent ones skip by name.

use smidgen_eval::Error;
use smidgen_eval::compile::CompileTask;
use smidgen_eval::sandbox::{Limits, SandboxPolicy};

use super::skip;

const HELD_OUT: &str = "
use crate::own::Thing;

pub fn double(x: u32) -> u32 {
    2 * x
}

fn of_the_crate(thing: &Thing) -> u8 {
    thing.byte
}

fn longest<'a>(a: &'a str, b: &'a str) -> &'a str {
    if a.len() > b.len() { a } else { b }
}
";

fn task(limits: Limits) -> Option<CompileTask> {
    let policy = SandboxPolicy { limits, allow_unsandboxed: false };
    match CompileTask::new([HELD_OUT].into_iter(), 8, 1, &policy) {
        Ok(task) => Some(task),
        Err(Error::Unavailable { what, .. }) => skip(&format!("no {what}")),
        Err(Error::NoRustc { why }) => skip(&why),
        Err(error) => panic!("{error}"),
    }
}

/// One completion for each prompt: of `double` this one, of the others their own bodies.
fn completions(task: &CompileTask, double: &str) -> Vec<String> {
    let of = |prompt: &String| {
        if prompt.contains("double") { double } else { " if a < b { a } else { b } }" }
    };
    task.prompts().iter().map(|prompt| of(prompt).to_owned()).collect()
}

#[test]
fn prompts_are_functions_that_stand_for_themselves() {
    let Some(task) = task(Limits::default()) else { return };
    let mut prompts = task.prompts().to_vec();
    prompts.sort();
    let expected =
        ["fn longest<'a>(a: &'a str, b: &'a str) -> &'a str {", "pub fn double(x: u32) -> u32 {"];
    assert_eq!(prompts, expected);
    let own =
        CompileTask::new(["fn f(x: Own) {\n}\n"].into_iter(), 8, 1, &SandboxPolicy::default());
    assert!(matches!(own, Err(Error::NoPrompts { functions: 1 })));
}

/// The variable is set in a process of its own.
#[test]
fn a_compiler_that_is_not_there_is_named() {
    let mut command = std::process::Command::new(super::this_program());
    command.args(["--exact", "compiling::without_a_compiler", "--ignored"]);
    let output = command.env("RUSTC", "/no/such/rustc").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "runs where RUSTC names nothing"]
fn without_a_compiler() {
    if std::env::var_os("RUSTC").is_none_or(|name| name != "/no/such/rustc") {
        return;
    }
    let policy = SandboxPolicy::default();
    let error = CompileTask::new([HELD_OUT].into_iter(), 8, 1, &policy).unwrap_err();
    assert!(matches!(error, Error::NoRustc { .. }), "{error}");
    assert!(
        error.to_string().contains("`/no/such/rustc --print sysroot`: No such file"),
        "{error}"
    );
}

#[test]
fn completions_fail_by_class() {
    let Some(task) = task(Limits::default()) else { return };
    for (completion, class) in [
        ("\n    x + x\n}\nfn rest(", ""),
        ("\n    \"text\"\n}", "E0308"),
        ("\n    x + y\n}", "E0425"),
        ("\n    x + \n}", "syntax"),
        ("\n    x + (1 }", "syntax"),
        ("\n    255_u8 + 256_u8; x }", "overflowing_literals"),
        ("\n    x + {", "unfinished"),
        (" include_str!(\"/etc/passwd\"); x }", "other"),
        (" const _: &str = include_str!(\"/proc/self/environ\"); x }", "other"),
        (" env!(\"HOME\"); x }", "other"),
    ] {
        let report = task.score(&completions(&task, completion)).unwrap();
        assert!(report.rustc.starts_with("rustc ") && report.isolated);
        let good = usize::from(class.is_empty());
        assert_eq!((report.samples, report.compiled), (2, 1 + good), "{completion}: {report:?}");
        let unparsed = usize::from(class == "syntax" || class == "unfinished");
        assert_eq!(report.parsed, 2 - unparsed, "{completion}");
        let classes: Vec<_> = report.failures.keys().map(String::as_str).collect();
        assert_eq!(classes, if good == 1 { vec![] } else { vec![class] }, "{completion}");
    }
    assert!(matches!(task.score(&[]), Err(Error::Completions { expected: 2, got: 0 })));
}

#[test]
fn a_loop_inside_the_compiler_ends() {
    let limits = Limits { cpu_s: 2, ..Limits::default() };
    let Some(task) = task(limits) else { return };
    let endless = " #[allow(long_running_const_eval)] const LOOP: u32 = { \
        let mut x = 0_u32; while x < 2 { x *= 1; } x }; x + LOOP }";
    let report = task.score(&completions(&task, endless)).unwrap();
    assert_eq!(report.failures.get("time"), Some(&1), "{report:?}");
}

#[test]
fn a_compiler_that_asks_for_ten_gigabytes_fails() {
    let Some(task) = task(Limits::default()) else { return };
    let huge = " const HUGE: [u8; 10_000_000_000] = [1; 10_000_000_000]; x + HUGE[0] as u32 }";
    let report = task.score(&completions(&task, huge)).unwrap();
    assert_eq!((report.parsed, report.compiled), (2, 1), "{report:?}");
}

#[test]
fn deep_nesting_fails_the_compiler_and_not_us() {
    let Some(task) = task(Limits::default()) else { return };
    let deep = format!(" {}x{} }}", "(".repeat(100_000), ")".repeat(100_000));
    let report = task.score(&completions(&task, &deep)).unwrap();
    assert_eq!((report.samples, report.compiled), (2, 1), "{report:?}");
}

//! Finds the compiler and asks it about one program.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::Error;
use crate::sandbox::{Ending, Finished, Program, Sandbox, SandboxPolicy};

/// What the compiler says of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Compiled,
    /// It does not parse; the class of the failure.
    Unparsed(String),
    /// It parses and does not type-check; the class of the failure.
    Refused(String),
}

/// A compiler behind a sandbox.
#[derive(Clone, Debug)]
pub(super) struct Rustc {
    /// The compiler itself: what lies in `PATH` may be a chooser that needs a home folder.
    path: PathBuf,
    /// Its own libraries. It looks for them beside itself, for which it would need `/proc`.
    libraries: String,
    /// It and its libraries.
    readable: Vec<PathBuf>,
    version: String,
    sandbox: Sandbox,
}

/// Reads the program from standard input and writes one diagnostic per line.
const ARGUMENTS: &[&str] = &[
    "--edition=2021",
    "--crate-type=lib",
    "--crate-name=sample",
    "--emit=metadata",
    "--error-format=json",
    "-",
];

/// A crate under a condition that never holds is parsed, and then dropped.
const PARSE_ONLY: &str = "#![cfg(any())] ";

impl Rustc {
    /// The compiler that `rustc` means here, or `RUSTC` where that is set.
    pub(super) fn find(policy: &SandboxPolicy) -> Result<Rustc, Error> {
        let name = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let ask = |path: &Path, argument: &[&str]| {
            let what = || format!("`{} {}`", path.display(), argument.join(" "));
            let done = Command::new(path).args(argument).output();
            let output =
                done.map_err(|error| Error::NoRustc { why: format!("{}: {error}", what()) })?;
            if !output.status.success() {
                return Err(Error::NoRustc { why: format!("{}: {}", what(), output.status) });
            }
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let sysroot = PathBuf::from(ask(Path::new(&name), &["--print", "sysroot"])?);
        let canonical = |path: PathBuf| {
            let text = path.canonicalize().map(|path| path.into_os_string().into_string());
            let why = match text {
                Ok(Ok(text)) => return Ok(text),
                Ok(Err(_)) => format!("`{}`: expected a path in UTF-8", path.display()),
                Err(error) => format!("`{}`: {error}", path.display()),
            };
            Err(Error::NoRustc { why })
        };
        let path = PathBuf::from(canonical(sysroot.join("bin/rustc"))?);
        let libraries = canonical(sysroot.join("lib"))?;
        let readable = vec![path.clone(), PathBuf::from(&libraries)];
        let version = ask(&path, &["--version"])?;
        let rustc = Rustc { path, libraries, readable, version, sandbox: Sandbox::new(policy)? };
        rustc.try_out()?;
        Ok(rustc)
    }

    /// A compiler that cannot work inside the sandbox would look like a model that writes no Rust.
    fn try_out(&self) -> Result<(), Error> {
        let finished =
            self.run("pub fn first(text: &str) -> Option<char> { text.chars().next() }")?;
        if finished.ending == Ending::Exited(0) {
            return Ok(());
        }
        let output = String::from_utf8_lossy(&finished.output);
        let line = output.lines().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        Err(Error::RustcFails { path: self.path.clone(), why: line.to_owned() })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) fn isolated(&self) -> bool {
        self.sandbox.isolated()
    }

    /// Parses, then checks types.
    pub(super) fn judge(&self, program: &str) -> Result<Verdict, Error> {
        if let Some(class) = self.failure(&format!("{PARSE_ONLY}{program}"), "syntax")? {
            return Ok(Verdict::Unparsed(class));
        }
        let failure = self.failure(program, "other")?;
        Ok(failure.map_or(Verdict::Compiled, Verdict::Refused))
    }

    /// The class of the failure, if any; `uncoded` for an error without a code.
    fn failure(&self, program: &str, uncoded: &str) -> Result<Option<String>, Error> {
        Ok(failure_class(&self.run(program)?, uncoded))
    }

    fn run(&self, program: &str) -> Result<Finished, Error> {
        self.sandbox.run(&Program {
            path: &self.path,
            args: ARGUMENTS,
            environment: &[("LD_LIBRARY_PATH", &self.libraries)],
            stdin: program.as_bytes(),
            readable: &self.readable,
        })
    }
}

fn failure_class(finished: &Finished, uncoded: &str) -> Option<String> {
    let class = match finished.ending {
        Ending::Exited(0) => return None,
        Ending::Exited(1) => return Some(first_error(&finished.output, uncoded)),
        Ending::OutOfTime | Ending::Signalled(libc::SIGXCPU | libc::SIGKILL) => "time",
        Ending::Exited(_) | Ending::Signalled(_) => "crash",
    };
    Some(class.to_owned())
}

/// The fields of a diagnostic that are used here.
#[derive(Deserialize)]
struct Diagnostic {
    level: String,
    code: Option<Code>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

/// The code of the first error, or `uncoded`; what is no diagnostic is passed over.
fn first_error(output: &[u8], uncoded: &str) -> String {
    let lines = output.split(|&byte| byte == b'\n');
    let diagnostics = lines.filter_map(|line| serde_json::from_slice::<Diagnostic>(line).ok());
    let mut errors = diagnostics.filter(|diagnostic| diagnostic.level == "error");
    let code = errors.next().and_then(|error| error.code);
    code.map_or_else(|| uncoded.to_owned(), |code| code.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_named_by_its_first_error() {
        let output = br#"not json
{"level":"warning","code":{"code":"unused_variables"},"message":"m"}
{"level":"error","code":{"code":"E0308"},"message":"m"}
{"level":"error","code":null,"message":"aborting"}"#;
        let with = |ending| {
            failure_class(&Finished { ending, output: output.to_vec() }, "other")
                .unwrap_or_default()
        };
        assert_eq!(with(Ending::Exited(1)), "E0308");
        assert_eq!(with(Ending::Exited(0)), "");
        assert_eq!(with(Ending::Exited(101)), "crash");
        assert_eq!(with(Ending::Signalled(libc::SIGABRT)), "crash");
        assert_eq!(with(Ending::Signalled(libc::SIGXCPU)), "time");
        assert_eq!(with(Ending::OutOfTime), "time");
        assert_eq!(first_error(b"", "syntax"), "syntax");
    }
}

//! Without isolation: limits, a clock, an empty folder and environment, and a process group that is
//! killed at the end.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use super::capture::{Capture, remaining};
use super::{Ending, Finished, Limits, Program};
use crate::Error;

/// How often the end of the program is looked for; its output wakes us anyway.
const TICK: Duration = Duration::from_millis(10);

pub(super) fn run(limits: &Limits, program: &Program<'_>) -> Result<Finished, Error> {
    let fail = |source| Error::Sandbox { action: "run a program", source };
    let folder = tempfile::tempdir().map_err(fail)?;
    let (reader, writer) = io::pipe().map_err(fail)?;
    let mut command = Command::new(program.path);
    command
        .args(program.args)
        .env_clear()
        .envs(program.environment.iter().copied())
        .current_dir(folder.path())
        .stdin(input(program.stdin).map_err(fail)?)
        .stdout(writer.try_clone().map_err(fail)?)
        .stderr(writer)
        .process_group(0);
    limit(&mut command, limits);
    let child = command.spawn().map_err(fail)?;
    // The command holds the write end of the pipe.
    drop(command);
    watch(child, Capture::new(reader.into(), limits.output_bytes), limits).map_err(fail)
}

/// A file to read standard input from: a pipe could fill up while nobody reads. It has no name any
/// more and cannot be written to.
pub(super) fn input(bytes: &[u8]) -> io::Result<File> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(bytes)?;
    File::open(file.path())
}

#[allow(unsafe_code)]
fn limit(command: &mut Command, limits: &Limits) {
    let resources = limits.resources();
    let set = move || {
        resources.iter().try_for_each(|&(resource, soft, hard)| {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            // SAFETY: the pointer is to a live struct of the right type.
            match unsafe { libc::setrlimit(resource, &limit) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    };
    // SAFETY: between fork and exec the closure only calls `setrlimit`, which is async-signal-safe
    // and allocates nothing.
    unsafe { command.pre_exec(set) };
}

fn watch(mut child: Child, mut output: Capture, limits: &Limits) -> io::Result<Finished> {
    let deadline = Instant::now() + Duration::from_millis(limits.wall_ms);
    let mut status = None;
    while status.is_none() && remaining(deadline) > Duration::ZERO {
        output.pump(None, TICK.min(remaining(deadline)))?;
        status = child.try_wait()?;
    }
    kill_group(&child);
    if status.is_none() {
        child.wait()?;
    }
    let ending = status.map_or(Ending::OutOfTime, ending_of);
    Ok(Finished { ending, output: output.finish()? })
}

/// What is left of the program's group; an already reaped leader may have left members behind.
#[allow(unsafe_code)]
fn kill_group(child: &Child) {
    // SAFETY: takes no pointers. The group was made for this child; its number stays taken while a
    // member lives.
    unsafe { libc::kill(-(child.id() as libc::pid_t), libc::SIGKILL) };
}

pub(super) fn ending_of(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, Some(signal)) => Ending::Signalled(signal),
        (None, None) => Ending::Signalled(libc::SIGKILL),
    }
}

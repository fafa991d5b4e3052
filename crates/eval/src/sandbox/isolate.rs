//! The parent's side of an isolated run: prepare, clone, watch, kill, reap.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::ptr;
use std::time::{Duration, Instant};

use super::bare::{ending_of, input};
use super::capture::{Capture, remaining};
use super::child::{Exec, Job, NAMESPACES, NOBODY, Report, Step, Strings, clone_process, init};
use super::view::View;
use super::{Ending, Finished, Limits, Program};
use crate::Error;

/// The user and group inside; any number but 0.
const INSIDE: u32 = 1000;

/// Each namespace alone, to name the one that is refused.
const EACH: [(libc::c_int, &str); 5] = [
    (libc::CLONE_NEWNS, "mount namespace"),
    (libc::CLONE_NEWPID, "PID namespace"),
    (libc::CLONE_NEWNET, "network namespace"),
    (libc::CLONE_NEWIPC, "IPC namespace"),
    (libc::CLONE_NEWUTS, "UTS namespace"),
];

/// Tries each isolation, and then all together as for a program.
pub(super) fn probe(limits: &Limits) -> Result<(), Error> {
    if !is_root() {
        try_clone(libc::CLONE_NEWUSER, "user namespace")?;
    }
    let base = base_flags();
    EACH.iter().try_for_each(|&(flag, what)| try_clone(base | flag, what))?;
    execute(limits, None).map(|_| ())
}

/// Runs a program.
pub(super) fn run(limits: &Limits, program: &Program<'_>) -> Result<Finished, Error> {
    execute(limits, Some(program))
}

fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Root has the right to all other namespaces, anybody else only below a user namespace.
fn base_flags() -> libc::c_int {
    if is_root() { 0 } else { libc::CLONE_NEWUSER }
}

fn try_clone(flags: libc::c_int, what: &'static str) -> Result<(), Error> {
    // SAFETY: the child only ends.
    let pid = unsafe { clone_process(flags) };
    match pid {
        -1 => Err(Error::Unavailable { what, source: io::Error::last_os_error() }),
        // SAFETY: ends this process at once, without handlers.
        0 => unsafe { libc::_exit(0) },
        child => reap(child).map(|_| ()).map_err(failed),
    }
}

fn failed(source: io::Error) -> Error {
    Error::Sandbox { action: "run a program", source }
}

fn execute(limits: &Limits, program: Option<&Program<'_>>) -> Result<Finished, Error> {
    let root = tempfile::tempdir().map_err(failed)?;
    let stdin = input(program.map_or(&[], |program| program.stdin)).map_err(failed)?;
    let (reader, output) = io::pipe().map_err(failed)?;
    let (report_reader, report) = io::pipe().map_err(failed)?;
    let (output, report) = (OwnedFd::from(output), OwnedFd::from(report));
    let fds = [stdin.as_raw_fd(), output.as_raw_fd(), report.as_raw_fd()];
    let mut kept = fds;
    kept.sort_unstable();
    let job = Job {
        stdin: fds[0],
        output: fds[1],
        report: fds[2],
        kept,
        ..job(limits, program, root.path()).map_err(failed)?
    };
    // SAFETY: the child goes into `init`, which makes system calls alone and never returns.
    let pid = unsafe { clone_process(NAMESPACES | base_flags()) };
    match pid {
        -1 => return Err(failed(io::Error::last_os_error())),
        // SAFETY: this is the child of `clone_process`.
        0 => unsafe { init(&job) },
        _ => {}
    }
    // Only the child may hold the write ends: their end is what is waited for.
    drop((output, report));
    let init = Init { pid };
    let capture = Capture::new(reader.into(), limits.output_bytes);
    watch(init, capture, File::from(OwnedFd::from(report_reader)), limits)
}

fn job(limits: &Limits, program: Option<&Program<'_>>, root: &Path) -> io::Result<Job> {
    // SAFETY: take nothing and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let (uid, gid) = if is_root() { (NOBODY, NOBODY) } else { (uid, gid) };
    let map = |outside: u32| CString::new(format!("{INSIDE} {outside} 1\n"));
    let readable = program.map_or(&[][..], |program| program.readable);
    let work = format!("size={},nr_inodes=4096,mode=1777", limits.disk_bytes);
    Ok(Job {
        root: CString::new(root.as_os_str().as_bytes())?,
        view: View::of(readable)?,
        work_options: CString::new(work)?,
        from_root: is_root(),
        uid_map: map(uid)?,
        gid_map: map(gid)?,
        resources: limits.resources(),
        processes: limits.processes,
        exec: program.map(exec).transpose()?,
        stdin: -1,
        output: -1,
        report: -1,
        kept: [-1; 3],
    })
}

fn exec(program: &Program<'_>) -> io::Result<Exec> {
    let path = CString::new(program.path.as_os_str().as_bytes())?;
    let mut arguments = vec![path.clone()];
    for argument in program.args {
        arguments.push(CString::new(*argument)?);
    }
    let pair = |(name, value): &(&str, &str)| CString::new(format!("{name}={value}"));
    let environment = program.environment.iter().map(pair).collect::<Result<_, _>>()?;
    let (arguments, environment) = (Strings::new(arguments), Strings::new(environment));
    Ok(Exec { path, arguments, environment })
}

/// The init of a run; killed with all its namespace, and reaped, whatever happens here.
struct Init {
    pid: libc::pid_t,
}

impl Drop for Init {
    fn drop(&mut self) {
        // SAFETY: takes no pointers; the child is not reaped yet, so the number is still its own.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // An error would mean that there is nothing to reap.
        let _ = reap(self.pid);
    }
}

fn reap(pid: libc::pid_t) -> io::Result<()> {
    // SAFETY: the status is not asked for.
    while unsafe { libc::waitpid(pid, ptr::null_mut(), 0) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(())
}

fn watch(
    init: Init,
    mut capture: Capture,
    mut report: File,
    limits: &Limits,
) -> Result<Finished, Error> {
    let deadline = Instant::now() + Duration::from_millis(limits.wall_ms);
    let mut reported = false;
    while !reported && remaining(deadline) > Duration::ZERO {
        reported = capture.pump(Some(report.as_raw_fd()), remaining(deadline)).map_err(failed)?;
    }
    // First the end of all processes, then the rest of what they wrote.
    drop(init);
    let ending = if reported { ending(&mut report)? } else { Ending::OutOfTime };
    Ok(Finished { ending, output: capture.finish().map_err(failed)? })
}

/// How the program ended by the report of its init.
fn ending(report: &mut File) -> Result<Ending, Error> {
    let mut bytes: Report = [0; 5];
    match report.read_exact(&mut bytes) {
        Ok(()) => {}
        // Killed from outside before it could tell, as by a lack of memory.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Ending::Signalled(libc::SIGKILL));
        }
        Err(error) => return Err(failed(error)),
    }
    let [step, code @ ..] = bytes;
    let code = i32::from_le_bytes(code);
    let source = || io::Error::from_raw_os_error(code);
    match Step::ALL.into_iter().find(|known| *known as u8 == step) {
        Some(Step::Ended) => Ok(ending_of(ExitStatus::from_raw(code))),
        Some(Step::Exec) | None => Err(failed(source())),
        Some(step) => Err(Error::Unavailable { what: step.name(), source: source() }),
    }
}

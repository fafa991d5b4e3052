//! Runs one foreign program with as little as it needs, and ends everything it started.
//!
//! What a model writes is compiled here, and a compiler can be made to loop, to eat memory and to
//! read files. On Linux a program gets:
//!
//! - a root of its own (mount namespace, `pivot_root`): the named folders, read-only, the system's
//!   shared libraries, `/dev/null`, and `/sandbox`, an empty folder in memory of bounded size;
//! - no network (an empty network namespace: not even loopback is up), no shared memory (IPC);
//! - a PID namespace: its init waits for the program and ends, and the kernel kills all the rest;
//! - a non-zero user id without any capability in a user namespace (who starts as root becomes
//!   `nobody` before), which also makes the limit on processes count these processes alone;
//! - limits on processor time, memory, file size, open files, processes and the wall clock; output
//!   is kept up to a bound; the environment is what the caller says and no file is inherited.
//!
//! [`Sandbox::new`] tries each of these once, the limit on processes by running into it, and a
//! refusal is [`Error::Unavailable`] with its name. With `allow_unsandboxed` the refusal is logged
//! and only limits, clock, an empty folder and the killing of the process group are left.
//!
//! It does not protect from
//!
//! - a hole in the kernel: the whole table of system calls is within reach, as for any program;
//! - a lack of memory: the limit is per process, so all processes together may take
//!   `processes * memory_bytes`, and nameless files in memory (`memfd_create`) count against the
//!   limits on files alone. The program's out-of-memory score makes it the first to be killed, its
//!   clock runs out, and who needs a hard sum runs smidgen in a memory cgroup;
//! - being slowed down, or timed: processor time is limited per process, too;
//! - reading what the library folders and the toolchain hold;
//! - somebody who can change the compiler or this program: those are trusted.
//!
//! Unsandboxed, a process that leaves the process group outlives the run.

mod bare;
mod capture;
#[cfg(target_os = "linux")]
mod child;
#[cfg(target_os = "linux")]
mod isolate;
mod limits;
#[cfg(target_os = "linux")]
mod root;
#[cfg(target_os = "linux")]
mod view;

use std::path::{Path, PathBuf};

pub use limits::Limits;

use crate::Error;

/// How careful to be with foreign programs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxPolicy {
    /// What one program may use.
    pub limits: Limits,
    /// Whether to go on with limits alone where the system refuses isolation.
    pub allow_unsandboxed: bool,
}

/// One program to run.
#[derive(Clone, Copy, Debug)]
pub struct Program<'a> {
    /// The executable, an absolute path without symbolic links.
    pub path: &'a Path,
    /// Its arguments, without its name.
    pub args: &'a [&'a str],
    /// Its environment: nothing but this.
    pub environment: &'a [(&'a str, &'a str)],
    /// What it reads from standard input.
    pub stdin: &'a [u8],
    /// Folders and files it may read, absolute, besides shared libraries; they keep their paths.
    pub readable: &'a [PathBuf],
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// Killed when its wall-clock time was over.
    OutOfTime,
}

/// A program that ran, and of whose processes none is left (see [`Sandbox::isolated`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// How it ended.
    pub ending: Ending,
    /// What it wrote to standard output and standard error, up to the bound.
    pub output: Vec<u8>,
}

/// A way to run programs that was tried on this system.
#[derive(Clone, Debug)]
pub struct Sandbox {
    limits: Limits,
    isolated: bool,
}

impl Sandbox {
    /// Tries every isolation once.
    ///
    /// # Errors
    /// [`Error::Unavailable`] with the name of the first that is refused, unless the policy allows
    /// to go on without.
    pub fn new(policy: &SandboxPolicy) -> Result<Sandbox, Error> {
        let limits = policy.limits.clone();
        match probe(&limits) {
            Ok(()) => Ok(Sandbox { limits, isolated: true }),
            Err(refusal @ Error::Unavailable { .. }) if policy.allow_unsandboxed => {
                tracing::warn!(%refusal, "foreign programs run without isolation");
                Ok(Sandbox { limits, isolated: false })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether programs are isolated; false only by `allow_unsandboxed`.
    pub fn isolated(&self) -> bool {
        self.isolated
    }

    /// Runs a program to its end and kills what it left behind.
    ///
    /// # Errors
    /// [`Error::Sandbox`] where it could not be started or watched; that it failed is no error.
    pub fn run(&self, program: &Program<'_>) -> Result<Finished, Error> {
        #[cfg(target_os = "linux")]
        if self.isolated {
            return isolate::run(&self.limits, program);
        }
        bare::run(&self.limits, program)
    }
}

#[cfg(target_os = "linux")]
fn probe(limits: &Limits) -> Result<(), Error> {
    isolate::probe(limits)
}

#[cfg(not(target_os = "linux"))]
fn probe(_limits: &Limits) -> Result<(), Error> {
    let source = std::io::Error::from(std::io::ErrorKind::Unsupported);
    Err(Error::Unavailable { what: "Linux namespaces", source })
}

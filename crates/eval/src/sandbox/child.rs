//! What happens between the clone and the program: the new root, the new user, the limits.
//!
//! This code runs in a copy of a process that may have had many threads, so any lock of the C
//! library may be held for ever. It therefore makes system calls alone: no allocation, no panic, no
//! wrapper that talks to other threads (`setresuid` of the C library does, the call does not). All
//! it needs lies in a [`Job`] that was made before.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::os::fd::RawFd;
use std::ptr;

use libc::{c_char, c_int, c_long};

use super::limits::Resource;
use super::root::new_root;
use super::view::View;

/// The namespaces of a program, the user namespace aside.
pub(super) const NAMESPACES: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// Everything the child needs.
pub(super) struct Job {
    /// An empty folder to mount the new root on.
    pub(super) root: CString,
    /// What appears in it.
    pub(super) view: View,
    /// `size=..` of the folder to write to.
    pub(super) work_options: CString,
    /// `0` where the parent is root: become `nobody` first and make the user namespace then.
    /// Else the user namespace is there already.
    pub(super) from_root: bool,
    /// Lines of `uid_map` and `gid_map`.
    pub(super) uid_map: CString,
    pub(super) gid_map: CString,
    pub(super) resources: [(Resource, u64, u64); 6],
    pub(super) processes: u64,
    /// The program; none only tries the limit on processes.
    pub(super) exec: Option<Exec>,
    pub(super) stdin: RawFd,
    pub(super) output: RawFd,
    /// Where reports go, see [`Report`].
    pub(super) report: RawFd,
    /// These three in rising order.
    pub(super) kept: [RawFd; 3],
}

/// A program with its arguments and its environment.
pub(super) struct Exec {
    pub(super) path: CString,
    pub(super) arguments: Strings,
    pub(super) environment: Strings,
}

/// Texts as `execve` takes them.
pub(super) struct Strings {
    /// What the pointers point to.
    _texts: Vec<CString>,
    /// To each text, then null.
    pointers: Vec<*const c_char>,
}

impl Strings {
    pub(super) fn new(texts: Vec<CString>) -> Self {
        let pointers = texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect();
        Self { _texts: texts, pointers }
    }
}

/// The parts of the isolation, as they are named when the system refuses one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Step {
    Ended,
    Mounts,
    ReadOnly,
    Pivot,
    User,
    Processes,
    Limits,
    Exec,
}

impl Step {
    pub(super) const ALL: [Step; 8] = [
        Self::Ended,
        Self::Mounts,
        Self::ReadOnly,
        Self::Pivot,
        Self::User,
        Self::Processes,
        Self::Limits,
        Self::Exec,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ended => "waiting for the program",
            Self::Mounts => "mount namespace with a temporary root",
            Self::ReadOnly => "read-only mounts",
            Self::Pivot => "change of the root",
            Self::User => "user namespace with a mapped non-zero uid",
            Self::Processes => "limit on processes",
            Self::Limits => "resource limits",
            Self::Exec => "start of the program",
        }
    }
}

/// What goes through the report pipe: a step, and its `errno` or (`Ended`) a wait status.
pub(super) type Report = [u8; 5];

/// Done, or what failed with which `errno`.
pub(super) type Outcome = Result<(), (Step, c_int)>;

/// A copy of this process in new namespaces, as `fork` but without its handlers.
///
/// # Safety
/// Where it returns 0 only system calls may follow: the process is a copy with one thread.
pub(super) unsafe fn clone_process(flags: c_int) -> libc::pid_t {
    let flags = c_long::from(flags | libc::SIGCHLD);
    // SAFETY: without CLONE_VM the child has its own memory and stack; all pointers are null.
    unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) as libc::pid_t }
}

/// The init of the namespaces. When it ends, the kernel kills everything in them.
///
/// # Safety
/// Only in the child of [`clone_process`]`(NAMESPACES ..)`.
pub(super) unsafe fn init(job: &Job) -> ! {
    // SAFETY: by the contract of this function; nothing below allocates.
    unsafe {
        if let Err((step, code)) = isolate(job) {
            finish(job, step, code);
        }
        match clone_process(0) {
            -1 => finish(job, Step::Processes, errno()),
            0 => {
                let Err((step, code)) = become_program(job) else { libc::_exit(0) };
                finish(job, step, code)
            }
            program => wait(job, program),
        }
    }
}

unsafe fn finish(job: &Job, step: Step, code: c_int) -> ! {
    let mut report: Report = [step as u8, 0, 0, 0, 0];
    report[1..].copy_from_slice(&code.to_le_bytes());
    // SAFETY: a write of a live array; a parent that is gone needs no report.
    unsafe {
        libc::write(job.report, report.as_ptr().cast(), report.len());
        libc::_exit(1)
    }
}

unsafe fn wait(job: &Job, program: libc::pid_t) -> ! {
    // SAFETY: plain system calls on live memory.
    unsafe {
        // The parent sees the end of the output when the last writer is gone.
        libc::close(job.output);
        loop {
            let mut status = 0;
            match libc::waitpid(-1, &mut status, 0) {
                pid if pid == program => finish(job, Step::Ended, status),
                -1 if errno() != libc::EINTR => finish(job, Step::Ended, libc::SIGKILL),
                // Orphans come here; they only need to be reaped.
                _ => {}
            }
        }
    }
}

unsafe fn isolate(job: &Job) -> Outcome {
    // SAFETY: plain system calls on live memory.
    unsafe {
        // Whatever ends the parent ends this, and with it everything inside.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        // No controlling terminal: its signals and its input are not for foreign programs.
        libc::setsid();
        // No keys of the kernel's keyring either; where there is none, there is nothing to leave.
        libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<c_char>());
        close_others(job);
        let proc =
            libc::open(c"/proc".as_ptr(), libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC);
        // The first to go where memory runs out; where it cannot be said, nothing is lost.
        put(proc, c"self/oom_score_adj", c"1000");
        if !job.from_root {
            map_user(job, proc)?;
        }
        new_root(job)?;
        if job.from_root {
            drop_root()?;
            map_user(job, proc)?;
        }
        // Nobody inside may make namespaces again; a second line only, so it may fail.
        put(proc, c"sys/user/max_user_namespaces", c"0");
        libc::close(proc);
        checked(Step::User, libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        // This copy of the parent's memory is not for the program to look into.
        checked(Step::User, libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0).into())
    }
}

/// Closes every file but those of this run: another run of this process may wait for the end of one.
unsafe fn close_others(job: &Job) {
    let mut from = 3;
    for kept in job.kept {
        // SAFETY: takes numbers alone; an empty range is refused, and that is all.
        unsafe { libc::syscall(libc::SYS_close_range, from, kept - 1, 0) };
        from = kept + 1;
    }
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_close_range, from, c_int::MAX, 0) };
}

/// The user and group `nobody` of every Linux.
pub(super) const NOBODY: u32 = 65_534;

/// From root to `nobody`, in a user namespace of its own.
unsafe fn drop_root() -> Outcome {
    let id = c_long::from(NOBODY);
    // SAFETY: plain system calls; the raw ones, because those of the C library wake other threads.
    unsafe {
        checked(Step::User, libc::syscall(libc::SYS_setgroups, 0, ptr::null::<libc::gid_t>()))?;
        checked(Step::User, libc::syscall(libc::SYS_setresgid, id, id, id))?;
        checked(Step::User, libc::syscall(libc::SYS_setresuid, id, id, id))?;
        checked(Step::User, libc::unshare(libc::CLONE_NEWUSER).into())?;
        // A change of the user hides `/proc/self` from it, and the maps are written there.
        checked(Step::User, libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into())
    }
}

/// One user and one group, neither of them 0: the program gets no capability from `exec`.
unsafe fn map_user(job: &Job, proc: RawFd) -> Outcome {
    // SAFETY: live C strings and an open folder.
    unsafe {
        let files = [
            (c"self/setgroups", c"deny"),
            (c"self/uid_map", job.uid_map.as_c_str()),
            (c"self/gid_map", job.gid_map.as_c_str()),
        ];
        for (file, text) in files {
            if !put(proc, file, text) {
                return Err((Step::User, errno()));
            }
        }
        Ok(())
    }
}

/// Writes a small file below an open folder; tells whether it worked.
unsafe fn put(folder: RawFd, path: &CStr, text: &CStr) -> bool {
    // SAFETY: live C strings; the length is that of the text.
    unsafe {
        let file = libc::openat(folder, path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 {
            return false;
        }
        let length = text.to_bytes().len();
        let written = libc::write(file, text.as_ptr().cast(), length) == length as isize;
        let code = errno();
        libc::close(file);
        *libc::__errno_location() = code;
        written
    }
}

unsafe fn become_program(job: &Job) -> Outcome {
    // SAFETY: plain system calls on live memory; the lists of `exec` end with null.
    unsafe {
        for (from, to) in [(job.stdin, 0), (job.output, 1), (job.output, 2)] {
            checked(Step::Exec, libc::dup2(from, to).into())?;
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
        // The Rust runtime ignores it, and ignoring is inherited.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        for (resource, soft, hard) in job.resources {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            checked(Step::Limits, libc::setrlimit(resource, &limit).into())?;
        }
        let Some(exec) = &job.exec else {
            return too_many_processes(job.processes);
        };
        // Files of the parent that some library opened without the flag.
        let cloexec = libc::CLOSE_RANGE_CLOEXEC as c_long;
        checked(
            Step::Exec,
            libc::syscall(libc::SYS_close_range, 3, c_long::from(u32::MAX), cloexec),
        )?;
        let (arguments, environment) = (&exec.arguments.pointers, &exec.environment.pointers);
        libc::execve(exec.path.as_ptr(), arguments.as_ptr(), environment.as_ptr());
        Err((Step::Exec, errno()))
    }
}

/// Starts more processes than may be; they go with the init.
unsafe fn too_many_processes(limit: u64) -> Outcome {
    for _ in 0..=limit {
        // SAFETY: the child only waits.
        unsafe {
            match clone_process(0) {
                -1 if errno() == libc::EAGAIN => return Ok(()),
                -1 => return Err((Step::Processes, errno())),
                0 => loop {
                    libc::pause();
                },
                _ => {}
            }
        }
    }
    Err((Step::Processes, libc::ENOTSUP))
}

pub(super) fn checked(step: Step, result: c_long) -> Outcome {
    if result < 0 { Err((step, errno())) } else { Ok(()) }
}

pub(super) fn errno() -> c_int {
    // SAFETY: the pointer is to this thread's own number.
    unsafe { *libc::__errno_location() }
}

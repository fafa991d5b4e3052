//! The child's own root: an empty file system in memory, what the view shows in it, a folder to write
//! to. System calls alone, for the reason given in [`super::child`].

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;

use libc::{c_int, c_ulong, c_void};

use super::child::{Job, Outcome, Step, checked, errno};

/// Makes the new root and goes there; the old one is gone for this process.
///
/// # Safety
/// Only in a process with mounts of its own, see [`super::child`].
pub(super) unsafe fn new_root(job: &Job) -> Outcome {
    // SAFETY: every path is a live C string, every other pointer null.
    unsafe {
        mount(Step::Mounts, c"none", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, None)?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV;
        mount(Step::Mounts, c"tmpfs", &job.root, c"tmpfs", flags, Some(c"size=1m,mode=755"))?;
        checked(Step::Mounts, libc::chdir(job.root.as_ptr()).into())?;
        for folder in &job.view.folders {
            make_folder(folder)?;
        }
        for (target, path) in &job.view.links {
            checked(Step::Mounts, libc::symlink(target.as_ptr(), path.as_ptr()).into())?;
        }
        for bind in &job.view.binds {
            if bind.file {
                let made = libc::open(bind.target.as_ptr(), libc::O_CREAT | libc::O_CLOEXEC, 0o444);
                checked(Step::Mounts, made.into())?;
                libc::close(made);
            } else {
                make_folder(&bind.target)?;
            }
            let flags = libc::MS_BIND | libc::MS_REC;
            mount(Step::Mounts, &bind.source, &bind.target, c"", flags, None)?;
            // A device file must stay one; folders show no devices.
            read_only(
                &bind.target,
                if bind.file { 0 } else { MOUNT_ATTR_NODEV },
                libc::AT_RECURSIVE,
            )?;
        }
        mount(Step::Mounts, c"tmpfs", c"sandbox", c"tmpfs", flags, Some(&job.work_options))?;
        read_only(c".", MOUNT_ATTR_NODEV, 0)?;
        let here = c".".as_ptr();
        checked(Step::Pivot, libc::syscall(libc::SYS_pivot_root, here, here))?;
        // The old root lies on top of the new one now; without it there is no way back.
        checked(Step::Pivot, libc::umount2(here, libc::MNT_DETACH).into())?;
        checked(Step::Pivot, libc::chdir(c"/sandbox".as_ptr()).into())
    }
}

unsafe fn make_folder(path: &CStr) -> Outcome {
    // SAFETY: a live C string.
    unsafe {
        match libc::mkdir(path.as_ptr(), 0o755) {
            -1 if errno() != libc::EEXIST => Err((Step::Mounts, errno())),
            _ => Ok(()),
        }
    }
}

unsafe fn mount(
    step: Step,
    source: &CStr,
    target: &CStr,
    kind: &CStr,
    flags: c_ulong,
    options: Option<&CStr>,
) -> Outcome {
    let options = options.map_or(ptr::null(), CStr::as_ptr).cast::<c_void>();
    // SAFETY: live C strings; null stands for no options.
    let result =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, options) };
    checked(step, result.into())
}

/// `struct mount_attr` of the kernel.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;
const MOUNT_ATTR_NOSUID: u64 = 2;
const MOUNT_ATTR_NODEV: u64 = 4;

/// Takes away writing; the call (Linux 5.12) reaches mounts below mounts, `MS_REMOUNT` does not.
unsafe fn read_only(path: &CStr, more: u64, flags: c_int) -> Outcome {
    let set = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | more;
    let attr = MountAttr { set, clear: 0, propagation: 0, user_namespace: 0 };
    // SAFETY: a live C string, and a live struct with its size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    checked(Step::ReadOnly, result)
}

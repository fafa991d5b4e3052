//! What a foreign program may try. Each runs inside the sandbox alone, and passes where the attempt
//! came to nothing as seen from there.

#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

/// Somebody may run the ignored tests outside; there they do nothing.
fn inside() -> bool {
    std::env::current_dir().is_ok_and(|folder| folder == Path::new("/sandbox"))
        && std::env::vars_os().next().is_none()
}

fn stdin() -> String {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    text
}

#[test]
#[ignore = "runs inside the sandbox"]
fn loop_for_ever() {
    while inside() {
        std::hint::black_box(0);
    }
}

#[test]
#[ignore = "runs inside the sandbox"]
fn sleep_for_ever() {
    while inside() {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Every process makes more of them.
#[test]
#[ignore = "runs inside the sandbox"]
fn fork_bomb() {
    while inside() {
        // SAFETY: the child only goes round the same loop.
        unsafe { libc::fork() };
    }
}

#[test]
#[ignore = "runs inside the sandbox"]
fn count_processes() {
    if !inside() {
        return;
    }
    let limit: usize = stdin().parse().unwrap();
    let mut children = 0;
    // SAFETY: the child only waits.
    while unsafe {
        match libc::fork() {
            0 => loop {
                libc::pause();
            },
            pid => pid > 0,
        }
    } {
        children += 1;
        assert!(children < limit, "{children} children");
    }
    assert!(children > 0);
}

#[test]
#[ignore = "runs inside the sandbox"]
fn allocate_ten_gigabytes() {
    if inside() {
        assert!(Vec::<u8>::new().try_reserve_exact(10 << 30).is_err());
        assert!(Vec::<u8>::new().try_reserve_exact(100 << 20).is_ok());
    }
}

#[test]
#[ignore = "runs inside the sandbox"]
fn write_outside() {
    if !inside() {
        return;
    }
    let own = format!("{}/escaped", env!("CARGO_MANIFEST_DIR"));
    let places = [
        "/escaped",
        "/sandbox/../escaped",
        "/tmp/escaped",
        "/usr/lib/escaped",
        "/lib/escaped",
        &own,
    ];
    for place in places.into_iter().chain(stdin().lines()) {
        assert!(File::create(place).is_err(), "{place}");
        assert!(fs::create_dir(place).is_err(), "{place}");
    }
    let this = std::env::args().next().unwrap();
    assert!(File::options().write(true).open(&this).is_err(), "{this} can be written");
    assert!(fs::remove_file(&this).is_err() && fs::rename(&this, "/sandbox/moved").is_err());
    File::create("/sandbox/allowed").unwrap().write_all(b"a file of its own").unwrap();
}

#[test]
#[ignore = "runs inside the sandbox"]
fn fill_the_disk() {
    if !inside() {
        return;
    }
    let limit: usize = stdin().parse().unwrap();
    let mut written = 0;
    'files: for file in 0.. {
        let mut file = File::create(format!("/sandbox/{file}")).unwrap();
        for _ in 0..16 {
            match file.write(&[1; 1 << 16]) {
                Ok(count) => written += count,
                Err(_) => break 'files,
            }
            assert!(written <= limit, "{written} bytes");
        }
    }
    assert!(written > limit / 2, "only {written} bytes");
}

#[test]
#[ignore = "runs inside the sandbox"]
fn read_the_system() {
    if !inside() {
        return;
    }
    let own = format!("{}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let files = ["/etc/passwd", "/etc/hostname", "/proc/1/mem", "/proc/self/maps", "/root", &own];
    for file in files.into_iter().chain(stdin().lines()) {
        assert!(!Path::new(file).exists(), "{file} is there");
    }
    let names = fs::read_dir("/").unwrap().map(|entry| entry.unwrap().file_name());
    for name in names {
        let name = name.to_string_lossy().into_owned();
        assert!(name != "etc" && name != "proc" && name != "sys" && name != "home", "{name}");
    }
}

#[test]
#[ignore = "runs inside the sandbox"]
fn leave_a_child_behind() {
    if !inside() {
        return;
    }
    // SAFETY: the child makes system calls alone.
    unsafe {
        if libc::fork() == 0 {
            libc::setsid();
            if libc::fork() == 0 {
                loop {
                    libc::sleep(1);
                }
            }
            libc::_exit(0);
        }
    }
}

#[test]
#[ignore = "runs inside the sandbox"]
fn reach_the_network() {
    if !inside() {
        return;
    }
    let (address, name) =
        stdin().split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    let refused = TcpStream::connect_timeout(&address, Duration::from_secs(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NetworkUnreachable);
    let elsewhere: SocketAddr = ([192, 0, 2, 1], 80).into();
    let refused = TcpStream::connect_timeout(&elsewhere, Duration::from_secs(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NetworkUnreachable);
    if let Ok(socket) = UdpSocket::bind("0.0.0.0:0") {
        assert!(socket.send_to(b"out", elsewhere).is_err());
    }
    use std::os::linux::net::SocketAddrExt;
    let name = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
    assert!(std::os::unix::net::UnixStream::connect_addr(&name).is_err());
}

#[test]
#[ignore = "runs inside the sandbox"]
fn gain_rights() {
    if !inside() {
        return;
    }
    // SAFETY: calls that are to fail, on live C strings or null.
    unsafe {
        assert_ne!((libc::getuid(), libc::geteuid()), (0, 0));
        assert_ne!(libc::getuid(), 0);
        assert_eq!(libc::setuid(0), -1);
        assert_eq!(libc::unshare(libc::CLONE_NEWUSER), -1, "a user namespace of its own");
        assert_eq!(libc::unshare(libc::CLONE_NEWNS), -1);
        assert_eq!(libc::chroot(c"/sandbox".as_ptr()), -1);
        let null = std::ptr::null();
        assert_eq!(
            libc::mount(c"/".as_ptr(), c"/sandbox".as_ptr(), null, libc::MS_BIND, null.cast()),
            -1
        );
        assert_eq!(libc::umount2(c"/sandbox".as_ptr(), libc::MNT_DETACH), -1);
        let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), -1);
        assert_eq!(libc::sethostname(c"x".as_ptr(), 1), -1);
    }
}

/// The init holds a copy of the memory of whoever started the program.
#[test]
#[ignore = "runs inside the sandbox"]
fn meddle_with_init() {
    if !inside() {
        return;
    }
    // SAFETY: the pointers are null or to live memory; nothing is expected to be written.
    unsafe {
        let nobody = std::ptr::null_mut::<libc::c_void>();
        assert_eq!(libc::ptrace(libc::PTRACE_ATTACH, 1, nobody, nobody), -1);
        let mut byte = 0_u8;
        let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let remote = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        assert_eq!(libc::process_vm_readv(1, &local, 1, &remote, 1, 0), -1);
        libc::kill(1, libc::SIGKILL);
        libc::kill(1, libc::SIGSTOP);
        // All that can be reached, which is nobody outside.
        libc::kill(-1, libc::SIGKILL);
    }
}

#[test]
#[ignore = "runs inside the sandbox"]
fn find_open_files() {
    if inside() {
        // SAFETY: takes numbers alone.
        let open = |fd: &i32| unsafe { libc::fcntl(*fd, libc::F_GETFD) } >= 0;
        let found: Vec<i32> = (3..1024).filter(open).collect();
        assert!(found.is_empty(), "{found:?}");
        // SAFETY: a live byte; the call is to fail.
        assert_eq!(unsafe { libc::write(0, c"x".as_ptr().cast(), 1) }, -1, "stdin can be written");
    }
}

#[test]
#[ignore = "runs inside the sandbox"]
fn talk_for_ever() {
    let chunk = [b'x'; 4096];
    while inside() && std::io::stdout().write_all(&chunk).is_ok() {}
}

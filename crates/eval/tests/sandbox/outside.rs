//! The attacks as seen from outside.

use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use smidgen_eval::Error;
use smidgen_eval::sandbox::{Ending, Limits, Program, Sandbox, SandboxPolicy};

use super::{attack, command_lines, limits, repelled, sandbox, skip, survivors, this_program};

#[test]
fn an_endless_loop_ends_with_its_processor_time() {
    let Some(sandbox) = sandbox(Limits { cpu_s: 1, wall_ms: 60_000, ..limits() }) else { return };
    let finished = attack(&sandbox, "loop_for_ever", "");
    assert_eq!(finished.ending, Ending::Signalled(libc::SIGXCPU));
}

#[test]
fn sleeping_ends_with_the_clock() {
    let Some(sandbox) = sandbox(Limits { wall_ms: 300, ..limits() }) else { return };
    assert_eq!(attack(&sandbox, "sleep_for_ever", "").ending, Ending::OutOfTime);
    assert_eq!(survivors("sleep_for_ever"), [""; 0]);
}

#[test]
fn a_fork_bomb_stays_small_and_dies() {
    let Some(sandbox) = sandbox(Limits { wall_ms: 1000, ..limits() }) else { return };
    assert_eq!(attack(&sandbox, "fork_bomb", "").ending, Ending::OutOfTime);
    assert_eq!(survivors("fork_bomb"), [""; 0]);
    repelled("count_processes", &limits().processes.to_string());
}

#[test]
fn a_child_that_leaves_its_group_dies_with_the_program() {
    let Some(sandbox) = sandbox(limits()) else { return };
    let finished = attack(&sandbox, "leave_a_child_behind", "");
    assert_eq!(finished.ending, Ending::Exited(0));
    assert_eq!(survivors("leave_a_child_behind"), [""; 0]);
}

#[test]
fn ten_gigabytes_are_refused() {
    repelled("allocate_ten_gigabytes", "");
}

#[test]
fn nothing_outside_is_written() {
    let folder = tempfile::tempdir().unwrap();
    repelled("write_outside", &folder.path().join("escaped").to_string_lossy());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_disk_is_bounded() {
    repelled("fill_the_disk", &limits().disk_bytes.to_string());
}

#[test]
fn nothing_of_the_system_is_read() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    repelled("read_the_system", &secret.path().to_string_lossy());
}

#[test]
fn there_is_no_network() {
    use std::os::linux::net::SocketAddrExt;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let name = format!("smidgen-sandbox-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let _local = std::os::unix::net::UnixListener::bind_addr(&address).unwrap();
    repelled("reach_the_network", &format!("{}\n{name}", listener.local_addr().unwrap()));
}

#[test]
fn there_are_no_rights_to_gain() {
    repelled("gain_rights", "");
    repelled("meddle_with_init", "");
}

#[test]
#[allow(unsafe_code)]
fn no_open_file_is_inherited() {
    // SAFETY: a live C string; the file stays open on purpose, without the close-on-exec flag.
    let leaked = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDONLY) };
    assert!(leaked > 2);
    repelled("find_open_files", "");
}

#[test]
fn output_is_kept_up_to_its_bound() {
    let limits = Limits { wall_ms: 500, output_bytes: 10_000, ..limits() };
    let Some(sandbox) = sandbox(limits) else { return };
    let finished = attack(&sandbox, "talk_for_ever", "");
    assert_eq!((finished.ending, finished.output.len()), (Ending::OutOfTime, 10_000));
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    let Some(sandbox) = sandbox(limits()) else { return };
    let path = PathBuf::from("/usr/lib/no-such-program");
    let program = Program { path: &path, args: &[], environment: &[], stdin: &[], readable: &[] };
    assert!(matches!(sandbox.run(&program), Err(Error::Sandbox { .. })));
}

/// Where root has all rights, an ordinary user needs the user namespace: the same tests again.
#[test]
#[allow(unsafe_code)]
fn an_ordinary_user_is_protected_too() {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        // The other tests were that.
        return;
    }
    // The build folder may be closed to others.
    let folder = tempfile::Builder::new().permissions(world()).tempdir().unwrap();
    let program = folder.path().join("tests");
    std::fs::copy(this_program(), &program).unwrap();
    let mut command = Command::new(&program);
    command.args(["outside::", "--skip", "an_ordinary_user", "--skip", "unsandboxed"]);
    let output = command.uid(65_534).gid(65_534).current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("skipped: ") {
        let _: Option<()> = skip(&format!("as an ordinary user: {text}"));
    }
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stdout));
}

fn world() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o755)
}

/// Set where the right to administer was given away.
const WITHOUT_RIGHTS: &str = "SMIDGEN_TEST_WITHOUT_RIGHTS";

/// Root without the right to administer, as in most containers.
#[test]
#[allow(unsafe_code)]
fn a_refusal_is_named_and_can_be_overridden() {
    // SAFETY: takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        let _: Option<()> = skip("only root can give away the right to make namespaces");
        return;
    }
    let mut command = Command::new(this_program());
    command.args(["--exact", "outside::refused_here", "--ignored"]).env(WITHOUT_RIGHTS, "1");
    const CAP_SYS_ADMIN: libc::c_ulong = 21;
    let give_away = || {
        // SAFETY: takes numbers alone.
        match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_ADMIN, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call.
    unsafe { command.pre_exec(give_away) };
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "runs without the right to administer"]
fn refused_here() {
    if std::env::var_os(WITHOUT_RIGHTS).is_none() {
        return;
    }
    let strict = SandboxPolicy { limits: limits(), allow_unsandboxed: false };
    let refusal = match Sandbox::new(&strict) {
        Err(refusal) => refusal.to_string(),
        Ok(_) => panic!("isolated without the right to"),
    };
    assert!(refusal.contains("no mount namespace: "), "{refusal}");
    assert!(refusal.contains("--allow-unsandboxed"), "{refusal}");
    unsandboxed_programs_still_have_limits();
}

/// A limit of its own, a clean environment, an empty folder, and death with its group.
fn unsandboxed_programs_still_have_limits() {
    let shell = PathBuf::from("/bin/sh").canonicalize().unwrap();
    let run = |limits: Limits, script: &str| {
        let policy = SandboxPolicy { limits, allow_unsandboxed: true };
        let sandbox = Sandbox::new(&policy).unwrap();
        assert!(!sandbox.isolated());
        let args = ["-c", script];
        let program =
            Program { path: &shell, args: &args, environment: &[], stdin: b"in", readable: &[] };
        sandbox.run(&program).unwrap()
    };
    let finished = run(limits(), "read x; echo $x $HOME; ls; exit 3");
    assert_eq!(finished.ending, Ending::Exited(3));
    assert_eq!(finished.output, b"in\n");
    let looping = run(Limits { cpu_s: 1, ..limits() }, "while :; do :; done");
    assert_eq!(looping.ending, Ending::Signalled(libc::SIGXCPU));
    let asleep = run(Limits { wall_ms: 300, ..limits() }, "while :; do sleep 61; done");
    assert_eq!(asleep.ending, Ending::OutOfTime);
    let left_behind = run(limits(), "sleep 62 & exit 4");
    assert_eq!(left_behind.ending, Ending::Exited(4));
    for sleeper in ["sleep\x0061", "sleep\x0062"] {
        // The signal is sent, and may still be on its way.
        let gone = || !command_lines().any(|line| line.starts_with(sleeper));
        let waits = std::iter::repeat_n(Duration::from_millis(20), 250);
        let left = |wait| {
            std::thread::sleep(wait);
            gone()
        };
        assert!(waits.into_iter().any(left), "{sleeper:?} lives");
    }
}

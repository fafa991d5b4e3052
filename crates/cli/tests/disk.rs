//! A disk that is really full: a small one in memory, where the system lets a test mount it.

mod common;

use std::process::Command;

use common::{Place, program, small};
use smidgen_store::size_bytes;

/// A shell in which this process may mount, gone with all its mounts when it ends.
fn shell(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-ec", script]);
    command
}

/// Whether the system lets a test mount a disk; where it does not, the test says so by its name.
fn can_mount(folder: &str) -> bool {
    let probe = shell(&format!("mount -t tmpfs -o size=64k none {folder}")).output();
    probe.is_ok_and(|output| output.status.success())
}

#[test]
fn a_full_disk_ends_a_run_with_a_word_and_more_room_lets_it_go_on() {
    let place = Place::new();
    let disk = place.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let shown = disk.display();
    if !can_mount(&shown.to_string()) {
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            b"skipped: a_full_disk_ends_a_run: no disk may be mounted here\n",
        );
        return;
    }
    place.train("whole", 8, &["--tensorboard"]).assert().success();
    let whole = size_bytes(&place.path("whole"));
    let options = small(8).join(" ");
    let train =
        format!("{} train text --out disk/run --threads 1 --tensorboard {options}", program());
    for percent in [10, 30, 50, 70, 90] {
        let bytes = whole * percent / 100;
        let script = format!(
            "cd {}; mount -t tmpfs -o size={bytes} none disk
             if {train} --set train.ckpt_every=2 2>said; then echo enough; exit; fi
             mount -o remount,size=1g disk
             if [ -e disk/run/run.toml ]; then {} train --resume disk/run --json; else {train} --json; fi",
            place.path("").display(),
            program()
        );
        let output = shell(&script).output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "{percent} %: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let said = std::fs::read_to_string(place.path("said")).unwrap();
        if told.trim().ends_with("enough") {
            assert!(percent > 50, "{percent} % of the bytes were enough");
            continue;
        }
        assert!(said.contains("error: ") && said.contains("hint: free some space"), "{said}");
        assert!(told.contains("\"steps\":8"), "{percent} %: {told}");
    }
}

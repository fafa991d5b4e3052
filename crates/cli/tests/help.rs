//! What a person sees who asks for help or mistypes.

mod common;

use common::{Place, fails, stdout};

/// Every command, as it is typed.
const COMMANDS: [&[&str]; 34] = [
    &[],
    &["train"],
    &["lr-find"],
    &["fire"],
    &["generate"],
    &["eval"],
    &["export"],
    &["plan"],
    &["link"],
    &["link", "bench"],
    &["link", "demo"],
    &["link", "eval"],
    &["link", "fuse"],
    &["link", "send"],
    &["link", "recv"],
    &["link", "answer"],
    &["link", "inspect"],
    &["link", "verify"],
    &["link", "diff"],
    &["link", "vector"],
    &["runs"],
    &["runs", "list"],
    &["runs", "show"],
    &["runs", "compare"],
    &["runs", "clean"],
    &["report"],
    &["bench"],
    &["bench", "step"],
    &["bench", "decode"],
    &["bench", "matmul"],
    &["bench", "optim"],
    &["bench", "optim-step"],
    &["bench", "formats"],
    &["bench", "limits"],
];

#[test]
fn help_of_every_command() {
    let place = Place::new();
    for command in COMMANDS {
        let mut args = command.to_vec();
        args.push("--help");
        let name = format!("help_{}", command.join("_"));
        insta::assert_snapshot!(name.trim_end_matches('_'), stdout(place.smidgen(&args)));
    }
}

#[test]
fn help_is_no_failure_and_nothing_at_all_is_one() {
    let place = Place::new();
    place.smidgen(&["--version"]).assert().code(0);
    place.smidgen(&["help", "train"]).assert().code(0);
    fails(place.smidgen(&[]), 2, "Usage: smidgen");
    fails(place.smidgen(&["train"]), 2, "PATH|CONFIG");
}

#[test]
fn mistyped_words_get_the_nearest_one() {
    let place = Place::new();
    fails(place.smidgen(&["trian", "text"]), 2, "'train'");
    fails(place.smidgen(&["train", "text", "--max-minute", "1"]), 2, "'--max-minutes'");
    fails(place.smidgen(&["bench", "stpe"]), 2, "'step'");
    fails(place.smidgen(&["train", "text", "--set", "train.stpes=1"]), 2, "`train.steps`");
    fails(place.smidgen(&["train", "text", "--set", "model.preset=tyny"]), 2, "`tiny`");
}

//! `link eval`: the items of some tasks again, with the models of a demonstration.

use std::path::PathBuf;

use anyhow::Result;
use smidgen_link::demo::evaluate;
use smidgen_link::world::{TASKS, Task, task};
use smidgen_train::Context;

use super::demo::show_task;
use crate::commands::train::Screen;
use crate::{out, signals};

/// Answer the items of some tasks again, with the models that `link demo` left in a folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  smidgen link eval runs/link-tiny-1 --task t1\n  \
    smidgen link eval runs/link-tiny-1 --task t3 --task t4 --json")]
pub(crate) struct Args {
    /// The folder of a finished demonstration
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// t1, t2, t3, t4, t7 or t8; may be repeated [default: all]
    #[arg(long = "task", value_name = "TASK")]
    tasks: Vec<String>,
    /// Print one object on one line at the end; everything else goes to standard error
    #[arg(long)]
    json: bool,
}

/// Gives the exit code.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let named = args.tasks.iter().map(|id| task(id)).collect::<Result<Vec<_>, _>>()?;
    let tasks: Vec<&dyn Task> = if named.is_empty() { TASKS.to_vec() } else { named };
    let stop = signals::stop_flag()?;
    let mut screen = Screen::new(args.json, stop.clone());
    let tables = evaluate(&args.dir, &tasks, &mut Context::new(&mut screen, &stop));
    screen.finish()?;
    let tables = tables?;
    if args.json {
        out::json(&serde_json::json!({ "tasks": tables }))?
    } else {
        tables.iter().try_for_each(show_task)?
    }
    Ok(0)
}

//! `link demo`: a world of facts, two models, a fuser, and what the link between them is worth.

use std::path::PathBuf;

use anyhow::Result;
use smidgen_link::demo::{Bound, Comparison, Judged, Shown, TaskTable, demo};
use smidgen_link::stats::Interval;
use smidgen_link::world::World;
use smidgen_train::Context;

use crate::commands::train::Screen;
use crate::{out, signals};

/// Train two models that know different facts, link them, and measure what the link is worth.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "One model is told facts that the other never sees; a fuser between them learns on some \
    entities\nand is tested on others. Every line answers the same questions: alone, over the link in several\n\
    formats, with the cache of another question, with zeros. Models and fusers that are finished in DIR\nare taken over. A model that does not \
    know what it must ends the demonstration (exit code 1).\n\n\
    Examples:\n  smidgen link demo\n  smidgen link demo --preset small --seed 1 --out runs/link --json"
)]
pub(crate) struct Args {
    /// The size: `tiny` or `small`
    #[arg(long, default_value = "tiny")]
    preset: String,
    /// Of the world and of everything that is trained
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where runs and record go [default: runs/link-PRESET-SEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one object on one line at the end; everything else goes to standard error
    #[arg(long)]
    json: bool,
}

/// Gives the exit code: 0, or 130 when it was interrupted and saved.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let stop = signals::stop_flag()?;
    let mut screen = Screen::new(args.json, stop.clone());
    let named = || PathBuf::from(format!("runs/link-{}-{}", args.preset, args.seed));
    let out = args.out.clone().unwrap_or_else(named);
    let world = World::new(&args.preset, args.seed)?;
    let shown = demo(&world, &out, &mut Context::new(&mut screen, &stop));
    screen.finish()?;
    let shown = match shown {
        Err(smidgen_link::Error::Interrupted { path }) => return Ok(super::interrupted(&path)),
        shown => shown?,
    };
    if args.json {
        out::json(&shown)?
    } else {
        show(&shown)?
    }
    Ok(0)
}

fn show(shown: &Shown) -> Result<()> {
    for fuser in &shown.fusers {
        out::line(format_args!(
            "\nfuser for the {}: {} numbers, {} layers, {} gates open",
            fuser.sharer.name(),
            fuser.params,
            fuser.layers,
            fuser.open_gates
        ))?;
    }
    shown.tasks.iter().try_for_each(show_task)?;
    let heading = ["task", "predicted of small", "asked", "measured", "95 %", "verdict"];
    let mut table = out::Table::new(&heading).left(&[0, 1, 5]);
    for Judged { task, what, asked, bound, measured, verdict } in &shown.targets {
        let sign = match bound {
            Bound::Is => "=",
            Bound::AtLeast => ">=",
            Bound::Above => ">",
        };
        table.row([
            task.clone(),
            what.clone(),
            format!("{sign} {:.1}", 100.0 * asked),
            format!("{:.1}", 100.0 * measured.mean),
            range(measured),
            verdict.name().into(),
        ]);
    }
    out::line(format_args!("\n{table}"))
}

/// The 95 % interval in percent.
fn range(of: &Interval) -> String {
    format!("{:.1} to {:.1}", 100.0 * of.low, 100.0 * of.high)
}

pub(super) fn show_task(task: &TaskTable) -> Result<()> {
    let chance = 100.0 * task.chance;
    out::line(format_args!(
        "\n{}: {} items about {} entities or documents, chance {chance:.1} %\n",
        task.task, task.items, task.clusters
    ))?;
    let mut table = out::Table::new(&["delivered", "bytes", "right", "95 %", "gain", "95 %"]);
    for line in &task.lines {
        table.row([
            line.name.clone(),
            format!("{:.0}", line.wire_bytes),
            format!("{:.1} %", 100.0 * line.accuracy.mean),
            range(&line.accuracy),
            format!("{:+.1}", 100.0 * line.gain.mean),
            range(&line.gain),
        ]);
    }
    out::line(table)?;
    let mut table = out::Table::new(&["item by item", "against", "gain", "95 %"]);
    for Comparison { line, against, gain } in &task.compared {
        let interval = range(gain);
        let gain = format!("{:+.1}", 100.0 * gain.mean);
        table.row([line.clone(), against.clone(), gain, interval]);
    }
    out::line(format_args!("\n{table}"))
}

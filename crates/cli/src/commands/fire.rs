//! `fire`: a model's matrices replaced by the nearest isometries, as the start of a new phase.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use smidgen_codec::Format;
use smidgen_optim::{FireOptions, FireReport, fire, fire_targets};
use smidgen_store::Disk;
use smidgen_train::{Export, export_folder};

use crate::commands::late::LateBar;
use crate::commands::model::ModelArgs;
use crate::out;

/// Replace a model's matrices by the nearest isometries, to learn something new with.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every matrix W inside a block becomes the nearest one with equal singular \
    values, sqrt(out / in)\neach. Norms, biases and tables stay. Without `--out` nothing is written: \
    the report says what\nwould become of the weights.\n\nExamples:\n  \
    smidgen fire runs/notes\n  \
    smidgen fire runs/notes --out notes-new\n  \
    smidgen train new-text --init notes-new\n  \
    smidgen fire model.gguf --match \"*.attn.q.weight\" --out model-new --json"
)]
pub(crate) struct Args {
    /// The folder to write, which must be new: a model for `train --init` and `generate`
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
    /// The matrices, as a pattern over names [default: all inside blocks]
    #[arg(long = "match", value_name = "PATTERN")]
    pattern: Option<String>,
    /// Fill directions that a matrix does not have with random ones
    #[arg(long)]
    complete: bool,
    /// Seed of these
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    from: ModelArgs,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    matrices: Vec<FireReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let (device, mut model) = args.from.open()?;
    let targets = fire_targets(&model.params, args.pattern.as_deref())?;
    let options =
        FireOptions { complete: args.complete, seed: args.seed, ..FireOptions::default() };
    let matrices = fire(&device, &mut model.params, &targets, &options)?;
    if let Some(out) = &args.out {
        let bar = LateBar::new("  {bytes} written, {bytes_per_sec}", None);
        let mut progress = |bytes| bar.at(bytes);
        let (from, format) = (&*args.from.model, Format::F32);
        let progress = &mut progress;
        export_folder(Export { model: &model, from, format, files: &Disk, progress }, out)?;
    }
    let report = Report { matrices, path: args.out };
    if args.json { out::json(&report) } else { show(&report) }
}

fn show(report: &Report) -> Result<()> {
    let heading = ["matrix", "shape", "singular values", "now", "miss", "now", "moved", "steps"];
    let mut table = out::Table::new(&heading).left(&[0]);
    for matrix in &report.matrices {
        let range = |[least, most]: [f64; 2]| format!("{least:.3} - {most:.3}");
        let [rows, cols] = matrix.shape;
        table.row([
            matrix.name.clone(),
            format!("{rows} x {cols}"),
            range(matrix.sigma_before),
            range(matrix.sigma_after),
            format!("{:.3}", matrix.dfi_before),
            format!("{:.0e}", matrix.dfi_after),
            format!("{:.3}", matrix.sfe.sqrt()),
            matrix.iterations.to_string(),
        ]);
    }
    out::line(table)?;
    let missing: usize = report.matrices.iter().map(|matrix| matrix.missing).sum();
    if missing > 0 {
        out::note(format_args!(
            "note: {missing} directions are missing and stay zero; `--complete` fills them"
        ));
    }
    match &report.path {
        Some(path) => {
            let path = path.display();
            out::line(format_args!(
                "\n{path}: {} matrices replaced\n\nNext:\n  smidgen train TEXT --init {path}\n  \
                 smidgen generate {path} --prompt \"...\"",
                report.matrices.len()
            ))
        }
        None => out::line("\nNothing was written.\n  hint: `--out PATH` writes the model"),
    }
}

//! `report`: what runs were, as one page; while they go on, as a page that follows them.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use smidgen_store::{Bytes, Disk, Files, write_atomic};

use crate::report::chart::{Chart, Size, png, svg};
use crate::report::figures;
use crate::report::follow::Follow;
use crate::report::page::page;
use crate::report::subject::{Standing, Subject};
use crate::{out, signals};

/// The page's name, in the folder of a single run or in this one.
const REPORT_HTML: &str = "report.html";

/// Write one HTML page about runs: curves, memory by tag, samples, configuration, comparison.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "The page needs no network and no other file. Charts as files are of the run, or \
    of the comparison of several.\n\nExamples:\n  smidgen report runs/notes\n  \
    smidgen report runs/a runs/b --out compare.html --png plots\n  \
    smidgen report runs/notes --follow"
)]
pub(crate) struct Args {
    /// The run directories; several are compared
    #[arg(value_name = "RUN", required = true)]
    runs: Vec<PathBuf>,
    /// The page [default: RUN/report.html; report.html for several runs]
    #[arg(long, value_name = "FILE", conflicts_with = "follow")]
    out: Option<PathBuf>,
    /// Write each chart as an SVG file into this folder, too
    #[arg(long, value_name = "DIR", conflicts_with = "follow")]
    svg: Option<PathBuf>,
    /// Write each chart as a PNG file into this folder, too
    #[arg(long, value_name = "DIR", conflicts_with = "follow")]
    png: Option<PathBuf>,
    /// Serve the page on this machine alone and update it while the runs go on
    #[arg(long)]
    follow: bool,
    /// Where to serve it [default: any free port]
    #[arg(long, value_name = "N", requires = "follow")]
    port: Option<u16>,
    /// Print one object on one line
    #[arg(long, conflicts_with = "follow")]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Written {
    report: PathBuf,
    size_bytes: u64,
    charts: Vec<PathBuf>,
    runs: Vec<Shown>,
}

/// One run of the report.
#[derive(Serialize)]
struct Shown {
    name: String,
    run_dir: PathBuf,
    status: Standing,
    steps: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut subjects = Vec::new();
    for run in &args.runs {
        subjects.push(Subject::open(run)?);
    }
    if args.follow { follow(subjects, args.port.unwrap_or(0)) } else { write(args, &subjects) }
}

fn follow(subjects: Vec<Subject>, port: u16) -> Result<()> {
    let stop = signals::stop_flag()?;
    let page = Follow::bind(subjects, port)?;
    out::line(format_args!("{}  (Ctrl-C ends)", page.address()))?;
    page.serve(&stop);
    Ok(())
}

fn write(args: &Args, subjects: &[Subject]) -> Result<()> {
    let report = args.out.clone().unwrap_or_else(|| match subjects {
        [one] => one.path().join(REPORT_HTML),
        _ => REPORT_HTML.into(),
    });
    let text = page(subjects, false)?;
    put(&report, text.as_bytes())?;
    let charts = match subjects {
        [one] => figures::of_run(one),
        many => figures::of_runs(many),
    };
    let charts = write_charts(args, &charts)?;
    let size_bytes = text.len() as u64;
    if args.json {
        let runs = subjects.iter().map(shown).collect();
        return out::json(&Written { report, size_bytes, charts, runs });
    }
    out::line(format_args!("  {}  {}", report.display(), Bytes(size_bytes)))?;
    charts.iter().try_for_each(|chart| out::line(format_args!("  {}", chart.display())))
}

fn shown(subject: &Subject) -> Shown {
    Shown {
        name: subject.name.clone(),
        run_dir: subject.path().to_path_buf(),
        status: subject.standing,
        steps: subject.steps(),
    }
}

/// The charts as files, as far as they were asked for.
fn write_charts(args: &Args, charts: &[Chart]) -> Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for chart in charts {
        if let Some(folder) = &args.svg {
            let path = folder.join(format!("{}.svg", chart.name));
            put(&path, svg(chart, Size::File).as_bytes())?;
            written.push(path);
        }
        if let Some(folder) = &args.png {
            let path = folder.join(format!("{}.png", chart.name));
            put(&path, &png(chart)?)?;
            written.push(path);
        }
    }
    Ok(written)
}

/// A whole file, in a folder that is made where it is missing.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Disk.create_dir_all(folder).map_err(|source| {
            let (action, path) = ("create", folder.to_path_buf());
            smidgen_store::Error::Io { action, path, source }
        })?;
    }
    Ok(write_atomic(&Disk, path, |out| out.write_all(bytes))?)
}

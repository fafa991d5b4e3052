//! `link inspect`: what stands in a container.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use smidgen_link::Error;
use smidgen_link::wire::{Header, Limits, Report};

use super::read;
use crate::exit::UNREADABLE;
use crate::out::{self, Table};

/// Show the sections of a container: sizes, precisions, shapes, checksums.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen link inspect message.kvw\n\n\
    Exit code 3 where the header cannot be read or a section is damaged; the table then shows which.")]
pub(crate) struct Args {
    /// A container
    file: PathBuf,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Inspected {
    file: PathBuf,
    file_bytes: usize,
    /// Whether the file is as long as it says and all checksums are right.
    intact: bool,
    #[serde(flatten)]
    report: Report,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let bytes = read(&args.file)?;
    let header = Header::parse(&bytes, &Limits::default());
    let header = header.map_err(|error| {
        anyhow::Error::from(Error::from(error)).context(args.file.display().to_string())
    })?;
    let report = Report::new(&header, &bytes);
    let whole = bytes.len() as u64 == report.total_bytes;
    let intact = whole && report.sections.iter().all(|section| section.intact);
    let inspected = Inspected { file: args.file.clone(), file_bytes: bytes.len(), intact, report };
    if args.json {
        out::json(&inspected)?
    } else {
        text(&inspected)?
    }
    Ok(if intact { 0 } else { UNREADABLE })
}

fn text(inspected: &Inspected) -> Result<()> {
    let report = &inspected.report;
    let shape = report.shape;
    let mut facts = Table::new(&["container", ""]).left(&[0, 1]);
    let mut fact = |name: &str, value: String| facts.row([name.to_string(), value]);
    fact("version", report.version.clone());
    fact("bytes", out::count(report.total_bytes));
    fact(
        "layers",
        format!("{} of {}, {} a block", report.layers, shape.layers, report.layers_per_block),
    );
    fact("heads", format!("{} of {} and {}", shape.kv_heads, shape.key_dim, shape.value_dim));
    fact("tokens", format!("{} of {}", report.selected, report.seq_len));
    fact("scales", format!("{} for each {}", report.scale.name(), report.granularity));
    fact(
        "spaces",
        format!("{} tokens, {} keys", report.token_space.name(), report.key_space.name()),
    );
    fact("rope theta", report.rope_theta.to_string());
    let plain = [
        ("sequences", (report.batch > 1).then(|| report.batch.to_string())),
        ("flags", (!report.flags.is_empty()).then(|| report.flags.join(", "))),
        ("round", (report.round > 0).then(|| report.round.to_string())),
        ("cap", report.cap.map(|cap| out::count(cap.into()))),
        ("message", named(&report.message)),
        ("sharer", named(&report.sharer)),
        ("tokenizer", named(&report.tokenizer)),
        ("prompt", named(&report.prompt)),
    ];
    for (name, value) in plain {
        value.into_iter().for_each(|value| fact(name, value));
    }
    out::line(facts)?;
    out::line(format_args!("\n{}", sections(report)))?;
    let parts = report.bytes;
    out::line(format_args!(
        "\n  header {}, indices {}, keys {}, values {}, scales {}, note {}, padding {} bytes",
        parts.header,
        parts.indices,
        parts.keys,
        parts.values,
        parts.scales,
        parts.note,
        parts.padding
    ))?;
    if inspected.file_bytes as u64 != report.total_bytes {
        let (got, expected) = (inspected.file_bytes, report.total_bytes);
        out::note(format_args!("error: expected {expected} bytes in the file, got {got}"));
    }
    Ok(())
}

/// A fingerprint, unless it says nothing.
fn named(digits: &str) -> Option<String> {
    digits.bytes().any(|digit| digit != b'0').then(|| digits.to_string())
}

fn sections(report: &Report) -> Table {
    let heading =
        ["section", "as", "layer", "group", "offset", "bytes", "raw bytes", "crc32c", "checksum"];
    let mut table = Table::new(&heading).left(&[0, 1, 7, 8]);
    let number = |number: Option<u16>| number.map_or("-".into(), |number| number.to_string());
    for section in &report.sections {
        let form = section.code.clone().unwrap_or_default();
        let form = if section.codec == "zstd" { format!("{form} zstd") } else { form };
        table.row([
            section.kind.name().to_string(),
            form.trim().to_string(),
            number(section.position),
            number(section.group),
            section.offset.to_string(),
            section.stored_bytes.to_string(),
            section.raw_bytes.to_string(),
            section.crc32c.clone(),
            if section.intact { "right" } else { "WRONG" }.to_string(),
        ]);
    }
    table
}

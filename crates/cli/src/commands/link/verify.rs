//! `link verify`: whether a container is right to the last bit.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use smidgen_link::Error;
use smidgen_link::wire::{self, Options};

use super::{device, read};
use crate::out;

/// Read a container as strictly as a receiver does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen link verify message.kvw\n\n\
    Exit code 3 where anything is wrong; the message names it and its byte.")]
pub(crate) struct Args {
    /// A container
    file: PathBuf,
    /// Accept codes that have a value though no encoder makes them, such as -8 of int4
    #[arg(long)]
    lenient: bool,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Verified {
    file: PathBuf,
    intact: bool,
    total_bytes: u64,
    sections: usize,
    layers: usize,
    tokens: u32,
    values: usize,
    bytes_per_value: f64,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let bytes = read(&args.file)?;
    let options = Options { lenient: args.lenient, ..Options::default() };
    let container = wire::open(&device(), &bytes, &options).map_err(|error| {
        anyhow::Error::from(Error::from(error)).context(args.file.display().to_string())
    })?;
    let (header, values) = (&container.header, container.values());
    let verified = Verified {
        file: args.file.clone(),
        intact: true,
        total_bytes: header.total_bytes,
        sections: header.sections().len(),
        layers: header.layers(),
        tokens: header.selected,
        values,
        bytes_per_value: header.total_bytes as f64 / values as f64,
    };
    if args.json {
        out::json(&verified)?;
        return Ok(0);
    }
    out::line(format_args!(
        "  {}: right, {} bytes in {} sections, {} layers, {} tokens, {} values, {:.3} bytes each",
        args.file.display(),
        out::count(verified.total_bytes),
        verified.sections,
        verified.layers,
        verified.tokens,
        out::count(values as u64),
        verified.bytes_per_value,
    ))?;
    Ok(0)
}

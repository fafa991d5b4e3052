//! `link diff`: in what two containers differ.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;
use smidgen_link::wire::{Difference, difference};

use super::{device, payload, read};
use crate::exit::FAILED;
use crate::out::{self, Table};

/// Compare two containers: fields, rows that only one has, distance of the values.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen link diff int8.kvw int4.kvw\n\n\
    Exit code 0 where all bytes are equal, 1 where any differ.")]
pub(crate) struct Args {
    /// A container
    first: PathBuf,
    /// Another one
    second: PathBuf,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Compared {
    /// Whether all bytes are.
    equal: bool,
    /// The first byte that differs.
    first_byte: Option<usize>,
    #[serde(flatten)]
    difference: Difference,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    let device = device();
    let [first, second] = [read(&args.first)?, read(&args.second)?];
    let payloads =
        [payload(&device, &args.first, &first)?, payload(&device, &args.second, &second)?];
    let differ = first.iter().zip(&second).position(|(a, b)| a != b);
    let shorter = first.len().min(second.len());
    let first_byte = differ.or((first.len() != second.len()).then_some(shorter));
    let difference = difference(&payloads[0], &payloads[1]);
    let compared = Compared { equal: first_byte.is_none(), first_byte, difference };
    if args.json {
        out::json(&compared)?
    } else {
        text(&compared)?
    }
    Ok(if compared.equal { 0 } else { FAILED })
}

fn text(compared: &Compared) -> Result<()> {
    let Some(first_byte) = compared.first_byte else { return out::line("  equal") };
    out::line(format_args!("  bytes differ from byte {first_byte} on"))?;
    let difference = &compared.difference;
    if !difference.fields.is_empty() {
        let mut table = Table::new(&["field", "first", "second"]).left(&[0, 1, 2]);
        for (name, first, second) in &difference.fields {
            table.row([name.clone(), out::cut(first, 40), out::cut(second, 40)]);
        }
        out::line(format_args!("\n{table}"))?;
    }
    out::line(format_args!(
        "\n  rows: {} in both, {} in the first only, {} in the second only",
        difference.rows, difference.only_first, difference.only_second
    ))?;
    out::line(format_args!(
        "  values of rows in both: at most {:e} apart, {:.5} of their size (root mean square)",
        difference.largest, difference.nrmse
    ))
}

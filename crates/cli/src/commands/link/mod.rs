//! `link`: caches of keys and values that travel between models.

mod answer;
mod bench;
mod demo;
mod diff;
mod eval;
mod fuse;
mod inspect;
mod line;
mod recv;
mod send;
mod vector;
mod verify;

use std::path::Path;

use anyhow::Result;
use clap::Subcommand;
use smidgen_codec::Ledger;
use smidgen_link::wire::{self, Payload};
use smidgen_tensor::{Device, available_threads};

use crate::exit::{Fault, INTERRUPTED};
use crate::out;

/// Send parts of a model's cache to another model, under an exact cap of bytes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Bench(bench::Args),
    Demo(demo::Args),
    Eval(eval::Args),
    Send(send::Args),
    Recv(recv::Args),
    Answer(answer::Args),
    Fuse(fuse::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Diff(diff::Args),
    Vector(vector::Args),
}

/// Does one thing, and gives the exit code.
pub(crate) fn run(args: Args) -> Result<u8> {
    match args.what {
        What::Bench(args) => bench::run(&args),
        What::Demo(args) => demo::run(&args),
        What::Eval(args) => eval::run(&args),
        What::Send(args) => send::run(&args).map(|()| 0),
        What::Recv(args) => recv::run(&args),
        What::Answer(args) => answer::run(&args),
        What::Fuse(args) => fuse::run(&args),
        What::Inspect(args) => inspect::run(&args),
        What::Verify(args) => verify::run(&args),
        What::Diff(args) => diff::run(&args),
        What::Vector(args) => vector::run(&args),
    }
}

/// All threads, and memory that is counted but not limited.
fn device() -> Device {
    Device::cpu(Ledger::new(), available_threads())
}

/// Keys of a cache that is made up, and as many values: 1 GiB of f32 each.
const MOST_ELEMENTS: u128 = 1 << 28;

/// Whether a cache of this many layers, heads, elements of a head and tokens is one to make up.
fn check_elements(what: &str, sizes: [u64; 4]) -> Result<()> {
    let elements: u128 = sizes.into_iter().map(u128::from).product();
    if elements > MOST_ELEMENTS {
        let text = format!("{what}: expected at most {MOST_ELEMENTS} keys, got {elements}");
        return Err(Fault::usage(text).into());
    }
    Ok(())
}

/// Says that a folder can be gone on with, and gives the exit code.
fn interrupted(folder: &Path) -> u8 {
    let folder = folder.display();
    out::note(format_args!(
        "interrupted: what was done is saved in {folder}; the same command goes on"
    ));
    INTERRUPTED
}

/// The bytes of a container's file.
fn read(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |error| Fault::unreadable(format!("cannot read {}: {error}", path.display()));
    Ok(std::fs::read(path).map_err(unreadable)?)
}

/// A container's file, read, checked and decoded.
fn payload(device: &Device, path: &Path, bytes: &[u8]) -> Result<Payload> {
    let decoded = wire::decode(device, bytes, &wire::Options::default());
    decoded.map_err(|error| anyhow::Error::from(error).context(path.display().to_string()))
}

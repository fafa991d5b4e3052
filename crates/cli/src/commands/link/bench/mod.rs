//! `link bench`: how fast caches become containers and come back, and what a message takes from one
//! process to another.
//!
//! Rates are taken from memory, beside a copy and a checksum of the same rounds. Messages go to a
//! child process of this program; the memory of both is read before the large caches are made.

mod answerer;
mod figures;
mod latency;
mod pair;
mod peer;
mod rates;

use std::sync::Arc;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use smidgen_link::KvShape;
use smidgen_link::net::{Address, LineProfile, NetError, Shaped, SystemClock, Transport};
use smidgen_link::wire::{Group, Pair, Plan, Precision};
use smidgen_tensor::Level;
use smidgen_train::cpu_name;

use self::latency::Latency;
use self::pair::{PairArgs, PairReport};
use self::rates::Rates;
use super::check_elements;
use crate::exit::Fault;
use crate::out;

/// Measure the link: encoding and decoding beside a copy, and messages between two processes.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Rates are those of a cache of 16 layers and 8 heads of 64: with checksums, checked, into room that is\n\
    there (`decode`) or into new arrays (`arrays`). `per core` leaves out what other programs had of the\n\
    core; `of copy` is of the bytes that a copy reads and writes.\n\n\
    Examples:\n  smidgen link bench\n  smidgen link bench --only rates --mib 1 --repeats 101\n  \
    smidgen link bench --only messages --precision int8 --rate 10Mbit --rtt 30ms --json\n  \
    smidgen link bench --pair runs/receiver runs/sharer --ckpt last --fuser runs/fuser"
)]
pub(crate) struct Args {
    /// Measure this alone
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Size of the cache that is encoded and decoded, in f32
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=4096))]
    mib: u16,
    /// Rounds of the rates; their medians count
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// Compute threads of the rates, beside one; a message is worked on by one thread in each process
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Messages that count
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    messages: u32,
    /// Messages before them
    #[arg(long, default_value_t = 20, value_name = "N")]
    warm_up: u32,
    /// Precision of a message
    #[arg(long, default_value_t = Precision::Int4, value_name = "NAME")]
    precision: Precision,
    /// Layers of a message
    #[arg(long, default_value_t = 6, value_name = "L", value_parser = clap::value_parser!(u16).range(1..=1024))]
    layers: u16,
    /// Heads of keys and values of a message
    #[arg(long, default_value_t = 2, value_name = "K", value_parser = clap::value_parser!(u16).range(1..=1024))]
    heads: u16,
    /// Elements of a head of a message
    #[arg(long, default_value_t = 32, value_name = "E", value_parser = clap::value_parser!(u16).range(1..=4096))]
    dim: u16,
    /// Tokens of a message
    #[arg(long, default_value_t = 48, value_name = "T", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    tokens: u32,
    /// Send over a line of this rate, such as 10Mbit
    #[arg(long)]
    rate: Option<String>,
    /// Round trip of that line, such as 30ms
    #[arg(long, requires = "rate", default_value = "0ms")]
    rtt: String,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    pair: PairArgs,
    /// Be the other process: listen here
    #[arg(long, hide = true, value_name = "ADDRESS")]
    receive: Option<Address>,
}

/// What can be measured alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Rates,
    Messages,
}

impl Args {
    /// The cache of a message.
    fn shape(&self) -> KvShape {
        let [layers, kv_heads, dim] = [self.layers, self.heads, self.dim].map(usize::from);
        KvShape { layers, kv_heads, key_dim: dim, value_dim: dim }
    }

    fn line(&self) -> Result<Option<LineProfile>> {
        let Some(rate) = &self.rate else { return Ok(None) };
        let line = format!("{rate},{}", self.rtt).parse();
        let wrong = |error: NetError| Fault::usage(format!("`--rate` and `--rtt`: {error}"));
        Ok(Some(line.map_err(wrong)?))
    }

    fn measures(&self, part: Part) -> bool {
        self.only.is_none_or(|only| only == part)
    }
}

/// Everything of a cache in one precision.
fn plan(layers: usize, tokens: usize, precision: Precision) -> Plan {
    Plan::new(layers, vec![Group::new((0..tokens as u32).collect(), Pair::both(precision))])
}

#[derive(Debug, Serialize)]
struct Report {
    kernels: &'static str,
    cpu: String,
    latency: Vec<Latency>,
    rates: Option<Rates>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pair: Option<PairReport>,
}

pub(super) fn run(args: &Args) -> Result<u8> {
    if let Some(address) = &args.receive {
        peer::receive(address, args.shape())?;
        return Ok(0);
    }
    let line = args.line()?;
    let (kernels, cpu) = (Level::detect().name(), cpu_name());
    if let Some(paths) = args.pair.paths() {
        let pair = Some(pair::measure(args, &paths, line)?);
        return tell(args, &Report { kernels, cpu, latency: Vec::new(), rates: None, pair });
    }
    let sizes = [args.layers.into(), args.heads.into(), args.dim.into(), args.tokens.into()];
    check_elements("a message", sizes)?;
    // Messages first: afterwards the peak of memory is that of the large caches.
    let latency =
        if args.measures(Part::Messages) { latency::all(args, line)? } else { Vec::new() };
    let rates = args.measures(Part::Rates).then(|| Rates::measure(args)).transpose()?;
    tell(args, &Report { kernels, cpu, latency, rates, pair: None })
}

/// The line that messages go over: this connection, or a slower one.
fn shaped(
    transport: Box<dyn Transport>,
    line: Option<LineProfile>,
) -> Result<Box<dyn Transport>, NetError> {
    let Some(line) = line else { return Ok(transport) };
    let shaped = Shaped::new(transport, line, Arc::new(SystemClock::default()));
    let cannot = |source| NetError::Io { action: "shape the line".into(), source };
    Ok(Box::new(shaped.map_err(cannot)?))
}

fn of_line(line: Option<LineProfile>) -> String {
    line.map_or(String::new(), |line| {
        let (mbit, rtt_ms) = (line.bytes_per_s as f64 / 125e3, 1e3 * line.rtt.as_secs_f64());
        format!(" at {mbit} Mbit/s and {rtt_ms} ms")
    })
}

fn tell(args: &Args, report: &Report) -> Result<u8> {
    if args.json {
        out::json(report)?
    } else {
        show(report)?
    }
    Ok(0)
}

fn show(report: &Report) -> Result<()> {
    out::line(format_args!("{}, {}", report.kernels, report.cpu))?;
    report.latency.iter().try_for_each(Latency::show)?;
    report.pair.as_ref().map_or(Ok(()), PairReport::show)?;
    report.rates.as_ref().map_or(Ok(()), Rates::show)
}

//! `bench decode`: reading a prompt of twice the context, then single tokens after it, as
//! `torch_step.py` does.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use smidgen_model::Session;
use smidgen_train::{cpu_name, peak_rss_bytes};

use super::limits::{Limits, share};
use super::shape::{Shape, median};
use crate::out;

/// Readings of the prompt; the median counts.
const PREFILLS: usize = 7;
/// Room after the prompt, as in the peer.
const ROOM: usize = 256;

/// Reading a prompt, and decoding one token after another behind it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen bench decode --mode bf16 --threads 2 --json")]
pub(crate) struct Args {
    #[command(flatten)]
    shape: Shape,
    /// Tokens decoded one by one
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=ROOM as i64))]
    tokens: u16,
    /// Leave out the machine's limits
    #[arg(long)]
    no_limits: bool,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    threads: usize,
    prompt_tokens: usize,
    prefill_tokens_per_s: f64,
    decode_tokens_per_s: f64,
    decode_ms: f64,
    weight_bytes: usize,
    peak_rss_mib: f64,
    kernels: &'static str,
    cpu: String,
    limits: Option<Limits>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let shape = &args.shape;
    let spec = shape.spec()?;
    let limits = if args.no_limits { None } else { Some(Limits::of_child(shape.threads)?) };
    let device = shape.device();
    let (decoder, params) = shape.model(&device)?;
    let prompt = shape.tokens(2 * shape.context);
    let capacity = prompt.len() + ROOM;
    let mut session = Session::new(&device, shape.mode.compute(), &decoder, &params, capacity)?;
    let mut prefills = Vec::with_capacity(PREFILLS);
    let mut logits = Vec::new();
    for _ in 0..PREFILLS {
        session.truncate(0);
        let started = Instant::now();
        logits = session.feed(&prompt)?;
        prefills.push(started.elapsed().as_secs_f64());
    }
    let mut decodes = Vec::with_capacity(usize::from(args.tokens));
    for _ in 0..args.tokens {
        let token = most_likely(&logits);
        let started = Instant::now();
        logits = session.feed(&[token])?;
        decodes.push(started.elapsed().as_secs_f64());
    }
    let decode_s = median(decodes);
    // The embedding table is looked up, not multiplied.
    let values = spec.param_count() - if spec.tied { 0 } else { spec.vocab * spec.width };
    let report = Report {
        mode: shape.mode.name(),
        threads: shape.threads,
        prompt_tokens: prompt.len(),
        prefill_tokens_per_s: prompt.len() as f64 / median(prefills),
        decode_tokens_per_s: 1.0 / decode_s,
        decode_ms: 1e3 * decode_s,
        weight_bytes: values * shape.mode.compute().format().bytes(),
        peak_rss_mib: peak_rss_bytes() as f64 / f64::from(1 << 20),
        kernels: device.level().name(),
        cpu: cpu_name(),
        limits,
    };
    if args.json { out::json(&report) } else { show(&report, spec.train_flop_per_token(0) / 3.0) }
}

fn most_likely(logits: &[f32]) -> u32 {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(token, _)| token as u32)
}

/// `flop_per_token`: of the products with weights, forward.
fn show(report: &Report, flop_per_token: f64) -> Result<()> {
    let Report { mode, threads, kernels, cpu, .. } = report;
    out::line(format_args!("decoding, {mode}, {threads} threads, {kernels}, {cpu}\n"))?;
    let mut table = out::Table::new(&["what", "tokens/s", "rate", "of the limit"]);
    let flops = report.prefill_tokens_per_s * flop_per_token;
    let bytes = report.decode_tokens_per_s * report.weight_bytes as f64;
    let of = |rate: f64, limit: fn(&Limits, bool) -> f64| {
        report.limits.as_ref().map_or("-".into(), |l| share(rate, limit(l, *mode == "bf16")))
    };
    table.row([
        format!("prefill of {}", report.prompt_tokens),
        format!("{:.0}", report.prefill_tokens_per_s),
        format!("{:.0} GFLOP/s", flops / 1e9),
        of(flops, |limits, bf16| limits.products(bf16)),
    ]);
    table.row([
        "decode one by one".to_string(),
        format!("{:.0}", report.decode_tokens_per_s),
        format!("{:.1} GB/s of weights", bytes / 1e9),
        // A copy reads half of the bytes it moves, but bandwidth is bandwidth.
        of(bytes, |limits, _| limits.copy_bytes_per_s.all),
    ]);
    out::line(table)?;
    out::line(format_args!("\n  peak resident {:.0} MiB", report.peak_rss_mib))
}

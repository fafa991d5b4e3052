//! `bench step`: whole training steps on random tokens, with the work of `torch_step.py`: AdamW with
//! decay on every parameter, no clip. Gradients are streamed unless a global clip needs them held.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;
use smidgen_codec::Tag;
use smidgen_optim::{Clip, GradMode, GradPolicy};
use smidgen_store::Bytes;
use smidgen_tensor::Keep;
use smidgen_train::{cpu_name, peak_rss_bytes};

use super::limits::{Limits, share};
use super::shape::{Shape, median};
use super::stepper::{Stepper, Timing};
use crate::exit::Fault;
use crate::out;

/// Steps that are not counted: pages are touched and panels are made for the first time.
const WARM_UP: usize = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Grad {
    Streamed,
    Held,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClipArg {
    None,
    Global,
}

/// Whole training steps on random tokens: forward, loss, backward, AdamW.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen bench step --mode bf16 --threads 2\n  \
    smidgen bench step --mode f32 --clip global --json")]
pub(crate) struct Args {
    #[command(flatten)]
    shape: Shape,
    /// Steps in all; the first three are not counted
    #[arg(long, default_value_t = 12)]
    steps: usize,
    /// Use each gradient at once, or hold all of them [default: streamed, with a global clip held]
    #[arg(long, value_enum)]
    grad: Option<Grad>,
    /// Limit the norm of all gradients together
    #[arg(long, value_enum, default_value = "none")]
    clip: ClipArg,
    /// Make the values of each block again on the way back
    #[arg(long)]
    recompute: bool,
    /// Most MiB of logits alive at once
    #[arg(long, default_value_t = 8)]
    logits_mib: usize,
    /// Show the time of every operation
    #[arg(long)]
    profile: bool,
    /// Leave out the machine's limits
    #[arg(long)]
    no_limits: bool,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

impl Args {
    fn policy(&self) -> Result<GradPolicy> {
        let clip = if self.clip == ClipArg::Global { Clip::Global } else { Clip::Off };
        let grad = match self.grad {
            Some(Grad::Held) => GradMode::Held,
            None if clip == Clip::Global => GradMode::Held,
            _ => GradMode::Streamed,
        };
        let policy = GradPolicy { grad, clip, ..GradPolicy::default() };
        policy.validate()?;
        Ok(policy)
    }

    pub(super) fn keep(&self) -> Keep {
        if self.recompute { Keep::Inputs } else { Keep::Values }
    }
}

/// Median milliseconds of the parts of a step.
#[derive(Debug, Serialize)]
struct Split {
    forward: f64,
    head: f64,
    backward: f64,
    optimizer: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    mode: &'static str,
    threads: usize,
    tokens_per_s: f64,
    step_ms: f64,
    split_ms: Split,
    peak_rss_mib: f64,
    /// Peak bytes by ledger tag.
    bytes: BTreeMap<&'static str, usize>,
    total_bytes: usize,
    grad: GradMode,
    clip: Clip,
    params: usize,
    loss_first: f64,
    loss_last: f64,
    kernels: &'static str,
    cpu: String,
    ops_ms: BTreeMap<&'static str, f64>,
    /// Operations of a step that multiply.
    step_flop: f64,
    limits: Option<Limits>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let policy = args.policy()?;
    if args.steps <= WARM_UP {
        let got = args.steps;
        return Err(
            Fault::usage(format!("`steps`: expected more than {WARM_UP}, got {got}")).into()
        );
    }
    let limits = if args.no_limits { None } else { Some(Limits::of_child(args.shape.threads)?) };
    let mut stepper = Stepper::new(&args.shape, policy, args.keep(), args.logits_mib << 20)?;
    let timings = (1..=args.steps as u64).map(|step| stepper.step(step));
    let timings = timings.collect::<Result<Vec<_>>>()?;
    let report = report(&args, policy, &stepper, &timings, limits);
    if args.json { out::json(&report) } else { show(&args, &report) }
}

fn report(
    args: &Args,
    policy: GradPolicy,
    stepper: &Stepper,
    timings: &[Timing],
    limits: Option<Limits>,
) -> Report {
    let counted = &timings[WARM_UP..];
    let step_s = median(counted.iter().map(|timing| timing.seconds));
    let ops = counted[0].ops.keys().map(|op| {
        let seconds = counted.iter().map(|timing| timing.ops.get(op).copied().unwrap_or(0.0));
        (*op, 1e3 * median(seconds))
    });
    let ledger = stepper.device.ledger();
    let tokens = args.shape.batch * args.shape.context;
    let loss = |timing: Option<&Timing>| timing.map_or(f64::NAN, |timing| timing.loss);
    Report {
        mode: args.shape.mode.name(),
        threads: args.shape.threads,
        tokens_per_s: tokens as f64 / step_s,
        step_ms: 1e3 * step_s,
        split_ms: Split::new(counted),
        peak_rss_mib: peak_rss_bytes() as f64 / f64::from(1 << 20),
        bytes: Tag::ALL.iter().map(|tag| (tag.name(), ledger.peak_bytes(*tag))).collect(),
        total_bytes: ledger.total_peak_bytes(),
        grad: policy.grad,
        clip: policy.clip,
        params: stepper.params.element_count(),
        loss_first: loss(timings.first()),
        loss_last: loss(timings.last()),
        kernels: stepper.device.level().name(),
        cpu: cpu_name(),
        ops_ms: ops.collect(),
        step_flop: tokens as f64 * stepper.spec().train_flop_per_token(args.shape.context),
        limits,
    }
}

impl Split {
    /// The parts by the names of operations: the head is one on both ways, `-` marks the way back.
    fn new(timings: &[Timing]) -> Split {
        let part = |belongs: fn(&str) -> bool| {
            let sums = timings.iter().map(|timing| {
                timing.ops.iter().filter(|(op, _)| belongs(op)).map(|(_, s)| s).sum::<f64>()
            });
            1e3 * median(sums)
        };
        Split {
            forward: part(|op| op != "sink" && op != "head_loss" && !op.ends_with('-')),
            head: part(|op| op.trim_end_matches('-') == "head_loss"),
            backward: part(|op| op.ends_with('-') && op != "head_loss-"),
            optimizer: part(|op| op == "sink"),
        }
    }
}

fn show(args: &Args, report: &Report) -> Result<()> {
    let Report { mode, threads, kernels, cpu, step_ms, split_ms, .. } = report;
    out::line(format_args!("training step, {mode}, {threads} threads, {kernels}, {cpu}"))?;
    out::line("")?;
    let mut table = out::Table::new(&["part", "ms", "share"]);
    let mut part = |name: &str, ms: f64| {
        table.row([name.to_string(), format!("{ms:.1}"), format!("{:.0} %", 100.0 * ms / step_ms)]);
    };
    part("forward", split_ms.forward);
    part("head and loss", split_ms.head);
    part("backward", split_ms.backward);
    part("optimizer", split_ms.optimizer);
    part("step", *step_ms);
    if args.profile {
        report.ops_ms.iter().for_each(|(op, ms)| part(&format!("  {op}"), *ms));
    }
    out::line(table)?;
    out::line("")?;
    let mut table = out::Table::new(&["bytes", "peak"]);
    for (tag, bytes) in report.bytes.iter().filter(|(_, bytes)| **bytes > 0) {
        table.row([tag.to_string(), Bytes(*bytes as u64).to_string()]);
    }
    table.row(["together".to_string(), Bytes(report.total_bytes as u64).to_string()]);
    out::line(table)?;
    out::line("")?;
    let Report { tokens_per_s, peak_rss_mib, .. } = report;
    out::line(format_args!("  {tokens_per_s:.0} tokens/s, peak resident {peak_rss_mib:.0} MiB"))?;
    report.limits.as_ref().map_or(Ok(()), |limits| show_limits(report, limits))
}

/// Bytes AdamW reads and writes per parameter: weight, gradient and two averages in, all but the
/// gradient out.
const ADAMW_BYTES: usize = 28;

fn show_limits(report: &Report, limits: &Limits) -> Result<()> {
    let flops = 1e3 * report.step_flop / report.step_ms;
    let peak = limits.products(report.mode == "bf16");
    let bytes = 1e3 * (report.params * ADAMW_BYTES) as f64 / report.split_ms.optimizer;
    let copy = limits.copy_bytes_per_s.all;
    let mut table = out::Table::new(&["of the limit", "rate", "limit", "share"]);
    let unit = |value: f64, unit: &str| format!("{:.0} {unit}", value / 1e9);
    let step = [unit(flops, "GFLOP/s"), unit(peak, "GFLOP/s"), share(flops, peak)];
    table.row(["step".to_string()].into_iter().chain(step));
    let optimizer = [unit(bytes, "GB/s"), unit(copy, "GB/s"), share(bytes, copy)];
    // Gradients, and weights just read, are still in the caches: more than memory alone could give.
    table.row(["optimizer, partly in cache".to_string()].into_iter().chain(optimizer));
    out::line(format_args!("\n{table}"))
}

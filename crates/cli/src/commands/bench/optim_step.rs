//! `bench optim-step`: the update alone, on matrices of noise, without a model around it.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;
use smidgen_codec::{Ledger, Rng, Stream, Tag};
use smidgen_optim::{Assignment, GroupConfig, OptimState, ParamSpec, Role, StepCx};
use smidgen_tensor::{Device, Format, Tensor};
use smidgen_train::{cpu_name, peak_rss_bytes};

use super::shape::median;
use crate::exit::Fault;
use crate::out;

/// One optimizer's update of some matrices: time, bytes of state, bandwidth.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  smidgen bench optim-step --rule adamw --state int8-dynamic\n  \
    smidgen bench optim-step --rule muon --state int8/2048 --shape 1024x4096 --repeats 3 --json"
)]
pub(crate) struct Args {
    /// The rule
    #[arg(long, default_value = "adamw")]
    rule: String,
    /// The format of its state
    #[arg(long, default_value = "f32")]
    state: String,
    /// Another key of the group, as in a configuration: `momentum=0.9`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Rows and columns of each matrix
    #[arg(long, default_value = "4096x4096", value_parser = parse_shape)]
    shape: [usize; 2],
    /// How many matrices
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// Threads
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Updates that are measured, after one that is not
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repeats: u16,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

fn parse_shape(text: &str) -> Result<[usize; 2], String> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=1 << 20).contains(side));
    let sides = text.split_once('x').and_then(|(rows, cols)| Some([side(rows)?, side(cols)?]));
    sides.ok_or_else(|| "expected rows and columns like `4096x4096`".into())
}

#[derive(Debug, Serialize)]
struct Report {
    rule: String,
    state: String,
    shape: [usize; 2],
    count: usize,
    threads: usize,
    state_bytes_per_value: f64,
    /// What must move at least: gradient and weight in, weight out, state in and out.
    traffic_bytes_per_value: f64,
    median_ms: f64,
    least_ms: f64,
    most_ms: f64,
    values_per_s: f64,
    traffic_bytes_per_s: f64,
    peak_rss_mib: f64,
    kernels: &'static str,
    cpu: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let group = group(args)?;
    let count = usize::from(args.count);
    let params =
        (0..count).map(|i| ParamSpec::new(format!("p{i}"), args.shape, Role::MatrixHidden));
    let plan = Assignment::resolve(&[group], &params.collect::<Vec<_>>())?;
    let device = Device::cpu(Ledger::new(), usize::from(args.threads));
    let mut state = OptimState::allocate(plan, device.pool())?;
    let mut values = tensors(&device, args.shape, count, Tag::Weights, 0.02)?;
    let grads = tensors(&device, args.shape, count, Tag::Grads, 1e-3)?;
    let mut times = Vec::with_capacity(usize::from(args.repeats));
    for step in 0..=u64::from(args.repeats) {
        let started = Instant::now();
        let cx = StepCx::new(&device, step + 1, Rng::new(0, Stream::Rounding));
        for (index, (value, grad)) in values.iter_mut().zip(&grads).enumerate() {
            state.step(&cx, index, value.into(), grad.slice())?;
        }
        times.push(1e3 * started.elapsed().as_secs_f64());
    }
    let report = report(args, &device, times.split_off(1));
    if args.json { out::json(&report) } else { show(&report) }
}

fn group(args: &Args) -> Result<GroupConfig> {
    let text =
        format!("rule = '{}'\nstate = '{}'\n{}", args.rule, args.state, args.sets.join("\n"));
    let wrong = |error: toml::de::Error| Fault::usage(format!("`--set`: {}", error.message()));
    Ok(toml::from_str(&text).map_err(wrong)?)
}

/// Matrices of noise, which no format finds easy.
fn tensors(
    device: &Device,
    shape: [usize; 2],
    count: usize,
    tag: Tag,
    size: f32,
) -> Result<Vec<Tensor>> {
    let one = |number: usize| {
        let mut tensor = Tensor::uninit(device.pool(), tag, shape, Format::F32)?;
        let rng = Rng::new(number as u64, Stream::Init);
        rng.fill_normal(0, tag as u64, size, tensor.slice_mut());
        Ok(tensor)
    };
    (0..count).map(one).collect()
}

fn report(args: &Args, device: &Device, times: Vec<f64>) -> Report {
    let values = args.shape[0] * args.shape[1] * usize::from(args.count);
    let state = [Tag::State, Tag::Proj].map(|tag| device.ledger().live_bytes(tag));
    let state = state.iter().sum::<usize>() as f64 / values as f64;
    let traffic = 12.0 + 2.0 * state;
    let (least, most) =
        times.iter().fold((f64::MAX, 0.0), |(l, m), t| (f64::min(l, *t), f64::max(m, *t)));
    let median_ms = median(times);
    let values_per_s = 1e3 * values as f64 / median_ms;
    Report {
        rule: args.rule.clone(),
        state: args.state.clone(),
        shape: args.shape,
        count: usize::from(args.count),
        threads: usize::from(args.threads),
        state_bytes_per_value: state,
        traffic_bytes_per_value: traffic,
        median_ms,
        least_ms: least,
        most_ms: most,
        values_per_s,
        traffic_bytes_per_s: values_per_s * traffic,
        peak_rss_mib: peak_rss_bytes() as f64 / f64::from(1 << 20),
        kernels: device.level().name(),
        cpu: cpu_name(),
    }
}

fn show(report: &Report) -> Result<()> {
    let Report { rule, state, shape: [rows, cols], count, threads, kernels, cpu, .. } = report;
    out::line(format_args!(
        "update of {count} x {rows} x {cols}, `{rule}` with state in {state}, {threads} threads, \
         {kernels}, {cpu}\n"
    ))?;
    let mut table = out::Table::new(&["what", "amount"]);
    let times = [report.median_ms, report.least_ms, report.most_ms];
    let [median, least, most] = times.map(|ms| format!("{ms:.1}"));
    table.row(["time".to_string(), format!("{median} ms ({least} to {most})")]);
    table.row(["state".to_string(), format!("{:.3} B/value", report.state_bytes_per_value)]);
    table.row(["values".to_string(), format!("{:.3} G/s", report.values_per_s / 1e9)]);
    let bandwidth = report.traffic_bytes_per_s / 1e9;
    table.row(["least traffic".to_string(), format!("{bandwidth:.1} GB/s")]);
    out::line(table)?;
    out::line(format_args!("\n  peak resident {:.0} MiB", report.peak_rss_mib))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_two_sides() {
        assert_eq!(parse_shape("3x40"), Ok([3, 40]));
        for text in ["", "3", "3x", "0x4", "3x4x5", "9999999x2"] {
            assert!(parse_shape(text).is_err(), "{text}");
        }
    }
}

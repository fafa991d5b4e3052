//! `bench matmul`: large products beside the rate of a loop that never leaves the registers.

use anyhow::Result;
use serde::Serialize;
use smidgen_codec::Ledger;
use smidgen_tensor::probe::product_rate;
use smidgen_tensor::{Compute, Device};
use smidgen_train::cpu_name;

use super::limits::{Limits, share};
use crate::out;

/// Large matrix products, beside the register-loop rate.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen bench matmul --threads 2\n  \
    smidgen bench matmul --rows 2048 --cols 4096 --depth 384 --json")]
pub(crate) struct Args {
    /// Rows of the result
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    rows: u32,
    /// Columns of the result
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    cols: u32,
    /// Products in each sum
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    depth: u32,
    /// Compute threads
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// Operations per second of a product, and of the limit.
#[derive(Debug, Serialize)]
struct Row {
    mode: &'static str,
    threads: usize,
    ops_per_s: f64,
    packed_ops_per_s: f64,
    limit_ops_per_s: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    rows: u32,
    cols: u32,
    depth: u32,
    kernels: &'static str,
    cpu: String,
    products: Vec<Row>,
    limits: Limits,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let all = usize::from(args.threads);
    let limits = Limits::of_child(all)?;
    let mut products = Vec::new();
    let mut kernels = "";
    for compute in [Compute::F32, Compute::Bf16] {
        for threads in if all > 1 { vec![1, all] } else { vec![1] } {
            let device = Device::cpu(Ledger::new(), threads);
            kernels = device.level().name();
            let [m, n, k] = [args.rows, args.cols, args.depth].map(|size| size as usize);
            let rate = product_rate(&device, compute, m, n, k)?;
            let bf16 = limits.bf16_ops_per_s.filter(|_| compute == Compute::Bf16);
            let limit = bf16.unwrap_or(limits.f32_ops_per_s);
            products.push(Row {
                mode: compute.format().name(),
                threads,
                ops_per_s: rate.whole,
                packed_ops_per_s: rate.packed,
                limit_ops_per_s: if threads == 1 { limit.one } else { limit.all },
            });
        }
    }
    let (rows, cols, depth) = (args.rows, args.cols, args.depth);
    let cpu = cpu_name();
    let report = Report { rows, cols, depth, kernels, cpu, products, limits };
    if args.json { out::json(&report) } else { show(&report) }
}

fn show(report: &Report) -> Result<()> {
    let Report { rows, cols, depth, kernels, cpu, .. } = report;
    out::line(format_args!("[{rows}, {depth}] x [{depth}, {cols}], {kernels}, {cpu}"))?;
    out::line("GFLOP/s, packing included; with packed weights; of a register loop\n")?;
    let mut table =
        out::Table::new(&["mode", "threads", "whole", "share", "packed", "share", "limit"]);
    for row in &report.products {
        let giga = |ops: f64| format!("{:.0}", ops / 1e9);
        table.row([
            row.mode.to_string(),
            row.threads.to_string(),
            giga(row.ops_per_s),
            share(row.ops_per_s, row.limit_ops_per_s),
            giga(row.packed_ops_per_s),
            share(row.packed_ops_per_s, row.limit_ops_per_s),
            giga(row.limit_ops_per_s),
        ]);
    }
    out::line(table)
}

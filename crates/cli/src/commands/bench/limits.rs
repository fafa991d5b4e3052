//! `bench limits`: what the machine could do at most. Other measurements run it as a child process, so
//! that its buffers do not count in their memory.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use smidgen_codec::Ledger;
use smidgen_tensor::probe::{Kind, copy_rate, register_rate};
use smidgen_tensor::{Device, Level};
use smidgen_train::cpu_name;

use crate::out;

/// Copy bandwidth and peak rates of register loops, on one thread and on all.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  smidgen bench limits --threads 2 --json")]
pub(crate) struct Args {
    /// Threads that are all of them
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// A rate on one thread and on all, in operations (or bytes) per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Rate {
    pub(super) one: f64,
    pub(super) all: f64,
}

/// The limits of the machine; a format without an instruction of its own has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Limits {
    pub(super) threads: usize,
    pub(super) copy_bytes_per_s: Rate,
    pub(super) f32_ops_per_s: Rate,
    pub(super) bf16_ops_per_s: Option<Rate>,
    pub(super) int8_ops_per_s: Option<Rate>,
}

impl Limits {
    /// Measures here and now.
    fn measure(threads: usize) -> Result<Limits> {
        let (one, all) = (Device::cpu(Ledger::new(), 1), Device::cpu(Ledger::new(), threads));
        let rate = |kind| {
            let one = register_rate(one.team(), kind)?;
            Some(Rate { one, all: register_rate(all.team(), kind)? })
        };
        Ok(Limits {
            threads,
            copy_bytes_per_s: Rate { one: copy_rate(&one)?, all: copy_rate(&all)? },
            f32_ops_per_s: rate(Kind::F32).expect("every machine multiplies f32"),
            bf16_ops_per_s: rate(Kind::Bf16),
            int8_ops_per_s: rate(Kind::Int8),
        })
    }

    /// Measures in a child process.
    ///
    /// # Errors
    /// When the child does not start or does not answer.
    pub(super) fn of_child(threads: usize) -> Result<Limits> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.args(["bench", "limits", "--json", "--threads", &threads.to_string()]);
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.context("cannot start the measurement of the limits")?;
        ensure!(output.status.success(), "the measurement of the limits failed");
        serde_json::from_slice(&output.stdout).context("the limits are not readable")
    }

    /// Operations per second on all threads for products of this format; f32's where it has none.
    pub(super) fn products(&self, bf16: bool) -> f64 {
        let own = if bf16 { self.bf16_ops_per_s } else { None };
        own.unwrap_or(self.f32_ops_per_s).all
    }
}

/// A share of a limit, for people.
pub(super) fn share(rate: f64, limit: f64) -> String {
    format!("{:.0} %", 100.0 * rate / limit)
}

pub(crate) fn run(args: Args) -> Result<()> {
    let limits = Limits::measure(usize::from(args.threads))?;
    if args.json {
        return out::json(&limits);
    }
    let (level, cpu) = (Level::detect().name(), cpu_name());
    out::line(format_args!("limits, {} threads, {level}, {cpu}\n", args.threads))?;
    let mut table = out::Table::new(&["what", "one thread", "all threads"]);
    let mut row = |what: &str, rate: Option<Rate>, unit: &str| {
        let cell = |value: f64| format!("{:.1} {unit}", value / 1e9);
        let cells = rate.map_or(["none".into(), "none".into()], |r| [cell(r.one), cell(r.all)]);
        table.row([what.to_string()].into_iter().chain(cells));
    };
    row("memory copy", Some(limits.copy_bytes_per_s), "GB/s");
    row("f32 products", Some(limits.f32_ops_per_s), "GFLOP/s");
    row("bf16 products", limits.bf16_ops_per_s, "GFLOP/s");
    row("int8 products", limits.int8_ops_per_s, "GOP/s");
    out::line(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_cross_the_process_border() {
        let rate = Rate { one: 1.5e9, all: 3e9 };
        let limits = Limits {
            threads: 2,
            copy_bytes_per_s: rate,
            f32_ops_per_s: rate,
            bf16_ops_per_s: None,
            int8_ops_per_s: Some(rate),
        };
        let text = serde_json::to_string(&limits).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&text).unwrap(), limits);
        assert_eq!([limits.products(true), limits.products(false)], [3e9, 3e9]);
        assert_eq!(share(1.0, 3.0), "33 %");
    }
}

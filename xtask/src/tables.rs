//! Tables that are made from raw logs again: what is published is what the logs say.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};

/// Logs and the tables made from them, under `docs/results/`.
const TABLES: [(&str, &str); 3] = [
    ("raw/optim-named.jsonl", "optim-named.csv"),
    ("raw/optim-seeds.jsonl", "optim-seeds.csv"),
    ("raw/optim-matrix.jsonl", "optim-matrix.csv"),
];

/// Writes every table again.
pub(crate) fn tables() -> anyhow::Result<ExitCode> {
    let root =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in a workspace")?;
    let results = root.join("docs/results");
    for (log, table) in TABLES {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        command.current_dir(root).args(["run", "--release", "--quiet", "--"]);
        command.args(["bench", "optim", "--csv", "--table"]).arg(results.join(log));
        let output = command.output().with_context(|| format!("cannot start `{command:?}`"))?;
        if !output.status.success() {
            bail!("`{log}`: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::fs::write(results.join(table), output.stdout).with_context(|| format!("`{table}`"))?;
        println!("{log} -> {table}");
    }
    Ok(ExitCode::SUCCESS)
}

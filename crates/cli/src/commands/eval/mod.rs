//! `eval`: what a model is worth, by a text it has not seen.

mod compile;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use smidgen_eval::{ScoredToken, Scoring, TextScore, Windows};
use smidgen_model::Scorer;
use smidgen_store::{Disk, write_atomic};
use smidgen_tensor::Compute;
use smidgen_train::TrainedModel;

use crate::commands::late::LateBar;
use crate::commands::model::ModelArgs;
use crate::exit::Fault;
use crate::out;

/// Tokens scored at once, about.
const BATCH_TOKENS: usize = 2048;

/// Measure a model: perplexity or bits per byte of a text, or how much of what it writes compiles.
#[derive(Debug, clap::Args)]
#[command(after_help = "Every token is scored once, after as much text as its window shows. \
    Perplexity depends\non the tokenizer; bits per byte can be compared between models.\n\n\
    Examples:\n  smidgen eval runs/notes --task bpb --file held-out.txt\n  \
    smidgen eval model.gguf --task ppl --file wiki.txt --context 512 --stride 512 --json\n  \
    smidgen eval runs/code --task compile --samples 100")]
pub(crate) struct Args {
    #[command(flatten)]
    from: ModelArgs,
    /// What to measure
    #[arg(long, value_name = "TASK")]
    task: Task,
    /// A text of UTF-8; may be repeated, each file is a document of its own. For `compile` Rust
    /// whose functions are completed [default there: what the run holds out]
    #[arg(long = "file", value_name = "FILE",
        required_if_eq_any = [("task", "ppl"), ("task", "bpb")])]
    files: Vec<PathBuf>,
    /// Tokens the model sees at once [default: as in training, or all it was made for]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Tokens from one window to the next [default: half the context]
    #[arg(long, value_name = "N")]
    stride: Option<usize>,
    /// Format of the operands of products [default: as trained, f32 for models of other programs]
    #[arg(long, value_name = "FORMAT")]
    compute: Option<ComputeArg>,
    /// Write every token and its negative log-likelihood in nats, one object a line
    #[arg(long, value_name = "FILE")]
    per_token: Option<PathBuf>,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    compile: compile::CompileArgs,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Task {
    /// Perplexity per token
    Ppl,
    /// Bits per byte of text
    Bpb,
    /// Share of completed Rust functions that type-check
    Compile,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum ComputeArg {
    /// 4 bytes for each operand
    F32,
    /// 2 bytes, faster where the processor has them
    Bf16,
}

#[derive(Debug, Serialize)]
struct Report {
    task: Task,
    ppl: f64,
    bpb: f64,
    /// Nats per token.
    mean_nll: f64,
    tokens: u64,
    bytes: u64,
    seconds: f64,
    tokens_per_s: f64,
    context: usize,
    stride: usize,
    compute: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    model: PathBuf,
    files: Vec<PathBuf>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    args.check()?;
    if args.task == Task::Compile { compile::run(args) } else { score(args) }
}

fn score(args: Args) -> Result<()> {
    let texts = args.files.iter().map(read).collect::<Result<Vec<String>>>()?;
    let (device, model) = args.from.open()?;
    let windows = args.windows(model.context, model.decoder.spec().context)?;
    let compute = args.compute(&model);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let scoring = Scoring::new(&model.tokenizer, &texts, windows)?;
    let scorer = Scorer::new(&device, compute, &model.decoder, &model.params)?;
    let (started, mut scored) = (Instant::now(), Vec::new());
    let score = watched(&scoring, &scorer, args.per_token.is_some(), &mut scored)?;
    let seconds = started.elapsed().as_secs_f64();
    if let Some(path) = &args.per_token {
        write_atomic(&Disk, path, |out| {
            let line = |token: &ScoredToken| {
                writeln!(out, "{{\"id\":{},\"nll\":{:.6}}}", token.id, token.nll)
            };
            scored.iter().try_for_each(line)
        })?;
    }
    let report = Report {
        task: args.task,
        ppl: score.ppl(),
        bpb: score.bpb(),
        mean_nll: score.mean_nll(),
        tokens: score.tokens,
        bytes: score.bytes,
        seconds,
        tokens_per_s: score.tokens as f64 / seconds.max(1e-9),
        context: windows.context,
        stride: windows.stride,
        compute: compute.format().name(),
        step: model.step,
        model: args.from.model,
        files: args.files,
    };
    if args.json { out::json(&report) } else { show(&report) }
}

/// Scores everything under a progress line; keeps every token where asked.
fn watched(
    scoring: &Scoring,
    scorer: &Scorer<'_>,
    keep: bool,
    scored: &mut Vec<ScoredToken>,
) -> Result<TextScore> {
    let bar = LateBar::new(
        "  {pos}/{len} tokens [{wide_bar:.green}] {per_sec}, {eta} left",
        Some(scoring.tokens()),
    );
    let mut done = 0;
    let score = scoring.run(scorer, &mut |tokens| {
        done += tokens.len() as u64;
        bar.at(done);
        if keep {
            scored.extend_from_slice(tokens);
        }
    })?;
    Ok(score)
}

fn read(path: &PathBuf) -> Result<String> {
    let text = std::fs::read_to_string(path);
    text.with_context(|| Fault::unreadable(format!("cannot read the text {}", path.display())))
}

impl Args {
    /// Refuses options of another task.
    fn check(&self) -> Result<()> {
        let scoring = [
            (self.context.is_some(), "--context"),
            (self.stride.is_some(), "--stride"),
            (self.per_token.is_some(), "--per-token"),
        ];
        let (given, tasks) = match self.task {
            Task::Compile => {
                (scoring.iter().find(|it| it.0).map(|it| it.1), "`--task ppl` and `--task bpb`")
            }
            Task::Ppl | Task::Bpb => (self.compile.given(), "`--task compile`"),
        };
        match given {
            Some(option) => {
                let text = format!("`{option}` is an option of {tasks}");
                Err(Fault::usage(text).into())
            }
            None => Ok(()),
        }
    }

    fn compute(&self, model: &TrainedModel) -> Compute {
        match self.compute {
            Some(ComputeArg::F32) => Compute::F32,
            Some(ComputeArg::Bf16) => Compute::Bf16,
            None => model.compute,
        }
    }

    /// The windows: `usual` unless asked for others, `most` is what the model was made for.
    fn windows(&self, usual: usize, most: usize) -> Result<Windows> {
        let context = self.context.unwrap_or(usual);
        if context == 0 || context > most {
            let text = format!("`--context`: expected 1 to {most}, got {context}");
            return Err(Fault::usage(text).into());
        }
        let stride = self.stride.unwrap_or(context.div_ceil(2));
        if stride == 0 || stride > context {
            let text = format!("`--stride`: expected 1 to {context}, the context, got {stride}");
            return Err(Fault::usage(text).into());
        }
        Ok(Windows { context, stride, rows: (BATCH_TOKENS / context).max(1) })
    }
}

fn show(report: &Report) -> Result<()> {
    let Report { ppl, bpb, mean_nll, tokens, bytes, seconds, context, stride, .. } = report;
    out::line(match report.task {
        Task::Ppl => {
            format!("perplexity {ppl:.4}, {mean_nll:.4} nats a token, {bpb:.4} bits a byte")
        }
        _ => {
            format!("{bpb:.4} bits a byte, {mean_nll:.4} nats a token, perplexity {ppl:.4}")
        }
    })?;
    let step = report.step.map_or(String::new(), |step| format!(", step {step}"));
    let format = report.compute;
    out::line(format_args!(
        "{tokens} tokens of {bytes} bytes in {seconds:.1} s; context {context}, stride {stride}, {format}{step}"
    ))
}

//! `link fuse`: two models that are there, a fuser between them, and what it is worth over text.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use smidgen_link::stats::Interval;
use smidgen_link::text::{TextConfig, TextJob, TextRecord, fuse_text};
use smidgen_train::Context;

use crate::commands::train::Screen;
use crate::exit::Fault;
use crate::{out, signals};

/// Train a fuser between two models on a text, and measure what the link is worth on held-out documents.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Both models read the same context, each in its own tokens. The receiver is scored on what \
    follows,\nin bits per byte: alone, over the link in several formats, with the cache of another document, with\n\
    zeros. Gains are of the same documents, with 95 % intervals. A fifth of the documents is never\n\
    trained on. The same command goes on with a run that was stopped, and measures one that is\n\
    finished.\n\n\
    Examples:\n  smidgen link fuse big.gguf small.gguf stories.txt --out runs/pair\n  \
    smidgen link fuse a.bin b.bin stories.txt --document-start Once --one-line --out runs/pair --json\n  \
    smidgen link fuse a.bin b.bin stories.txt --document-start Once --one-line \\\n    \
    --from runs/pair --any-rate --steps 200 --lr 2.5e-4 --out runs/pair-any"
)]
pub(crate) struct Args {
    /// Whose cache is given: a run directory, a Hugging Face folder, a GGUF file or a llama2.c file
    #[arg(value_name = "SHARER")]
    sharer: PathBuf,
    /// Who is helped by it
    #[arg(value_name = "RECEIVER")]
    receiver: PathBuf,
    /// Documents in UTF-8, with `<|endoftext|>` between them
    #[arg(value_name = "TEXT")]
    text: PathBuf,
    /// The run directory: new, or one of the same command
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A document begins at each paragraph that begins with this
    #[arg(long, value_name = "TEXT")]
    document_start: Option<String>,
    /// Make one blank of every run of blanks and line ends: some vocabularies have no line end
    #[arg(long)]
    one_line: bool,
    /// The fuser: c2c, linear (in closed form) or lite
    #[arg(long, value_name = "NAME", default_value = "c2c")]
    kind: String,
    /// Width of the fuser
    #[arg(long, value_name = "N", default_value_t = 96)]
    hidden: usize,
    /// Steps of training
    #[arg(long, value_name = "N", default_value_t = 1000)]
    steps: u64,
    /// Items of a step
    #[arg(long, value_name = "N", default_value_t = 16)]
    batch: usize,
    /// Peak rate of learning
    #[arg(long, value_name = "RATE", default_value_t = 1e-3)]
    lr: f64,
    /// Bytes of text that both models read
    #[arg(long, value_name = "BYTES", default_value_t = 128)]
    context: usize,
    /// Bytes of text that the receiver is scored on
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    continuation: usize,
    /// Bytes before the context that only the sharer reads
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    more_context: usize,
    /// Begin with the fuser of this run, and compare with it
    #[arg(long, value_name = "RUN")]
    from: Option<PathBuf>,
    /// Train for links of any budget: through the rounding of the wire, with tokens and layers missing
    #[arg(long)]
    any_rate: bool,
    /// Of everything that is drawn
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// The tokenizer of a sharer that has none
    #[arg(long, value_name = "PATH")]
    sharer_tokenizer: Option<PathBuf>,
    /// The tokenizer of a receiver that has none
    #[arg(long, value_name = "PATH")]
    receiver_tokenizer: Option<PathBuf>,
    /// Print one object on one line at the end; everything else goes to standard error
    #[arg(long)]
    json: bool,
}

/// Gives the exit code: 0, or 130 when it was interrupted and saved.
pub(crate) fn run(args: &Args) -> Result<u8> {
    let job = args.job()?;
    let stop = signals::stop_flag()?;
    let mut screen = Screen::new(args.json, stop.clone());
    let record = fuse_text(&job, &mut Context::new(&mut screen, &stop));
    screen.finish()?;
    let record = match record {
        Err(smidgen_link::Error::Interrupted { path }) => return Ok(super::interrupted(&path)),
        record => record?,
    };
    if args.json {
        out::json(&record)?
    } else {
        show(&record)?
    }
    Ok(0)
}

impl Args {
    fn job(&self) -> Result<TextJob> {
        let path = self.text.display();
        let text = std::fs::read_to_string(&self.text)
            .with_context(|| Fault::unreadable(format!("cannot read the text {path}")))?;
        Ok(TextJob {
            sharer: (self.sharer.clone(), self.sharer_tokenizer.clone()),
            receiver: (self.receiver.clone(), self.receiver_tokenizer.clone()),
            text,
            from: self.from.clone(),
            config: TextConfig {
                variant: self.kind.clone(),
                hidden: self.hidden,
                steps: self.steps,
                batch: self.batch,
                lr: self.lr,
                seed: self.seed,
                context_bytes: self.context,
                continuation_bytes: self.continuation,
                more_context_bytes: self.more_context,
                document_start: self.document_start.clone(),
                one_line: self.one_line,
                any_rate: self.any_rate,
            },
            out: self.out.clone(),
        })
    }
}

fn show(record: &TextRecord) -> Result<()> {
    let TextRecord { fuser, documents, alignment, .. } = record;
    out::line(format_args!(
        "\nfuser: {} numbers, {} layers, {} gates open\n\
         {} documents held out ({} learnt from, {} to validate, {} left out), {} items, {} bytes scored\n\
         {:.1} % of the receiver's tokens have one of the sharer's to themselves, {:.1} % have none\n",
        out::count(fuser.params as u64),
        fuser.layers,
        fuser.open_gates,
        documents.test,
        documents.train,
        documents.val,
        documents.left_out,
        record.items,
        out::count(record.scored_bytes as u64),
        100.0 * alignment.one_to_one,
        100.0 * alignment.unmapped,
    ))?;
    let mut table = out::Table::new(&["delivered", "bytes", "bits/byte", "95 %", "gain", "95 %"]);
    for line in &record.lines {
        table.row([
            line.name.clone(),
            format!("{:.0}", line.wire_bytes),
            format!("{:.4}", line.bpb.mean),
            format!("{:.4} to {:.4}", line.bpb.low, line.bpb.high),
            format!("{:+.4}", line.gain.mean),
            range(&line.gain),
        ]);
    }
    out::line(table)?;
    let mut table =
        out::Table::new(&["on the same documents", "over", "gain", "95 %"]).left(&[0, 1]);
    for pair in &record.comparisons {
        let gain = format!("{:+.4}", pair.gain.mean);
        table.row([pair.line.clone(), pair.over.clone(), gain, range(&pair.gain)]);
    }
    out::line(format_args!("\n{table}"))
}

/// Both ends of the interval of a difference.
fn range(gain: &Interval) -> String {
    format!("{:+.4} to {:+.4}", gain.low, gain.high)
}

//! `generate`: a prompt in, text out, token by token.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use smidgen_data::TokenStream;
use smidgen_model::{Sampler, Sampling, Session};
use smidgen_tensor::Device;
use smidgen_train::TrainedModel;

use crate::commands::model::ModelArgs;
use crate::commands::stop::StopText;
use crate::exit::Fault;
use crate::out;

/// Continue a prompt with a trained model; the text streams to standard output.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  smidgen generate runs/notes --prompt \"fn main() {\"\n  \
    smidgen generate runs/notes --prompt-file start.txt --temperature 0 --stop END\n  \
    echo \"Once upon\" | smidgen generate runs/notes --ckpt last --seed 7\n  \
    smidgen generate model.gguf --prompt \"Once upon a time\"")]
pub(crate) struct Args {
    #[command(flatten)]
    from: ModelArgs,
    /// The text to continue; `-` reads standard input, as does a pipe where no prompt is named
    #[arg(long, value_name = "TEXT", conflicts_with = "prompt_file", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Read the prompt from a file; `-` is standard input
    #[arg(long, value_name = "FILE")]
    prompt_file: Option<PathBuf>,
    /// Most tokens to write
    #[arg(long, value_name = "N", default_value_t = 200,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_tokens: u32,
    /// Divides the logits; 0 takes the most likely token
    #[arg(long, value_name = "T", default_value_t = 0.8, allow_negative_numbers = true)]
    temperature: f32,
    /// Draw from the K most likely tokens; 0 from all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Draw from the most likely tokens that together have this share
    #[arg(long, value_name = "P", default_value_t = 0.95, allow_negative_numbers = true)]
    top_p: f32,
    /// Seed of the draws
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// End before this text; may be repeated
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Print one object on one line in place of the text
    #[arg(long)]
    json: bool,
}

/// Why the text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum End {
    /// The most tokens.
    Length,
    /// The model ended the document.
    Document,
    /// A stop text came.
    Stop,
}

#[derive(Debug, Serialize)]
struct Report {
    text: String,
    tokens: u64,
    tokens_per_s: f64,
    prompt_tokens: usize,
    end: End,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<u64>,
    model: PathBuf,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let Args { temperature, top_k, top_p, seed, .. } = args;
    // Options are judged before a model is loaded.
    let mut sampler = Sampler::new(Sampling { temperature, top_k, top_p, seed })?;
    let prompt = args.read_prompt()?;
    let (device, model) = args.from.open()?;
    let report = generate(&args, &model, &device, &prompt, &mut sampler)?;
    if args.json {
        return out::json(&report);
    }
    out::line("")?;
    let Report { tokens, tokens_per_s, step, .. } = report;
    let step = step.map_or(String::new(), |step| format!(", step {step}"));
    out::note(format_args!("{tokens} tokens, {tokens_per_s:.0} tokens/s{step}"));
    Ok(())
}

impl Args {
    fn read_prompt(&self) -> Result<String> {
        let dash = |text: &str| text == "-";
        match (&self.prompt, &self.prompt_file) {
            (Some(text), _) if !dash(text) => Ok(text.clone()),
            (None, Some(path)) if !path.to_str().is_some_and(dash) => std::fs::read_to_string(path)
                .with_context(|| {
                    Fault::unreadable(format!("cannot read the prompt {}", path.display()))
                }),
            (None, None) if std::io::stdin().is_terminal() => Ok(String::new()),
            _ => {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                read.context(Fault::unreadable("cannot read the prompt from standard input"))?;
                Ok(text)
            }
        }
    }
}

fn generate(
    args: &Args,
    model: &TrainedModel,
    device: &Device,
    prompt: &str,
    sampler: &mut Sampler,
) -> Result<Report> {
    let tokenizer = &model.tokenizer;
    // Every document of the training text began with this token.
    let mut ids = vec![tokenizer.prefix()];
    ids.extend(tokenizer.encode(prompt)?);
    // Attention to far more than the model ever saw says nothing, and costs the square of it.
    let most = (64 * model.decoder.spec().context).max(1 << 14);
    if ids.len() > most {
        let text =
            format!("`--prompt`: expected at most {most} tokens for this model, got {}", ids.len());
        return Err(Fault::usage(text).into());
    }
    let capacity = ids.len() + args.max_tokens as usize;
    note_context(model, capacity);
    let mut session = Session::new(device, model.compute, &model.decoder, &model.params, capacity)?;
    let mut writer = Writer::new(args);
    let mut stream = match prompt {
        "" => TokenStream::new(tokenizer),
        _ => TokenStream::within(tokenizer),
    };
    let mut logits = session.feed(&ids)?;
    let (started, mut tokens, mut end) = (Instant::now(), 0, End::Length);
    while tokens < u64::from(args.max_tokens) {
        let next = sampler.draw(&logits);
        if tokenizer.ends(next) {
            end = End::Document;
            break;
        }
        tokens += 1;
        if stream.push(next).map_or(Ok(false), |text| writer.push(&text))? {
            end = End::Stop;
            break;
        }
        if tokens < u64::from(args.max_tokens) {
            logits = session.feed(&[next])?;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    if end != End::Stop && stream.finish().map_or(Ok(false), |text| writer.push(&text))? {
        end = End::Stop;
    }
    Ok(Report {
        text: writer.finish()?,
        tokens,
        tokens_per_s: tokens as f64 / seconds.max(1e-9),
        prompt_tokens: ids.len() - 1,
        end,
        step: model.step,
        model: args.from.model.clone(),
    })
}

fn note_context(model: &TrainedModel, tokens: usize) {
    let context = model.context;
    if tokens > context {
        out::note(format_args!(
            "note: {tokens} tokens are more than the {context} this model was trained to see at once"
        ));
    }
}

/// Text on its way out: held back where a stop text may have begun, streamed otherwise.
struct Writer {
    stop: StopText,
    text: String,
    streams: bool,
    to_terminal: bool,
}

impl Writer {
    fn new(args: &Args) -> Writer {
        let to_terminal = std::io::stdout().is_terminal();
        let stop = StopText::new(&args.stop);
        Writer { stop, text: String::new(), streams: !args.json, to_terminal }
    }

    /// Whether a stop text came.
    fn push(&mut self, text: &str) -> Result<bool> {
        let (ready, stopped) = self.stop.push(text);
        self.write(&ready)?;
        Ok(stopped)
    }

    fn write(&mut self, text: &str) -> Result<()> {
        self.text.push_str(text);
        if !self.streams || text.is_empty() {
            return Ok(());
        }
        // A model may write escape sequences; a terminal must not obey them.
        let kept = |c: &char| !self.to_terminal || !c.is_control() || matches!(c, '\n' | '\t');
        out::piece(text.chars().filter(kept).collect::<String>())
    }

    fn finish(mut self) -> Result<String> {
        let rest = self.stop.finish();
        self.write(&rest)?;
        Ok(self.text)
    }
}

//! `link answer`: prompts of one model, answered with what another read of them.

use std::io::{IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context, Result};
use serde::Serialize;
use smidgen_codec::Ledger;
use smidgen_data::{TokenStream, Tokenizer};
use smidgen_link::fuse::LoadedFuser;
use smidgen_link::remote::tokenizer_sha256;
use smidgen_link::{Phases, Question, Receiver, Side, answer_together};
use smidgen_store::{Bytes, Disk, Which};
use smidgen_tensor::{Device, available_threads};

use crate::commands::late::LateBar;
use crate::commands::model::ModelArgs;
use crate::exit::{Fault, INTERRUPTED};
use crate::{out, signals};

/// Answer prompts with a model and the cache that another made of them, in one process.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    smidgen link answer runs/sharer runs/receiver --fuser runs/fuser --prompts prompts.txt\n  \
    echo \"Where is Ada?\" | smidgen link answer a.gguf b.gguf --fuser runs/pair --prompts -\n  \
    smidgen link answer a.gguf b.gguf --fuser runs/pair --prompts prompts.txt \\\n      \
    --sequential runs/between --json\n\n\
    Both models are in memory, or with --sequential one after the other: all caches of the sharer\n\
    lie in DIR in between, exactly as they were, and the answers are the same. The same command goes\n\
    on with what was stopped. A fuser belongs to one checkpoint of each model: those of `link demo`\n\
    to the `last` ones.")]
pub(crate) struct Args {
    /// Who reads the prompts: a run directory, a Hugging Face folder, a GGUF file or a llama2.c file
    #[arg(value_name = "SHARER")]
    sharer: PathBuf,
    /// Who answers them
    #[arg(value_name = "RECEIVER")]
    receiver: PathBuf,
    /// The fuser that was trained for both: a file, or a folder with it
    #[arg(long, value_name = "FILE")]
    fuser: PathBuf,
    /// The prompts, one a line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Hold one model in memory after the other, and keep in this folder what lies between
    #[arg(long, value_name = "DIR")]
    sequential: Option<PathBuf>,
    /// Which checkpoint of a sharer that is a run: best, last or a step [default: best]
    #[arg(long, value_name = "best|last|STEP")]
    sharer_ckpt: Option<Which>,
    /// Which checkpoint of a receiver that is a run [default: best]
    #[arg(long, value_name = "best|last|STEP")]
    receiver_ckpt: Option<Which>,
    /// The tokenizer of a sharer that has none
    #[arg(long, value_name = "PATH")]
    sharer_tokenizer: Option<PathBuf>,
    /// The tokenizer of a receiver that has none
    #[arg(long, value_name = "PATH")]
    receiver_tokenizer: Option<PathBuf>,
    /// Compute threads [default: all this process may use]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 32,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_tokens: u32,
    /// Print one object on one line for each answer, and one at the end
    #[arg(long)]
    json: bool,
}

/// One answer, as it is printed.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    prompt: &'a str,
    answer: &'a str,
    tokens: &'a [u32],
}

/// The object at the end.
#[derive(Debug, Serialize)]
struct Summary {
    /// `simultaneous` or `sequential`.
    execution: &'static str,
    prompts: usize,
    /// Fewer where it was stopped.
    answered: usize,
    /// The most bytes of weights, caches and workspace that were held at once.
    peak_bytes: usize,
}

/// Gives the exit code: 0, or 130 where prompts were still to come.
pub(super) fn run(args: &Args) -> Result<u8> {
    let prompts = args.read_prompts()?;
    let work = Work { args, prompts, ledger: Ledger::new(), stop: signals::stop_flag()? };
    let (execution, answered) = match &args.sequential {
        None => ("simultaneous", work.together()?),
        Some(folder) => ("sequential", work.apart(folder)?),
    };
    let (prompts, peak_bytes) = (work.prompts.len(), work.ledger.total_peak_bytes());
    if args.json {
        out::json(&Summary { execution, prompts, answered, peak_bytes })?;
    } else {
        let how = match &args.sequential {
            None => "both models in memory",
            Some(_) => "one model in memory after the other",
        };
        let peak = Bytes(peak_bytes as u64);
        out::note(format_args!("{answered} of {prompts} answered with {how}, at most {peak}"));
    }
    if answered == prompts {
        return Ok(0);
    }
    if let Some(folder) = &args.sequential {
        return Ok(super::interrupted(folder));
    }
    Ok(INTERRUPTED)
}

impl Args {
    fn read_prompts(&self) -> Result<Vec<String>> {
        let (name, text) = match self.prompts.to_str() {
            Some("-") => {
                let mut text = String::new();
                let read = std::io::stdin().read_to_string(&mut text);
                ("standard input".into(), read.map(|_| text))
            }
            _ => (self.prompts.display().to_string(), std::fs::read_to_string(&self.prompts)),
        };
        let cannot = || Fault::unreadable(format!("cannot read the prompts from {name}"));
        let prompts: Vec<String> = text.with_context(cannot)?.lines().map(String::from).collect();
        if prompts.is_empty() {
            let text = format!("expected prompts, one a line, got none in {name}");
            return Err(Fault::unreadable(text).into());
        }
        Ok(prompts)
    }

    fn sharer(&self) -> ModelArgs {
        self.model(&self.sharer, self.sharer_ckpt, &self.sharer_tokenizer)
    }

    fn receiver(&self) -> ModelArgs {
        self.model(&self.receiver, self.receiver_ckpt, &self.receiver_tokenizer)
    }

    fn model(&self, model: &Path, ckpt: Option<Which>, tokenizer: &Option<PathBuf>) -> ModelArgs {
        let (model, tokenizer) = (model.to_path_buf(), tokenizer.clone());
        ModelArgs { model, ckpt, ema: false, tokenizer, threads: self.threads }
    }
}

/// Prompts on their way; everything that is held is on one ledger.
struct Work<'a> {
    args: &'a Args,
    prompts: Vec<String>,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
}

impl Work<'_> {
    /// With both models in memory. Gives how many prompts were answered.
    fn together(&self) -> Result<usize> {
        let (sharer, theirs) = self.open(&self.args.sharer())?;
        let (receiver, ours) = self.open(&self.args.receiver())?;
        let fuser = self.fuser(&receiver, &theirs)?;
        checked(fuser.check(&sharer.fingerprint(), &receiver.fingerprint()))?;
        let questions = self.questions(&theirs, &ours)?;
        let linked = Receiver::new(&receiver, &fuser)?;
        let mut writer = Writer::new(self, &ours);
        let (limit, ends) = (self.args.max_tokens as usize, |token| ours.ends(token));
        answer_together(&sharer, &linked, &questions, limit, ends, |tokens| writer.put(tokens))?;
        writer.finish()
    }

    /// With one model in memory after the other, and their caches in a folder.
    fn apart(&self, folder: &Path) -> Result<usize> {
        let (theirs, ours) =
            (self.args.sharer().open_tokenizer()?, self.args.receiver().open_tokenizer()?);
        let questions = self.questions(&theirs, &ours)?;
        let phases = Phases::new(&Disk, folder, self.args.max_tokens as usize)?;
        self.share(&phases, &questions)?;
        if self.stop.load(Relaxed) {
            return Ok(0);
        }
        let (receiver, _) = self.open(&self.args.receiver())?;
        let fuser = self.fuser(&receiver, &theirs)?;
        checked(fuser.check(&fuser.facts.sharer, &receiver.fingerprint()))?;
        let linked = Receiver::new(&receiver, &fuser)?;
        let mut writer = Writer::new(self, &ours);
        let ends = |token| ours.ends(token);
        phases.answer(&linked, &questions, ends, |tokens| writer.put(tokens))?;
        writer.finish()
    }

    /// The first phase; the sharer is gone behind it.
    fn share(&self, phases: &Phases<'_>, questions: &[Question]) -> Result<()> {
        let (sharer, theirs) = self.open(&self.args.sharer())?;
        let fuser = self.fuser(&sharer, &theirs)?;
        checked(fuser.check(&sharer.fingerprint(), &fuser.facts.receiver))?;
        let space = fuser.fuser.config().k_space;
        drop(fuser);
        let bar = self.bar("read");
        let mut read = 0;
        phases.share(&sharer, questions, space, || {
            read += 1;
            bar.at(read);
            self.flow()
        })?;
        Ok(())
    }

    fn open(&self, from: &ModelArgs) -> Result<(Side, Tokenizer)> {
        let threads = self.args.threads.map_or_else(available_threads, usize::from);
        let device = Device::cpu(self.ledger.clone(), threads);
        let model = from.open_on(&device)?;
        let tokenizer = model.tokenizer.clone();
        Ok((Side::of(model, &device), tokenizer))
    }

    fn fuser(&self, side: &Side, sharer: &Tokenizer) -> Result<LoadedFuser> {
        let fuser = LoadedFuser::open(&self.args.fuser, &side.device)?;
        checked(fuser.check_tokenizer(&tokenizer_sha256(sharer)))?;
        Ok(fuser)
    }

    fn questions(&self, sharer: &Tokenizer, receiver: &Tokenizer) -> Result<Vec<Question>> {
        let question = |(place, prompt): (usize, &String)| {
            let place = || format!("line {} of {}", place + 1, self.args.prompts.display());
            Question::of_text(prompt, sharer, receiver).with_context(place)
        };
        self.prompts.iter().enumerate().map(question).collect()
    }

    fn bar(&self, done: &str) -> LateBar {
        let template =
            format!("  {{pos}}/{{len}} prompts {done} [{{wide_bar:.green}}] {{eta}} left");
        LateBar::new(&template, Some(self.prompts.len() as u64))
    }

    fn flow(&self) -> ControlFlow<()> {
        if self.stop.load(Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// A fuser belongs to one checkpoint of each model.
fn checked(checked: Result<(), smidgen_link::Error>) -> Result<()> {
    checked.map_err(|error| {
        let hint = "the fuser was made for other models, or other checkpoints of them: \
                    `--sharer-ckpt`, `--receiver-ckpt`";
        anyhow::Error::from(error).context(Fault::unreadable(hint))
    })
}

/// Prints answers as they come.
struct Writer<'a> {
    work: &'a Work<'a>,
    tokenizer: &'a Tokenizer,
    /// Where answers do not show themselves how far it is.
    bar: Option<LateBar>,
    answered: usize,
    failed: Option<anyhow::Error>,
}

impl<'a> Writer<'a> {
    fn new(work: &'a Work<'a>, tokenizer: &'a Tokenizer) -> Writer<'a> {
        let bar = (!std::io::stdout().is_terminal()).then(|| work.bar("answered"));
        Writer { work, tokenizer, bar, answered: 0, failed: None }
    }

    /// Says whether it goes on.
    fn put(&mut self, tokens: &[u32]) -> ControlFlow<()> {
        if let Err(error) = self.print(tokens) {
            self.failed = Some(error);
            return ControlFlow::Break(());
        }
        self.answered += 1;
        if let Some(bar) = &self.bar {
            bar.at(self.answered as u64);
        }
        self.work.flow()
    }

    fn print(&self, tokens: &[u32]) -> Result<()> {
        let prompt = &*self.work.prompts[self.answered];
        let mut stream = TokenStream::within(self.tokenizer);
        let mut answer: String = tokens.iter().filter_map(|token| stream.push(*token)).collect();
        answer.extend(stream.finish());
        if self.work.args.json {
            return out::json(&Answer { prompt, answer: &answer, tokens });
        }
        // One answer is one line, and a terminal must not obey what a model wrote.
        let plain = |c: char| if c.is_control() { ' ' } else { c };
        out::line(answer.chars().map(plain).collect::<String>())
    }

    /// How many were printed.
    fn finish(self) -> Result<usize> {
        self.failed.map_or(Ok(self.answered), Err)
    }
}

//! Messages with a model at each end: `link recv` in a process of its own answers what this one shares.
//!
//! Every message is a session of its own, as `link send` opens one, about the same text. Kinds of messages
//! take turns, so that whatever else the machine does falls on all of them. Stages are those of
//! `link send` and `link recv`, each on the clock of its own process; what is said of both is on the
//! sharer's, or the receiver's where it answers alone.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::Serialize;
use smidgen_link::Side;
use smidgen_link::fuse::LoadedFuser;
use smidgen_link::net::{
    Address, Discarded, Exposure, LineProfile, Options, Stage, Traffic, connect,
};
use smidgen_link::plan::full_bytes;
use smidgen_link::remote::{Empty, Packing, Sent, Share};
use smidgen_link::wire::Precision;
use smidgen_store::Which;
use smidgen_train::peak_rss_bytes;

use super::answerer::{Answerer, Heard};
use super::figures::Percentiles;
use super::shaped;
use crate::commands::link::line;
use crate::commands::model::ModelArgs;
use crate::out;

/// A question of the demonstration's, with its tail of constant words.
const PROMPT: &str =
    "The home of Velan Linu is which? Arden, Belor, Corva, Dunel. Answer with just one option:";

/// Two models instead of numbers.
#[derive(Debug, clap::Args)]
pub(super) struct PairArgs {
    /// Measure messages from one model to another instead, with all that both do
    #[arg(long, num_args = 2, value_names = ["RECEIVER", "SHARER"], requires = "fuser",
        conflicts_with_all = ["only", "precision", "layers", "heads", "dim", "tokens"])]
    pair: Option<Vec<PathBuf>>,
    /// The fuser between them: a file, or a folder with it
    #[arg(long, value_name = "FILE", requires = "pair")]
    fuser: Option<PathBuf>,
    /// Which checkpoint of both runs: best, last or a step [default: best]
    #[arg(long, value_name = "best|last|STEP", requires = "pair")]
    ckpt: Option<Which>,
    /// The text that both read [default: a question of the demonstration's]
    #[arg(long, value_name = "TEXT", requires = "pair", default_value = PROMPT,
        hide_default_value = true, allow_hyphen_values = true)]
    prompt: String,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", requires = "pair", default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_tokens: u32,
    /// Layers that are fused while the next ones are on their way [default: all at once]
    #[arg(long, value_name = "LAYERS", requires = "pair",
        value_parser = clap::value_parser!(u16).range(1..))]
    block: Option<u16>,
    /// Compute threads of each model
    #[arg(long, value_name = "N", requires = "pair", default_value_t = 1,
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    model_threads: u16,
}

/// Where the two models and their fuser are.
pub(super) struct Paths<'a> {
    receiver: &'a Path,
    sharer: &'a Path,
    fuser: &'a Path,
}

/// What messages between two models took.
#[derive(Debug, Serialize)]
pub(super) struct PairReport {
    receiver: PathBuf,
    sharer: PathBuf,
    fuser: PathBuf,
    ckpt: Option<String>,
    prompt: String,
    /// In tokens of the sharer's.
    prompt_tokens: usize,
    max_tokens: u32,
    threads: u16,
    block_layers: Option<u16>,
    line: Option<LineProfile>,
    /// Of each kind.
    messages: u32,
    warm_up: u32,
    kinds: Vec<KindReport>,
    sharer_peak_rss_bytes: u64,
    receiver_peak_rss_bytes: u64,
}

/// What messages of one kind took. Bytes are those of one message, every one of which had as many.
#[derive(Debug, Serialize)]
struct KindReport {
    kind: &'static str,
    cap_bytes: Option<u64>,
    /// Why nothing was sent.
    empty: Option<Empty>,
    sent_tokens: usize,
    answer_tokens: usize,
    container_bytes: u64,
    /// All of a session, as the sharer counted it.
    link_bytes: Traffic,
    discarded: Discarded,
    stages: Vec<StageTime>,
}

/// Microseconds of a stage.
#[derive(Debug, Serialize)]
struct StageTime {
    side: &'static str,
    stage: String,
    #[serde(flatten)]
    us: Percentiles,
}

/// What is sent of the sharer's cache.
#[derive(Clone, Copy)]
enum Kind {
    Whole(Precision),
    /// What has room in an eighth of the whole in int8.
    Eighth,
    None,
}

const KINDS: [(&str, Kind); 5] = [
    ("f16", Kind::Whole(Precision::F16)),
    ("int8", Kind::Whole(Precision::Int8)),
    ("int4", Kind::Whole(Precision::Int4)),
    ("rd_hull 1/8", Kind::Eighth),
    ("none", Kind::None),
];

impl PairArgs {
    /// The models, where there are any.
    pub(super) fn paths(&self) -> Option<Paths<'_>> {
        let ([receiver, sharer], fuser) = (self.pair.as_deref()?, self.fuser.as_deref()?) else {
            return None;
        };
        Some(Paths { receiver, sharer, fuser })
    }

    fn model(&self, path: &Path) -> ModelArgs {
        let (ckpt, threads) = (self.ckpt, Some(self.model_threads));
        ModelArgs { model: path.to_path_buf(), ckpt, ema: false, tokenizer: None, threads }
    }

    /// Options of the receiving process.
    fn receiving(&self, paths: &Paths<'_>) -> Vec<std::ffi::OsString> {
        let mut args = vec![paths.receiver.into(), "--fuser".into(), paths.fuser.into()];
        let mut option = |name: &str, value: String| args.extend([name.into(), value.into()]);
        option("--max-tokens", self.max_tokens.to_string());
        option("--threads", self.model_threads.to_string());
        if let Some(ckpt) = self.ckpt {
            option("--ckpt", ckpt.to_string());
        }
        args
    }
}

/// Measures every kind of message.
pub(super) fn measure(
    args: &super::Args,
    paths: &Paths<'_>,
    line: Option<LineProfile>,
) -> Result<PairReport> {
    let PairArgs { ckpt, prompt, max_tokens, block, model_threads, .. } = &args.pair;
    let keys = LoadedFuser::config_at(paths.fuser)?.k_space;
    let (side, tokenizer) = line::open(&args.pair.model(paths.sharer))?;
    let tokens = 1 + tokenizer.encode(prompt)?.len();
    let rounds = u64::from(args.messages) + u64::from(args.warm_up);
    let answerer = Answerer::start(&args.pair.receiving(paths), rounds * KINDS.len() as u64)?;
    let mut sharer = Sharer { prompt, line, answerer };
    let shares = KINDS.map(|(_, kind)| Share {
        side: &side,
        tokenizer: &tokenizer,
        keys,
        fuser: None,
        says_text: true,
        packing: kind.packing(&side, tokens, *block),
    });
    let mut messages: [Vec<Message>; KINDS.len()] = Default::default();
    for round in 0..rounds {
        for (share, messages) in shares.iter().zip(&mut messages) {
            let message = sharer.message(share)?;
            if round >= u64::from(args.warm_up) {
                messages.push(message);
            }
        }
    }
    let last = messages.last().and_then(|messages| messages.last());
    let receiver_peak_rss_bytes = last.map_or(0, |last| last.heard.peak_rss_bytes);
    sharer.answerer.end()?;
    let report = |((name, _), messages): (&(&'static str, Kind), &Vec<Message>)| {
        KindReport::of(name, messages)
    };
    Ok(PairReport {
        receiver: paths.receiver.into(),
        sharer: paths.sharer.into(),
        fuser: paths.fuser.into(),
        ckpt: ckpt.map(|ckpt| ckpt.to_string()),
        prompt: prompt.clone(),
        prompt_tokens: tokens,
        max_tokens: *max_tokens,
        threads: *model_threads,
        block_layers: *block,
        line,
        messages: args.messages,
        warm_up: args.warm_up,
        kinds: KINDS.iter().zip(&messages).map(report).collect::<Result<_>>()?,
        sharer_peak_rss_bytes: peak_rss_bytes(),
        receiver_peak_rss_bytes,
    })
}

impl Kind {
    fn packing(self, side: &Side, tokens: usize, block: Option<u16>) -> Packing {
        let block_layers = block.map(usize::from);
        let formats = match self {
            Kind::Whole(precision) => vec![[precision; 2]],
            Kind::Eighth | Kind::None => {
                vec![[Precision::Int4; 2], [Precision::Int8; 2]]
            }
        };
        let cap_bytes = match self {
            Kind::Whole(_) => None,
            Kind::Eighth => Some(full_bytes(side.kv_shape(), tokens) / 8),
            Kind::None => Some(0),
        };
        Packing { formats, cap_bytes, block_layers, ..Packing::default() }
    }
}

/// This end.
struct Sharer<'a> {
    prompt: &'a str,
    line: Option<LineProfile>,
    answerer: Answerer,
}

/// A message as each end saw it.
struct Message {
    sent: Sent,
    heard: Heard,
}

impl Sharer<'_> {
    fn message(&mut self, share: &Share<'_>) -> Result<Message> {
        let options = Options::default();
        let address: &Address = &self.answerer.address;
        let reach =
            || shaped(connect(address, Exposure::default(), options.deadlines.read)?, self.line);
        let sent = share.send(self.prompt, &options, reach)?;
        let heard = self.answerer.hear()?;
        ensure!(
            heard.container_bytes == sent.container_bytes,
            "{} bytes of a container arrived, {} were sent",
            heard.container_bytes,
            sent.container_bytes
        );
        Ok(Message { sent, heard })
    }
}

impl Message {
    /// Every stage with its side, in nanoseconds.
    fn stages(&self) -> Vec<(&'static str, String, u64)> {
        let of = |side, stages: &[Stage]| {
            let stage = move |stage: &Stage| (side, stage.name.clone(), stage.nanos);
            stages.iter().map(stage).collect::<Vec<_>>()
        };
        let (ours, theirs) = (&self.sent.stages, &self.heard.stages);
        // Where nothing is sent nobody waits, and the receiver's reading and answering are all there is.
        let all: u64 = match self.sent.empty {
            None => sum(ours, |name| name != "handshake"),
            Some(_) => sum(theirs, |name| name != "align"),
        };
        let rest = sum(theirs, |name| name == "rest");
        let both = [("to_first_token", all.saturating_sub(rest)), ("to_answer", all)];
        let both = both.map(|(name, nanos)| ("both", name.to_string(), nanos));
        [of("sharer", ours), of("receiver", theirs), both.to_vec()].concat()
    }
}

fn sum(stages: &[Stage], counts: impl Fn(&str) -> bool) -> u64 {
    stages.iter().filter(|stage| counts(&stage.name)).map(|stage| stage.nanos).sum()
}

impl KindReport {
    fn of(kind: &'static str, messages: &[Message]) -> Result<KindReport> {
        let Message { sent, heard } = messages.last().expect("at least one message counts");
        let each: Vec<_> = messages.iter().map(Message::stages).collect();
        let names = |stages: &[(&'static str, String, u64)]| {
            stages.iter().map(|(side, name, _)| (*side, name.clone())).collect::<Vec<_>>()
        };
        for (message, stages) in messages.iter().zip(&each) {
            ensure!(names(stages) == names(&each[0]), "messages of {kind} with other stages");
            let (bytes, other) = (sent.link_bytes, message.sent.link_bytes);
            ensure!(bytes == other, "messages of {kind} with other bytes: {bytes:?}, {other:?}");
        }
        let time = |(at, (side, stage, _)): (usize, &(&'static str, String, u64))| {
            let us = Percentiles::of(each.iter().map(|stages| stages[at].2 as f64 / 1e3));
            StageTime { side, stage: stage.clone(), us }
        };
        Ok(KindReport {
            kind,
            cap_bytes: sent.cap_bytes,
            empty: sent.empty,
            sent_tokens: sent.sent_tokens,
            answer_tokens: heard.tokens.len(),
            container_bytes: sent.container_bytes,
            link_bytes: sent.link_bytes,
            discarded: heard.discarded.unwrap_or_default(),
            stages: each[0].iter().enumerate().map(time).collect(),
        })
    }

    fn show(&self) -> Result<()> {
        let KindReport { kind, sent_tokens, container_bytes, .. } = self;
        let empty = self.empty.map_or(String::new(), |empty| format!(": {}", empty.reason()));
        out::line(format_args!(
            "\n{kind}: {sent_tokens} tokens in {} bytes{empty}\n",
            out::count(*container_bytes)
        ))?;
        let mut table = out::Table::new(&["us", "p50", "p95", "p99"]);
        for StageTime { side, stage, us } in &self.stages {
            table.row([format!("{side} {stage}")].into_iter().chain(us.cells()));
        }
        out::line(table)?;
        let mut table = out::Table::new(&["", ""]);
        line::bytes(&mut table, "sent", &self.link_bytes.sent);
        line::bytes(&mut table, "received", &self.link_bytes.received);
        out::line(table)
    }
}

impl PairReport {
    pub(super) fn show(&self) -> Result<()> {
        let PairReport { messages, prompt_tokens, threads, line, .. } = self;
        out::line(format_args!(
            "\n{messages} messages of each kind over tcp{}: {prompt_tokens} tokens read, {threads} threads \
            for each model",
            super::of_line(*line)
        ))?;
        self.kinds.iter().try_for_each(KindReport::show)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        out::line(format_args!(
            "\n  peak resident: sharer {:.1} MiB, receiver {:.1} MiB",
            mib(self.sharer_peak_rss_bytes),
            mib(self.receiver_peak_rss_bytes)
        ))
    }
}

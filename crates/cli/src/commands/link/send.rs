//! `link send`: what one model read, for a receiver in another process.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use smidgen_link::net::{
    Address, LineProfile, NetError, Role, Shaped, SystemClock, Transport, connect,
};
use smidgen_link::plan::LayerOverride;
use smidgen_link::remote::{Empty, Learnt, Packing, Sent, Share};
use smidgen_link::wire::Precision;
use smidgen_model::KeySpace;
use smidgen_store::Bytes;

use super::line::{self, LineArgs};
use crate::commands::model::ModelArgs;
use crate::out::{self, Table};

/// Read a prompt with a model and send its cache to a receiver, within an exact cap of bytes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    smidgen link send runs/sharer --to 127.0.0.1:7000 --prompt \"Where does Ada live?\"\n  \
    smidgen link send runs/sharer --to unix:/tmp/link --prompt \"Where does Ada live?\" --cap 4KiB\n  \
    smidgen link send runs/sharer --to 127.0.0.1:7000 --prompt \"Hi\" --format int4 --share 0.25\n  \
    smidgen link send runs/sharer --to 127.0.0.1:7000 --prompt \"Hi\" --rate 125kB --rtt 30 --json\n\n\
    The cap counts the whole container, and nothing else of the link; with --compact the message without\n\
    its schema, which is sent once and said apart. Below the smallest message nothing is sent: 0 bytes,\n\
    and the receiver answers alone. Only what an open gate of its fuser reads travels.")]
pub(crate) struct Args {
    #[command(flatten)]
    from: ModelArgs,
    /// Where the receiver listens: HOST:PORT or unix:PATH; file:PATH keeps it for later
    #[arg(long, value_name = "ADDR", value_parser = line::address)]
    to: Address,
    /// The text to read
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Do not send the text, only its digest: the receiver needs the same --prompt
    #[arg(long)]
    no_text: bool,
    /// The most that the container may weigh, such as 4096 or 4KiB; with --compact the message without
    /// its schema
    #[arg(long, value_name = "BYTES", conflicts_with = "share")]
    cap: Option<Bytes>,
    /// How numbers travel, such as int4, or int8/int4 for keys and values; under a cap a list of what
    /// each token may get [default: int8; int4,int8 under a cap]
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = Precision::pair)]
    format: Vec<[Precision; 2]>,
    /// Other formats for some layers, also under a cap, such as "last 2=f16,0-3=int8/int4,5=drop";
    /// the last that names a layer wins
    #[arg(long, value_name = "LAYERS=NAME", value_delimiter = ',')]
    layers: Vec<LayerOverride>,
    /// Which tokens come first [default: back, the last ones; under a cap what the calibration.json
    /// beside --fuser weighs tokens by]. delta_hat needs a delta_hat.json there
    #[arg(long, value_name = "MODE")]
    select: Option<String>,
    /// The share of the tokens that travels [default: 1]
    #[arg(long, value_name = "P", default_value_t = 1.0, hide_default_value = true)]
    share: f64,
    /// Layers that the receiver can use before the next ones are there [default: all at once]
    #[arg(long, value_name = "LAYERS", value_parser = clap::value_parser!(u16).range(1..))]
    block: Option<u16>,
    /// Send what all messages have in common once, as a schema, and then a message with some 30 bytes
    /// beside its numbers; needs layers that all travel alike
    #[arg(long, conflicts_with = "block")]
    compact: bool,
    /// Keys before or after positions, as the receiver's fuser reads them [default: before, or as the
    /// --fuser says]
    #[arg(long, value_enum, value_name = "WHEN")]
    keys: Option<Keys>,
    /// Insist on a receiver with this fuser, and use calibration.json and delta_hat.json where they lie
    /// beside it
    #[arg(long, value_name = "FILE")]
    fuser: Option<PathBuf>,
    #[command(flatten)]
    line: LineArgs,
    /// Send through a slower line of so many bytes per second in each direction
    #[arg(long, value_name = "BYTES/S")]
    rate: Option<Bytes>,
    /// And of so many milliseconds there and back
    #[arg(long, value_name = "MS", requires = "rate",
        value_parser = clap::value_parser!(u32).range(..=60_000))]
    rtt: Option<u32>,
    /// Print one object on one line
    #[arg(long)]
    json: bool,
}

/// When keys leave the model: before positions are applied to them, or after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Keys {
    Before,
    After,
}

impl Keys {
    fn space(self) -> KeySpace {
        match self {
            Keys::Before => KeySpace::PreRope,
            Keys::After => KeySpace::PostRope,
        }
    }
}

pub(super) fn run(args: &Args) -> Result<()> {
    // A key that cannot be used, or an address that may not be, is said before a model is loaded.
    let (options, exposure) = args.line.read()?;
    let (side, tokenizer) = line::open(&args.from)?;
    let fuser = args.fuser.as_ref().map(|path| line::fuser(path, &side, Role::Sharer));
    let fuser = fuser.transpose()?;
    let fuser = fuser.as_ref();
    let learnt = fuser.map(Learnt::beside).transpose()?.unwrap_or_default();
    let wanted = fuser.map_or(KeySpace::PreRope, |fuser| fuser.fuser.config().k_space);
    let share = Share {
        side: &side,
        tokenizer: &tokenizer,
        keys: args.keys.map_or(wanted, Keys::space),
        fuser,
        says_text: !args.no_text,
        packing: args.packing(learnt),
    };
    let reach = || args.shaped(connect(&args.to, exposure, options.deadlines.read)?);
    let sent = share.send(&args.prompt, &options, reach)?;
    if args.json { out::json(&sent) } else { show(&sent) }
}

impl Args {
    fn packing(&self, learnt: Learnt) -> Packing {
        let formats = match (&self.format[..], self.cap) {
            ([], None) => vec![[Precision::Int8; 2]],
            ([], Some(_)) => [Precision::Int4, Precision::Int8].map(|both| [both; 2]).to_vec(),
            (formats, _) => formats.to_vec(),
        };
        Packing {
            formats,
            layers: self.layers.clone(),
            cap_bytes: self.cap.map(|Bytes(bytes)| bytes),
            select: self.select.clone(),
            share: self.share,
            block_layers: self.block.map(usize::from),
            compact: self.compact,
            learnt,
        }
    }

    /// The connection seen through the line that was asked for.
    fn shaped(&self, transport: Box<dyn Transport>) -> Result<Box<dyn Transport>, NetError> {
        let Some(Bytes(bytes_per_s)) = self.rate else { return Ok(transport) };
        let rtt = Duration::from_millis(self.rtt.unwrap_or(0).into());
        let profile = LineProfile { bytes_per_s, rtt, burst_bytes: 0 };
        let clock = Arc::new(SystemClock::default());
        let shaped = Shaped::new(transport, profile, clock);
        let cannot = |source| NetError::Io { action: "shape the line".into(), source };
        Ok(Box::new(shaped.map_err(cannot)?))
    }
}

fn show(sent: &Sent) -> Result<()> {
    match sent.empty {
        None => out::line(format_args!(
            "  sent {} of {} tokens{} in {} bytes{}{}",
            sent.sent_tokens,
            sent.prompt_tokens,
            sent.chosen_by.as_ref().map_or(String::new(), |by| format!(", by {by},")),
            out::count(sent.container_bytes),
            sent.cap_bytes.map_or(String::new(), |cap| format!(" of {}", out::count(cap))),
            match sent.link_bytes.sent.schema {
                0 => String::new(),
                bytes => format!(", and once {} of schema", out::count(bytes)),
            }
        ))?,
        Some(empty) => {
            out::line(format_args!("  sent nothing, 0 bytes: {}", Empty::reason(empty)))?;
        }
    }
    let mut table = Table::new(&["", ""]);
    line::bytes(&mut table, "sent", &sent.link_bytes.sent);
    line::bytes(&mut table, "received", &sent.link_bytes.received);
    table.row(["link, both ways".into(), out::count(sent.link_bytes.total())]);
    line::stages(&mut table, "here:", &sent.stages);
    if let Some(receiver) = &sent.receiver {
        line::stages(&mut table, "receiver:", &receiver.stages);
    }
    out::line(table)
}

//! `link recv`: a model that answers with what others read.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use smidgen_link::net::{Address, Discarded, Listener, Options, Role, Stage, Traffic, Transport};
use smidgen_link::remote::{Answer, Host, Served};
use smidgen_link::{Error, Receiver};
use smidgen_train::peak_rss_bytes;

use super::line::{self, LineArgs};
use crate::commands::model::ModelArgs;
use crate::exit::INTERRUPTED;
use crate::out::{self, Table};
use crate::signals;

/// Wait for the caches of other models and answer with each.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    smidgen link recv runs/receiver --fuser runs/fuser --listen 127.0.0.1:7000\n  \
    smidgen link recv runs/receiver --fuser runs/fuser --listen unix:/tmp/link --count 1 --json\n  \
    smidgen link recv runs/receiver --fuser runs/fuser --listen 0.0.0.0:7000 \\\n      \
    --allow-remote --key-file key\n\n\
    The text comes from the sharer. With --json the first object names the address, and each message\n\
    is one more. A link that fails is an error; the receiver's own answer is given only with --fallback,\n\
    and marked. A key is made with `openssl rand -hex 32 > key && chmod 600 key`.")]
pub(crate) struct Args {
    #[command(flatten)]
    from: ModelArgs,
    /// The fuser that was trained for the sharer and this model: a file, or a folder with it
    #[arg(long, value_name = "FILE")]
    fuser: PathBuf,
    /// Where to listen: HOST:PORT, where port 0 is any free one, or unix:PATH; file:PATH reads what was
    /// kept
    #[arg(long, value_name = "ADDR", value_parser = line::address, default_value = "127.0.0.1:0")]
    listen: Address,
    /// The text that sharers have to have read [default: any that they say]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Answer alone where the link fails; before a text has arrived this needs --prompt
    #[arg(long)]
    fallback: bool,
    #[command(flatten)]
    line: LineArgs,
    /// End after so many messages, failed ones included [default: at Ctrl-C]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Most tokens of an answer
    #[arg(long, value_name = "N", default_value_t = 32,
        value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    max_tokens: u32,
    /// Fail where nobody came for so long
    #[arg(long, hide = true, value_name = "SECONDS")]
    patience: Option<u64>,
    /// Print one object on one line for the address, and one for each message
    #[arg(long)]
    json: bool,
}

/// One message, as it is printed.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    answer: &'a str,
    tokens: &'a [u32],
    prompt: &'a str,
    /// Whether what arrived is in the answer.
    linked: bool,
    /// Whether the link failed and the receiver answered alone.
    fallback: bool,
    /// Why it did, or why nothing was sent.
    reason: Option<&'a str>,
    container_bytes: u64,
    /// None where the link failed.
    link_bytes: Option<Traffic>,
    discarded: Option<Discarded>,
    stages: &'a [Stage],
    /// The most memory that this process has had.
    peak_rss_bytes: u64,
}

/// Gives the exit code: 0, or 130 where messages were still to come.
pub(super) fn run(args: &Args) -> Result<u8> {
    let (options, exposure) = args.line.read()?;
    let listener = Listener::bind(&args.listen, exposure).map_err(Error::from)?;
    let (side, tokenizer) = line::open(&args.from)?;
    let fuser = line::fuser(&args.fuser, &side, Role::Receiver)?;
    let receiver = Receiver::new(&side, &fuser)?;
    let (prompt, max_tokens) = (args.prompt.clone(), args.max_tokens as usize);
    let host = Host { receiver: &receiver, tokenizer: &tokenizer, prompt, max_tokens };
    let stop = signals::stop_flag()?;
    args.say_address(&listener.address().map_err(Error::from)?)?;
    // A file holds one session, and is there again when it has been read.
    let count = args.count.or_else(|| matches!(args.listen, Address::File(_)).then_some(1));
    let patience = args.patience.map_or(Duration::MAX, Duration::from_secs);
    let (mut messages, mut first_failure) = (0, None);
    while count.is_none_or(|count| messages < count) {
        let accepted = listener.accept(patience, || stop.load(Relaxed));
        let Some(transport) = accepted.map_err(Error::from)? else { break };
        match args.session(&host, transport, &options, &mut messages) {
            Ok(()) => {}
            // What failed is said at once, and decides the exit code of the end.
            Err(error) if count.is_none_or(|count| messages < count) => {
                out::note(format_args!("error: {error:#}"));
                first_failure = first_failure.or(Some(error));
            }
            Err(error) => return Err(first_failure.unwrap_or(error)),
        }
    }
    match (first_failure, count) {
        (Some(error), _) => Err(error),
        (None, Some(count)) if messages < count => Ok(INTERRUPTED),
        (None, _) => Ok(0),
    }
}

impl Args {
    fn say_address(&self, address: &Address) -> Result<()> {
        let address = address.to_string();
        match self.json {
            true => out::json(&serde_json::json!({ "listening": address })),
            false => out::line(format_args!("listening on {address}")),
        }
    }

    /// Answers one sharer, and counts its messages.
    fn session(
        &self,
        host: &Host<'_>,
        transport: Box<dyn Transport>,
        options: &Options,
        messages: &mut u64,
    ) -> Result<()> {
        let mut text = None;
        let error = match self.answer_all(host, transport, options, messages, &mut text) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        *messages += 1;
        // What this side cannot print is no failure of the link.
        if !self.fallback || error.downcast_ref::<Error>().is_none() {
            return Err(error);
        }
        let Some(text) = text.or_else(|| self.prompt.clone()) else {
            return Err(error.context(
                "nothing to fall back on: the link failed before the text came, and there is no --prompt",
            ));
        };
        let answer = host.alone(&text)?;
        let reason = format!("{error:#}");
        self.show(&Shown {
            answer: &answer.text,
            tokens: &answer.tokens,
            prompt: &text,
            linked: false,
            fallback: true,
            reason: Some(&reason),
            container_bytes: 0,
            link_bytes: None,
            discarded: None,
            stages: &[],
            peak_rss_bytes: peak_rss_bytes(),
        })
    }

    fn answer_all(
        &self,
        host: &Host<'_>,
        transport: Box<dyn Transport>,
        options: &Options,
        messages: &mut u64,
        text: &mut Option<String>,
    ) -> Result<()> {
        let mut serving = host.open(transport, options)?;
        *text = Some(serving.text().to_owned());
        while let Some(served) = serving.serve()? {
            *messages += 1;
            let Served { answer: Answer { text, tokens, .. }, alone, .. } = &served;
            self.show(&Shown {
                answer: text,
                tokens,
                prompt: serving.text(),
                linked: alone.is_none(),
                fallback: false,
                reason: alone.as_deref(),
                container_bytes: served.container_bytes,
                link_bytes: Some(served.link_bytes),
                discarded: Some(served.discarded),
                stages: &served.stages,
                peak_rss_bytes: peak_rss_bytes(),
            })?;
        }
        Ok(())
    }

    fn show(&self, shown: &Shown<'_>) -> Result<()> {
        if self.json {
            return out::json(shown);
        }
        let how = match (shown.fallback, shown.linked) {
            (true, _) => "fallback, the link failed",
            (false, true) => "linked",
            (false, false) => "alone, nothing was sent",
        };
        let reason = shown.reason.map_or(String::new(), |reason| format!(": {reason}"));
        // A model may write escape sequences; a terminal must not obey them.
        let plain = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
        let answer: String = shown.answer.chars().filter(plain).collect();
        out::line(format_args!("\n[{how}{reason}]\n{answer}\n"))?;
        let mut table = Table::new(&["", ""]);
        table.row(["container".into(), out::count(shown.container_bytes)]);
        if let Some(bytes) = &shown.link_bytes {
            line::bytes(&mut table, "received", &bytes.received);
            line::bytes(&mut table, "sent", &bytes.sent);
            table.row(["link, both ways".into(), out::count(bytes.total())]);
        }
        line::stages(&mut table, "here:", shown.stages);
        out::line(table)
    }
}

//! Messages to another process, each taken apart into its stages.
//!
//! Each side has its own clock; a question for the time before every message says how they differ,
//! to half of what is uneven about the two ways. A message is over when its answer was heard:
//! total = plan + encode + there + receive + collect + verify + decode + back. What is sent while
//! the other side receives already is in `receive`, and again in `send`.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde::Serialize;
use smidgen_codec::Ledger;
use smidgen_link::Error;
use smidgen_link::KvShape;
use smidgen_link::net::{
    Address, Discarded, Exposure, LineProfile, Options, Reply, Sender, Stage, Traffic, connect,
};
use smidgen_link::wire::{self, Limits, Precision, Reference};
use smidgen_tensor::Device;
use smidgen_train::peak_rss_bytes;

use super::figures::Percentiles;
use super::peer::{BEGUN, Peer, compatibility};
use super::{Args, of_line, plan, shaped};
use crate::out;

/// The stages in the order of the work; the last three are of other stages, or of none.
const STAGES: [&str; 11] = [
    "plan", "encode", "there", "receive", "collect", "verify", "decode", "back", "total", "send",
    "ping",
];

/// What messages took over one transport.
#[derive(Debug, Serialize)]
pub(super) struct Latency {
    transport: &'static str,
    line: Option<LineProfile>,
    precision: Precision,
    shape: KvShape,
    tokens: usize,
    messages: u32,
    warm_up: u32,
    /// Of one container, from its plan.
    wire_bytes: u64,
    stages: Vec<StageTime>,
    /// Of the session, as the sender counted it.
    traffic: Traffic,
    discarded: Discarded,
    sender_peak_rss_bytes: u64,
    receiver_peak_rss_bytes: u64,
}

/// Microseconds of a stage.
#[derive(Debug, Serialize)]
struct StageTime {
    stage: &'static str,
    #[serde(flatten)]
    us: Percentiles,
}

/// Measures over every transport there is.
pub(super) fn all(args: &Args, line: Option<LineProfile>) -> Result<Vec<Latency>> {
    let mut all = vec![measure(args, line, "tcp", &Address::Tcp("127.0.0.1:0".into()))?];
    if cfg!(unix) {
        let folder = tempfile::tempdir()?;
        all.push(measure(args, line, "unix", &Address::Unix(folder.path().join("link")))?);
    }
    Ok(all)
}

fn measure(
    args: &Args,
    line: Option<LineProfile>,
    transport: &'static str,
    listen: &Address,
) -> Result<Latency> {
    let (shape, tokens) = (args.shape(), args.tokens as usize);
    let peer = Peer::start(listen, shape)?;
    let mut session = Session::open(args, line, &peer.address)?;
    (0..args.warm_up).try_for_each(|_| session.message().map(drop))?;
    let measured = (0..args.messages).map(|_| session.message());
    let measured = measured.collect::<Result<Vec<_>>>()?;
    let Session { sender, discarded, container, .. } = session;
    let (_, traffic) = sender.finish()?;
    let wire_bytes = container.len() as u64;
    let sent = (u64::from(args.messages) + u64::from(args.warm_up)) * wire_bytes;
    ensure!(traffic.sent.container == sent, "{} bytes of {sent} sent", traffic.sent.container);
    Ok(Latency {
        transport,
        line,
        precision: args.precision,
        shape,
        tokens,
        messages: args.messages,
        warm_up: args.warm_up,
        wire_bytes,
        stages: stage_times(&measured),
        traffic,
        discarded,
        sender_peak_rss_bytes: peak_rss_bytes(),
        receiver_peak_rss_bytes: peer.farewell()?.peak_rss_bytes,
    })
}

fn stage_times(measured: &[[f64; STAGES.len()]]) -> Vec<StageTime> {
    let time = |(at, stage): (usize, &&'static str)| StageTime {
        stage,
        us: Percentiles::of(measured.iter().map(|message| 1e6 * message[at])),
    };
    STAGES.iter().enumerate().map(time).collect()
}

/// The sending side of the messages.
struct Session {
    device: Device,
    cache: Reference,
    precision: Precision,
    sender: Sender,
    container: Vec<u8>,
    discarded: Discarded,
}

impl Session {
    fn open(args: &Args, line: Option<LineProfile>, address: &Address) -> Result<Session> {
        let [layers, heads, dim] = [args.layers, args.heads, args.dim].map(usize::from);
        let options = Options::default();
        let transport = connect(address, Exposure::default(), options.deadlines.read)?;
        let transport = shaped(transport, line)?;
        Ok(Session {
            device: Device::cpu(Ledger::new(), 1),
            cache: wire::reference(1, layers, heads, dim, args.tokens as usize),
            precision: args.precision,
            sender: Sender::open(transport, &compatibility(args.shape()), &options)?,
            container: Vec::new(),
            discarded: Discarded::default(),
        })
    }

    /// Sends a message and hears its answer; the seconds of its stages.
    fn message(&mut self) -> Result<[f64; STAGES.len()]> {
        let view = self.cache.view();
        let asked = Instant::now();
        let pong = self.sender.ping()?;
        let began = Instant::now();
        let plan = plan(view.shape.layers, view.tokens, self.precision);
        let bytes = wire::wire_bytes(view.shape, view.tokens, &plan).map_err(Error::from)?;
        let planned = Instant::now();
        wire::encode_into(&self.device, view, &plan, &mut self.container).map_err(Error::from)?;
        let encoded = Instant::now();
        ensure!(self.container.len() as u64 == bytes, "a container of another size than planned");
        let header = wire::Header::parse(&self.container, &Limits::default())?;
        let sending = Instant::now();
        self.sender.send(&self.container, header.header_bytes())?;
        let sent = Instant::now();
        let Reply::Taken(stats) = self.sender.reply()? else { bail!("an answer of another kind") };
        let heard = Instant::now();
        self.discarded = stats.discarded;
        let of_peer = |name: &str| seconds(&stats.stages, name);
        // The receiver answered about in the middle of the question's way.
        let on_peer_clock = Duration::from_nanos(pong.peer_nanos).as_secs_f64()
            + (sending - asked).as_secs_f64()
            - pong.rtt.as_secs_f64() / 2.0;
        let there = of_peer(BEGUN) - on_peer_clock;
        let work = ["receive", "collect", "verify", "decode"].map(of_peer);
        let answered = (heard - sending).as_secs_f64();
        let back = answered - there - work.iter().sum::<f64>();
        let [plan, encode, send] =
            [planned - began, encoded - planned, sent - sending].map(|time| time.as_secs_f64());
        let [receive, collect, verify, decode] = work;
        let total = plan + encode + answered;
        let ping = pong.rtt.as_secs_f64();
        Ok([plan, encode, there, receive, collect, verify, decode, back, total, send, ping])
    }
}

fn seconds(stages: &[Stage], name: &str) -> f64 {
    let nanos = stages.iter().find(|stage| stage.name == name).map_or(0, |stage| stage.nanos);
    Duration::from_nanos(nanos).as_secs_f64()
}

impl Latency {
    pub(super) fn show(&self) -> Result<()> {
        let Latency { transport, precision, messages, wire_bytes, tokens, shape, .. } = self;
        let line = of_line(self.line);
        let KvShape { layers, kv_heads, key_dim, .. } = shape;
        out::line(format_args!(
            "\n{messages} messages over {transport}{line}: {precision}, {layers} layers, {kv_heads} heads of \
            {key_dim}, {tokens} tokens, {wire_bytes} bytes\n"
        ))?;
        let mut table = out::Table::new(&["us", "p50", "p95", "p99"]);
        for StageTime { stage, us } in &self.stages {
            table.row([stage.to_string()].into_iter().chain(us.cells()));
        }
        out::line(table)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        out::line(format_args!(
            "\n  peak resident: sender {:.1} MiB, receiver {:.1} MiB",
            mib(self.sender_peak_rss_bytes),
            mib(self.receiver_peak_rss_bytes)
        ))
    }
}

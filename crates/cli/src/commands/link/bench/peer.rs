//! The receiving process: takes messages, decodes them, and answers with what that took.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use smidgen_codec::Ledger;
use smidgen_link::KvShape;
use smidgen_link::net::{
    Address, Arrival, Collect, Compatibility, Event, Exposure, Listener, Options, Receiver, Stage,
};
use smidgen_link::wire::{self, KeySpace};
use smidgen_tensor::Device;
use smidgen_train::peak_rss_bytes;

use crate::out;

/// How long the other process may take to come.
const COMING: Duration = Duration::from_secs(30);
/// The time of a message's first bytes on the receiver's clock, among the stages of an answer.
pub(super) const BEGUN: &str = "begun";

/// A cache of nobody's.
pub(super) fn compatibility(shape: KvShape) -> Compatibility {
    Compatibility {
        family: "bench".into(),
        shape,
        k_space: KeySpace::PostRope,
        rope_theta: 1e4,
        tokenizer: [0; 32],
        weights: [0; 32],
        fuser: None,
    }
}

/// What the receiving process says at its end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Farewell {
    pub(super) peak_rss_bytes: u64,
}

/// Listens, says where on a line of its own, answers one sharer, and says goodbye.
pub(super) fn receive(address: &Address, shape: KvShape) -> Result<()> {
    let listener = Listener::bind(address, Exposure::default())?;
    out::line(listener.address()?)?;
    let transport = listener.accept(COMING, || false)?.context("nobody came")?;
    let device = Device::cpu(Ledger::new(), 1);
    let mut receiver = Receiver::open(transport, &compatibility(shape), &Options::default())?;
    let opened = Instant::now();
    let mut sink = Collect::default();
    while let Event::Message(arrival) = receiver.receive(&mut sink)? {
        let came = opened.elapsed();
        let bytes = sink.take().context("a message without a container")?;
        receiver.taken(stages(&device, &bytes, &arrival, came)?)?;
    }
    receiver.finish()?;
    out::json(&Farewell { peak_rss_bytes: peak_rss_bytes() })
}

/// Decodes a container; what its parts took.
fn stages(device: &Device, bytes: &[u8], arrival: &Arrival, came: Duration) -> Result<Vec<Stage>> {
    let started = Instant::now();
    let container = wire::open(device, bytes, &wire::Options::default())?;
    let verified = started.elapsed();
    for block in &container.blocks {
        block.dense(device)?;
    }
    Ok(vec![
        Stage::new(BEGUN, came.saturating_sub(arrival.transfer)),
        Stage::new("receive", arrival.transfer.saturating_sub(arrival.in_sink)),
        Stage::new("collect", arrival.in_sink),
        Stage::new("verify", verified),
        Stage::new("decode", started.elapsed() - verified),
    ])
}

/// The receiving process as its parent has it; dropped before its end, it is ended.
pub(super) struct Peer {
    child: Child,
    said: BufReader<ChildStdout>,
    pub(super) address: Address,
}

impl Peer {
    /// Starts the process.
    ///
    /// # Errors
    /// When it does not start or does not say where it listens.
    pub(super) fn start(listen: &Address, shape: KvShape) -> Result<Peer> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let mut command = Command::new(program);
        command.args(["link", "bench", "--receive", &listen.to_string()]);
        for (name, value) in
            [("layers", shape.layers), ("heads", shape.kv_heads), ("dim", shape.key_dim)]
        {
            command.args([format!("--{name}"), value.to_string()]);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.context("cannot start the receiving process")?;
        let stdout = child.stdout.take().context("the receiving process has no output")?;
        let mut peer = Peer { child, said: BufReader::new(stdout), address: listen.clone() };
        let mut line = String::new();
        peer.said.read_line(&mut line).context("the receiving process does not speak")?;
        peer.address = line.trim().parse().context("the receiving process does not listen")?;
        Ok(peer)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it failed.
    pub(super) fn farewell(mut self) -> Result<Farewell> {
        let mut text = String::new();
        self.said.read_to_string(&mut text).context("the receiving process does not speak")?;
        let status = self.child.wait().context("cannot wait for the receiving process")?;
        ensure!(status.success(), "the receiving process failed");
        serde_json::from_str(&text).context("what the receiving process said is not readable")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // After its end both do nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! Streams between two peers of a link, as each of the two sides reads the other's, and what they agree
//! on in them.

use std::io::{self, Cursor, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use smidgen_link::KvShape;
use smidgen_link::net::{
    Collect, Compatibility, Event, FileWriter, FrameReader, HEAD_BYTES, Kind, Limits,
    MAX_BODY_BYTES, NetError, Options, Reading, Receiver, Reject, Reply, Sender, Sink, Stage,
    Transport, encode,
};
use smidgen_link::remote::{ReceiverTerms, Said, SharerTerms};
use smidgen_link::wire::KeySpace;
use smidgen_store::Disk;

/// Where a `HELLO` says whose it is.
const ROLE_AT: usize = 12;
/// A `STATS` without stages.
const STATS_BYTES: usize = 18 * 8 + 2;

fn cache() -> Compatibility {
    Compatibility {
        family: "llama".into(),
        shape: KvShape { layers: 2, kv_heads: 1, key_dim: 8, value_dim: 8 },
        k_space: KeySpace::PostRope,
        rope_theta: 1e4,
        tokenizer: [1; 32],
        weights: [2; 32],
        fuser: Some([3; 32]),
    }
}

/// Chunks so short that a small container has several, and a window that is granted anew.
fn options() -> Options {
    let limits = Limits { chunk_bytes: 48, window_bytes: 100, ..Limits::default() };
    Options { limits, terms: b"layers 1".to_vec(), ..Options::default() }
}

/// What a sharer says in a session with one of everything.
fn send(sender: &mut Sender) -> Result<(), NetError> {
    sender.schema(7, b"fields of compact containers")?;
    sender.send(&[5; 150], 40)?;
    sender.begin(90, &[6; 30])?.cancel("not needed")?;
    sender.nothing("cap too small")?;
    sender.send(&[], 0)
}

/// A sharer's streams, written to a file: with everything, and with nothing.
pub(super) fn stream_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let folder = tempfile::tempdir()?;
    let seed = |full: bool| {
        let path = folder.path().join("stream");
        let file = FileWriter::new(Arc::new(Disk), path.clone());
        let mut sender = Sender::open(Box::new(file), &cache(), &options())?;
        if full {
            send(&mut sender)?;
        }
        sender.finish()?;
        Ok(std::fs::read(path)?)
    };
    [true, false].into_iter().map(seed).collect()
}

/// Collects containers and takes every schema.
#[derive(Default)]
struct Everything(Collect);

impl Sink for Everything {
    fn begin(&mut self, total_bytes: u64, header: &[u8]) -> Result<(), Reject> {
        self.0.begin(total_bytes, header)
    }
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Reject> {
        self.0.chunk(bytes)
    }
    fn end(&mut self, crc: u32) -> Result<(), Reject> {
        self.0.end(crc)
    }
    fn discard(&mut self) {
        self.0.discard();
    }
    fn schema(&mut self, _: u32, _: &[u8]) -> Result<(), Reject> {
        Ok(())
    }
}

/// As a receiver, to the end of the session.
pub(super) fn read_stream(_: &Path, input: &[u8]) -> bool {
    received(Box::new(Reading(Cursor::new(input.to_vec())))).is_ok()
}

fn received(transport: Box<dyn Transport>) -> Result<(), NetError> {
    let mut receiver = Receiver::open(transport, &cache(), &options())?;
    let mut sink = Everything::default();
    loop {
        match receiver.receive(&mut sink)? {
            Event::Message(_) => {
                receiver.taken(vec![Stage::new("fuse", Duration::from_millis(1))])?;
            }
            Event::Cancelled { .. } => {}
            Event::Bye => return receiver.finish().map(drop),
        }
    }
}

/// A receiver's words around one message: used, or followed by a request.
pub(super) fn answer_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let stream = stream_seeds()?.swap_remove(0);
    let mut hello = FrameReader::new(MAX_BODY_BYTES).read(&mut &stream[..])?.body.to_vec();
    hello[ROLE_AT] = 2;
    let [first, more] = [100_u64, 200].map(|bytes| bytes.to_le_bytes().to_vec());
    let answers = [(Kind::Stats, vec![0; STATS_BYTES]), (Kind::Request, b"tokens 1 to 3".to_vec())];
    let seed = |(kind, body): &(Kind, Vec<u8>)| {
        let frames =
            [(Kind::Hello, &hello), (Kind::Accept, &first), (Kind::Credit, &more), (*kind, body)];
        let (mut all, mut frame) = (Vec::new(), Vec::new());
        for ((kind, body), seq) in frames.into_iter().zip(0..) {
            encode(kind, seq, &[body], &mut frame)?;
            all.extend_from_slice(&frame);
        }
        Ok(all)
    };
    answers.iter().map(seed).collect()
}

/// As a sharer that sends all it has, whatever is answered; accepted where a message was.
pub(super) fn read_answers(_: &Path, input: &[u8]) -> bool {
    let transport = Canned(Cursor::new(input.to_vec()));
    let shared = || -> Result<Reply, NetError> {
        let mut sender = Sender::open(Box::new(transport), &cache(), &options())?;
        sender.send(&[5; 150], 40)?;
        sender.reply()
    };
    shared().is_ok()
}

/// A peer whose words are there already, and who does not listen.
struct Canned(Cursor<Vec<u8>>);

impl Read for Canned {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Canned {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Transport for Canned {
    fn set_wait(&mut self, _: Duration) -> io::Result<()> {
        Ok(())
    }
    fn close(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn abort(&mut self) {}
    fn another(&self) -> io::Result<Box<dyn Transport>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// The most tokens that a receiver takes of a sharer.
const MOST_TOKENS: usize = 1 << 14;
/// Layers of the sharer whose receiver speaks.
const LAYERS: usize = 5;

/// Whether the receiver speaks, then its terms, or those of the sharer.
pub(super) fn term_seeds() -> anyhow::Result<Vec<Vec<u8>>> {
    let text = "Räder roll";
    let digest = Said::Digest(Said::digest_of(text));
    let sharer = |said, ends| [&[0], &SharerTerms { said, ends }.to_bytes()[..]].concat();
    let needed = vec![[true; 2], [false; 2], [true, false], [false, true], [true; 2]];
    // All the bytes that a `HELLO` has for them, and nearly as many tokens as are taken.
    let many = [0].into_iter().chain((1..).map(|token| 32 * token)).take(16_000).collect();
    Ok(vec![
        sharer(Said::Text(text.into()), vec![0, 1, 3, 7, 8, 11]),
        sharer(digest.clone(), vec![0, 1, 3, 7, 8, 11]),
        sharer(digest, many),
        [&[1], &ReceiverTerms { needed }.to_bytes()[..]].concat(),
    ])
}

/// What is read is written again as it was.
pub(super) fn read_terms(_: &Path, input: &[u8]) -> bool {
    let (read, bytes) = match input {
        [0, bytes @ ..] => {
            (SharerTerms::read(bytes, MOST_TOKENS).map(|terms| terms.to_bytes()), bytes)
        }
        [_, bytes @ ..] => {
            (ReceiverTerms::read(bytes, LAYERS).map(|terms| terms.to_bytes()), bytes)
        }
        [] => return false,
    };
    read.is_ok_and(|again| {
        assert!(again == bytes, "terms that are written otherwise");
        true
    })
}

/// New numbers and checksums for every frame, and for the containers in them.
pub(super) fn new_frames(mut input: &mut [u8]) {
    let mut container = 0;
    for seq in 0_u32.. {
        let Some(len) = input.first_chunk().map(|len| u32::from_le_bytes(*len) as usize) else {
            return;
        };
        let Some((frame, rest)) = input.split_at_mut_checked(HEAD_BYTES.saturating_add(len)) else {
            return;
        };
        let (head, body) = frame.split_at_mut(HEAD_BYTES);
        match head[4] {
            kind if kind == Kind::Begin as u8 => {
                container = crc32c::crc32c(body.get(8..).unwrap_or_default());
            }
            kind if kind == Kind::Chunk as u8 => {
                container = crc32c::crc32c_append(container, body);
            }
            kind if kind == Kind::End as u8 && body.len() == 4 => {
                body.copy_from_slice(&container.to_le_bytes());
            }
            _ => {}
        }
        head[8..12].copy_from_slice(&seq.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..12]), body);
        head[12..].copy_from_slice(&crc.to_le_bytes());
        input = rest;
    }
}

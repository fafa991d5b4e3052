//! A cache, containers, a sink that remembers, and transports that listen in.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use smidgen_link::KvShape;
use smidgen_link::net::{
    Code, Collect, Compatibility, Deadlines, Event, FrameReader, Key, Kind, NetError, Options,
    Reading, Receiver, Reject, Sender, Sink, Traffic, Transport, encode, memory_pair,
};
use smidgen_link::wire::KeySpace;

/// The cache all tests are about.
pub(crate) fn cache() -> Compatibility {
    Compatibility {
        family: "llama".into(),
        shape: KvShape { layers: 6, kv_heads: 2, key_dim: 32, value_dim: 16 },
        k_space: KeySpace::PreRope,
        rope_theta: 10_000.0,
        tokenizer: [0x11; 32],
        weights: [0x22; 32],
        fuser: Some([0x33; 32]),
    }
}

/// Deadlines that a test can wait for, with a window and chunks that matter for small containers.
pub(crate) fn hasty() -> Options {
    let [read, message, idle] = [40, 200, 60].map(Duration::from_millis);
    Options { deadlines: Deadlines { read, message, idle }, ..Options::default() }
}

pub(crate) fn key(digit: &str) -> Option<Key> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, digit.repeat(64)).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    Some(Key::from_file(&path).unwrap())
}

/// `len` bytes that no two places share in order.
pub(crate) fn container(len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

/// What a transport carried.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) written: Vec<u8>,
    pub(crate) read: Vec<u8>,
}

/// A transport whose bytes are kept.
pub(crate) struct Logged {
    inner: Box<dyn Transport>,
    log: Arc<Mutex<Log>>,
}

pub(crate) fn logged(inner: Box<dyn Transport>) -> (Box<dyn Transport>, Arc<Mutex<Log>>) {
    let log = Arc::new(Mutex::new(Log::default()));
    (Box::new(Logged { inner, log: log.clone() }), log)
}

impl Read for Logged {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buf)?;
        self.log.lock().unwrap().read.extend_from_slice(&buf[..count]);
        Ok(count)
    }
}

impl Write for Logged {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buf)?;
        self.log.lock().unwrap().written.extend_from_slice(&buf[..count]);
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Transport for Logged {
    fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
        self.inner.set_wait(wait)
    }
    fn duplex(&self) -> bool {
        self.inner.duplex()
    }
    fn close(&mut self) -> io::Result<()> {
        self.inner.close()
    }
    fn abort(&mut self) {
        self.inner.abort();
    }
    fn another(&self) -> io::Result<Box<dyn Transport>> {
        self.inner.another()
    }
}

/// A transport that takes `left` bytes, then fails: once, or from then on.
pub(crate) struct Jammed {
    pub(crate) inner: Box<dyn Transport>,
    pub(crate) left: usize,
    pub(crate) error: io::ErrorKind,
    pub(crate) once: bool,
}

impl Read for Jammed {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl Write for Jammed {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.left = if self.once { usize::MAX } else { 0 };
            return Err(self.error.into());
        }
        let count = self.inner.write(&buf[..buf.len().min(self.left)])?;
        self.left -= count;
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl Transport for Jammed {
    fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
        self.inner.set_wait(wait)
    }
    fn close(&mut self) -> io::Result<()> {
        self.inner.close()
    }
    fn abort(&mut self) {
        self.inner.abort();
    }
    fn another(&self) -> io::Result<Box<dyn Transport>> {
        self.inner.another()
    }
}

/// A sink that holds itself to the contract and can refuse at a step.
#[derive(Default)]
pub(crate) struct Watched {
    pub(crate) got: Vec<u8>,
    pub(crate) whole: Vec<Vec<u8>>,
    pub(crate) open: bool,
    pub(crate) discarded: usize,
    pub(crate) refuse: Option<&'static str>,
}

impl Watched {
    fn step(&self, name: &str) -> Result<(), Reject> {
        match self.refuse {
            Some(step) if step == name => {
                Err(Reject::new(Code::Container, format!("{name} of it"), "this", "that"))
            }
            _ => Ok(()),
        }
    }
}

impl Sink for Watched {
    fn begin(&mut self, total_bytes: u64, header: &[u8]) -> Result<(), Reject> {
        assert!(!self.open && header.len() as u64 <= total_bytes);
        self.open = true;
        self.got = header.to_vec();
        self.step("begin")
    }
    fn chunk(&mut self, bytes: &[u8]) -> Result<(), Reject> {
        assert!(self.open && !bytes.is_empty());
        self.got.extend_from_slice(bytes);
        self.step("chunk")
    }
    fn end(&mut self, crc: u32) -> Result<(), Reject> {
        assert!(self.open && crc == crc32c::crc32c(&self.got));
        self.step("end")?;
        self.open = false;
        self.whole.push(std::mem::take(&mut self.got));
        Ok(())
    }
    fn discard(&mut self) {
        assert!(self.open, "discarded twice, or after its end");
        self.open = false;
        self.discarded += 1;
    }
    fn schema(&mut self, id: u32, fields: &[u8]) -> Result<(), Reject> {
        assert_eq!((id, fields), (7, &b"fields"[..]));
        self.step("schema")
    }
}

/// Containers that came, and the bytes of their session.
type Served = Result<(Vec<Vec<u8>>, Traffic), NetError>;

/// A receiver that takes all there is.
pub(crate) fn serve(transport: Box<dyn Transport>, options: Options) -> JoinHandle<Served> {
    std::thread::spawn(move || {
        let mut receiver = Receiver::open(transport, &cache(), &options)?;
        let (mut sink, mut all) = (Collect::default(), Vec::new());
        while let Event::Message(arrival) = receiver.receive(&mut sink)? {
            let whole = sink.take().expect("a message has a container");
            assert_eq!(arrival.container_bytes, whole.len() as u64);
            all.push(whole);
            receiver.taken(Vec::new())?;
        }
        Ok((all, receiver.finish()?))
    })
}

/// What a sharer without a key sends for one container, frame by frame.
pub(crate) fn sharers_frames(len: usize, options: &Options) -> Vec<(Kind, Vec<u8>)> {
    frames(&recorded(len, options))
}

/// The stream of a sharer that wrote one container to a file.
pub(crate) fn recorded(len: usize, options: &Options) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let files = Arc::new(smidgen_store::Disk);
    let file = smidgen_link::net::FileWriter::new(files, path.clone());
    let mut sender = Sender::open(Box::new(file), &cache(), options).unwrap();
    sender.send(&container(len), len / 4).unwrap();
    sender.finish().unwrap();
    std::fs::read(path).unwrap()
}

/// A stream taken apart.
pub(crate) fn frames(stream: &[u8]) -> Vec<(Kind, Vec<u8>)> {
    let (mut reader, mut source) = (FrameReader::new(1 << 20), stream);
    let mut all = Vec::new();
    while !source.is_empty() {
        let frame = reader.read(&mut source).unwrap();
        all.push((frame.kind, frame.body.to_vec()));
    }
    all
}

/// Frames put together again, with new numbers and checksums.
pub(crate) fn stream(frames: &[(Kind, Vec<u8>)]) -> Vec<u8> {
    let mut all = Vec::new();
    for ((kind, body), seq) in frames.iter().zip(0..) {
        let mut out = Vec::new();
        encode(*kind, seq, &[body], &mut out).unwrap();
        all.extend(out);
    }
    all
}

/// What a receiver makes of a stream, and what it answers; the stream's end is the peer's.
pub(crate) struct Played {
    pub(crate) error: Option<NetError>,
    pub(crate) sink: Watched,
    pub(crate) answer: Vec<(Kind, Vec<u8>)>,
}

impl Played {
    pub(crate) fn error(&self) -> &NetError {
        self.error.as_ref().expect("an error")
    }

    /// The refusal that the peer reads.
    pub(crate) fn reject(&self) -> Option<String> {
        let (_, body) = self.answer.iter().find(|(kind, _)| *kind == Kind::Reject)?;
        let code = u16::from_le_bytes([body[0], body[1]]);
        let len = usize::from(u16::from_le_bytes([body[2], body[3]]));
        Some(format!("{code} {}", String::from_utf8_lossy(&body[4..4 + len])))
    }
}

fn receive_all(
    transport: Box<dyn Transport>,
    options: &Options,
    sink: &mut Watched,
) -> Result<(), NetError> {
    let mut receiver = Receiver::open(transport, &cache(), options)?;
    loop {
        match receiver.receive(sink)? {
            Event::Message(_) => drop(receiver.taken(Vec::new())?),
            Event::Cancelled { .. } => {}
            Event::Bye => return receiver.finish().map(drop),
        }
    }
}

/// Plays a sharer's stream to a receiver that can answer.
pub(crate) fn play(bytes: &[u8], options: &Options) -> Played {
    let (mut near, far) = memory_pair();
    let (far, log) = logged(far);
    near.write_all(bytes).unwrap();
    near.close().unwrap();
    let mut sink = Watched::default();
    let error = receive_all(far, options, &mut sink).err();
    assert!(!sink.open, "a message is left half applied");
    let answer = frames(&log.lock().unwrap().written);
    Played { error, sink, answer }
}

/// Plays a sharer's stream to a receiver that reads it from a file.
pub(crate) fn play_file(bytes: &[u8], options: &Options) -> Played {
    let mut sink = Watched::default();
    let transport = Box::new(Reading(io::Cursor::new(bytes.to_vec())));
    let error = receive_all(transport, options, &mut sink).err();
    assert!(!sink.open, "a message is left half applied");
    Played { error, sink, answer: Vec::new() }
}

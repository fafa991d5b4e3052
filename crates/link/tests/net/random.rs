//! Anything at all, from either side, and sessions of any measure.

use std::io::Cursor;

use proptest::prelude::*;
use smidgen_link::net::{FrameReader, Limits, Options, Reading, Reply, Sender, memory_pair};

use crate::support::{cache, container, key, play, play_file, recorded, serve};

proptest! {
    #[test]
    fn a_reader_of_frames_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let (mut reader, mut source) = (FrameReader::new(1 << 20), &bytes[..]);
        while reader.read(&mut source).is_ok() {}
        prop_assert!(reader.offset() <= bytes.len() as u64);
    }

    #[test]
    fn frames_of_any_cut_come_back(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8), step in 1..40_usize) {
        let frames: Vec<_> = bodies.iter().map(|body| (smidgen_link::net::Kind::Chunk, body.clone())).collect();
        let stream = crate::support::stream(&frames);
        let mut source = Stuttering { bytes: Cursor::new(stream), step, interrupted: false };
        let mut reader = FrameReader::new(1 << 20);
        for body in &bodies {
            prop_assert_eq!(reader.read(&mut source).unwrap().body, &body[..]);
        }
        prop_assert!(reader.read(&mut source).is_err());
    }

    #[test]
    fn a_session_takes_any_sizes(len in 0..20_000_usize, window in 1..5000_u64, chunk in 1..2000_usize, frame in 4096..9000_u32, keyed: bool) {
        let limits = Limits { window_bytes: window, chunk_bytes: chunk, frame_bytes: frame, ..Limits::default() };
        let options = Options { limits, key: keyed.then(|| key("a")).flatten(), ..Options::default() };
        let (near, far) = memory_pair();
        let receiver = serve(far, options.clone());
        let mut sender = Sender::open(near, &cache(), &options).unwrap();
        for _ in 0..2 {
            sender.send(&container(len), len.min(100)).unwrap();
            prop_assert!(matches!(sender.reply().unwrap(), Reply::Taken(_)));
        }
        let (_, traffic) = sender.finish().unwrap();
        let (all, theirs) = receiver.join().unwrap().unwrap();
        prop_assert_eq!(all, vec![container(len); 2]);
        prop_assert_eq!(traffic.sent, theirs.received);
        prop_assert_eq!(traffic.received, theirs.sent);
    }

    #[test]
    fn a_receiver_takes_any_change(at in 0..1400_usize, bytes in prop::collection::vec(any::<u8>(), 1..40), cut in 0..40_usize) {
        let mut stream = recorded(1000, &Options::default());
        let at = at.min(stream.len());
        let end = (at + cut).min(stream.len());
        stream.splice(at..end, bytes);
        let [played, from_file] = [play(&stream, &Options::default()), play_file(&stream, &Options::default())];
        prop_assert!(played.sink.whole.iter().all(|whole| *whole == container(1000)));
        prop_assert_eq!(played.error.is_some(), from_file.error.is_some());
    }

    #[test]
    fn a_sharer_takes_any_answer(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
        let (near, mut far) = memory_pair();
        std::io::Write::write_all(&mut far, &bytes).unwrap();
        far.close().unwrap();
        prop_assert!(Sender::open(near, &cache(), &Options::default()).is_err());
        let file = Reading(Cursor::new(bytes));
        prop_assert!(Sender::open(Box::new(file), &cache(), &Options::default()).is_err());
    }
}

/// A source that gives a few bytes at a time, and is interrupted before each of them.
struct Stuttering {
    bytes: Cursor<Vec<u8>>,
    step: usize,
    interrupted: bool,
}

impl std::io::Read for Stuttering {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let len = buf.len().min(self.step);
        std::io::Read::read(&mut self.bytes, &mut buf[..len])
    }
}

//! What a key keeps others from: lying about who they are, changing a message, sending one twice.

use std::io::{Read, Write};
use std::sync::Arc;

use smidgen_link::net::{
    Collect, FileWriter, FrameReader, Kind, NetError, Options, Receiver, Sender, Transport, encode,
    memory_pair,
};

use crate::support::{cache, container, frames, key, logged, play, play_file, serve, stream};

fn keyed(digit: &str) -> Options {
    Options { key: key(digit), ..Options::default() }
}

/// Two containers of one size, written to a file with a key.
/// HELLO ACCEPT, twice BEGIN CHUNK END MAC, BYE.
fn two_in_a_file() -> Vec<(Kind, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let file = FileWriter::new(Arc::new(smidgen_store::Disk), path.clone());
    let mut sender = Sender::open(Box::new(file), &cache(), &keyed("a")).unwrap();
    sender.send(&[1; 100], 10).unwrap();
    sender.send(&[2; 100], 10).unwrap();
    sender.finish().unwrap();
    let all = frames(&std::fs::read(path).unwrap());
    assert_eq!(all.len(), 11);
    all
}

#[test]
fn another_key_is_refused_on_both_sides_before_anything_is_sent() {
    let (near, far) = memory_pair();
    let (near, log) = logged(near);
    let receiver = serve(far, keyed("b"));
    let error = Sender::open(near, &cache(), &keyed("a")).err().unwrap();
    assert!(matches!(error, NetError::Mac { what: "ACCEPT" }), "{error}");
    assert!(error.to_string().ends_with("hint: both sides need the same key"));
    let theirs = receiver.join().unwrap().unwrap_err();
    assert!(matches!(theirs, NetError::Mac { what: "ACCEPT" }), "{theirs}");
    let kinds: Vec<Kind> =
        frames(&log.lock().unwrap().written).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [Kind::Hello, Kind::Accept, Kind::Reject]);
}

#[test]
fn a_file_with_the_key_is_read_and_with_another_or_a_changed_hello_not() {
    let all = two_in_a_file();
    let played = play_file(&stream(&all), &keyed("a"));
    assert!(played.error.is_none());
    assert_eq!(played.sink.whole, [[1; 100], [2; 100]]);
    let refused = |all: &[(Kind, Vec<u8>)], options: &Options| {
        let played = play_file(&stream(all), options);
        assert!(matches!(played.error(), NetError::Mac { what: "ACCEPT" }), "{}", played.error());
        assert!(played.sink.whole.is_empty());
    };
    refused(&all, &keyed("b"));
    let mut changed = all.clone();
    changed[0].1[16] ^= 1; // The greatest message.
    refused(&changed, &keyed("a"));
    let mut stripped = all;
    stripped[1].1.truncate(8); // No proof.
    refused(&stripped, &keyed("a"));
}

#[test]
fn a_message_that_was_changed_moved_or_stripped_is_not_used() {
    type Change = fn(&mut Vec<(Kind, Vec<u8>)>);
    let changes: [(Change, usize); 8] = [
        (|f| f[5].1[0] ^= 1, 0),
        (|f| f[5].1.truncate(31), 0),
        (|f| f[5].1.clear(), 0),
        (|f| f[5].1.push(0), 0),
        (
            |f| {
                // With the right checksum, which is no secret.
                f[3].1[0] ^= 1;
                let whole = [&f[2].1[8..], &f[3].1].concat();
                f[4].1 = crc32c::crc32c(&whole).to_le_bytes().to_vec();
            },
            0,
        ),
        // The second message in place of the first.
        (|f| drop(f.drain(2..6)), 0),
        // The first one twice.
        (|f| drop(f.splice(6..10, f[2..6].to_vec())), 1),
        // The code of the other message.
        (|f| f[9] = f[5].clone(), 1),
    ];
    for (change, whole) in changes {
        let mut all = two_in_a_file();
        change(&mut all);
        let played = play_file(&stream(&all), &keyed("a"));
        let NetError::Incomplete { source, .. } = played.error() else { panic!() };
        assert!(matches!(**source, NetError::Mac { what: "the message" }), "{source}");
        assert_eq!((played.sink.whole.len(), played.sink.discarded), (whole, 1));
    }
    let mut missing = two_in_a_file();
    missing.remove(5);
    let played = play_file(&stream(&missing), &keyed("a"));
    let text = "message discarded after 100 of 100 bytes: expected MAC, got BEGIN";
    assert_eq!(played.error().to_string(), text);
}

#[test]
fn a_session_that_is_played_again_is_refused() {
    let (near, far) = memory_pair();
    let (near, log) = logged(near);
    let receiver = serve(far, keyed("a"));
    let mut sender = Sender::open(near, &cache(), &keyed("a")).unwrap();
    sender.send(&container(1000), 100).unwrap();
    sender.finish().unwrap();
    receiver.join().unwrap().unwrap();
    let again = play(&log.lock().unwrap().written, &keyed("a"));
    assert!(matches!(again.error(), NetError::Mac { what: "ACCEPT" }), "{}", again.error());
    assert_eq!(again.reject().unwrap(), "6 ACCEPT");
    assert!(again.sink.whole.is_empty() && again.sink.discarded == 0);
}

/// Somebody between the two who changes frames of the receiver and makes their checksums right.
fn changed_answers(change: fn(Kind, &mut Vec<u8>)) -> (Box<dyn Transport>, Box<dyn Transport>) {
    let ((near, mut to_near), (mut to_far, far)) = (memory_pair(), memory_pair());
    let (mut from_near, mut from_far) = (to_near.another().unwrap(), to_far.another().unwrap());
    std::thread::spawn(move || {
        let mut piece = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_near.read(&mut piece) {
            if to_far.write_all(&piece[..count]).is_err() {
                break;
            }
        }
        to_far.abort();
    });
    std::thread::spawn(move || {
        let (mut reader, mut out) = (FrameReader::new(1 << 20), Vec::new());
        while let Ok(frame) = reader.read(&mut from_far) {
            let mut body = frame.body.to_vec();
            change(frame.kind, &mut body);
            encode(frame.kind, frame.seq, &[&body], &mut out).unwrap();
            if to_near.write_all(&out).is_err() {
                break;
            }
        }
        to_near.abort();
    });
    (near, far)
}

#[test]
fn a_request_that_was_changed_on_its_way_is_refused() {
    let change = |kind, body: &mut Vec<u8>| {
        if kind == Kind::Request {
            body[0] ^= 1;
        }
    };
    let (near, far) = changed_answers(change);
    let receiver = std::thread::spawn(move || {
        let mut receiver = Receiver::open(far, &cache(), &keyed("a")).unwrap();
        let mut sink = Collect::default();
        receiver.receive(&mut sink).unwrap();
        receiver.request(b"all of it").unwrap();
        receiver.receive(&mut sink).unwrap_err()
    });
    let mut sender = Sender::open(near, &cache(), &keyed("a")).unwrap();
    sender.send(&container(1000), 100).unwrap();
    let error = sender.reply().unwrap_err();
    assert!(matches!(error, NetError::Mac { what: "the request" }), "{error}");
    let theirs = receiver.join().unwrap().to_string();
    assert!(theirs.starts_with("refused by the peer: `the request`"), "{theirs}");
}

#[test]
fn what_a_receiver_said_cannot_be_changed_on_its_way() {
    let change = |kind, body: &mut Vec<u8>| {
        if kind == Kind::Hello {
            body[16] ^= 1; // The greatest message.
        }
    };
    let (near, far) = changed_answers(change);
    let receiver = serve(far, keyed("a"));
    let error = Sender::open(near, &cache(), &keyed("a")).err().unwrap();
    assert!(matches!(error, NetError::Mac { what: "ACCEPT" }), "{error}");
    assert!(receiver.join().unwrap().is_err());
}

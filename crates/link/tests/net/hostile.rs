//! Peers that break the rules: a typed error here, a refusal there, nothing half applied.

use std::io::{ErrorKind, Write};

use smidgen_link::net::{
    FrameError, Kind, Limits, NetError, Options, Receiver, Reply, Sender, memory_pair,
};

use crate::support::{
    Jammed, Watched, cache, container, frames, logged, play, play_file, recorded, serve,
    sharers_frames, stream,
};

type Frames = Vec<(Kind, Vec<u8>)>;

/// Chunks of 300 bytes.
fn options() -> Options {
    let limits = Limits { chunk_bytes: 300, header_bytes: 10_000, ..Limits::default() };
    Options { limits, ..Options::default() }
}

/// HELLO ACCEPT BEGIN(250 of 1000) CHUNK(300) CHUNK(300) CHUNK(150) END BYE.
fn sound() -> Frames {
    sharers_frames(1000, &options())
}

#[test]
fn each_broken_rule_has_its_error_its_refusal_and_no_effect() {
    type Change = fn(&mut Frames);
    let cases: [(Change, &str, &str); 24] = [
        (|f| drop(f.remove(0)), "expected HELLO or REJECT, got ACCEPT", "2 order"),
        (|f| f[1] = f[0].clone(), "expected ACCEPT or REJECT, got HELLO", "2 order"),
        (
            |f| f[1].1.push(0),
            "`end` of ACCEPT: expected the end of the body, got 1 bytes",
            "2 frame",
        ),
        (
            |f| drop(f.remove(2)),
            "expected BEGIN, SCHEMA, CANCEL, PING or BYE, got CHUNK",
            "2 order",
        ),
        (|f| f[2].1.truncate(7), "`length` of BEGIN: expected 8 bytes, got 7 bytes", "2 frame"),
        (|f| f[2].1[7] = 1, "container: expected at most 1073741824 bytes, got ", "3 container"),
        (|f| f[2].1[1] = 0, "length of the message: expected 232 bytes, got 250", "5 length"),
        (
            |f| f[2].1.resize(10_009, 0),
            "header of the container: expected at most 10000 bytes, got 10001",
            "3 header of the container",
        ),
        (
            |f| drop(f.remove(3)),
            "message discarded after 700 of 1000 bytes: length of the message: expected 1000 bytes, got 700",
            "5 length",
        ),
        (
            |f| f.insert(3, f[3].clone()),
            "message discarded after 850 of 1000 bytes: length of the message: expected 1000 bytes, got 1150",
            "5 length",
        ),
        (
            |f| f[4].1.clear(),
            "message discarded after 550 of 1000 bytes: `bytes` of CHUNK: expected at least one, got none",
            "2 frame",
        ),
        (
            |f| f[6].1[0] ^= 1,
            "message discarded after 1000 of 1000 bytes: checksum of the message: expected ",
            "5 checksum",
        ),
        (
            |f| f[5].1[0] ^= 1,
            "message discarded after 1000 of 1000 bytes: checksum of the message: expected ",
            "5 checksum",
        ),
        (
            |f| f[6].1.push(0),
            "message discarded after 1000 of 1000 bytes: `end` of END: expected the end",
            "2 frame",
        ),
        (
            |f| f[4] = f[2].clone(),
            "message discarded after 550 of 1000 bytes: expected CHUNK, END or CANCEL, got BEGIN",
            "2 order",
        ),
        (
            |f| f[6].0 = Kind::Mac,
            "message discarded after 1000 of 1000 bytes: expected CHUNK, END or CANCEL, got MAC",
            "2 order",
        ),
        (
            |f| f[4].0 = Kind::Bye,
            "message discarded after 550 of 1000 bytes: expected CHUNK, END or CANCEL, got BYE",
            "2 order",
        ),
        (
            |f| f[4].0 = Kind::Cancel,
            "message discarded after 550 of 1000 bytes: `reason` of CANCEL: expected",
            "2 frame",
        ),
        (|f| f[7].1.push(0), "`end` of BYE: expected the end of the body, got 1 bytes", "2 frame"),
        (
            |f| f[7].0 = Kind::Stats,
            "expected BEGIN, SCHEMA, CANCEL, PING or BYE, got STATS",
            "2 order",
        ),
        (
            |f| f[7].0 = Kind::Credit,
            "expected BEGIN, SCHEMA, CANCEL, PING or BYE, got CREDIT",
            "2 order",
        ),
        (|f| f[7].0 = Kind::Schema, "`number` of SCHEMA: expected 4 bytes, got 0 bytes", "2 frame"),
        (|f| f[7].0 = Kind::Ping, "`time` of PING: expected 8 bytes, got 0 bytes", "2 frame"),
        (|f| drop(f.pop()), "the peer disconnected: reading ended at byte ", ""),
    ];
    for (change, text, told) in cases {
        let mut all = sound();
        change(&mut all);
        let played = play(&stream(&all), &options());
        let error = played.error().to_string();
        assert!(error.starts_with(text), "{error}\nexpected {text}");
        assert_eq!(played.reject().unwrap_or_default(), told, "{error}");
        let discarded = usize::from(error.starts_with("message discarded"));
        assert_eq!(played.sink.discarded, discarded, "{error}");
        // What ended before was whole. (Each recording has a nonce of its own.)
        let whole = all.len() > 7 && all[1..7] == sound()[1..7] || told.is_empty();
        assert_eq!(played.sink.whole.len(), usize::from(whole), "{error}");
        let from_file = play_file(&stream(&all), &options());
        assert_eq!(from_file.error().to_string(), error);
    }
}

#[test]
fn a_sharer_that_sends_beyond_its_credit_is_stopped() {
    let mut receivers = options();
    receivers.limits.window_bytes = 500;
    let played = play(&stream(&sound()), &receivers);
    // 300 of 500, then 800 granted; nothing for the third chunk in time would be wrong too.
    assert!(played.error.is_none(), "a window that is refilled is enough");
    receivers.limits.window_bytes = 299;
    let played = play(&stream(&sound()), &receivers);
    let error = played.error().to_string();
    let text =
        "message discarded after 250 of 1000 bytes: credit: expected at most 299 bytes, got 300";
    assert_eq!(error, text);
    assert_eq!(played.reject().unwrap(), "4 credit");
    assert!(play_file(&stream(&sound()), &receivers).error.is_none(), "nobody grants a file");
}

#[test]
fn a_lost_doubled_or_exchanged_frame_is_a_wrong_number() {
    let whole = stream(&sound());
    let ends: Vec<usize> = boundaries(&whole);
    let piece = |index: usize| &whole[ends[index]..ends[index + 1]];
    let order = |order: &[usize]| order.iter().flat_map(|index| piece(*index).to_vec()).collect();
    let wrong: [Vec<u8>; 3] =
        [order(&[0, 1, 2, 4, 5, 6, 7]), order(&[0, 1, 2, 3, 3, 4]), order(&[0, 1, 2, 4, 3, 5])];
    for (bytes, (expected, got)) in wrong.iter().zip([(3, 4), (4, 3), (3, 4)]) {
        let played = play(bytes, &options());
        let NetError::Incomplete { source, .. } = played.error() else { panic!() };
        let NetError::Frame(FrameError::Seq { expected: e, got: g, .. }) = &**source else {
            panic!("{source}")
        };
        assert_eq!((*e, *g), (expected, got));
    }
}

/// Where frames begin, and the end.
fn boundaries(whole: &[u8]) -> Vec<usize> {
    let mut ends = vec![0];
    while let Some(head) = whole[ends[ends.len() - 1]..].first_chunk::<4>() {
        ends.push(ends[ends.len() - 1] + 16 + u32::from_le_bytes(*head) as usize);
    }
    ends
}

#[test]
fn every_flipped_bit_of_a_sharers_stream_is_noticed() {
    let whole = recorded(20, &options());
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        play(&bytes, &options()).error();
        play_file(&bytes, &options()).error();
    }
}

#[test]
fn a_disconnect_at_every_byte_leaves_whole_messages_only() {
    let whole = stream(&sound());
    let end_of_message = boundaries(&whole)[7];
    for cut in 0..whole.len() {
        for played in [play(&whole[..cut], &options()), play_file(&whole[..cut], &options())] {
            let mut error = played.error();
            if let NetError::Incomplete { source, .. } = error {
                assert_eq!(played.sink.discarded, 1);
                error = source;
            }
            assert!(
                matches!(error, NetError::Disconnected { offset, .. } if *offset == cut as u64),
                "{cut}: {error}"
            );
            assert_eq!(played.sink.whole.len(), usize::from(cut >= end_of_message), "{cut}");
        }
    }
    let played = play(&whole, &options());
    assert!(played.error.is_none());
    assert_eq!(played.sink.whole, [container(1000)]);
    assert_eq!(played.sink.discarded, 0);
}

/// What a receiver answers to one container, and what a sharer makes of it when it is changed.
fn answers() -> Vec<u8> {
    let (near, far) = memory_pair();
    let (far, log) = logged(far);
    let receiver = serve(far, options());
    let mut sender = Sender::open(near, &cache(), &options()).unwrap();
    sender.send(&container(1000), 250).unwrap();
    sender.finish().unwrap();
    receiver.join().unwrap().unwrap();
    let log = log.lock().unwrap();
    log.written.clone()
}

fn ask(answers: &[u8]) -> (Result<Reply, NetError>, Frames) {
    let (near, mut far) = memory_pair();
    let (near, log) = logged(near);
    far.write_all(answers).unwrap();
    far.close().unwrap();
    let asked = || {
        let mut sender = Sender::open(near, &cache(), &options())?;
        sender.send(&container(1000), 250)?;
        sender.reply()
    };
    let outcome = asked();
    let sent = frames(&log.lock().unwrap().written);
    (outcome, sent)
}

#[test]
fn a_receiver_that_breaks_the_rules_is_refused() {
    type Change = fn(&mut Frames);
    let cases: [(Change, &str, bool); 13] = [
        (|f| drop(f.remove(0)), "expected HELLO or REJECT, got ACCEPT", true),
        (|f| f[0].1[12] = 1, "`role` of the peer: expected receiver, got sharer", true),
        (|f| f[1].1.truncate(7), "`credit` of ACCEPT: expected 8 bytes, got 7 bytes", true),
        (|f| f[2].1.truncate(100), "`byte count` of STATS: expected 8 bytes, got 4 bytes", true),
        (|f| f[2].1[144] = 65, "`stages` of STATS: expected at most 64, got 65", true),
        (|f| f[2].1.push(0), "`end` of STATS: expected the end of the body", true),
        (
            |f| f[2] = (Kind::Credit, vec![0; 8]),
            "`credit` of CREDIT: expected more than 8388608, got 0",
            true,
        ),
        (
            |f| f[2] = (Kind::Pong, vec![0; 16]),
            "expected CREDIT, STATS, REQUEST, PONG or REJECT, got PONG",
            true,
        ),
        (
            |f| f[2].0 = Kind::Begin,
            "expected CREDIT, STATS, REQUEST, PONG or REJECT, got BEGIN",
            true,
        ),
        (
            |f| f[2].0 = Kind::Cancel,
            "expected CREDIT, STATS, REQUEST, PONG or REJECT, got CANCEL",
            true,
        ),
        (|f| f[2] = (Kind::Bye, vec![]), "the session has ended", false),
        (
            |f| f[2] = (Kind::Reject, vec![8, 0, 1, 0, b'x', 0, 0, 0, 0]),
            "refused by the peer: `x`: expected , got ",
            false,
        ),
        (
            |f| f[2] = (Kind::Reject, vec![8]),
            "`code` of REJECT: expected 2 bytes, got 1 bytes",
            true,
        ),
    ];
    for (change, text, told) in cases {
        let mut all = frames(&answers());
        change(&mut all);
        let (outcome, sent) = ask(&stream(&all));
        let error = outcome.unwrap_err().to_string();
        assert!(error.starts_with(text), "{error}\nexpected {text}");
        assert_eq!(sent.last().unwrap().0 == Kind::Reject, told, "{error}");
    }
}

/// A sharer whose `BEGIN` is the last that passes whole; what it makes of that, and what passed.
fn ask_jammed(answers: &[u8], error: ErrorKind, once: bool) -> (NetError, Vec<u8>) {
    let (near, mut far) = memory_pair();
    let (near, log) = logged(near);
    far.write_all(answers).unwrap();
    far.close().unwrap();
    let left = boundaries(&stream(&sound()))[3] + 100;
    let near = Box::new(Jammed { inner: near, left, error, once });
    let mut sender = Sender::open(near, &cache(), &options()).unwrap();
    let error = sender.send(&container(1000), 250).unwrap_err();
    let sent = log.lock().unwrap().written.clone();
    (error, sent)
}

#[test]
fn a_refusal_is_read_where_writing_fails() {
    let mut all = frames(&answers());
    let (error, _) = ask_jammed(&stream(&all[..2]), ErrorKind::BrokenPipe, false);
    assert!(matches!(error, NetError::Disconnected { doing: "writing", .. }), "{error}");
    all[2] = (Kind::Reject, vec![8, 0, 1, 0, b'x', 0, 0, 0, 0]);
    for kind in [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset, ErrorKind::TimedOut] {
        let (error, _) = ask_jammed(&stream(&all), kind, false);
        assert!(matches!(error, NetError::Rejected(_)), "{error}");
    }
}

#[test]
fn nothing_follows_a_frame_that_was_not_written_whole() {
    let all = frames(&answers());
    let (error, sent) = ask_jammed(&stream(&all[..2]), ErrorKind::TimedOut, true);
    assert!(matches!(error, NetError::Stalled { doing: "writing", .. }), "{error}");
    assert_eq!(sent.len(), boundaries(&stream(&sound()))[3] + 100);
}

#[test]
fn every_cut_and_every_flipped_bit_of_a_receivers_stream_is_noticed() {
    let whole = answers();
    assert!(matches!(ask(&whole).0, Ok(Reply::Taken(_))));
    for cut in 0..whole.len() {
        let error = ask(&whole[..cut]).0.unwrap_err();
        assert!(matches!(error, NetError::Disconnected { .. }), "{cut}: {error}");
    }
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(ask(&bytes).0.is_err(), "bit {bit}");
    }
}

#[test]
fn a_container_that_its_reader_refuses_is_named_on_both_sides() {
    for step in ["begin", "chunk", "end", "schema"] {
        let (near, far) = memory_pair();
        let receiver = std::thread::spawn(move || {
            let mut receiver = Receiver::open(far, &cache(), &Options::default()).unwrap();
            let mut sink = Watched { refuse: Some(step), ..Watched::default() };
            let error = receiver.receive(&mut sink).unwrap_err();
            let after = receiver.receive(&mut sink).unwrap_err();
            assert!(matches!(after, NetError::Ended));
            assert!(!sink.open && sink.whole.is_empty());
            (error, sink.discarded)
        });
        let mut sender = Sender::open(near, &cache(), &Options::default()).unwrap();
        // The refusal may come while the rest is still being sent.
        let sent =
            sender.schema(7, b"fields").and_then(|()| sender.send(&container(2_000_000), 100));
        let error = sent.and_then(|()| sender.reply().map(drop)).unwrap_err().to_string();
        let text = format!("`{step} of it`: expected this, got that");
        if step == "schema" {
            assert_eq!(error, "refused by the peer: `schema of it`: expected this, got that");
        } else {
            assert_eq!(error, format!("refused by the peer: {text}"));
        }
        let (refused, discarded) = receiver.join().unwrap();
        assert!(refused.to_string().ends_with(&format!("message refused: {text}")), "{refused}");
        assert_eq!(discarded, usize::from(step != "schema"));
        assert!(matches!(sender.reply(), Err(NetError::Ended)));
    }
}

#[test]
fn a_sharer_that_fails_in_the_middle_is_an_incomplete_message() {
    let (near, far) = memory_pair();
    let receiver = std::thread::spawn(move || {
        let mut receiver = Receiver::open(far, &cache(), &Options::default()).unwrap();
        let mut sink = Watched::default();
        let error = receiver.receive(&mut sink).unwrap_err();
        (error, sink.discarded, receiver.discarded())
    });
    let mut sender = Sender::open(near, &cache(), &Options::default()).unwrap();
    let mut outgoing = sender.begin(1000, &[7; 100]).unwrap();
    outgoing.write(&[8; 200]).unwrap();
    outgoing.flush().unwrap();
    drop(outgoing);
    assert!(matches!(sender.nothing("x"), Err(NetError::Ended)));
    drop(sender);
    let (error, discarded, counted) = receiver.join().unwrap();
    assert!(
        error
            .to_string()
            .starts_with("message discarded after 300 of 1000 bytes: the peer disconnected")
    );
    assert_eq!((discarded, counted.messages, counted.container_bytes), (1, 1, 300));
}

#[test]
fn a_message_of_another_length_than_announced_ends_the_session_on_both_sides() {
    for (bytes, finish) in [(901, false), (899, true)] {
        let (near, far) = memory_pair();
        let receiver = serve(far, Options::default());
        let mut sender = Sender::open(near, &cache(), &Options::default()).unwrap();
        let mut outgoing = sender.begin(1000, &[7; 100]).unwrap();
        let outcome = outgoing.write(&vec![1; bytes]);
        let outcome = if finish { outcome.and_then(|()| outgoing.end()) } else { outcome };
        assert!(matches!(outcome, Err(NetError::Length { expected: 1000, .. })));
        let theirs = receiver.join().unwrap().unwrap_err().to_string();
        let text = "refused by the peer: `length`: expected 1000, got ";
        assert!(theirs.contains(text), "{theirs}");
    }
}

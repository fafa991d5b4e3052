//! Sound sessions: every transport, every size, every kind of answer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use smidgen_link::net::{
    Address, Collect, Event, Exposure, FileWriter, Limits, LineProfile, Listener, NetError,
    Options, Receiver, Reply, Sender, Shaped, Stage, SystemClock, Transport, connect, memory_pair,
};
use smidgen_store::{Disk, Fault, Faulty};

use crate::support::{cache, container, key, logged, serve};

const SIZES: [usize; 8] = [0, 1, 100, 65_535, 65_536, 65_537, 300_000, 1_000_003];

/// Sends containers of every size; both sides agree on every byte, and so does the transport.
fn exchange(near: Box<dyn Transport>, far: Box<dyn Transport>, options: &Options) {
    let (near, sent) = logged(near);
    let (far, received) = logged(far);
    let receiver = serve(far, options.clone());
    let mut sender = Sender::open(near, &cache(), options).unwrap();
    for len in SIZES {
        sender.send(&container(len), len.min(112)).unwrap();
        let Reply::Taken(stats) = sender.reply().unwrap() else { panic!("nobody asked for more") };
        // The receiver's bytes up to its answer are the sharer's bytes up to its question.
        assert_eq!(stats.traffic.received, sender.traffic().sent);
    }
    let (replies, traffic) = sender.finish().unwrap();
    assert!(replies.is_empty());
    let (all, theirs) = receiver.join().unwrap().unwrap();
    assert_eq!(all, SIZES.map(container));
    assert_eq!((traffic.sent, traffic.received), (theirs.received, theirs.sent));
    assert_eq!(traffic.sent.container, SIZES.iter().sum::<usize>() as u64);
    assert_eq!(traffic.sent.mac, if options.key.is_some() { 32 * SIZES.len() as u64 } else { 0 });
    let (sent, received) = (sent.lock().unwrap(), received.lock().unwrap());
    for (bytes, carried) in [
        (traffic.sent, &sent.written),
        (traffic.received, &sent.read),
        (theirs.sent, &received.written),
        (theirs.received, &received.read),
    ] {
        assert_eq!(bytes.total(), carried.len() as u64);
    }
}

fn exchange_at(address: &str, options: &Options) {
    let exposure = Exposure::default();
    let listener = Listener::bind(&address.parse().unwrap(), exposure).unwrap();
    let near = connect(&listener.address().unwrap(), exposure, Duration::from_secs(5)).unwrap();
    let far = listener.accept(Duration::from_secs(5), || false).unwrap().unwrap();
    exchange(near, far, options);
}

/// Nothing, and a key with a window that every larger container fills many times.
fn options() -> [Options; 2] {
    let limits = Limits { window_bytes: 10_000, ..Limits::default() };
    [Options::default(), Options { key: key("a"), limits, ..Options::default() }]
}

#[test]
fn in_memory() {
    for options in options() {
        let (near, far) = memory_pair();
        exchange(near, far, &options);
    }
}

#[test]
fn over_tcp() {
    for options in options() {
        exchange_at("tcp:127.0.0.1:0", &options);
    }
}

#[test]
fn over_a_unix_socket_that_goes_with_its_listener() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("link");
    for options in options() {
        exchange_at(&format!("unix:{}", path.display()), &options);
        assert!(!path.exists());
    }
    std::fs::write(&path, "").unwrap();
    let error = Listener::bind(&Address::Unix(path.clone()), Exposure::default()).unwrap_err();
    assert!(error.to_string().contains("hint: remove it"), "{error}");
    assert!(path.exists(), "a file of somebody else stays");
}

#[test]
fn through_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let address = Address::File(folder.path().join("stream"));
    for options in options() {
        let near = connect(&address, Exposure::default(), Duration::ZERO).unwrap();
        let mut sender = Sender::open(near, &cache(), &options).unwrap();
        for len in SIZES {
            sender.send(&container(len), len.min(112)).unwrap();
            assert_eq!(sender.reply().unwrap(), Reply::Unheard);
        }
        assert!(matches!(sender.ping(), Err(NetError::OneWay { .. })));
        let (_, traffic) = sender.finish().unwrap();

        let listener = Listener::bind(&address, Exposure::default()).unwrap();
        let far = listener.accept(Duration::ZERO, || false).unwrap().unwrap();
        let (all, theirs) = serve(far, options).join().unwrap().unwrap();
        assert_eq!(all, SIZES.map(container));
        assert_eq!((traffic.sent, traffic.received), (theirs.received, theirs.sent));
        let Address::File(path) = &address else { unreachable!() };
        assert_eq!(traffic.total(), std::fs::metadata(path).unwrap().len());
    }
}

#[test]
fn a_file_is_there_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("stream");
    let send = |files, finish: bool| {
        let file = FileWriter::new(files, path.clone());
        let mut sender = Sender::open(Box::new(file), &cache(), &Options::default())?;
        sender.send(&container(1000), 100)?;
        if finish { sender.finish().map(drop) } else { Ok(()) }
    };
    send(Arc::new(Disk), false).unwrap();
    assert!(!path.exists(), "a sharer that was cut off leaves nothing");
    for fault in Fault::ALL {
        let error = send(Arc::new(Faulty::once(1, fault)), true).unwrap_err().to_string();
        assert!(error.starts_with("cannot end the stream: "), "{error}");
        assert!(!path.exists());
    }
}

#[test]
fn through_a_slow_line() {
    let (near, far) = memory_pair();
    let profile =
        LineProfile { bytes_per_s: 1 << 30, rtt: Duration::from_millis(2), burst_bytes: 4096 };
    let near = Shaped::new(near, profile, Arc::new(SystemClock::default())).unwrap();
    exchange(Box::new(near), far, &options()[1]);
}

#[test]
fn several_messages_are_under_way_and_answered_in_order() {
    let (near, far) = memory_pair();
    let receiver = std::thread::spawn(move || {
        let mut receiver = Receiver::open(far, &cache(), &Options::default())?;
        let mut sink = Collect::default();
        while let Event::Message(arrival) = receiver.receive(&mut sink)? {
            let stage = Stage::new("fuse", Duration::from_nanos(arrival.container_bytes));
            receiver.taken(vec![stage])?;
        }
        Ok::<_, NetError>(())
    });
    let mut sender = Sender::open(near, &cache(), &Options::default()).unwrap();
    (0..16).for_each(|len| sender.send(&container(len), 0).unwrap());
    let pong = sender.ping().unwrap();
    assert!(pong.rtt > Duration::ZERO && pong.peer_nanos > 0);
    let (replies, _) = sender.finish().unwrap();
    receiver.join().unwrap().unwrap();
    let nanos = replies.iter().map(|reply| match reply {
        Reply::Taken(stats) => stats.stages[0].nanos,
        other => panic!("{other:?}"),
    });
    assert_eq!(nanos.collect::<Vec<u64>>(), (0..16).collect::<Vec<u64>>());
}

#[test]
fn a_request_is_served_by_the_next_message() {
    for options in options() {
        let (near, far) = memory_pair();
        let theirs = options.clone();
        let receiver = std::thread::spawn(move || {
            let mut receiver = Receiver::open(far, &cache(), &theirs)?;
            let mut sink = Collect::default();
            receiver.receive(&mut sink)?;
            receiver.request(b"tokens 3 and 5")?;
            receiver.receive(&mut sink)?;
            receiver.taken(Vec::new())?;
            assert_eq!(receiver.receive(&mut sink)?, Event::Bye);
            Ok::<_, NetError>((sink.take(), receiver.finish()?))
        });
        let mut sender = Sender::open(near, &cache(), &options).unwrap();
        sender.send(&container(5000), 10).unwrap();
        assert_eq!(sender.reply().unwrap(), Reply::Request(b"tokens 3 and 5".to_vec()));
        sender.send(&container(70), 10).unwrap();
        assert!(matches!(sender.reply().unwrap(), Reply::Taken(_)));
        assert!(matches!(sender.reply(), Err(NetError::Answered)));
        sender.finish().unwrap();
        let (last, traffic) = receiver.join().unwrap().unwrap();
        assert_eq!(last.unwrap(), container(70));
        assert_eq!(traffic.sent.request, 14);
        assert_eq!(traffic.sent.mac, if options.key.is_some() { 32 } else { 0 });
    }
}

#[test]
fn blocks_arrive_when_they_are_flushed_and_a_withdrawn_message_leaves_nothing() {
    let (near, far) = memory_pair();
    let receiver = std::thread::spawn(move || {
        let mut sink = crate::support::Watched::default();
        let mut receiver = Receiver::open(far, &cache(), &Options::default())?;
        let none = receiver.receive(&mut sink)?;
        assert_eq!(none, Event::Cancelled { reason: "cap of 100 bytes".into() });
        let withdrawn = receiver.receive(&mut sink)?;
        assert_eq!(withdrawn, Event::Cancelled { reason: "no longer needed".into() });
        assert_eq!((sink.discarded, receiver.discarded().container_bytes), (1, 30));
        assert!(matches!(receiver.receive(&mut sink)?, Event::Message(_)));
        let stats = receiver.taken(Vec::new())?;
        assert_eq!(stats.discarded.messages, 1);
        assert_eq!(receiver.receive(&mut sink)?, Event::Bye);
        Ok::<_, NetError>(sink.whole)
    });
    let mut sender = Sender::open(near, &cache(), &Options::default()).unwrap();
    sender.nothing("cap of 100 bytes").unwrap();
    assert_eq!(sender.traffic().sent.container, 0);
    let mut outgoing = sender.begin(50, &[1; 10]).unwrap();
    outgoing.write(&[2; 20]).unwrap();
    outgoing.flush().unwrap();
    outgoing.cancel("no longer needed").unwrap();
    sender.schema(7, b"fields").unwrap();
    let mut outgoing = sender.begin(6, b"he").unwrap();
    for byte in [b"a", b"d", b"e", b"r"] {
        outgoing.write(byte).unwrap();
    }
    outgoing.end().unwrap();
    let before = sender.traffic().sent.framing;
    sender.finish().unwrap();
    assert_eq!(receiver.join().unwrap().unwrap(), [b"header"]);
    // HELLO, ACCEPT, CANCEL, BEGIN, CHUNK, CANCEL, SCHEMA, BEGIN, one CHUNK of four, END.
    assert_eq!(before, 16 * 10 + 2 * 8 + 4);
}

#[test]
fn what_a_peer_does_not_take_is_not_sent_and_ends_nothing() {
    let (near, far) = memory_pair();
    let limits = Limits { message_bytes: 10_000, frame_bytes: 4096, ..Limits::default() };
    let receiver = serve(far, Options { limits, ..Options::default() });
    let mut sender = Sender::open(near, &cache(), &Options::default()).unwrap();
    let before = sender.traffic();
    for (len, header, text) in [
        (10_001, 0, "container: expected at most 10000 bytes, got 10001"),
        (5000, 4089, "header of the container: expected at most 4088 bytes, got 4089"),
    ] {
        let error = sender.begin(len, &vec![0; header]).map(drop).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
    assert!(sender.schema(7, &[0; 4093]).is_err());
    assert_eq!(sender.traffic(), before);
    sender.send(&container(10_000), 4088).unwrap();
    assert!(matches!(sender.reply().unwrap(), Reply::Taken(_)));
    sender.finish().unwrap();
    assert_eq!(receiver.join().unwrap().unwrap().0, [container(10_000)]);
}

#[test]
fn only_this_machine_is_linked_unless_asked_for() {
    let anywhere: Address = "tcp:0.0.0.0:0".parse().unwrap();
    let closed = Listener::bind(&anywhere, Exposure::default()).unwrap_err();
    assert!(closed.to_string().contains("hint: `--allow-remote` and a key"), "{closed}");
    let keyless = Exposure { remote: true, keyed: false };
    let keyless = Listener::bind(&anywhere, keyless).unwrap_err().to_string();
    assert!(keyless.contains("expected a key for `tcp:0.0.0.0:0`"), "{keyless}");
    let elsewhere: Address = "tcp:192.0.2.1:9".parse().unwrap();
    let refused = connect(&elsewhere, Exposure::default(), Duration::from_secs(1)).err().unwrap();
    assert!(matches!(refused, NetError::NotLoopback { .. }));
}

#[test]
fn nobody_there_is_an_error_on_both_sides() {
    let exposure = Exposure::default();
    let listener = Listener::bind(&"tcp:127.0.0.1:0".parse().unwrap(), exposure).unwrap();
    let none = listener.accept(Duration::from_millis(1), || false).err().unwrap();
    assert_eq!(none.to_string(), "the peer stalled: waiting for a peer took over 1 ms");
    assert!(listener.accept(Duration::from_secs(60), || true).unwrap().is_none());
    let address = listener.address().unwrap();
    drop(listener);
    let gone = connect(&address, exposure, Duration::from_secs(5)).err().unwrap().to_string();
    assert!(gone.starts_with(&format!("cannot connect to `{address}`: ")), "{gone}");
    let missing = Listener::bind(&Address::File(Path::new("no/such").into()), exposure).unwrap();
    assert!(matches!(missing.accept(Duration::ZERO, || false), Err(NetError::Io { .. })));
}

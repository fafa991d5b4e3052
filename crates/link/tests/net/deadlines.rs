//! Peers that are slow, silent or deaf. Only that the deadline ends the wait is looked at, not when.

use std::io::{Read, Write};
use std::time::Duration;

use smidgen_link::net::{
    Deadlines, Exposure, Kind, Listener, NetError, Options, Receiver, Reply, Sender, Transport,
    connect, memory_pair,
};

use crate::support::{
    Watched, cache, container, frames, hasty, logged, serve, sharers_frames, stream,
};

fn stalled(error: &NetError) -> (&'static str, u128) {
    match error {
        NetError::Incomplete { source, .. } => stalled(source),
        NetError::Stalled { doing, waited } => (doing, waited.as_millis()),
        other => panic!("{other}"),
    }
}

/// Patience for single reads, not for the whole.
fn whole_only() -> Options {
    let [long, short] = [10_000, 100].map(Duration::from_millis);
    let deadlines = Deadlines { read: long, message: short, idle: long };
    Options { deadlines, ..Options::default() }
}

/// Receives until an error, which is returned with the number of messages that came.
fn until_error(far: Box<dyn Transport>, options: &Options) -> (NetError, Watched) {
    let mut sink = Watched::default();
    let all = || {
        let mut receiver = Receiver::open(far, &cache(), options)?;
        loop {
            receiver.receive(&mut sink)?;
        }
    };
    let error: Result<(), NetError> = all();
    (error.unwrap_err(), sink)
}

#[test]
fn a_sharer_that_falls_silent_is_told_and_left() {
    let whole = stream(&sharers_frames(1000, &hasty()));
    // In HELLO, before ACCEPT, before BEGIN, in BEGIN, in the message, before BYE.
    for (cut, waited) in
        [(0, 40), (100, 40), (207, 40), (231, 60), (240, 40), (600, 40), (whole.len() - 16, 60)]
    {
        let (mut near, far) = memory_pair();
        let (far, log) = logged(far);
        near.write_all(&whole[..cut]).unwrap();
        let (error, sink) = until_error(far, &hasty());
        assert_eq!(stalled(&error), ("reading", waited), "{cut}: {error}");
        assert!(!sink.open);
        assert_eq!(sink.whole.len(), usize::from(cut == whole.len() - 16));
        let told = frames(&log.lock().unwrap().written).pop().unwrap();
        assert_eq!((told.0, &told.1[..2]), (Kind::Reject, &[7, 0][..]));
    }
}

#[test]
fn a_sharer_that_trickles_meets_the_deadline_of_the_whole() {
    let message = sharers_frames(1000, &hasty());
    // Outside of a message too: a withdrawal with a long reason.
    let mut alone = message[..2].to_vec();
    alone.push((Kind::Cancel, [&[200, 0][..], &[b'x'; 200]].concat()));
    for (frames, at_once) in [(&message, 0), (&message, 600), (&alone, 231)] {
        let (mut near, far) = memory_pair();
        let bytes = stream(frames);
        let trickle = std::thread::spawn(move || {
            near.write_all(&bytes[..at_once])?;
            for byte in &bytes[at_once..] {
                std::thread::sleep(Duration::from_millis(2));
                near.write_all(&[*byte])?;
            }
            Ok::<_, std::io::Error>(())
        });
        let (error, sink) = until_error(far, &whole_only());
        assert_eq!(stalled(&error), ("reading", 100), "{error}");
        assert!(!sink.open && sink.whole.is_empty());
        // Ended by the receiver, or done while it still listened.
        let _ = trickle.join().unwrap();
    }
}

/// A receiver's first words with another credit, and then silence.
fn silent_receiver(mut far: Box<dyn Transport>, credit: u64) -> Box<dyn Transport> {
    let (near, other) = memory_pair();
    let (other, log) = logged(other);
    let receiver = serve(other, hasty());
    drop(Sender::open(near, &cache(), &hasty()).unwrap());
    assert!(receiver.join().unwrap().is_err());
    let mut words = frames(&log.lock().unwrap().written);
    words.truncate(2);
    words[1].1 = credit.to_le_bytes().to_vec();
    far.write_all(&stream(&words)).unwrap();
    far
}

#[test]
fn no_more_is_sent_than_was_granted() {
    for credit in [0, 1, 100, 70_000] {
        let (near, far) = memory_pair();
        let mut far = silent_receiver(far, credit);
        let mut sender = Sender::open(near, &cache(), &hasty()).unwrap();
        let error = sender.send(&container(100_000), 10).unwrap_err();
        assert_eq!(stalled(&error), ("reading", 40));
        drop(sender);
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).unwrap();
        let chunks = frames(&sent).into_iter().filter(|(kind, _)| *kind == Kind::Chunk);
        assert_eq!(chunks.map(|(_, body)| body.len() as u64).sum::<u64>(), credit);
        assert_eq!(frames(&sent).last().unwrap().0, Kind::Reject);
    }
}

#[test]
fn a_receiver_that_never_answers_is_left() {
    let (near, far) = memory_pair();
    let _far = silent_receiver(far, 1 << 30);
    let mut sender = Sender::open(near, &cache(), &hasty()).unwrap();
    sender.send(&container(1000), 10).unwrap();
    assert_eq!(stalled(&sender.reply().unwrap_err()), ("reading", 60));
    assert!(matches!(sender.reply(), Err(NetError::Ended)));
}

#[test]
fn a_receiver_that_takes_nothing_is_left() {
    let (near, far) = memory_pair();
    let _far = silent_receiver(far, 1 << 40);
    let mut sender = Sender::open(near, &cache(), &hasty()).unwrap();
    let error = sender.send(&container(1_000_000), 10).unwrap_err();
    assert_eq!(stalled(&error), ("writing", 40));
}

/// Both ends of a connection through the system.
fn connected(address: &str) -> (Box<dyn Transport>, Box<dyn Transport>) {
    let exposure = Exposure::default();
    let listener = Listener::bind(&address.parse().unwrap(), exposure).unwrap();
    let near = connect(&listener.address().unwrap(), exposure, Duration::from_secs(5)).unwrap();
    (near, listener.accept(Duration::from_secs(5), || false).unwrap().unwrap())
}

#[test]
fn sockets_have_the_same_deadlines_and_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", folder.path().join("link").display());
    for address in ["tcp:127.0.0.1:0", &unix] {
        let (near, far) = connected(address);
        let (error, _) = until_error(far, &hasty());
        assert_eq!(stalled(&error), ("reading", 40));
        drop(near);

        let (near, far) = connected(address);
        let _far = silent_receiver(far, 1 << 40);
        let mut sender = Sender::open(near, &cache(), &hasty()).unwrap();
        // More than the system keeps for a peer that does not read.
        let error = sender.send(&vec![7; 64 << 20], 10).unwrap_err();
        assert_eq!(stalled(&error), ("writing", 40));

        let whole = stream(&sharers_frames(1000, &hasty()));
        for cut in [0, 1, 207, 300, 700, whole.len() - 1] {
            let (mut near, far) = connected(address);
            near.write_all(&whole[..cut]).unwrap();
            drop(near);
            let (error, sink) = until_error(far, &Options::default());
            let error = match &error {
                NetError::Incomplete { source, .. } => source,
                other => other,
            };
            assert!(matches!(error, NetError::Disconnected { .. }), "{cut}: {error}");
            assert!(!sink.open);
        }
    }
}

#[test]
fn a_receiver_that_refuses_is_heard_by_a_sharer_that_is_still_sending() {
    let (near, far) = connected("tcp:127.0.0.1:0");
    let receiver = std::thread::spawn(move || {
        let mut receiver = Receiver::open(far, &cache(), &Options::default()).unwrap();
        let mut sink = Watched { refuse: Some("begin"), ..Watched::default() };
        receiver.receive(&mut sink).unwrap_err()
    });
    let mut sender = Sender::open(near, &cache(), &Options::default()).unwrap();
    let error = sender.send(&vec![7; 32 << 20], 10).and_then(|()| sender.reply().map(drop));
    assert!(matches!(error, Err(NetError::Rejected(_))), "{error:?}");
    assert!(matches!(receiver.join().unwrap(), NetError::Incomplete { .. }));
}

#[test]
fn a_slow_receiver_within_its_deadlines_is_no_error() {
    let (near, far) = memory_pair();
    let receiver = std::thread::spawn(move || {
        let options = Options::default();
        let mut receiver = Receiver::open(far, &cache(), &options)?;
        let mut sink = Watched::default();
        receiver.receive(&mut sink)?;
        std::thread::sleep(Duration::from_millis(100));
        receiver.taken(Vec::new())?;
        receiver.receive(&mut sink)
    });
    // Reads have 40 ms, computing has longer.
    let mut options = hasty();
    options.deadlines.idle = Duration::from_secs(10);
    let mut sender = Sender::open(near, &cache(), &options).unwrap();
    sender.send(&container(1000), 10).unwrap();
    assert!(matches!(sender.reply().unwrap(), Reply::Taken(_)));
    sender.finish().unwrap();
    receiver.join().unwrap().unwrap();
}

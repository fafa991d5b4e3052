//! Peers that do not fit: each field is named on both sides, with what was wanted and what came.

use smidgen_link::net::{
    Code, Compatibility, Field, NetError, Options, Receiver, Reject, Sender, memory_pair,
};
use smidgen_link::wire::KeySpace;

use crate::support::{cache, frames, key, play, play_file, recorded, sharers_frames, stream};

type Change = fn(&mut Compatibility);

/// What the sharer has instead of what the receiver wants.
const CHANGES: [(Field, Change, &str, &str); 8] = [
    (Field::Family, |cache| cache.family = "qwen".into(), "`llama`", "`qwen`"),
    (Field::Layers, |cache| cache.shape.layers = 7, "6", "7"),
    (Field::KvHeads, |cache| cache.shape.kv_heads = 1, "2", "1"),
    (Field::KeyDim, |cache| cache.shape.key_dim = 33, "32", "33"),
    (Field::ValueDim, |cache| cache.shape.value_dim = 17, "16", "17"),
    (Field::KSpace, |cache| cache.k_space = KeySpace::PostRope, "pre-rope", "post-rope"),
    (Field::RopeTheta, |cache| cache.rope_theta = 10_001.0, "10000", "10001"),
    (Field::Tokenizer, |cache| cache.tokenizer[31] = 0, TOKENIZER, OTHER_TOKENIZER),
];
const TOKENIZER: &str = "1111111111111111111111111111111111111111111111111111111111111111";
const OTHER_TOKENIZER: &str = "1111111111111111111111111111111111111111111111111111111111111100";

/// Opens both sides; their errors.
fn open(
    sharer: &Compatibility,
    sharers: &Options,
    receivers: &Options,
) -> (Option<NetError>, Option<NetError>) {
    let (near, far) = memory_pair();
    let options = receivers.clone();
    let receiver = std::thread::spawn(move || Receiver::open(far, &cache(), &options).err());
    let sender = Sender::open(near, sharer, sharers).err();
    (sender, receiver.join().unwrap())
}

fn assert_refused(
    (sender, receiver): (Option<NetError>, Option<NetError>),
    name: Field,
    (want, came): (&str, &str),
) {
    let Some(NetError::Mismatch { field, wanted, got }) = receiver else {
        panic!("{name}: {receiver:?}")
    };
    assert_eq!((field, &*wanted, &*got), (name, want, came));
    let Some(NetError::Rejected(reject)) = sender else { panic!("{name}: {sender:?}") };
    assert_eq!(reject, Reject::new(Code::Incompatible, name.name(), want, came));
}

#[test]
fn every_field_that_differs_is_named_on_both_sides() {
    for (field, change, want, came) in CHANGES {
        let mut sharer = cache();
        change(&mut sharer);
        let errors = open(&sharer, &Options::default(), &Options::default());
        assert_refused(errors, field, (want, came));
    }
    for (field, digit) in [(Field::Weights, "22"), (Field::Fuser, "33")] {
        let mut sharer = cache();
        (sharer.weights[0], sharer.fuser) = match field {
            Field::Weights => (0, sharer.fuser),
            _ => (sharer.weights[0], Some([0x44; 32])),
        };
        let came = if field == Field::Weights {
            format!("00{}", "22".repeat(31))
        } else {
            "44".repeat(32)
        };
        let errors = open(&sharer, &Options::default(), &Options::default());
        assert_refused(errors, field, (&digit.repeat(32), &came));
    }
}

#[test]
fn a_sharer_needs_no_fuser_but_names_the_right_one() {
    let sharer = Compatibility { fuser: None, ..cache() };
    let errors = open(&sharer, &Options::default(), &Options::default());
    assert!(errors.0.is_none() && errors.1.is_none());
}

#[test]
fn a_receiver_may_ask_for_no_tokenizer_and_no_base_but_a_sharer_names_both() {
    let unsaid = Compatibility { tokenizer: [0; 32], rope_theta: 0.0, ..cache() };
    let (near, far) = memory_pair();
    let asks = unsaid.clone();
    let receiver = std::thread::spawn(move || Receiver::open(far, &asks, &Options::default()));
    Sender::open(near, &cache(), &Options::default()).unwrap();
    receiver.join().unwrap().unwrap();
    let errors = open(&unsaid, &Options::default(), &Options::default());
    assert_refused(errors, Field::RopeTheta, ("10000", "0"));
}

#[test]
fn one_key_alone_is_refused() {
    let keyed = Options { key: key("a"), ..Options::default() };
    let errors = open(&cache(), &Options::default(), &keyed);
    assert_refused(errors, Field::Key, ("a key", "none"));
    let errors = open(&cache(), &keyed, &Options::default());
    assert_refused(errors, Field::Key, ("none", "a key"));
}

#[test]
fn two_sharers_refuse_each_other() {
    let (near, far) = memory_pair();
    let other = std::thread::spawn(move || Sender::open(far, &cache(), &Options::default()).err());
    let errors = [Sender::open(near, &cache(), &Options::default()).err(), other.join().unwrap()];
    for error in errors {
        let error = error.unwrap().to_string();
        assert!(error.starts_with("`role` of the peer: expected receiver, got sharer"), "{error}");
    }
}

#[test]
fn what_is_tolerated_may_differ_on_both_sides() {
    let tolerant = Options { tolerated: vec![Field::Weights, Field::Key], ..Options::default() };
    let sharer = Compatibility { weights: [9; 32], ..cache() };
    let errors = open(&sharer, &tolerant, &tolerant);
    assert!(errors.0.is_none() && errors.1.is_none());
    // Each side decides for itself.
    let (sender, receiver) = open(&sharer, &Options::default(), &tolerant);
    assert!(matches!(sender, Some(NetError::Mismatch { field: Field::Weights, .. })), "{sender:?}");
    assert!(matches!(receiver, Some(NetError::Rejected(_))), "{receiver:?}");
    // A key is no matter of tolerance.
    let keyed = Options { key: key("a"), ..tolerant.clone() };
    assert_refused(open(&cache(), &tolerant, &keyed), Field::Key, ("a key", "none"));
}

/// A sharer's `HELLO` with some bytes changed, played to a receiver.
fn with_hello(change: impl Fn(&mut Vec<u8>)) -> (NetError, Option<String>) {
    let mut all = sharers_frames(100, &Options::default());
    change(&mut all[0].1);
    let played = play(&stream(&all), &Options::default());
    let from_file = play_file(&stream(&all), &Options::default());
    assert_eq!(from_file.error().to_string(), played.error().to_string());
    let reject = played.reject();
    (played.error.unwrap(), reject)
}

#[test]
fn other_versions_and_roles_are_refused() {
    let (error, reject) = with_hello(|hello| hello[8..12].copy_from_slice(&[2, 0, 3, 0]));
    assert_eq!(error.to_string(), "`version` of the peer: expected 1 to 1, got 2 to 3");
    assert_eq!(reject.unwrap(), "1 version");
    let (error, reject) = with_hello(|hello| hello[12] = 2);
    assert!(error.to_string().starts_with("`role` of the peer: expected sharer, got receiver"));
    assert_eq!(reject.unwrap(), "1 role");
}

#[test]
fn a_later_version_may_say_more_and_this_one_not() {
    let all = |greatest: u8| {
        let mut all = sharers_frames(100, &Options::default());
        all[0].1[10] = greatest;
        all[0].1.extend_from_slice(b"something new");
        play(&stream(&all), &Options::default())
    };
    assert!(all(2).error.is_none());
    let error = all(1).error.unwrap().to_string();
    assert!(error.contains("`end` of HELLO: expected the end of the body, got 13 bytes more"));
}

#[test]
fn a_hello_that_is_none_is_named_with_its_place() {
    for (at, value, text) in [
        (0, 0, "`magic` of HELLO: expected 894b564c0d0a1a0a, got 004b564c0d0a1a0a at byte 16"),
        (10, 0, "`greatest version` of HELLO: expected at least 1, got 0 at byte 26"),
        (12, 3, "`role` of HELLO: expected 1 or 2, got 3 at byte 28"),
        (13, 2, "`keyed` of HELLO: expected 0 or 1, got 2 at byte 29"),
        (14, 1, "`reserved` of HELLO: expected 0, got 1 at byte 30"),
        (26, 17, "`max_frame_bytes` of HELLO: expected 4096 to 1048576, got 1114112 at byte 40"),
        (28, 0, "`layers` of HELLO: expected at least 1, got 0 at byte 44"),
        (44, 3, "`k_space` of HELLO: expected 0 to 2, got 3 at byte 60"),
        (
            51,
            0xc6,
            "`rope_theta` of HELLO: expected a finite number from 0 on, got -10000 at byte 64",
        ),
        (180, 65, "`family` of HELLO: expected at most 64 bytes, got 65 at byte 196"),
        (182, 0xff, "`family` of HELLO: expected UTF-8, got invalid utf-8 sequence"),
        (187, 9, "`terms` of HELLO: expected 9 bytes, got 0 bytes at byte 207"),
        (189, 2, "`terms` of HELLO: expected at most 65536 bytes, got 131072 at byte 203"),
    ] {
        let (error, reject) = with_hello(|hello| hello[at] = value);
        assert!(error.to_string().starts_with(text), "{error}");
        assert_eq!(reject.unwrap(), "2 frame");
    }
    let layout = frames(&recorded(0, &Options::default()));
    assert_eq!(layout[0].1.len(), 180 + 2 + "llama".len() + 4);
}

#[test]
fn what_cannot_be_said_is_refused_before_it_is() {
    let long = Compatibility { family: "f".repeat(65), ..cache() };
    let (near, _far) = memory_pair();
    let error = Sender::open(near, &long, &Options::default()).err().unwrap().to_string();
    assert_eq!(error, "`family`: expected at most 64 bytes, got 65");
    let options = Options { terms: vec![0; 65_537], ..Options::default() };
    let (near, _far) = memory_pair();
    let error = Sender::open(near, &cache(), &options).err().unwrap().to_string();
    assert_eq!(error, "`terms`: expected at most 65536 bytes, got 65537");
    let mut options = Options::default();
    options.limits.frame_bytes = 1000;
    let (near, _far) = memory_pair();
    let error = Sender::open(near, &cache(), &options).err().unwrap().to_string();
    assert_eq!(error, "`frame_bytes`: expected 4096 to 1048576, got 1000");
}

#[test]
fn the_two_programs_hear_each_others_terms() {
    let (near, far) = memory_pair();
    let receiver = std::thread::spawn(move || {
        let options = Options { terms: b"layers 3,5".to_vec(), ..Options::default() };
        Receiver::open(far, &cache(), &options).unwrap().peer().terms.clone()
    });
    let options = Options { terms: b"48 tokens".to_vec(), ..Options::default() };
    let sender = Sender::open(near, &cache(), &options).unwrap();
    assert_eq!(sender.peer().unwrap().terms, b"layers 3,5");
    assert_eq!(receiver.join().unwrap(), b"48 tokens");
}

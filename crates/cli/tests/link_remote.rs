//! Two processes with a model each, linked over sockets of this machine.

mod common;
#[path = "common/pair.rs"]
mod pair;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Place, fails, object, program, stdout};
use pair::Pair;
use serde_json::Value;
use smidgen_data::Tokenizer;
use smidgen_link::align::{Alignment, Overlap};
use smidgen_link::fuse::{FuserFacts, LoadedFuser};
use smidgen_link::net::{Address, Exposure, Options, Sender, connect};
use smidgen_link::plan::CalibrationSums;
use smidgen_link::remote::{Host, Said, SharerTerms, as_sharer};
use smidgen_link::select::{AtReceiver, DeltaHat, Scene};
use smidgen_link::wire::{self, Header, Limits, Precision};
use smidgen_link::{KvShape, Question, Receiver, answer_together};
use smidgen_model::KeySpace;
use smidgen_store::Disk;

const TEXT: &str = "7. The cat met the owl, and they ate";
/// Tokens of an answer.
const LIMIT: usize = 12;

impl Pair {
    fn expected(&self) -> [Vec<u32>; 2] {
        self.expected_with("fuser.safetensors")
    }

    /// Tokens of the linked answer, and of the receiver's own, in this process.
    fn expected_with(&self, fuser: &str) -> [Vec<u32>; 2] {
        let (fuser, (side, tokenizer)) = (self.fuser(fuser), &self.receiver);
        let receiver = Receiver::new(side, &fuser).unwrap();
        let tokens = |tokenizer: &Tokenizer| {
            [vec![tokenizer.prefix()], tokenizer.encode(TEXT).unwrap()].concat()
        };
        let (ours, theirs) = (tokens(tokenizer), tokens(&self.sharer.1));
        let alignment =
            Alignment::of_tokens((tokenizer, &ours), (&self.sharer.1, &theirs), Overlap::CoverLast);
        let question = Question { sharer: theirs, receiver: ours, alignment: alignment.unwrap() };
        let (ends, on) = (|token| tokenizer.ends(token), std::ops::ControlFlow::Continue(()));
        let linked =
            answer_together(&self.sharer.0, &receiver, &[question], LIMIT, ends, |_| on).unwrap();
        let host = Host { receiver: &receiver, tokenizer, prompt: None, max_tokens: LIMIT };
        [linked.concat(), host.alone(TEXT).unwrap().tokens]
    }

    fn recv(&self, fuser: &str, more: &[&str]) -> Recv {
        Recv::new(&self.place, fuser, more)
    }

    /// Sends to a receiver; more options.
    fn send(&self, to: &Recv, more: &[&str]) -> assert_cmd::Command {
        let head = ["link", "send", "sharer", "--to", &to.address, "--prompt", TEXT];
        self.place.smidgen(&[&head[..], &["--timeout", "60", "--json"], more].concat())
    }

    /// Keeps what is sent in a file; more options.
    fn keep(&self, file: &str, more: &[&str]) -> assert_cmd::Command {
        let head = ["link", "send", "sharer", "--to", file, "--prompt", TEXT, "--json"];
        self.place.smidgen(&[&head[..], more].concat())
    }

    /// A sharer in this process that has agreed with a receiver.
    fn sharer(&self, to: &Recv) -> Sender {
        let (side, tokenizer) = &self.sharer;
        let ids = [vec![tokenizer.prefix()], tokenizer.encode(TEXT).unwrap()].concat();
        let mut end = 0;
        let ends = ids.iter().map(|id| (end += tokenizer.token_bytes(*id).len() as u32, end).1);
        let said = Said::Text(TEXT.into());
        let terms = SharerTerms { said, ends: ends.collect() }.to_bytes();
        let own = as_sharer(side, tokenizer, KeySpace::PreRope, None).unwrap();
        Sender::open(to.connect(), &own, &Options { terms, ..Options::default() }).unwrap()
    }
}

/// A receiver that listens. It does not outlive its test.
struct Recv {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    address: String,
}

impl Recv {
    fn new(place: &Place, fuser: &str, more: &[&str]) -> Recv {
        let mut command = Command::new(program());
        command.current_dir(place.path(".")).args(["link", "recv", "receiver", "--fuser", fuser]);
        let limit = LIMIT.to_string();
        command.args(["--threads", "1", "--max-tokens", &limit, "--json"]);
        if !more.contains(&"--timeout") {
            command.args(["--timeout", "60"]);
        }
        command.args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it was piped"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("readable");
        let first: Value = serde_json::from_str(&line).expect("an object with the address");
        let address = first["listening"].as_str().expect("an address").to_string();
        Recv { child, lines, address }
    }

    fn connect(&self) -> Box<dyn smidgen_link::net::Transport> {
        let address: Address = self.address.parse().unwrap();
        let wait = std::time::Duration::from_secs(60);
        connect(&address, Exposure::default(), wait).unwrap()
    }

    /// Exit code, one object for each message, and standard error.
    fn end(mut self) -> (Option<i32>, Vec<Value>, String) {
        let (mut out, mut said) = (String::new(), String::new());
        self.lines.read_to_string(&mut out).expect("readable");
        let mut stderr = self.child.stderr.take().expect("it was piped");
        stderr.read_to_string(&mut said).expect("readable");
        let code = self.child.wait().expect("a child of ours").code();
        assert!(!said.contains("bug in smidgen") && !said.contains("panicked"), "{said}");
        let objects = out.lines().map(|line| serde_json::from_str(line).expect("an object"));
        (code, objects.collect(), said)
    }
}

impl Drop for Recv {
    fn drop(&mut self) {
        // One that has ended cannot be ended again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tokens(shown: &Value) -> Vec<u32> {
    serde_json::from_value(shown["tokens"].clone()).unwrap()
}

fn key(place: &Place, name: &str, digit: &str) {
    let path = place.path(name);
    fs::write(&path, digit.repeat(64)).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
}

/// Over both kinds of socket, with and without a key, with and without the text, in one block and in
/// one for each layer, the answer is that of both models in one process.
#[test]
fn a_linked_answer_is_that_of_one_process() {
    let pair = Pair::new();
    let [linked, alone] = pair.expected();
    assert_ne!(linked, alone, "the fuser changes nothing");
    key(&pair.place, "key", "a1");
    let keyed = ["--key-file", "key"];
    for (receive, send) in [
        (&["--listen", "tcp:127.0.0.1:0"][..], &["--format", "f32"][..]),
        (&["--listen", "unix:socket"], &["--format", "f32", "--block", "1"]),
        (&[], &["--format", "f32", "--block", "2", "--rate", "10MB"]),
        (&["--prompt", TEXT], &["--format", "f32", "--no-text", "--fuser", "fuser.safetensors"]),
        (&keyed, &["--format", "f32", keyed[0], keyed[1], "--rate", "10MB", "--rtt", "2"]),
    ] {
        let recv = pair.recv("fuser.safetensors", &[receive, &["--count", "1"]].concat());
        let sent = object(pair.send(&recv, send));
        let (code, shown, said) = recv.end();
        assert_eq!((code, shown.len()), (Some(0), 1), "{said}");
        let shown = &shown[0];
        assert_eq!(tokens(shown), linked, "{receive:?} {send:?}");
        assert_eq!((&shown["linked"], &shown["fallback"]), (&true.into(), &false.into()));
        assert_eq!(shown["prompt"], TEXT);
        let bytes = sent["container_bytes"].as_u64().unwrap();
        assert!(bytes > 1000);
        assert_eq!(shown["container_bytes"], bytes);
        // Each side counts the same bytes; the sharer has also said goodbye, in 16 of them.
        let ours = &sent["link_bytes"]["sent"];
        let theirs = &shown["link_bytes"]["received"];
        assert_eq!(ours["container"], bytes);
        for part in ["container", "handshake", "mac", "control"] {
            assert_eq!(ours[part], theirs[part], "{part}");
        }
        assert_eq!(ours["framing"].as_u64(), theirs["framing"].as_u64().map(|bytes| bytes + 16));
        assert_eq!(sent["link_bytes"]["received"], shown["link_bytes"]["sent"]);
        // HELLO with its terms, and ACCEPT: the text travels in the handshake.
        let said = if send.contains(&"--no-text") { 32 } else { TEXT.len() };
        let proof = if send.contains(&"--key-file") { 32 } else { 0 };
        let terms = 8 + TEXT.len().div_ceil(8) + said;
        assert_eq!(ours["handshake"], 180 + 2 + "smidgen".len() + 4 + terms + 8 + proof);
        let stages = sent["receiver"]["stages"].as_array().unwrap();
        let names: Vec<_> = stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
        let work = ["align", "prefill", "transfer", "verify", "decode", "fuse"];
        assert_eq!(names, [&work[..], &["first_token", "rest"]].concat());
        assert_eq!(sent["receiver"]["stages"], shown["stages"]);
        let stages = sent["stages"].as_array().unwrap();
        let names: Vec<_> = stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
        let work = ["handshake", "prefill", "score", "allocate", "encode"];
        assert_eq!(names, [&work[..], &["first_byte", "last_byte", "reply"]].concat());
        assert!(shown["peak_rss_bytes"].as_u64().unwrap() > 1 << 20);
    }
    assert!(!pair.place.path("socket").exists());
}

#[test]
fn a_cap_is_kept_to_the_byte_and_below_the_smallest_message_nothing_is_sent() {
    let pair = Pair::new();
    let [_, alone] = pair.expected();
    let caps = ["100", "1500", "3000", "1MiB"];
    let recv = pair.recv("fuser.safetensors", &["--count", &(caps.len() + 1).to_string()]);
    let mut sizes = Vec::new();
    for cap in caps {
        let sent = object(pair.send(&recv, &["--cap", cap]));
        let bytes = sent["container_bytes"].as_u64().unwrap();
        assert!(bytes <= sent["cap_bytes"].as_u64().unwrap(), "{sent}");
        assert_eq!(sent["link_bytes"]["sent"]["container"], bytes);
        assert_eq!(sent["empty"].is_null(), bytes > 0);
        sizes.push(bytes);
        if bytes == 0 {
            assert_eq!(
                (&sent["empty"], &sent["sent_tokens"]),
                (&"cap_too_small".into(), &0.into())
            );
        }
    }
    assert!(sizes.is_sorted_by(|a, b| a < b) && sizes[0] == 0, "{sizes:?}");
    // What cannot be is said before anybody is called.
    fails(pair.send(&recv, &["--select", "bakc"]), 2, "`back`");
    fails(pair.send(&recv, &["--share", "0"]), 2, "`share`: expected above 0");
    let quarter = object(pair.send(&recv, &["--format", "int4", "--share", "0.25"]));
    let [all, some] = ["prompt_tokens", "sent_tokens"].map(|name| quarter[name].as_f64().unwrap());
    assert_eq!((0.25 * all).round_ties_even(), some);
    let (code, shown, said) = recv.end();
    assert_eq!((code, shown.len()), (Some(0), 5), "{said}");
    assert_eq!((tokens(&shown[0]), &shown[0]["linked"]), (alone, &false.into()));
    assert_eq!(shown[0]["reason"], "the cap is below the smallest message");
    assert_eq!(shown[0]["container_bytes"], 0);
    assert_eq!(shown[3]["linked"], true);
}

/// Of a layer with one gate open only that half travels, and where no gate is open nothing does.
#[test]
fn what_no_gate_reads_does_not_travel() {
    let pair = Pair::new();
    // The values of the receiver's second layer.
    pair.save_open("half.safetensors", 3, pair.facts(), |gate| gate == 3);
    pair.save_open("closed.safetensors", 3, pair.facts(), |_| false);
    let shape = pair.sharer.0.kv_shape();
    let [linked, alone] = pair.expected_with("half.safetensors");
    assert_ne!(linked, alone, "one half changes nothing");
    for compact in [&[][..], &["--compact"]] {
        let recv = pair.recv("half.safetensors", &["--count", "1"]);
        let sent = object(pair.send(&recv, &[&["--format", "f32"], compact].concat()));
        let (code, shown, said) = recv.end();
        assert_eq!((code, shown.len()), (Some(0), 1), "{said}");
        assert_eq!((tokens(&shown[0]), &shown[0]["linked"]), (linked.clone(), &true.into()));
        let rows = 4 * sent["prompt_tokens"].as_u64().unwrap() * shape.value_row() as u64;
        // Header, entries and the list of one layer; or what a compact message has beside its numbers.
        let beside = if compact.is_empty() { 120 + 2 * 32 + 2 } else { 17 + 1 + 4 };
        assert!(shape.layers > 1 && sent["prompt_tokens"].as_u64() < Some(128));
        assert_eq!(sent["container_bytes"], rows + beside);
    }
    // Nobody hears a file, but the fuser of its reader says as much.
    let kept = |more: &[&str]| object(pair.keep("file:half", more))["container_bytes"].clone();
    let all = kept(&["--format", "f32"]);
    let half = kept(&["--format", "f32", "--fuser", "half.safetensors"]);
    assert!(all.as_u64().unwrap() > 3 * half.as_u64().unwrap(), "{all} {half}");

    let recv = pair.recv("closed.safetensors", &["--count", "1"]);
    let sent = object(pair.send(&recv, &[]));
    let (code, shown, said) = recv.end();
    assert_eq!((code, shown.len()), (Some(0), 1), "{said}");
    assert_eq!((&sent["empty"], &sent["container_bytes"]), (&"nothing_needed".into(), &0.into()));
    assert_eq!(sent["link_bytes"]["sent"]["container"], 0);
    assert_eq!((tokens(&shown[0]), &shown[0]["linked"]), (alone, &false.into()));
    assert_eq!(shown[0]["reason"], "no gate of the fuser is open");
}

/// What was kept in a file is answered as if it had come over a socket; in its compact form too, whose
/// schema both sides count apart.
#[test]
fn what_was_kept_in_a_file_is_read_back() {
    let pair = Pair::new();
    let [linked, _] = pair.expected();
    let mut sizes = Vec::new();
    for compact in [&[][..], &["--compact"]] {
        let sent = object(pair.keep("file:kept", &[&["--format", "f32"], compact].concat()));
        let recv = pair.recv("fuser.safetensors", &["--listen", "file:kept"]);
        assert_eq!(recv.address, "file:kept");
        let (code, shown, said) = recv.end();
        assert_eq!((code, shown.len()), (Some(0), 1), "{said}");
        assert_eq!((tokens(&shown[0]), &shown[0]["linked"]), (linked.clone(), &true.into()));
        let bytes = sent["container_bytes"].as_u64().unwrap();
        assert_eq!(shown[0]["container_bytes"], bytes);
        let (ours, theirs) = (&sent["link_bytes"]["sent"], &shown[0]["link_bytes"]["received"]);
        assert_eq!((&ours["container"], &ours["schema"]), (&bytes.into(), &theirs["schema"]));
        assert_eq!(ours["container"], theirs["container"]);
        assert!(sent["receiver"].is_null());
        sizes.push((bytes, ours["schema"].as_u64().unwrap()));
    }
    let [(whole, 0), (compact, schema)] = sizes[..] else { panic!("{sizes:?}") };
    // A header with two entries, and what a compact message has beside its numbers.
    assert_eq!(whole - compact, 120 + 2 * 32 - (17 + 1 + 4));
    assert!((100..250).contains(&schema), "{schema}");
    assert!(pair.place.path("kept").exists());
    fails(pair.keep("file:kept", &["--compact", "--block", "1"]), 2, "--block");
}

/// Layers in other formats, keys and values in two, and layers that are dropped.
#[test]
fn layers_travel_as_the_schedule_says() {
    let pair = Pair::new();
    let layers = pair.sharer.0.kv_shape().layers;
    let last = format!("last {}=int8", layers - 1);
    let drop = format!("first {}=drop", layers - 1);
    let recv = pair.recv("fuser.safetensors", &["--count", "5"]);
    let bytes = |more: &[&str]| object(pair.send(&recv, more))["container_bytes"].as_u64().unwrap();
    let [int8, int4] = ["int8", "int4"].map(|name| bytes(&["--format", name]));
    let both = bytes(&["--format", "int8/int4"]);
    assert_eq!(2 * both, int8 + int4);
    let mixed = bytes(&["--format", "int4", "--layers", &last]);
    assert!(int4 < mixed && mixed < int8, "{int4} {mixed} {int8}");
    let one = bytes(&["--format", "int8", "--layers", &drop]);
    assert!(one * (layers as u64) < int8 + 400 * layers as u64, "{one} {int8}");
    let (code, shown, said) = recv.end();
    assert_eq!((code, shown.len()), (Some(0), 5), "{said}");
    assert!(shown.iter().all(|shown| shown["linked"] == true));
    let wrong = format!("{layers}=drop");
    fails(pair.keep("file:x", &["--layers", &wrong]), 2, "`layers`: expected layers below");
    fails(pair.keep("file:x", &["--layers", "2"]), 2, "such as `2=drop`");
    fails(pair.keep("file:x", &["--format", "int8/int9"]), 2, "unknown precision `int9`");
}

/// What lies beside a fuser chooses under a cap, and only there; a regressor can be asked for.
#[test]
fn what_was_learnt_of_a_fuser_chooses() {
    let pair = Pair::new();
    let (fuser, shape) = (pair.fuser("fuser.safetensors"), pair.sharer.0.kv_shape());
    let insist = ["--fuser", "fuser.safetensors"];
    let send = |more: &[&str]| object(pair.keep("file:kept", &[&insist, more].concat()));
    let without = send(&["--cap", "2000"]);
    assert_eq!(without["chosen_by"], "back");
    let bytes = container(&pair);
    let needs = "needs a regressor: `--fuser` with a `delta_hat.json` beside it";
    fails(pair.keep("file:x", &["--select", "delta_hat"]), 2, needs);
    fails(pair.keep("file:x", &["--select", "delta_hat", insist[0], insist[1]]), 2, needs);

    let mut sums = CalibrationSums::new(shape.layers);
    for layer in 0..shape.layers {
        sums.add_change(layer, &[1.0], &[0.0]);
        sums.add_loss(layer, Precision::Int4, &[0.99], &[0.0]);
        sums.add_loss(layer, Precision::Int8, &[0.01], &[0.0]);
    }
    let weights = vec![1.0; shape.layers];
    let found = sums.finish(&fuser.fingerprint(), 1, vec!["a".into()], weights).unwrap();
    let found = found.with_weighers([("vnorm_topk".to_string(), 1.0)].into()).unwrap();
    found.save(&Disk, &pair.place.path("calibration.json")).unwrap();
    delta_hat(&fuser, shape).save(&Disk, &pair.place.path("delta_hat.json")).unwrap();

    let with = send(&["--cap", "2000"]);
    assert_eq!(with["chosen_by"], "vnorm_topk");
    assert_ne!(with["sent_tokens"], without["sent_tokens"], "int8 costs more than int4");
    send(&["--cap", "2000", "--select", "back"]);
    assert!(container(&pair) == bytes, "a selector that is asked for is the one that chooses");
    let share = |select| ["--share", "0.25", "--select", select];
    let [back, hat] = ["back", "delta_hat"].map(|select| send(&share(select)));
    assert_eq!(
        (&hat["chosen_by"], &hat["sent_tokens"]),
        (&"delta_hat".into(), &back["sent_tokens"])
    );

    let recv = pair.recv("fuser.safetensors", &["--count", "1"]);
    let sent = object(pair.send(&recv, &[&insist[..], &share("delta_hat")].concat()));
    assert_eq!(sent["chosen_by"], "delta_hat");
    assert_eq!(recv.end().0, Some(0));

    // Those of another fuser are none of this one's.
    pair.save("other.safetensors", 4, pair.facts());
    let other = ["--fuser", "other.safetensors"];
    fails(pair.keep("file:x", &other), 1, "calibration: expected fuser");
}

/// A regressor of a fuser for a sharer of this shape, fitted to changes of nothing in particular.
fn delta_hat(fuser: &LoadedFuser, shape: KvShape) -> DeltaHat {
    let KvShape { layers, kv_heads, key_dim, .. } = shape;
    let cache = |seed| wire::reference(seed, layers, kv_heads, key_dim, 30);
    let [sharer, own, fused] = [1, 2, 3].map(cache);
    let source_of: Vec<_> = (0..layers).map(Some).collect();
    let receiver = AtReceiver { own: own.view(), fused: fused.view(), source_of: &source_of };
    let scene = Scene { receiver: Some(receiver), ..Scene::of_sharer(0, 0, sharer.view()) };
    let all: Vec<usize> = (0..layers).collect();
    DeltaHat::fit(&fuser.fingerprint(), &[scene], &all, 0.01).unwrap()
}

#[test]
fn whoever_does_not_fit_is_refused_by_name_on_both_sides() {
    let pair = Pair::new();
    let facts = pair.facts();
    let zeros = "00".repeat(31) + "01";
    pair.save("other.safetensors", 4, facts.clone());
    pair.save("sharer.safetensors", 3, FuserFacts { sharer: zeros.clone(), ..facts.clone() });
    pair.save("tokenizer.safetensors", 3, FuserFacts { tokenizer: zeros.clone(), ..facts.clone() });
    key(&pair.place, "key", "a1");
    key(&pair.place, "other-key", "b2");
    for (fuser, receive, send, field) in [
        ("sharer.safetensors", &[][..], &[][..], "`weights`"),
        ("tokenizer.safetensors", &[], &[], "`tokenizer`"),
        ("fuser.safetensors", &[], &["--fuser", "other.safetensors"], "`fuser`"),
        ("fuser.safetensors", &[], &["--keys", "after"], "`k_space`"),
        ("fuser.safetensors", &["--prompt", "Another."], &[], "`prompt`"),
        ("fuser.safetensors", &[], &["--no-text"], "`prompt`"),
        ("fuser.safetensors", &["--key-file", "key"], &[], "`key`"),
        ("fuser.safetensors", &["--key-file", "key"], &["--key-file", "other-key"], "ACCEPT"),
    ] {
        let recv = pair.recv(fuser, &[receive, &["--count", "1"]].concat());
        fails(pair.send(&recv, send), 1, field);
        let (code, shown, said) = recv.end();
        assert_eq!((code, shown.len()), (Some(1), 0), "{said}");
        assert!(said.contains(field), "expected {field}, got: {said}");
    }
    pair.save("receiver.safetensors", 3, FuserFacts { receiver: zeros, ..facts });
    let args = ["link", "recv", "receiver", "--fuser", "receiver.safetensors"];
    fails(pair.place.smidgen(&args), 3, "another checkpoint of it");
}

/// What a peer can do wrong: leave before a word, in a message, say nothing, send no container.
#[test]
fn a_link_that_fails_is_an_error_or_a_marked_answer_of_the_receivers_own() {
    let pair = Pair::new();
    let [_, alone] = pair.expected();
    let stranger = |recv: &Recv| {
        let at = recv.address.strip_prefix("tcp:").unwrap();
        TcpStream::connect(at).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    };
    let leaves = |recv: &Recv| {
        let mut sender = pair.sharer(recv);
        drop(sender.begin(5000, &[1; 200]));
    };
    let cut = |recv: &Recv| {
        // A header that is one, and then nothing.
        let mut sender = pair.sharer(recv);
        let container = container(&pair);
        let mut outgoing =
            sender.begin(container.len() as u64, &container[..header_bytes(&container)]).unwrap();
        outgoing.write(&container[header_bytes(&container)..400]).unwrap();
        outgoing.flush().unwrap();
    };
    let lies = |recv: &Recv| {
        let mut sender = pair.sharer(recv);
        let mut container = container(&pair);
        *container.last_mut().unwrap() ^= 1;
        let sent = sender.send(&container, header_bytes(&container));
        let error = sent.and_then(|()| sender.reply().map(drop)).unwrap_err().to_string();
        assert!(error.contains("`container`: expected a valid one, got checksum"), "{error}");
    };
    let longer = |recv: &Recv| {
        let container = container(&pair);
        let header = &container[..header_bytes(&container)];
        drop(pair.sharer(recv).begin(container.len() as u64 + 1, header));
    };
    let silent = |recv: &Recv| std::mem::forget(pair.sharer(recv));
    type Peer<'a> = &'a dyn Fn(&Recv);
    for (peer, options, code, message) in [
        (&stranger as Peer<'_>, &["--prompt", TEXT][..], 1, "frame"),
        (&leaves, &[], 3, "container"),
        (&cut, &[], 1, "message discarded after 400 of"),
        (&lies, &[], 3, "checksum of `scale-v`"),
        (&longer, &[], 3, "`container bytes`: expected"),
        (&silent, &["--timeout", "1"], 1, "the peer stalled"),
    ] {
        let recv = pair.recv("fuser.safetensors", &[&["--count", "1"], options].concat());
        peer(&recv);
        let (got, shown, said) = recv.end();
        assert_eq!((got, shown.len()), (Some(code), 0), "{said}");
        assert!(said.contains(message), "expected `{message}`, got: {said}");

        let more = [&["--count", "1", "--fallback"], options].concat();
        let recv = pair.recv("fuser.safetensors", &more);
        peer(&recv);
        let (got, shown, said) = recv.end();
        assert_eq!((got, shown.len()), (Some(0), 1), "{said}");
        assert_eq!((&shown[0]["fallback"], &shown[0]["linked"]), (&true.into(), &false.into()));
        assert!(shown[0]["reason"].as_str().unwrap().contains(message), "{}", shown[0]);
        assert_eq!(tokens(&shown[0]), alone);
    }
    let recv = pair.recv("fuser.safetensors", &["--count", "1", "--fallback"]);
    stranger(&recv);
    let (got, shown, said) = recv.end();
    assert_eq!((got, shown.len()), (Some(1), 0), "{said}");
    assert!(said.contains("there is no --prompt"), "{said}");
}

/// Layers that were fused already are the receiver's own again.
#[test]
fn a_message_that_is_withdrawn_half_way_leaves_no_trace() {
    let pair = Pair::new();
    let [linked, alone] = pair.expected();
    let container = container(&pair);
    let header = Header::parse(&container, &Limits::default()).unwrap();
    assert!(header.blocks() > 1);
    let recv = pair.recv("fuser.safetensors", &["--count", "2"]);
    let mut sender = pair.sharer(&recv);
    let (start, end) = (header.header_bytes(), header.block_bytes(0).end as usize);
    let mut outgoing = sender.begin(header.total_bytes, &container[..start]).unwrap();
    outgoing.write(&container[start..end]).unwrap();
    outgoing.flush().unwrap();
    outgoing.cancel("on second thought").unwrap();
    sender.finish().unwrap();
    object(pair.send(&recv, &["--format", "f32", "--block", "1"]));
    let (code, shown, said) = recv.end();
    assert_eq!((code, shown.len()), (Some(0), 2), "{said}");
    assert_eq!((tokens(&shown[0]), &shown[0]["linked"]), (alone, &false.into()));
    assert_eq!(shown[0]["reason"], "on second thought");
    assert_eq!(shown[0]["discarded"]["messages"], 1);
    assert_eq!((tokens(&shown[1]), &shown[1]["linked"]), (linked, &true.into()));
}

/// A failed link does not end a receiver that waits for more; its exit code is that of the failure.
#[test]
fn a_receiver_goes_on_behind_a_failure() {
    let pair = Pair::new();
    let [linked, _] = pair.expected();
    let recv = pair.recv("fuser.safetensors", &["--count", "2"]);
    fails(pair.send(&recv, &["--keys", "after"]), 1, "`k_space`");
    object(pair.send(&recv, &["--format", "f32"]));
    let (code, shown, said) = recv.end();
    assert_eq!((code, shown.len()), (Some(1), 1), "{said}");
    assert_eq!(tokens(&shown[0]), linked);
    assert!(said.contains("`k_space`"), "{said}");
}

#[test]
fn other_machines_are_reached_only_with_a_permission_and_a_key() {
    let place = Place::new();
    let recv = ["link", "recv", "x", "--fuser", "x", "--listen", "0.0.0.0:0"];
    fails(place.smidgen(&recv), 2, "expected a loopback address, got `tcp:0.0.0.0:0`");
    let allowed = [&recv[..], &["--allow-remote"]].concat();
    fails(place.smidgen(&allowed), 2, "expected a key for `tcp:0.0.0.0:0`, got none");
    fs::write(place.path("key"), "a1".repeat(32)).unwrap();
    let keyed = [&allowed[..], &["--key-file", "key"]].concat();
    #[cfg(unix)]
    fails(place.smidgen(&keyed), 3, "expected a file that only its owner can read");
    let far = ["link", "send", "x", "--prompt", "x", "--to", "192.0.2.7:1", "--key-file", "none"];
    fails(place.smidgen(&far), 1, "cannot read the key in none");
    let send = ["link", "send", "x", "--prompt", "x", "--to", "here"];
    fails(place.smidgen(&send), 2, "expected `tcp:HOST:PORT`, `unix:PATH` or `file:PATH`");
}

/// The same two processes as a measurement: every stage is there, the bytes are those of the container.
#[test]
fn messages_between_two_models_are_measured() {
    let pair = Pair::new();
    let bench = |receiver: &str, sharer: &str, more: &[&str]| {
        let head =
            ["link", "bench", "--pair", receiver, sharer, "--messages", "3", "--warm-up", "1"];
        let tail = ["--fuser", "fuser.safetensors", "--prompt", TEXT, "--max-tokens", "3"];
        pair.place.smidgen(&[&head[..], &tail, more].concat())
    };
    let report = object(bench("receiver", "sharer", &["--json"]));
    assert_eq!((report["latency"].as_array().unwrap().len(), &report["rates"]), (0, &Value::Null));
    let report = &report["pair"];
    assert_eq!((&report["messages"], &report["warm_up"]), (&3.into(), &1.into()));
    for side in ["sharer", "receiver"] {
        assert!(report[format!("{side}_peak_rss_bytes")].as_u64().unwrap() > 1 << 20);
    }
    let kinds = report["kinds"].as_array().unwrap();
    let names: Vec<_> = kinds.iter().map(|kind| kind["kind"].as_str().unwrap()).collect();
    assert_eq!(names, ["f16", "int8", "int4", "rd_hull 1/8", "none"]);
    for kind in kinds {
        let name = kind["kind"].as_str().unwrap();
        let of = |side: &str| {
            let stages = kind["stages"].as_array().unwrap().iter();
            let of_side = stages.filter(|stage| stage["side"] == side);
            of_side.map(|stage| stage["stage"].as_str().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of("both"), ["to_first_token", "to_answer"]);
        for stage in kind["stages"].as_array().unwrap() {
            let [p50, p95, p99] =
                ["p50_us", "p95_us", "p99_us"].map(|key| stage[key].as_f64().unwrap());
            assert!(0.0 <= p50 && p50 <= p95 && p95 <= p99, "{name}: {stage}");
        }
        let bytes = kind["container_bytes"].as_u64().unwrap();
        assert_eq!(kind["link_bytes"]["sent"]["container"], bytes, "{name}");
        assert_eq!(kind["discarded"]["messages"], 0);
        if name == "none" {
            assert_eq!((bytes, &kind["empty"]), (0, &"cap_too_small".into()));
            assert_eq!(of("sharer"), ["handshake"]);
            assert_eq!(of("receiver"), ["align", "prefill", "first_token", "rest"]);
            continue;
        }
        let work = ["handshake", "prefill", "score", "allocate", "encode"];
        assert_eq!(of("sharer"), [&work[..], &["first_byte", "last_byte", "reply"]].concat());
        let work = ["align", "prefill", "transfer", "verify", "decode", "fuse"];
        assert_eq!(of("receiver"), [&work[..], &["first_token", "rest"]].concat());
        match kind["cap_bytes"].as_u64() {
            Some(cap) => assert!((1..=cap).contains(&bytes), "{bytes} of {cap}"),
            None => {
                let file = format!("file:{name}");
                let send = ["link", "send", "sharer", "--to", &file, "--prompt", TEXT, "--json"];
                let sent = object(pair.place.smidgen(&[&send[..], &["--format", name]].concat()));
                assert_eq!(sent["container_bytes"], bytes, "{name}");
            }
        }
    }
    let more = ["--block", "1", "--rate", "1000Mbit", "--model-threads", "2"];
    let text = stdout(bench("receiver", "sharer", &more));
    assert!(text.contains("over tcp at 1000 Mbit/s and 0 ms"), "{text}");
    assert!(text.contains("none: 0 tokens in 0 bytes"), "{text}");
    let none = "a folder without `run.toml` and `config.json` at text";
    fails(bench("receiver", "text", &[]), 3, none);
    fails(bench("text", "sharer", &[]), 3, none);
    fails(pair.place.smidgen(&["link", "bench", "--pair", "receiver", "sharer"]), 2, "--fuser");
    fails(bench("receiver", "sharer", &["--only", "rates"]), 2, "--only");
}

/// Where the header of a container ends, as it says itself.
fn header_bytes(container: &[u8]) -> usize {
    u32::from_le_bytes(container[12..16].try_into().unwrap()) as usize
}

/// The container of every token in int8, a block for each layer, as a sharer sends it.
fn container(pair: &Pair) -> Vec<u8> {
    let file = pair.place.path("kept");
    if !Path::exists(&file) {
        let args = ["link", "send", "sharer", "--to", "file:kept", "--prompt", TEXT, "--json"];
        stdout(pair.place.smidgen(&[&args[..], &["--block", "1"]].concat()));
    }
    let stream = fs::read(file).unwrap();
    // One frame after the other: the container is the header in BEGIN and the CHUNKs.
    let (mut at, mut container) = (0, Vec::new());
    while let Some(head) = stream.get(at..at + 16) {
        let len = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let body = &stream[at + 16..][..len];
        match head[4] {
            5 => container.extend_from_slice(&body[8..]),
            6 => container.extend_from_slice(body),
            _ => {}
        }
        at += 16 + len;
    }
    container
}

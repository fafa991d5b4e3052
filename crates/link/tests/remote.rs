//! What a sharer says of the text it read, against the text that its receiver has.

use std::thread;

use smidgen_codec::Ledger;
use smidgen_data::Tokenizer;
use smidgen_link::fuse::{FuserConfig, FuserFacts, LoadedFuser, PairShape};
use smidgen_link::net::{Code, NetError, Options, Sender, memory_pair};
use smidgen_link::remote::{Host, Said, SharerTerms, as_sharer, tokenizer_sha256};
use smidgen_link::{Error, Receiver, Side};
use smidgen_model::{Decoder, Spec};
use smidgen_tensor::{Compute, Device, Params};

const TEXT: &str = "The cat met the owl, and they ate.";

fn side(layers: usize, seed: u64) -> Side {
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let spec = Spec::new(270, 16, layers, 2, 24, 32);
    let decoder = Decoder::new(&device, spec, &mut params).unwrap();
    decoder.init(&mut params, seed);
    Side { device, compute: Compute::F32, decoder, params }
}

/// Ends of tokens that a digest does not prove. The receiver would make room for all of them.
#[test]
fn ends_that_are_not_those_of_the_text_are_refused_on_both_sides() {
    let tokenizer = Tokenizer::train(&[&TEXT.repeat(40)], 270, 1).unwrap();
    let (sharer, receiver) = (side(3, 1), side(2, 2));
    let pair = PairShape::new(sharer.kv_shape(), receiver.kv_shape());
    let config = FuserConfig { hidden: 8, inner: 8, ..FuserConfig::default() };
    let facts = FuserFacts {
        sharer: sharer.fingerprint(),
        receiver: receiver.fingerprint(),
        tokenizer: tokenizer_sha256(&tokenizer),
        steps: 1,
    };
    let space = config.k_space;
    let fuser = LoadedFuser::fresh(&receiver.device, config, pair, facts, 3).unwrap();
    let receiver = Receiver::new(&receiver, &fuser).unwrap();
    let prompt = Some(TEXT.into());
    let host = Host { receiver: &receiver, tokenizer: &tokenizer, prompt, max_tokens: 4 };
    let own = as_sharer(&sharer, &tokenizer, space, None).unwrap();
    let open = |said: &Said, ends: Vec<u32>| {
        let terms = SharerTerms { said: said.clone(), ends }.to_bytes();
        let (near, far) = memory_pair();
        thread::scope(|scope| {
            let sharer = scope.spawn(|| {
                let options = Options { terms, ..Options::default() };
                Sender::open(near, &own, &options)?.ping().map(drop)
            });
            let opened = host.open(far, &Options::default()).map(drop);
            (opened, sharer.join().unwrap())
        })
    };
    let (digest, text) = (Said::Digest(Said::digest_of(TEXT)), Said::Text(TEXT.into()));
    let bytes = TEXT.len() as u32;
    for said in [&digest, &text] {
        assert!(open(said, (0..=bytes).collect()).0.is_ok(), "a token for each byte");
    }
    let every_bit = (0..=8 * 65_000).collect();
    for (ends, code, got) in [
        ((0..bytes).collect(), Code::Protocol, bytes - 1),
        ((0..=bytes + 1).collect(), Code::Protocol, bytes + 1),
        (vec![0; 255], Code::Protocol, 0),
        (every_bit, Code::TooLarge, 520_001),
    ] {
        let (opened, told) = open(&digest, ends);
        let Err(Error::Net(NetError::Refused(refused))) = opened else { panic!("{opened:?}") };
        assert_eq!((refused.code, &*refused.field), (code, "terms: ends of tokens"));
        assert_eq!(refused.got, got.to_string());
        assert!(matches!(told, Err(NetError::Rejected(told)) if told == refused));
    }
}

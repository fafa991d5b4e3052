//! What is not fused keeps its bits, and what is fused does not depend on what is not.

use smidgen_link::fuse::{Arrival, FUSERS, Fill, Mapping, Present};
use smidgen_link::{Read, Receiver};
use smidgen_model::{Front, KeySpace};
use smidgen_tensor::{Compute, Device, Level, Role};

use crate::models::*;

/// Rows of keys and of values at a layer, by place: their bits.
type Rows = Vec<(Vec<u32>, Vec<u32>)>;

fn rows(front: &Front, layer: usize) -> Rows {
    let (keys, values) = &front.layers[layer];
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect();
    let each = keys.slice::<f32>().chunks(keys.cols()).zip(values.slice().chunks(values.cols()));
    each.map(|(key, value)| (bits(key), bits(value))).collect()
}

/// The same bits where register tiles multiply; below them a product may depend on the rows beside it.
fn same(
    device: &Device,
    compute: Compute,
    a: &(Vec<u32>, Vec<u32>),
    b: &(Vec<u32>, Vec<u32>),
) -> bool {
    let (tiles, bound) = match compute {
        Compute::F32 => (device.level() >= Level::Avx512, 1e-5),
        Compute::Bf16 => (device.level() >= Level::Avx512Bf16, 1e-2),
    };
    let near = |(a, b): (&u32, &u32)| {
        let (a, b) = (f32::from_bits(*a), f32::from_bits(*b));
        (a - b).abs() < bound * (1.0 + a.abs())
    };
    a == b || !tiles && a.0.iter().zip(&b.0).chain(a.1.iter().zip(&b.1)).all(near)
}

fn everywhere(test: impl Fn(&str, KeySpace, Compute)) {
    for variant in FUSERS {
        for space in SPACES {
            for compute in [Compute::F32, Compute::Bf16] {
                test(variant.name(), space, compute);
            }
        }
    }
}

#[test]
fn closed_gates_and_nothing_that_arrived_are_the_receiver_alone() {
    everywhere(|variant, space, compute| {
        let device = device();
        let (sharer, receiver) = (sharer(&device, compute), receiver(&device, compute));
        let mut fuser = open_fuser(config(variant, space), &sharer, &receiver);
        let items = items(0..5);
        let caches = shared(&sharer, &items, space);
        let prompts: Vec<&[u32]> = items.iter().map(|item| &*item.receiver).collect();
        let nothing: Vec<Present> =
            caches.iter().map(|cache| Present::tokens(3, cache.tokens(), &[])).collect();
        let whole: Vec<Arrival<'_>> = caches
            .iter()
            .zip(&items)
            .map(|(cache, item)| Arrival::whole(cache.view(), &item.alignment))
            .collect();
        let none: Vec<Arrival<'_>> =
            whole.iter().zip(&nothing).map(|(all, present)| Arrival { present, ..*all }).collect();
        {
            let linked = Receiver::new(&receiver, &fuser).unwrap();
            let read = linked.read(&prompts).unwrap();
            let alone = linked.logits(&read, None).unwrap();
            assert!(linked.logits(&read, Some(&none)).unwrap() == alone, "nothing arrived");
            assert!(linked.logits(&read, Some(&whole)).unwrap() != alone, "it changes something");
        }
        // The smallest number over zero is open, zero is closed.
        for (gate, is_open) in [(0.0, false), (-3.0, false), (f32::NAN, false), (1e-30, true)] {
            let gates = fuser.params.iter_mut().filter(|(_, param)| param.role == Role::Gate);
            gates.for_each(|(_, param)| param.fill(|_, values| values.fill(gate)));
            let linked = Receiver::new(&receiver, &fuser).unwrap();
            let read = linked.read(&prompts).unwrap();
            let alone = linked.logits(&read, None).unwrap();
            let got = linked.logits(&read, Some(&whole)).unwrap();
            assert_eq!(got == alone, !is_open, "{variant} {space:?}, gate {gate}");
            let mut session = linked.session(40).unwrap();
            for (prompt, arrival) in prompts.iter().zip(&whole) {
                let alone = linked.begin(&mut session, prompt, None).unwrap();
                let got = linked.begin(&mut session, prompt, Some(arrival)).unwrap();
                assert_eq!(got == alone, !is_open, "{variant} {space:?}, gate {gate}");
            }
            let needed = fuser.fuser.needed(&fuser.params);
            assert_eq!(needed, [[false; 2], [is_open; 2], [is_open; 2]]);
        }
    });
}

#[test]
fn tokens_that_arrived_are_fused_as_if_all_had() {
    everywhere(|variant, space, compute| {
        let device = device();
        let (sharer, receiver) = (sharer(&device, compute), receiver(&device, compute));
        let fuser = open_fuser(config(variant, space), &sharer, &receiver);
        let linked = Receiver::new(&receiver, &fuser).unwrap();
        let items = items(0..5);
        let caches = shared(&sharer, &items, space);
        let prompts: Vec<&[u32]> = items.iter().map(|item| &*item.receiver).collect();
        let read: Read = linked.read(&prompts).unwrap();
        let base = linked.fused(&read, None).unwrap();
        let run = |present: &dyn Fn(usize, usize) -> Present, fill| {
            let present: Vec<Present> =
                caches.iter().enumerate().map(|(i, cache)| present(i, cache.tokens())).collect();
            let each = caches.iter().zip(&items).zip(&present);
            let arrivals: Vec<Arrival<'_>> = each
                .map(|((cache, item), present)| {
                    let whole = Arrival::whole(cache.view(), &item.alignment);
                    Arrival { present, fill, ..whole }
                })
                .collect();
            linked.fused(&read, Some(&arrivals)).unwrap()
        };
        let dense = run(&|_, _| Present::All, Fill::ReceiverOnly);
        let all = run(&|_, tokens| Present::Rows(vec![true; 3 * tokens]), Fill::ReceiverOnly);
        // Of every layer other tokens, and of the first layer none.
        let chosen = |i: usize, tokens: usize| -> Vec<Vec<u32>> {
            let every =
                |n: usize| (0..tokens as u32).filter(|t| (*t as usize + i) % n < 2).collect();
            vec![vec![], every(3), every(4)]
        };
        let sparse =
            run(&|i, tokens| Present::by_layer(tokens, &chosen(i, tokens)), Fill::ReceiverOnly);
        let zeros = run(&|i, tokens| Present::by_layer(tokens, &chosen(i, tokens)), Fill::Zeros);
        for layer in 0..2 {
            let [base, dense, all, sparse, zeros] =
                [&base, &dense, &all, &sparse, &zeros].map(|front| rows(front, layer));
            assert!(all == dense, "every row one by one is all of them");
            let (mut fused, mut kept) = (0, 0);
            for (row, (item, len)) in items.iter().zip(read.base().lens()).enumerate() {
                let chosen = &chosen(row, item.sharer.len())[layer + 1];
                for token in 0..read.base().length() {
                    let at = row * read.base().length() + token;
                    let pieces = if token < *len { item.alignment.of(token) } else { &[] };
                    let arrived = pieces.iter().all(|piece| chosen.contains(&piece.token));
                    let (expected, count) = match !pieces.is_empty() && arrived {
                        true => (&dense[at], &mut fused),
                        false => (&base[at], &mut kept),
                    };
                    *count += 1;
                    assert!(
                        same(&device, compute, &sparse[at], expected),
                        "{variant} {space:?} {compute:?} {row} {token}"
                    );
                    let stays = zeros[at] == base[at];
                    assert_eq!(stays, pieces.is_empty(), "zeros are fused too");
                }
            }
            assert!(fused > 5 && kept > 5);
        }
    });
}

/// A layer that is left out keeps its bits, whatever arrives.
#[test]
fn a_dropped_layer_is_not_fused() {
    let device = device();
    let (sharer, receiver) = (sharer(&device, Compute::F32), receiver(&device, Compute::F32));
    let mapping = Mapping { drop: vec![1], ..Mapping::default() };
    let space = KeySpace::PostRope;
    let config = smidgen_link::fuse::FuserConfig { mapping, ..config("c2c", space) };
    let fuser = open_fuser(config, &sharer, &receiver);
    assert_eq!(fuser.fuser.sources(), [Some(1), None]);
    assert_eq!(fuser.fuser.needed(&fuser.params), [[false; 2], [true; 2], [false; 2]]);
    let linked = Receiver::new(&receiver, &fuser).unwrap();
    let items = items(3..4);
    let caches = shared(&sharer, &items, space);
    let read = linked.read(&[&items[0].receiver]).unwrap();
    let arrivals = [Arrival::whole(caches[0].view(), &items[0].alignment)];
    let (base, fused) =
        (linked.fused(&read, None).unwrap(), linked.fused(&read, Some(&arrivals)).unwrap());
    assert!(rows(&base, 1) == rows(&fused, 1) && rows(&base, 0) != rows(&fused, 0));
}

#[test]
fn caches_and_alignments_that_do_not_fit_are_refused() {
    let device = device();
    let (sharer, receiver) = (sharer(&device, Compute::F32), receiver(&device, Compute::F32));
    let fuser = open_fuser(config("c2c", KeySpace::PostRope), &sharer, &receiver);
    let linked = Receiver::new(&receiver, &fuser).unwrap();
    let items = items(3..5);
    let caches = shared(&sharer, &items, KeySpace::PostRope);
    let read = linked.read(&[&items[0].receiver]).unwrap();
    let good = Arrival::whole(caches[0].view(), &items[0].alignment);
    let wrong =
        |arrivals: &[Arrival<'_>]| linked.logits(&read, Some(arrivals)).unwrap_err().to_string();
    assert!(wrong(&[good, good]).contains("one for each of 1 prompts"));
    let own = read.base().cache(&device, 0, KeySpace::PostRope).unwrap();
    assert!(wrong(&[Arrival { kv: own.view(), ..good }]).starts_with("`sharer cache`"));
    let short = smidgen_link::align::Alignment::identity(3);
    assert!(wrong(&[Arrival { alignment: &short, ..good }]).starts_with("`alignment`"));
    let far = smidgen_link::align::Alignment::identity(40);
    assert!(wrong(&[Arrival { alignment: &far, ..good }]).starts_with("`alignment`"));
    let present = Present::Rows(vec![true; 5]);
    assert!(wrong(&[Arrival { present: &present, ..good }]).starts_with("`present`"));
    let plain = read.base().cache(&device, 0, KeySpace::PreRope).unwrap_err().to_string();
    assert!(plain.contains("keys before positions"), "{plain}");
    for prompt in [&[][..], &[1]] {
        assert!(linked.read(&[prompt]).unwrap_err().to_string().contains("at least two tokens"));
        let mut session = linked.session(8).unwrap();
        assert!(linked.begin(&mut session, prompt, None).is_err());
    }
    assert!(Receiver::new(&sharer, &fuser).is_err(), "a fuser for another cache");
}

use super::*;
use crate::plan::CalibrationSums;
use crate::remote::compact::Message;
use crate::select::{AtReceiver, DeltaHat};
use crate::wire;
use smidgen_codec::Ledger;

#[test]
fn a_message_under_any_cap_fits_to_the_byte_or_is_none() {
    let device = Device::cpu(Ledger::new(), 1);
    let cache = wire::reference(3, 4, 2, 16, 40);
    let even = [[true; 2]; 4];
    // Halves that change every second layer: the encoder sends each layer as a block.
    let uneven = [[true; 2], [true; 2], [true, false], [true, false]];
    for (needed, block_layers) in [(even, None), (even, Some(1)), (uneven, None)] {
        let mut sent = Vec::new();
        for cap_bytes in [0, 100, 400, 600, 900, 1500, 3000, 1 << 20] {
            let formats = vec![[Precision::Int4; 2], [Precision::Int8; 2]];
            let cap = Some(cap_bytes);
            let packing = Packing { formats, cap_bytes: cap, block_layers, ..Packing::default() };
            let packed = packing.plan(&device, cache.view(), &needed, KeySpace::PreRope).unwrap();
            let Packed::Plan { plan, tokens, .. } = packed else {
                assert_eq!(packed, Packed::Nothing(Empty::CapTooSmall));
                sent.push(0);
                continue;
            };
            let bytes = wire::encode(&device, cache.view(), &plan).unwrap();
            assert!(bytes.len() as u64 <= cap_bytes, "{} of {cap_bytes}", bytes.len());
            assert_eq!(
                bytes.len(),
                wire::wire_bytes(cache.view().shape, 40, &plan).unwrap() as usize
            );
            sent.push(tokens);
        }
        assert!(sent.is_sorted() && sent[0] == 0 && *sent.last().unwrap() == 40, "{sent:?}");
        assert!(sent.iter().any(|tokens| (1..40).contains(tokens)), "{sent:?}");
    }
}

fn words(text: &[&str]) -> Vec<LayerOverride> {
    text.iter().map(|text| text.parse().unwrap()).collect()
}

/// No two plans take as long.
fn timeless(mut packed: Packed) -> Packed {
    if let Packed::Plan { score, .. } = &mut packed {
        *score = Duration::ZERO;
    }
    packed
}

/// What a message holds of each half of a layer.
fn precisions(plan: &Plan, layer: u16) -> Option<crate::wire::Pair> {
    let place = plan.layers.iter().position(|sent| *sent == layer)?;
    Some(*plan.groups[0].precision.of(place / plan.layers_per_block))
}

#[test]
fn a_schedule_says_how_each_layer_travels() {
    let device = Device::cpu(Ledger::new(), 1);
    let cache = wire::reference(3, 4, 2, 16, 40);
    let packed = |packing: &Packing, needed: &Needed| {
        timeless(packing.plan(&device, cache.view(), needed, KeySpace::PreRope).unwrap())
    };
    let formats = vec![[Precision::Int4; 2]];
    let plain = Packing { formats, share: 0.25, ..Packing::default() };
    let as_all = Packing { layers: words(&["0-3=int4"]), ..plain.clone() };
    assert_eq!(packed(&as_all, &[[true; 2]; 4]), packed(&plain, &[[true; 2]; 4]));

    let layers = words(&["last 2=int8/f16", "0=drop", "3=drop/nf4"]);
    let packing = Packing { layers, ..plain };
    // A gate that is closed stays closed.
    let needed = [[true; 2], [true; 2], [true, false], [true; 2]];
    let Packed::Plan { plan, tokens, .. } = packed(&packing, &needed) else { panic!("one") };
    assert_eq!((&plan.layers[..], tokens), (&[1, 2, 3][..], 10));
    let pair = |keys, values| Some(crate::wire::Pair { keys, values });
    let [int4, int8, nf4] = [Precision::Int4, Precision::Int8, Precision::Nf4].map(Some);
    assert_eq!(precisions(&plan, 1), pair(int4, int4));
    assert_eq!(precisions(&plan, 2), pair(int8, None));
    assert_eq!(precisions(&plan, 3), pair(None, nf4));
    let got = Received::through(&device, cache.view(), &plan).unwrap().cache;
    assert!(got.view().key(0, 39).iter().chain(got.view().value(2, 39)).all(|x| *x == 0.0));
    assert!(got.view().value(3, 39).iter().any(|x| *x != 0.0));

    let dropped = Packing { layers: words(&["0-3=drop"]), ..Packing::default() };
    assert_eq!(packed(&dropped, &needed), Packed::Nothing(Empty::Dropped));
    let wrong = Packing { layers: words(&["4=drop"]), ..Packing::default() };
    let error = wrong.check(4).unwrap_err().to_string();
    assert_eq!(error, "`layers`: expected layers below 4 in override 0, got 4");
}

/// Layers that stay alike share a block, whatever a token gets, and a cap counts all of it.
#[test]
fn a_schedule_is_kept_under_a_cap() {
    let device = Device::cpu(Ledger::new(), 1);
    let cache = wire::reference(3, 6, 2, 16, 40);
    let formats = vec![[Precision::Int4; 2], [Precision::Int8, Precision::Int4]];
    let layers = words(&["last 2=f16"]);
    let mut both = 0;
    for cap in [0, 900, 2000, 4000, 8000, 1 << 20] {
        for (asked, blocks) in [(None, 4), (Some(3), 2), (Some(1), 1)] {
            let (formats, layers) = (formats.clone(), layers.clone());
            let packing = Packing {
                formats,
                layers,
                cap_bytes: Some(cap),
                block_layers: asked,
                ..Packing::default()
            };
            let needed = [[true; 2]; 6];
            let packed = packing.plan(&device, cache.view(), &needed, KeySpace::PreRope);
            let Packed::Plan { plan, .. } = packed.unwrap() else { continue };
            assert_eq!(plan.layers_per_block, blocks);
            let f16 = Some(Precision::F16);
            for group in &plan.groups {
                let last = group.precision.of(plan.blocks() - 1);
                assert_eq!([last.keys, last.values], [f16; 2]);
            }
            both += usize::from(plan.groups.len() == 2);
            let bytes = wire::encode(&device, cache.view(), &plan).unwrap().len() as u64;
            assert!(bytes <= cap, "{bytes} of {cap}");
        }
    }
    assert!(both > 0, "no cap had room for both formats");
}

/// A calibration in which int4 loses nearly all, and values say what a token weighs.
fn calibration(layers: usize, weigher: &str) -> Calibration {
    let mut sums = CalibrationSums::new(layers);
    for layer in 0..layers {
        sums.add_change(layer, &[1.0], &[0.0]);
        sums.add_loss(layer, Precision::Int4, &[0.99], &[0.0]);
        sums.add_loss(layer, Precision::Int8, &[0.01], &[0.0]);
    }
    let found = sums.finish("fuser", 1, vec!["a".into()], vec![1.0; layers]).unwrap();
    found.with_weighers([(weigher.to_string(), 1.0)].into()).unwrap()
}

/// A regressor fitted to changes that two caches show.
fn delta_hat(sharer: &[wire::Reference]) -> DeltaHat {
    let own = wire::reference(90, 4, 2, 16, 40);
    let fused: Vec<_> =
        (91..).take(sharer.len()).map(|n| wire::reference(n, 4, 2, 16, 40)).collect();
    let source_of = [Some(0), Some(1), Some(2), Some(3)];
    let pairs = sharer.iter().zip(&fused).map(|(sharer, fused)| {
        let (own, fused) = (own.view(), fused.view());
        let receiver = Some(AtReceiver { own, fused, source_of: &source_of });
        Scene { receiver, ..Scene::of_sharer(0, 0, sharer.view()) }
    });
    let scenes: Vec<Scene<'_>> = pairs.collect();
    DeltaHat::fit("fuser", &scenes, &[0, 1, 2, 3], 0.01).unwrap()
}

/// The tokens of a message by precision of their keys.
fn tokens(packed: Packed) -> Vec<(Precision, Vec<u32>)> {
    let Packed::Plan { plan, .. } = packed else { panic!("a message") };
    let group =
        |group: &wire::Group| (group.precision.of(0).keys.unwrap(), group.tokens.of(0).clone());
    plan.groups.iter().map(group).collect()
}

#[test]
fn what_was_learnt_chooses_under_a_cap_unless_a_selector_is_asked_for() {
    let device = Device::cpu(Ledger::new(), 1);
    let cache = wire::reference(3, 4, 2, 16, 40);
    let packed = |packing: &Packing| {
        timeless(packing.plan(&device, cache.view(), &[[true; 2]; 4], KeySpace::PreRope).unwrap())
    };
    let formats = vec![[Precision::Int4; 2], [Precision::Int8; 2]];
    let plain = Packing { formats, cap_bytes: Some(2500), ..Packing::default() };
    let learnt = |calibration| Learnt { calibration: Some(calibration), delta_hat: None };
    let known = calibration(4, "vnorm_topk");
    let by_known = Packing { learnt: learnt(known.clone()), ..plain.clone() };
    let Packed::Plan { chosen_by, .. } = packed(&by_known) else { panic!("a message") };
    assert_eq!(chosen_by.as_deref(), Some("vnorm_topk"));

    // The largest values, and none of them in the format that loses nearly all.
    let chosen = tokens(packed(&by_known));
    assert_eq!(chosen.len(), 1);
    let (precision, chosen) = &chosen[0];
    assert_eq!(*precision, Precision::Int8);
    let scene = Scene::of_sharer(0, 0, cache.view());
    let all: Vec<u32> = (0..40).collect();
    let sizes = LayerScores::of(selector_by_name("vnorm_topk").unwrap(), &scene, &[0, 1, 2, 3]);
    let sizes = sizes.unwrap().weights(&all).unwrap();
    let mut largest = all;
    largest.sort_by(|a, b| sizes[*b as usize].total_cmp(&sizes[*a as usize]));
    largest.truncate(chosen.len());
    largest.sort();
    assert!(*chosen == largest && (1..30).contains(&chosen.len()), "{chosen:?} {largest:?}");
    assert!(tokens(packed(&plain)).iter().any(|(precision, _)| *precision == Precision::Int4));

    // Nothing of it where a selector is asked for, a format was not measured, or no cap is set.
    let back = |packing: &Packing| Packing { select: Some("back".into()), ..packing.clone() };
    assert_eq!(packed(&back(&by_known)), packed(&plain));
    let formats = vec![[Precision::Int6; 2]];
    let other = Packing { formats: formats.clone(), ..by_known.clone() };
    assert_eq!(packed(&other), packed(&Packing { formats, ..plain.clone() }));
    let formats = vec![[Precision::Int8; 2]];
    let free = Packing { formats, cap_bytes: None, share: 0.5, ..plain.clone() };
    assert_eq!(packed(&Packing { learnt: learnt(known), ..free.clone() }), packed(&free));

    let hat = Packing { learnt: learnt(calibration(4, "delta_hat")), ..plain };
    assert!(hat.check(4).unwrap_err().to_string().starts_with("selector `delta_hat` needs"));
}

#[test]
fn a_regressor_that_was_learnt_chooses() {
    let device = Device::cpu(Ledger::new(), 1);
    let caches = [3, 4, 5].map(|seed| wire::reference(seed, 4, 2, 16, 40));
    let (view, regressor) = (caches[0].view(), delta_hat(&caches));
    let learnt = Learnt { calibration: None, delta_hat: Some(regressor.clone()) };
    let packing = Packing {
        select: Some("delta_hat".into()),
        share: 0.25,
        learnt: learnt.clone(),
        ..Packing::default()
    };
    packing.check(4).unwrap();
    let packed = packing.plan(&device, view, &[[true; 2]; 4], KeySpace::PreRope).unwrap();
    let scene = Scene { regressor: Some(&regressor), ..Scene::of_sharer(0, 0, view) };
    let config = SelectionConfig {
        mode: "delta_hat".into(),
        proportion: 0.25,
        ..SelectionConfig::default()
    };
    let expected = config.select(&scene, &Marks::of(40), &[0, 1, 2, 3]).unwrap().lists;
    assert_eq!(tokens(packed), [(Precision::Int8, expected[0].clone())]);
    assert_ne!(expected[0], (30..40).collect::<Vec<u32>>());

    let calibration = Some(calibration(4, "delta_hat"));
    let packing = Packing {
        formats: vec![[Precision::Int4; 2], [Precision::Int8; 2]],
        cap_bytes: Some(3000),
        learnt: Learnt { calibration, ..learnt },
        ..Packing::default()
    };
    packing.check(4).unwrap();
    packing.plan(&device, view, &[[true; 2]; 4], KeySpace::PreRope).unwrap();
}

/// The cap counts the compact message itself, so that it has room for more tokens.
#[test]
fn a_compact_message_under_any_cap_fits_to_the_byte() {
    let device = Device::cpu(Ledger::new(), 1);
    let cache = wire::reference(3, 4, 2, 16, 40);
    let planned = |compact, cap, needed: &Needed| {
        let formats = vec![[Precision::Int4; 2], [Precision::Int8, Precision::Int4]];
        let cap_bytes = Some(cap);
        let packing = Packing { formats, cap_bytes, compact, ..Packing::default() };
        packing.plan(&device, cache.view(), needed, KeySpace::PreRope)
    };
    let keys = [[true, false], [false; 2], [true, false], [true, false]];
    for needed in [[[true; 2]; 4], keys] {
        let (mut smallest, mut both) = (u64::MAX, 0);
        for cap in (0..40).map(|n| 50 * n) {
            let Packed::Plan { plan, tokens, .. } = planned(true, cap, &needed).unwrap() else {
                continue;
            };
            both += usize::from(plan.groups.len() == 2);
            let bytes = wire::compact_bytes(cache.view().shape, 40, &plan).unwrap();
            let message = Message::compact(&device, cache.view(), *plan).unwrap();
            assert_eq!(message.bytes.len() as u64, bytes);
            assert!(bytes <= cap, "{bytes} of {cap}");
            smallest = smallest.min(bytes);
            let whole = match planned(false, cap, &needed).unwrap() {
                Packed::Plan { tokens, .. } => tokens,
                Packed::Nothing(_) => 0,
            };
            assert!(tokens > whole || tokens == 40, "{tokens} and {whole} at {cap}");
        }
        assert!(smallest < 300 && both > 0, "{smallest} {both}");
    }
    let uneven = [[true; 2], [true; 2], [true, false], [true; 2]];
    let error = planned(true, 900, &uneven).unwrap_err().to_string();
    assert!(error.starts_with("`compact`: expected layers whose keys and values"), "{error}");
}

#[test]
fn what_cannot_be_asked_is_named() {
    let device = Device::cpu(Ledger::new(), 1);
    let cache = wire::reference(3, 2, 1, 8, 10);
    let plan = |packing: Packing, needed| {
        packing.plan(&device, cache.view(), &[[needed; 2]; 2], KeySpace::PostRope)
    };
    let nothing = plan(Packing::default(), false).unwrap();
    assert_eq!(nothing, Packed::Nothing(Empty::NothingNeeded));
    let formats = vec![[Precision::Int4; 2], [Precision::Int8; 2]];
    let two = plan(Packing { formats, ..Packing::default() }, true).unwrap_err();
    assert_eq!(two.to_string(), "`format`: expected 1 to 1, got 2");
    let unknown = Packing { select: Some("bakc".into()), share: 0.5, ..Packing::default() };
    assert!(plan(unknown, true).unwrap_err().to_string().contains("`back`"));
    let wrong = |packing: Packing| packing.check(2).unwrap_err().to_string();
    Packing::default().check(2).unwrap();
    let share = wrong(Packing { share: 0.0, ..Packing::default() });
    assert_eq!(share, "`share`: expected above 0 and at most 1, got 0");
    let select = |name: &str| wrong(Packing { select: Some(name.into()), ..Packing::default() });
    assert!(select("delta_kv").contains("`delta_kv` needs"));
    let needs = "`delta_hat` needs a regressor: `--fuser` with a `delta_hat.json` beside it";
    assert!(select("delta_hat").contains(needs));
    assert!(wrong(Packing { formats: vec![], ..Packing::default() }).ends_with("got 0"));
    let half = plan(Packing { share: 0.5, ..Packing::default() }, true).unwrap();
    assert!(matches!(half, Packed::Plan { tokens: 5, chosen_by: Some(_), .. }));
}

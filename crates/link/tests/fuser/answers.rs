//! Answers: token by token and in batches, with both models in memory and with one after the other.

use std::ops::ControlFlow;

use smidgen_link::fuse::{Arrival, FUSERS, LinearFit, LoadedFuser, Present, Rule};
use smidgen_link::wire::Precision;
use smidgen_link::{Phases, Question, Receiver, Side, answer_together};
use smidgen_model::{KeySpace, Session, TokenBatch};
use smidgen_store::{Disk, Fault, Faulty};
use smidgen_tensor::Compute;

use crate::models::*;

fn close(got: &[f32], expected: &[f32], bound: f32) {
    let size = expected.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= bound * size, "{got} is not {expected}");
    }
}

#[test]
fn a_session_a_batch_and_a_whole_text_agree() {
    for variant in FUSERS {
        for space in SPACES {
            for (compute, bound) in [(Compute::F32, 1e-4), (Compute::Bf16, 5e-2)] {
                let device = device();
                let (sharer, receiver) = (sharer(&device, compute), receiver(&device, compute));
                let fuser = open_fuser(config(variant.name(), space), &sharer, &receiver);
                let linked = Receiver::new(&receiver, &fuser).unwrap();
                let items = items(0..5);
                let caches = shared(&sharer, &items, space);
                let arrivals: Vec<Arrival<'_>> = caches
                    .iter()
                    .zip(&items)
                    .map(|(cache, item)| Arrival::whole(cache.view(), &item.alignment))
                    .collect();
                let prompts: Vec<&[u32]> = items.iter().map(|item| &*item.receiver).collect();
                let responses: Vec<&[u32]> = items.iter().map(|item| &*item.response).collect();
                let read = linked.read(&prompts).unwrap();
                let logits = linked.logits(&read, Some(&arrivals)).unwrap();
                let nll = linked.nll(&read, Some(&arrivals), &responses).unwrap();
                let mut session = linked.session(40).unwrap();
                for (i, item) in items.iter().enumerate() {
                    let mut got =
                        linked.begin(&mut session, &item.receiver, Some(&arrivals[i])).unwrap();
                    close(&got, &logits[i], bound);
                    let mut sum = 0.0;
                    for token in &item.response {
                        sum += surprise(&got, *token);
                        got = session.feed(&[*token]).unwrap();
                    }
                    assert!((sum - nll[i]).abs() < f64::from(bound) * 20.0, "{sum} {}", nll[i]);
                }
                // Without arrivals the prompt is read as ever.
                let alone = linked.logits(&read, None).unwrap();
                let whole = TokenBatch::whole(1, items[0].receiver.clone()).unwrap();
                let scorer = smidgen_model::Scorer::new(
                    &device,
                    compute,
                    &receiver.decoder,
                    &receiver.params,
                );
                let ends = [items[0].receiver.len() - 1];
                let expected = scorer.unwrap().logits_after(None, &whole, &ends).unwrap();
                close(&alone[0], &expected, bound);
                assert!(linked.nll(&read, None, &responses[1..]).is_err());
            }
        }
    }
}

/// Keys and values of a session's layers.
fn held(receiver: &Side, session: &Session<'_>) -> Vec<[Vec<f32>; 2]> {
    let shape = receiver.kv_shape();
    let layer = |layer| {
        let [mut keys, mut values] =
            [shape.key_row(), shape.value_row()].map(|width| vec![0.0; session.len() * width]);
        session.read_layer(layer, KeySpace::PostRope, &mut keys, &mut values).unwrap();
        [keys, values]
    };
    (0..shape.layers).map(layer).collect()
}

#[test]
fn layers_are_fused_in_any_order_to_the_same_bits() {
    for variant in FUSERS {
        for (space, compute) in SPACES.into_iter().zip([Compute::F32, Compute::Bf16]) {
            let device = device();
            let (sharer, receiver) = (sharer(&device, compute), receiver(&device, compute));
            let fuser = open_fuser(config(variant.name(), space), &sharer, &receiver);
            let linked = Receiver::new(&receiver, &fuser).unwrap();
            let item = item(3);
            let cache = shared(&sharer, std::slice::from_ref(&item), space).remove(0);
            let whole = Arrival::whole(cache.view(), &item.alignment);
            let mut session = linked.session(40).unwrap();
            let expected = linked.begin(&mut session, &item.receiver, Some(&whole)).unwrap();
            let expected = (expected, held(&receiver, &session));

            linked.enter(&mut session, &item.receiver).unwrap();
            for layer in [1, 0] {
                // Nothing but the source of this layer is there.
                let source = fuser.fuser.sources()[layer].unwrap();
                let mut chosen = vec![Vec::new(); 3];
                chosen[source] = (0..cache.tokens() as u32).collect();
                let present = &Present::by_layer(cache.tokens(), &chosen);
                let arrival = Arrival { present, ..whole };
                linked.fuse_layers(&mut session, &arrival, [layer]).unwrap();
            }
            let got = linked.join(&mut session, &item.receiver, None).unwrap();
            assert!((got, held(&receiver, &session)) == expected, "{} {space:?}", variant.name());
            assert!(linked.fuse_layers(&mut session, &whole, [2]).is_err());
        }
    }
}

fn surprise(logits: &[f32], token: u32) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - most)
}

/// A model that is its own sharer, through the identity: the fused cache is its own again.
#[test]
fn the_identity_between_equal_models_changes_nothing() {
    let device = device();
    let (one, other) = (receiver(&device, Compute::F32), receiver(&device, Compute::F32));
    for space in SPACES {
        let mapping = smidgen_link::fuse::Mapping { rule: Rule::Nearest, drop: vec![] };
        let config = smidgen_link::fuse::FuserConfig { mapping, ..config("linear", space) };
        let facts = facts(&one, &other);
        let mut fuser = LoadedFuser::fresh(&device, config, pair(&one, &other), facts, 0).unwrap();
        let prompts: Vec<Vec<u32>> = (0..24).map(|i| tokens(9 + i as usize % 5, 53, i)).collect();
        let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
        let caches = one.read(&prompts, space).unwrap();
        let alignments: Vec<_> = prompts
            .iter()
            .map(|prompt| smidgen_link::align::Alignment::identity(prompt.len()))
            .collect();
        let arrivals: Vec<Arrival<'_>> = caches
            .iter()
            .zip(&alignments)
            .map(|(cache, alignment)| Arrival::whole(cache.view(), alignment))
            .collect();
        let mut fit = LinearFit::new(&fuser.fuser, &device).unwrap();
        assert!(fit.solve(0.0).is_err(), "no tokens so far");
        let linked = Receiver::new(&other, &fuser).unwrap();
        let read = linked.read(&prompts).unwrap();
        let alone = linked.logits(&read, None).unwrap();
        fit.add(read.base(), &arrivals).unwrap();
        let maps = fit.solve(1e-7).unwrap();
        for g in [0.5, 1.0] {
            maps.put(&mut fuser.params, g).unwrap();
            let linked = Receiver::new(&other, &fuser).unwrap();
            let got = linked.logits(&read, Some(&arrivals)).unwrap();
            got.iter().zip(&alone).for_each(|(got, alone)| close(got, alone, 2e-2));
        }
        // The share with the smallest loss stays in place.
        let mut asked = Vec::new();
        let (share, loss) = maps
            .search(&mut fuser.params, &[0.0, 0.25, 0.75], |params| {
                let gate = params.get(params.find("fuser.0.keys.gate").unwrap()).value.to_vec()[0];
                asked.push(gate);
                Ok(f64::from((gate - 0.3).abs()))
            })
            .unwrap();
        assert_eq!((share, asked), (0.25, vec![0.0, 0.25, 0.75]));
        assert!((loss - 0.05).abs() < 1e-6);
        let gate = fuser.params.find("fuser.1.values.gate").unwrap();
        assert_eq!(fuser.params.get(gate).value.to_vec(), [0.25]);
        assert!(maps.search(&mut fuser.params, &[0.5], |_| Ok(f64::NAN)).is_err());
    }
    let c2c = open_fuser(config("c2c", KeySpace::PostRope), &one, &other);
    assert!(LinearFit::new(&c2c.fuser, &device).err().unwrap().to_string().contains("linear"));
}

/// Nobody ends a phase.
const ON: ControlFlow<()> = ControlFlow::Continue(());

fn questions() -> Vec<Question> {
    let question = |item: smidgen_link::fuse::Item| Question {
        sharer: item.sharer,
        receiver: item.receiver,
        alignment: item.alignment,
    };
    items(0..6).into_iter().map(question).collect()
}

/// Each phase has one model, and may be cut off at any write.
#[test]
fn one_model_after_the_other_answers_as_both_together() {
    for space in SPACES {
        let device = device();
        let (sharer, receiver) = (sharer(&device, Compute::Bf16), receiver(&device, Compute::Bf16));
        let fuser = open_fuser(config("c2c", space), &sharer, &receiver);
        let linked = Receiver::new(&receiver, &fuser).unwrap();
        let questions = questions();
        let ends = |token: u32| token < 4;
        let together = answer_together(&sharer, &linked, &questions, 7, ends, |_| ON).unwrap();
        assert!(together.iter().all(|answer| answer.len() <= 7));
        let mut cut = 0;
        for stop in (0..).step_by(5) {
            let folder = tempfile::tempdir().unwrap();
            let files = Faulty::from(stop, Fault::ShortWrite);
            let run = |files: &dyn smidgen_store::Files| {
                let phases = Phases::new(files, folder.path(), 7)?;
                phases.share(&sharer, &questions, space, || ON)?;
                phases.answer(&linked, &questions, ends, |_| ON)
            };
            let failed = run(&files).is_err();
            cut += usize::from(failed);
            let apart = run(&Disk).unwrap();
            let apart: Vec<Vec<u32>> = apart.into_iter().map(|answer| answer.tokens).collect();
            assert_eq!(apart, together);
            if !failed {
                break;
            }
        }
        assert!(cut > 5, "{cut} places to stop at");
    }
}

#[test]
fn caches_and_answers_of_others_are_refused() {
    let device = device();
    let (sharer, receiver) = (sharer(&device, Compute::F32), receiver(&device, Compute::F32));
    let space = KeySpace::PostRope;
    let fuser = open_fuser(config("c2c", space), &sharer, &receiver);
    let linked = Receiver::new(&receiver, &fuser).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let phases = Phases::new(&Disk, folder.path(), 3).unwrap();
    let questions = questions();
    assert_eq!(phases.share(&sharer, &questions, space, || ON).unwrap(), 6);
    assert_eq!(phases.share(&sharer, &questions, space, || ON).unwrap(), 0);
    phases.answer(&linked, &questions[..3], |_| false, |_| ON).unwrap();
    // Another sharer, another order of the questions, another space, another fuser.
    let stranger = side(&device, Compute::F32, sharer_spec(), 9);
    let error = phases.share(&stranger, &questions, space, || ON).unwrap_err().to_string();
    assert!(error.starts_with("`sharer` in "), "{error}");
    let mut turned = questions.clone();
    turned.reverse();
    let error = phases.share(&sharer, &turned, space, || ON).unwrap_err().to_string();
    assert!(error.starts_with("`prompt` in "), "{error}");
    assert!(phases.share(&sharer, &questions, KeySpace::PreRope, || ON).is_err());
    assert!(phases.answer(&linked, &turned, |_| false, |_| ON).is_err());
    let other = open_fuser(config("lite", space), &sharer, &receiver);
    let other = Receiver::new(&receiver, &other).unwrap();
    let error = phases.answer(&other, &questions, |_| false, |_| ON).unwrap_err().to_string();
    assert!(error.starts_with("`fuser` in "), "{error}");
    // Answers that were cut off elsewhere.
    let longer = Phases::new(&Disk, folder.path(), 4).unwrap();
    let error = longer.answer(&linked, &questions, |_| false, |_| ON).unwrap_err().to_string();
    assert!(error.starts_with("`limit` in ") && error.ends_with("expected 4, got 3"), "{error}");
    std::fs::write(folder.path().join("caches/000004.safetensors"), b"nothing").unwrap();
    assert!(phases.answer(&linked, &questions, |_| false, |_| ON).is_err());
}

/// A file that is not whole is made again, and nothing else is; either phase may be ended behind any
/// question.
#[test]
fn what_is_broken_is_made_again_and_a_phase_may_be_ended() {
    let device = device();
    let (sharer, receiver) = (sharer(&device, Compute::F32), receiver(&device, Compute::F32));
    let space = KeySpace::PostRope;
    let fuser = open_fuser(config("c2c", space), &sharer, &receiver);
    let linked = Receiver::new(&receiver, &fuser).unwrap();
    let (folder, questions) = (tempfile::tempdir().unwrap(), questions());
    let phases = Phases::new(&Disk, folder.path(), 3).unwrap();
    let after = |count: usize| {
        let mut done = 0;
        move || {
            done += 1;
            if done == count { ControlFlow::Break(()) } else { ON }
        }
    };
    assert_eq!(phases.share(&sharer, &questions, space, after(2)).unwrap(), 2);
    assert_eq!(phases.share(&sharer, &questions, space, || ON).unwrap(), 4);
    let mut end = after(4);
    let some = phases.answer(&linked, &questions, |_| false, |_| end()).unwrap();
    assert_eq!(some.len(), 4);
    let all = phases.answer(&linked, &questions, |_| false, |_| ON).unwrap();
    assert_eq!((&all[..4], all.len()), (&some[..], 6));
    let cut = |name: &str| {
        let path = folder.path().join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        whole
    };
    let (cache, answer) = (cut("caches/000003.safetensors"), cut("answers/000003.json"));
    // The receiver alone cannot make the cache again.
    let error = phases.answer(&linked, &questions, |_| false, |_| ON).unwrap_err().to_string();
    assert!(error.contains("000003.safetensors"), "{error}");
    assert_eq!(phases.share(&sharer, &questions, space, || ON).unwrap(), 1);
    assert_eq!(phases.answer(&linked, &questions, |_| false, |_| ON).unwrap(), all);
    assert!(std::fs::read(folder.path().join("caches/000003.safetensors")).unwrap() == cache);
    assert!(std::fs::read(folder.path().join("answers/000003.json")).unwrap() == answer);
    let together = answer_together(
        &sharer,
        &linked,
        &questions,
        3,
        |_| false,
        |answer| {
            if answer == all[1].tokens { ControlFlow::Break(()) } else { ON }
        },
    );
    assert!(together.unwrap().len() <= 2);
}

#[test]
fn a_receiver_may_keep_its_own_cache_in_fewer_bits() {
    for space in SPACES {
        let device = device();
        let (sharer, receiver) = (sharer(&device, Compute::F32), receiver(&device, Compute::F32));
        let fuser = open_fuser(config("c2c", space), &sharer, &receiver);
        let linked = Receiver::new(&receiver, &fuser).unwrap();
        let item = items(0..1).remove(0);
        let cache = shared(&sharer, std::slice::from_ref(&item), space).remove(0);
        let arrival = Arrival::whole(cache.view(), &item.alignment);
        let mut session = linked.session(40).unwrap();
        let mut after = |kept: Option<Precision>, arrival| {
            linked.enter(&mut session, &item.receiver).unwrap();
            if let Some(precision) = kept {
                linked.keep_in(&mut session, precision).unwrap();
            }
            linked.join(&mut session, &item.receiver, arrival).unwrap()
        };
        for arrival in [None, Some(&arrival)] {
            let exact = after(None, arrival);
            // As many bits as it has change nothing, and fewer the more.
            assert_eq!(after(Some(Precision::F32), arrival), exact);
            let mut off = |precision| {
                let got = after(Some(precision), arrival);
                got.iter().zip(&exact).fold(0.0, |most: f32, (a, b)| most.max((a - b).abs()))
            };
            let (int8, int4) = (off(Precision::Int8), off(Precision::Int4));
            assert!(0.0 < int8 && 4.0 * int8 < int4, "{int8} {int4}");
        }
    }
}

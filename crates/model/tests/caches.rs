//! Caches that leave a model and come back: taken out exactly, put back without a trace, and read by
//! another batch.

use std::sync::Arc;

use smidgen_codec::{Ledger, Rng, Tag};
use smidgen_model::{Decoder, Front, KeySpace, LayerKv, Scorer, Session, Spec, TokenBatch};
use smidgen_tensor::{
    Compute, Device, HeldGrads, Keep, Level, Params, Prefix, Tape, Targets, Tensor,
};

fn variants() -> Vec<Spec> {
    let plain = Spec { layers: 3, ..Spec::new(97, 48, 3, 4, 80, 64) };
    vec![
        plain.clone(),
        Spec { kv_heads: 2, qk_norm: true, tied: true, rope_theta: 500.0, ..plain.clone() },
        Spec { kv_heads: 1, head_dim: 10, qkv_bias: true, ..plain },
    ]
}

fn build(device: &Device, spec: Spec) -> (Decoder, Params) {
    let mut params = Params::new();
    let decoder = Decoder::new(device, spec, &mut params).unwrap();
    decoder.init(&mut params, 5);
    // Weights as they are after training: attention that looks somewhere.
    for (_, param) in params.iter_mut() {
        param.fill_scaled(6.0);
    }
    (decoder, params)
}

trait Scaled {
    fn fill_scaled(&mut self, by: f32);
}

impl Scaled for smidgen_tensor::Param {
    fn fill_scaled(&mut self, by: f32) {
        if self.value.rows() > 1 {
            self.value.slice_mut::<f32>().iter_mut().for_each(|x| *x *= by);
        }
    }
}

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let rng = Rng::named(seed, "tokens");
    (0..count as u64).map(|i| rng.below(0, 0, i, 97) as u32).collect()
}

fn everywhere(test: impl Fn(&Device, Compute, Spec)) {
    for level in Level::available() {
        for compute in [Compute::F32, Compute::Bf16] {
            for spec in variants() {
                test(&Device::cpu_at(Ledger::new(), 2, level), compute, spec);
            }
        }
    }
}

fn read(session: &Session<'_>, layer: usize, space: KeySpace, spec: &Spec) -> (Vec<f32>, Vec<f32>) {
    let len = session.len() * spec.kv_heads * spec.head_dim;
    let (mut keys, mut values) = (vec![0.0; len], vec![0.0; len]);
    session.read_layer(layer, space, &mut keys, &mut values).unwrap();
    (keys, values)
}

#[test]
fn taking_a_cache_out_and_putting_it_back_changes_no_bit() {
    everywhere(|device, compute, spec| {
        let (decoder, params) = build(device, spec.clone());
        let data = tokens(40, 1);
        for space in [KeySpace::PostRope, KeySpace::PreRope] {
            let mut first = Session::new(device, compute, &decoder, &params, 48).unwrap();
            first.keep_plain_keys().unwrap();
            first.feed(&data[..30]).unwrap();
            // What it is put into has read something else.
            let mut second = Session::new(device, compute, &decoder, &params, 48).unwrap();
            second.feed(&tokens(30, 2)).unwrap();
            let places: Vec<u32> = (0..30).collect();
            for layer in 0..spec.layers {
                let (keys, values) = read(&first, layer, space, &spec);
                second.write_layer(layer, space, &places, &keys, &values).unwrap();
            }
            for token in &data[30..] {
                assert_eq!(first.feed(&[*token]).unwrap(), second.feed(&[*token]).unwrap());
            }
        }
    });
}

/// Some tokens of some layers; the others stay what they were.
#[test]
fn a_part_of_a_cache_replaces_those_tokens_alone() {
    let device = Device::cpu(Ledger::new(), 1);
    let spec = variants().remove(1);
    let (decoder, params) = build(&device, spec.clone());
    let mut session = Session::new(&device, Compute::F32, &decoder, &params, 48).unwrap();
    session.keep_plain_keys().unwrap();
    session.feed(&tokens(20, 1)).unwrap();
    let width = spec.kv_heads * spec.head_dim;
    let (before, values) = read(&session, 1, KeySpace::PreRope, &spec);
    let (keys, ones) = (vec![0.5; 2 * width], vec![1.0; 2 * width]);
    session.write_layer(1, KeySpace::PreRope, &[3, 17], &keys, &ones).unwrap();
    let (after, values_after) = read(&session, 1, KeySpace::PreRope, &spec);
    for token in 0..20 {
        let row = token * width..(token + 1) * width;
        let is_new = [3, 17].contains(&token);
        assert_eq!(after[row.clone()] == before[row.clone()], !is_new);
        assert_eq!(values_after[row.clone()] == values[row], !is_new);
    }
    let wrong = |result: Result<(), smidgen_model::Error>| result.unwrap_err().to_string();
    let write = |session: &mut Session<'_>, layer, tokens: &[u32], keys: &[f32]| {
        wrong(session.write_layer(layer, KeySpace::PostRope, tokens, keys, &ones))
    };
    assert!(write(&mut session, 3, &[3, 17], &keys).starts_with("`layer`: expected below 3"));
    assert!(write(&mut session, 0, &[3, 20], &keys).starts_with("`token`: expected below 20"));
    assert!(write(&mut session, 0, &[3], &keys).starts_with("`values`"));
    write(&mut session, 0, &[3, 4], &keys[1..]);
    assert!(wrong(session.keep_plain_keys()).contains("an empty session"));
    // After turned keys were written, those before positions are not known.
    session.write_layer(1, KeySpace::PostRope, &[3, 17], &keys, &ones).unwrap();
    let len = 20 * width;
    let (mut a, mut b) = (vec![0.0; len], vec![0.0; len]);
    assert!(wrong(session.read_layer(1, KeySpace::PreRope, &mut a, &mut b)).contains("plain keys"));
    session.read_layer(2, KeySpace::PreRope, &mut a, &mut b).unwrap();
}

/// A batch of prompts of several lengths gives what each prompt alone gives a session.
#[test]
fn a_captured_batch_holds_what_sessions_hold() {
    everywhere(|device, compute, spec| {
        let (decoder, params) = build(device, spec.clone());
        let prompts: Vec<Vec<u32>> = [17, 30, 2].iter().map(|n| tokens(*n, *n as u64)).collect();
        let layers = decoder.capture(device, compute, &params, &padded(&prompts), true).unwrap();
        let width = spec.kv_heads * spec.head_dim;
        for (row, prompt) in prompts.iter().enumerate() {
            let mut session = Session::new(device, compute, &decoder, &params, 48).unwrap();
            session.keep_plain_keys().unwrap();
            session.feed(prompt).unwrap();
            for (i, layer) in layers.iter().enumerate() {
                for space in [KeySpace::PostRope, KeySpace::PreRope] {
                    let (keys, values) = read(&session, i, space, &spec);
                    let got = [layer.keys_in(space).unwrap(), &layer.values];
                    for (got, expected) in got.into_iter().zip([keys, values]) {
                        let got = &got.slice::<f32>()[row * 30 * width..][..expected.len()];
                        close(got, &expected, if compute == Compute::F32 { 1e-5 } else { 3e-2 });
                    }
                }
            }
        }
        let without = decoder.capture(device, compute, &params, &padded(&prompts), false).unwrap();
        assert!(without.iter().all(|layer| layer.keys_in(KeySpace::PreRope).is_none()));
    });
}

fn close(got: &[f32], expected: &[f32], bound: f32) {
    let size = expected.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= bound * size, "{got} is not {expected}");
    }
}

/// Shorter prompts are filled up at their ends.
fn padded(prompts: &[Vec<u32>]) -> TokenBatch {
    let length = prompts.iter().map(Vec::len).max().unwrap();
    let fill = |prompt: &Vec<u32>| {
        let mut row = prompt.clone();
        row.resize(length, 0);
        row
    };
    TokenBatch::whole(prompts.len(), prompts.iter().flat_map(fill).collect()).unwrap()
}

fn front(layers: &[LayerKv], lens: &[u32]) -> Front {
    let layers = layers.iter().map(|layer| (layer.keys.clone(), layer.values.clone())).collect();
    Front { layers, lens: lens.into() }
}

/// A text read in two pieces is the text read at once, for prompts of several lengths side by side.
#[test]
fn a_suffix_after_a_captured_prefix_is_the_whole_text() {
    everywhere(|device, compute, spec| {
        let (decoder, params) = build(device, spec.clone());
        let lens = [17u32, 30, 5];
        let prompts: Vec<Vec<u32>> = lens.iter().map(|n| tokens(*n as usize, 3)).collect();
        let suffix = tokens(3 * 6, 9);
        let captured = decoder.capture(device, compute, &params, &padded(&prompts), false).unwrap();
        let batch = TokenBatch::after(&lens, suffix.clone()).unwrap();
        let scorer = Scorer::new(device, compute, &decoder, &params).unwrap();
        let front = front(&captured, &lens);
        let logits = scorer.logits_after(Some(&front), &batch, &[5, 0, 3]).unwrap();
        let targets = tokens(18, 4);
        let nll = scorer.nll_after(Some(&front), &batch, &targets).unwrap();
        let bound = if compute == Compute::F32 { 1e-4 } else { 4e-2 };
        for (row, (prompt, end)) in prompts.iter().zip([5, 0, 3]).enumerate() {
            let whole: Vec<u32> = prompt.iter().chain(&suffix[row * 6..][..6]).copied().collect();
            let mut session = Session::new(device, compute, &decoder, &params, 48).unwrap();
            let expected = session.feed(&whole[..prompt.len() + end + 1]).unwrap();
            close(&logits[row * spec.vocab..][..spec.vocab], &expected, bound);
            let mut next = whole[1..].to_vec();
            next.push(0);
            next[prompt.len()..].copy_from_slice(&targets[row * 6..][..6]);
            let whole = TokenBatch::whole(1, whole).unwrap();
            let expected = scorer.nll(&whole, &next).unwrap();
            let got: Vec<f32> = nll[row * 6..][..6].iter().map(|x| *x as f32).collect();
            let expected: Vec<f32> = expected[prompt.len()..].iter().map(|x| *x as f32).collect();
            close(&got, &expected, bound);
        }
        assert!(scorer.logits_after(Some(&front), &batch, &[5, 0, 6]).is_err());
        let far = TokenBatch::after(&[60, 60, 60], suffix).unwrap();
        assert!(scorer.logits_after(Some(&front), &far, &[5, 0, 3]).is_err(), "past the context");
    });
}

/// Loss of a suffix as a function of the keys and values in front, by central differences.
#[test]
fn gradients_of_a_prefix_flow_through_every_layer() {
    let device = Device::cpu(Ledger::new(), 2);
    for spec in variants() {
        let (decoder, mut params) = build(&device, spec.clone());
        params.iter_mut().for_each(|(_, param)| param.trainable = false);
        let lens = [7u32, 4];
        let prompts: Vec<Vec<u32>> = lens.iter().map(|n| tokens(*n as usize, 3)).collect();
        let captured =
            decoder.capture(&device, Compute::F32, &params, &padded(&prompts), false).unwrap();
        let start: Vec<Vec<f32>> =
            captured.iter().flat_map(|l| [l.keys.to_vec(), l.values.to_vec()]).collect();
        let batch = TokenBatch::after(&lens, tokens(2 * 3, 9)).unwrap();
        let targets = Targets {
            tokens: tokens(6, 4).into(),
            weights: [1.0, 1.0, 0.5, 1.0, 0.0, 0.0].into(),
            scale: 0.25,
            chunk_bytes: 1 << 16,
        };
        let shape = captured[0].keys.shape();
        let lens: Arc<[u32]> = lens.into();
        for keep in [Keep::Values, Keep::Inputs] {
            let mut run = |arrays: &[Vec<f32>]| {
                let mut tape = Tape::training(&device, Compute::F32, &mut params);
                let mut put = |values: &Vec<f32>| {
                    let x = Tensor::from_f32(device.pool(), Tag::Kv, shape, values).unwrap();
                    tape.input(x, true)
                };
                let prefix: Vec<Prefix> = arrays
                    .chunks(2)
                    .map(|kv| Prefix {
                        keys: put(&kv[0]),
                        values: put(&kv[1]),
                        lens: Some(lens.clone()),
                    })
                    .collect();
                let loss =
                    decoder.loss_after(&mut tape, &batch, &prefix, targets.clone(), keep).unwrap();
                let value = tape.value(loss).unwrap().slice::<f32>()[0];
                let grads = tape.backward(loss, &mut HeldGrads::new()).unwrap();
                let of = |var| grads.get(var).expect("a gradient").to_vec();
                let grads: Vec<Vec<f32>> =
                    prefix.iter().flat_map(|p| [of(p.keys), of(p.values)]).collect();
                (f64::from(value), grads)
            };
            let (_, grads) = run(&start);
            let width = shape[1];
            for (i, grad) in grads.iter().enumerate() {
                // What fills the shorter row has no part in it.
                assert!(grad[(7 + 4) * width..].iter().all(|g| *g == 0.0));
                // Along the gradient itself, the slope is its length.
                let length = grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                let moved = |step: f64| {
                    let mut arrays = start.clone();
                    let by = |g: &f32| (step * f64::from(*g) / length) as f32;
                    arrays[i].iter_mut().zip(grad).for_each(|(x, g)| *x += by(g));
                    arrays
                };
                let slope = (run(&moved(5e-3)).0 - run(&moved(-5e-3)).0) / 1e-2;
                assert!((slope / length - 1.0).abs() < 2e-2, "{i}: {slope} {length}");
            }
            let short = decoder.loss_after(
                &mut Tape::training(&device, Compute::F32, &mut params),
                &batch,
                &[],
                targets.clone(),
                keep,
            );
            assert!(short.is_ok(), "no prefix at all is a plain batch");
        }
    }
}

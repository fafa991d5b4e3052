//! The decoder as a whole: first loss, causality, documents, and cached decoding against the tape.

use smidgen_codec::Ledger;
use smidgen_model::{Decoder, Session, Spec, TokenBatch};
use smidgen_tensor::{Compute, Device, HeldGrads, Keep, Level, Params, Tape, Targets};

fn variants() -> Vec<Spec> {
    let plain = Spec { layers: 2, ..Spec::new(97, 48, 2, 4, 80, 64) };
    vec![
        plain.clone(),
        Spec { kv_heads: 2, qk_norm: true, tied: true, ..plain.clone() },
        Spec { kv_heads: 1, head_dim: 10, qkv_bias: true, ..plain },
    ]
}

fn build(device: &Device, spec: Spec) -> (Decoder, Params) {
    let mut params = Params::new();
    let decoder = Decoder::new(device, spec, &mut params).unwrap();
    decoder.init(&mut params, 5);
    (decoder, params)
}

fn tokens(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * 31 + seed * 17 + i * i % 7) % 97) as u32).collect()
}

fn targets(tokens: &[u32]) -> Targets {
    let count = tokens.len();
    Targets {
        tokens: tokens.into(),
        weights: vec![1.0; count].into(),
        scale: 1.0 / count as f32,
        chunk_bytes: 1 << 20,
    }
}

fn hidden(
    device: &Device,
    compute: Compute,
    decoder: &Decoder,
    params: &Params,
    batch: &TokenBatch,
) -> Vec<f32> {
    let mut tape = Tape::inference(device, compute, params);
    let hidden = decoder.hidden(&mut tape, batch, Keep::Values).unwrap();
    tape.value(hidden).unwrap().to_vec()
}

#[test]
fn parameters_are_counted_and_the_first_loss_is_ln_v() {
    let device = Device::cpu(Ledger::new(), 2);
    for spec in variants() {
        let (decoder, mut params) = build(&device, spec.clone());
        assert_eq!(params.element_count(), spec.param_count());
        let data = tokens(3 * 40, 1);
        let batch = TokenBatch::whole(3, data.clone()).unwrap();
        let mut tape = Tape::training(&device, Compute::F32, &mut params);
        let loss =
            decoder.loss(&mut tape, &batch, targets(&tokens(3 * 40, 2)), Keep::Values).unwrap();
        let value = tape.value(loss).unwrap().to_vec()[0];
        assert!((value - (spec.vocab as f32).ln()).abs() < 0.5, "{value}");
        let mut grads = HeldGrads::new();
        tape.backward(loss, &mut grads).unwrap();
        for (id, param) in params.iter() {
            let grad =
                grads.get(id).unwrap_or_else(|| panic!("a gradient for {}", param.name)).to_vec();
            assert!(
                grad.iter().all(|g| g.is_finite()) && grad.iter().any(|g| *g != 0.0),
                "{}",
                param.name
            );
        }
    }
}

/// Logits of a wide model would spread by more than one with tables as wide as its matrices.
#[test]
fn a_wide_model_begins_near_ln_v_too() {
    let device = Device::cpu(Ledger::new(), 2);
    let spec = Spec { tied: true, ..Spec::new(512, 3072, 1, 24, 64, 32) };
    let (decoder, params) = build(&device, spec);
    let batch = TokenBatch::whole(1, (0..32).map(|i| i * 11 % 512).collect()).unwrap();
    let mut tape = Tape::inference(&device, Compute::F32, &params);
    let next: Vec<u32> = (1..33).map(|i| i * 11 % 512).collect();
    let loss = decoder.loss(&mut tape, &batch, targets(&next), Keep::Values).unwrap();
    let value = tape.value(loss).unwrap().to_vec()[0];
    assert!((value - 512f32.ln()).abs() < 0.5, "{value}");
}

#[test]
fn later_tokens_and_other_documents_change_nothing() {
    let device = Device::cpu(Ledger::new(), 2);
    for compute in [Compute::F32, Compute::Bf16] {
        for spec in variants() {
            let (decoder, params) = build(&device, spec.clone());
            let (rows, length, cut) = (2, 50, 23);
            let starts: Vec<u32> =
                (0..rows * length).map(|i| if i % length >= 9 { 9 } else { 0 }).collect();
            let first = tokens(rows * length, 1);
            let mut later = first.clone();
            let mut before = first.clone();
            for row in 0..rows {
                later[row * length + cut + 1..(row + 1) * length].fill(3);
                before[row * length..row * length + 9].fill(4);
            }
            let run = |data: &[u32]| {
                let batch = TokenBatch::new(rows, data.to_vec(), starts.clone()).unwrap();
                hidden(&device, compute, &decoder, &params, &batch)
            };
            let (base, later, before) = (run(&first), run(&later), run(&before));
            for token in 0..rows * length {
                let same = |other: &[f32]| {
                    base[token * spec.width..][..spec.width]
                        == other[token * spec.width..][..spec.width]
                };
                assert_eq!(
                    same(&later),
                    token % length <= cut,
                    "token {token} sees only what is before it"
                );
                assert_eq!(
                    same(&before),
                    token % length >= 9,
                    "token {token} sees only its document"
                );
            }
        }
    }
}

#[test]
fn a_session_agrees_with_the_tape_however_it_is_fed() {
    for level in Level::available() {
        let device = Device::cpu_at(Ledger::new(), 2, level);
        for compute in [Compute::F32, Compute::Bf16] {
            for spec in variants() {
                let (decoder, params) = build(&device, spec.clone());
                let data = tokens(45, 3);
                let batch = TokenBatch::whole(1, data.clone()).unwrap();
                let states = hidden(&device, compute, &decoder, &params, &batch);
                let head = params
                    .get(
                        params
                            .find(if spec.tied { "embed.weight" } else { "head.weight" })
                            .unwrap(),
                    )
                    .value
                    .to_vec();
                let last = &states[44 * spec.width..];
                let exact: Vec<f32> = head
                    .chunks(spec.width)
                    .map(|row| row.iter().zip(last).map(|(a, b)| a * b).sum())
                    .collect();
                let tolerance = if compute == Compute::F32 { 1e-5 } else { 2e-2 };
                for pieces in [vec![45], vec![1; 45], vec![20, 1, 24], vec![3, 42]] {
                    let mut session =
                        Session::new(&device, compute, &decoder, &params, 48).unwrap();
                    let mut at = 0;
                    let mut logits = Vec::new();
                    for piece in pieces {
                        logits = session.feed(&data[at..at + piece]).unwrap();
                        at += piece;
                    }
                    let error =
                        logits.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(error < tolerance, "{level:?} {compute:?} {error}");
                    session.truncate(44);
                    let again = session.feed(&data[44..]).unwrap();
                    let error =
                        again.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                    assert!(error < tolerance, "after forgetting a token: {error}");
                    assert!(session.feed(&[1; 4]).is_err(), "three more tokens fit, not four");
                }
            }
        }
    }
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    let device = Device::cpu(Ledger::new(), 1);
    let (decoder, params) = build(&device, variants().remove(0));
    assert!(TokenBatch::whole(2, vec![1; 7]).is_err());
    assert!(TokenBatch::new(1, vec![1; 4], vec![0, 2, 0, 0]).is_err());
    let long = TokenBatch::whole(1, vec![1; 65]).unwrap();
    let mut tape = Tape::inference(&device, Compute::F32, &params);
    assert!(decoder.hidden(&mut tape, &long, Keep::Values).is_err());
    let foreign = TokenBatch::whole(1, vec![97; 8]).unwrap();
    let mut tape = Tape::inference(&device, Compute::F32, &params);
    assert!(decoder.hidden(&mut tape, &foreign, Keep::Values).is_err());
}

#[test]
fn a_unit_whose_gate_is_shut_shows_no_activity() {
    let device = Device::cpu(Ledger::new(), 2);
    let (decoder, mut params) = build(&device, variants().remove(0));
    let gate = params.find("layers.1.mlp.gate.weight").unwrap();
    params.get_mut(gate).value.slice_mut::<f32>()[3 * 48..4 * 48].fill(0.0);
    let mut session = Session::new(&device, Compute::F32, &decoder, &params, 20).unwrap();
    let activity = session.activity(&tokens(20, 1)).unwrap();
    assert_eq!(activity.iter().map(Vec::len).collect::<Vec<_>>(), [80, 80]);
    for (layer, sizes) in activity.iter().enumerate() {
        for (unit, size) in sizes.iter().enumerate() {
            assert_eq!(*size == 0.0, (layer, unit) == (1, 3), "{layer} {unit}: {size}");
        }
    }
    // Asking leaves the session as reading does.
    assert_eq!(session.len(), 20);
}

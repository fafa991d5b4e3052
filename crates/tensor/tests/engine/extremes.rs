//! Numbers at the edge of f32, numbers that are none, and operations over nothing.

use std::sync::Arc;

use smidgen_codec::{Ledger, Tag};
use smidgen_tensor::{
    AttentionShape, Compute, Device, HeldGrads, Keep, Level, Params, Role, Tape, Targets, Tensor,
};

use crate::check::{Case, Given, check};
use crate::reference;
use crate::small::{Sizes, Small};

/// Every level with both operand formats.
fn everywhere() -> impl Iterator<Item = (Level, Compute)> {
    Level::available().flat_map(|level| [(level, Compute::F32), (level, Compute::Bf16)])
}

/// Loss of one row of logits, and its gradient, through a head that is the identity.
fn loss_of(logits: &[f32], target: u32, level: Level, compute: Compute) -> (f32, Vec<f32>) {
    let n = logits.len();
    let device = Device::cpu_at(Ledger::new(), 1, level);
    let mut params = Params::new();
    let head = params.add(&device, "head", Role::Head, [n, n]).expect("memory");
    let eye: Vec<f32> = (0..n * n).map(|i| f32::from(u8::from(i % (n + 1) == 0))).collect();
    params.load(head, &eye).expect("a square");
    params.get_mut(head).trainable = false;
    let mut tape = Tape::training(&device, compute, &mut params);
    let x = Tensor::from_f32(device.pool(), Tag::Activations, [1, n], logits).expect("memory");
    let x = tape.input(x, true);
    let (tokens, weights): (Arc<[u32]>, Arc<[f32]>) = ([target].into(), [1.0].into());
    let targets = Targets { tokens, weights, scale: 1.0, chunk_bytes: 0 };
    let loss = tape.head_loss(x, head, targets).expect("a loss");
    let value = tape.value(loss).expect("held").slice::<f32>()[0];
    let grads = tape.backward(loss, &mut HeldGrads::new()).expect("a way back");
    (value, grads.get(x).expect("a gradient").to_vec())
}

#[test]
fn large_logits_give_exact_losses() {
    for (level, compute) in everywhere() {
        // 9984 and 64 are bf16 numbers, so the loss is exact in both formats.
        let (loss, grad) = loss_of(&[9984.0, -9984.0, 0.0], 1, level, compute);
        assert_eq!(loss, 2.0 * 9984.0);
        assert_eq!((grad[0], grad[1]), (1.0, -1.0));
        assert!(grad[2].abs() < 1e-30);
        let (loss, grad) = loss_of(&[9984.0, 9984.0, -9984.0], 0, level, compute);
        assert!((loss - std::f32::consts::LN_2).abs() < 1e-6);
        assert_eq!((grad[0], grad[1]), (-0.5, 0.5));
    }
}

#[test]
fn what_is_not_finite_reaches_the_loss() {
    for (level, compute) in everywhere() {
        for bad in [f32::NAN, f32::INFINITY] {
            for at in 0..3 {
                let mut logits = [1.0, 2.0, 3.0];
                logits[at] = bad;
                let (loss, _) = loss_of(&logits, 1, level, compute);
                assert!(!loss.is_finite(), "{bad} at {at} became {loss}");
            }
        }
    }
}

#[test]
fn a_weight_that_is_no_number_reaches_the_loss_and_nothing_panics() {
    for (level, compute) in everywhere() {
        for which in 0..Sizes::SMALL.given().len() {
            let mut small = Small::new(Sizes::SMALL, level, 2);
            let id = small.ids[which];
            small.params.get_mut(id).value.slice_mut::<f32>().fill(f32::NAN);
            let (loss, _) =
                small.step(compute, Keep::Values, &mut HeldGrads::new()).expect("a step");
            assert!(loss.is_nan(), "parameter {which} at {}", level.name());
        }
    }
}

/// Scores of about +-1e4 and one key that outweighs all: probabilities of 0 and 1.
#[test]
fn attention_with_large_scores() {
    for (level, compute) in everywhere() {
        let s =
            AttentionShape { batch: 1, tokens: 60, heads: 1, kv_heads: 1, head_dim: 4, prefix: 0 };
        let mut qkv = vec![0f32; 60 * 12];
        for (i, row) in qkv.chunks_exact_mut(12).enumerate() {
            row[0] = 128.0;
            row[4] = if i == 0 { 156.0 } else { -156.0 };
            row[8] = i as f32;
        }
        let device = Device::cpu_at(Ledger::new(), 1, level);
        let mut params = Params::new();
        let mut tape = Tape::training(&device, compute, &mut params);
        let x = Tensor::from_f32(device.pool(), Tag::Activations, [60, 12], &qkv).expect("memory");
        let x = tape.input(x, true);
        let out = tape.attention(x, s, None, None).expect("attention");
        let value = tape.value(out).expect("held").to_vec();
        assert!(value.iter().all(|v| v.abs() < 1e-6), "the first token's value, which is 0");
        let weights = Tensor::from_f32(device.pool(), Tag::Activations, [60, 4], &[1.0; 240]);
        let loss = tape.dot(out, &Arc::new(weights.expect("memory"))).expect("a loss");
        let grads = tape.backward(loss, &mut HeldGrads::new()).expect("a way back");
        let grad = grads.get(x).expect("a gradient").to_vec();
        assert!(grad.iter().all(|g| g.is_finite()));
        assert_eq!(grad[8], 60.0, "all values' gradients meet at the first");
    }
}

#[test]
fn swiglu_saturates_without_overflow() {
    check(&Case {
        name: "swiglu of large gates".into(),
        params: vec![],
        inputs: vec![Given {
            shape: [1, 12],
            values: vec![-1e4, -100.0, -80.0, 80.0, 100.0, 1e4, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
            trainable: true,
        }],
        build: Box::new(|tape, _, x| tape.swiglu(x[0])),
        reference: Box::new(|_, x| reference::swiglu(&x[0])),
    });
}

#[test]
fn the_norm_of_zeros_is_zero() {
    for (level, compute) in everywhere() {
        let case = Case {
            name: "norm of zeros".into(),
            params: vec![Given::gain(1, 5)],
            inputs: vec![Given { shape: [2, 5], values: vec![0.0; 10], trainable: true }],
            build: Box::new(|tape, p, x| tape.rms_norm(x[0], p[0], 1e-5)),
            reference: Box::new(|_, x| x[0].clone()),
        };
        let outcome = case.run(&Device::cpu_at(Ledger::new(), 1, level), compute, &[1.0; 10]);
        assert!(outcome.value.iter().all(|v| *v == 0.0));
        assert!(outcome.grads.iter().flatten().flatten().all(|g| g.is_finite()));
    }
}

/// No tokens: the loss is 0, and every parameter gets a gradient of zeros, whatever the memory held before.
#[test]
fn a_batch_of_nothing_has_gradients_of_zero() {
    for (level, compute) in everywhere() {
        for sizes in [Sizes { tokens: 0, ..Sizes::SMALL }, Sizes { batch: 0, ..Sizes::SMALL }] {
            for keep in [Keep::Values, Keep::Inputs] {
                let mut small = Small::new(sizes, level, 2);
                let dirt = Tensor::uninit(
                    small.device.pool(),
                    Tag::Workspace,
                    [1, 100_000],
                    smidgen_tensor::Format::F32,
                );
                dirt.expect("memory").slice_mut::<f32>().fill(7.0);
                let mut held = HeldGrads::new();
                let (loss, _) = small.step(compute, keep, &mut held).expect("a step");
                assert_eq!(loss, 0.0);
                for id in &small.ids {
                    let grad = held.get(*id).expect("a gradient, if of zeros").to_vec();
                    assert!(grad.iter().all(|g| *g == 0.0));
                }
            }
        }
    }
}

/// Zero weight everywhere: nothing to learn, and nothing divides by it.
#[test]
fn rows_of_no_weight_have_no_gradient() {
    for (level, compute) in everywhere() {
        let (tokens, weights): (Arc<[u32]>, Arc<[f32]>) = ([1, 2].into(), [0.0, 0.0].into());
        let case = Case {
            name: "no weight".into(),
            params: vec![Given::normal(1, [3, 4], 1.0)],
            inputs: vec![Given::normal(2, [2, 4], 1.0)],
            build: Box::new(move |tape, p, x| {
                let (tokens, weights) = (tokens.clone(), weights.clone());
                let targets = Targets { tokens, weights, scale: 1.0, chunk_bytes: 0 };
                tape.head_loss(x[0], p[0], targets)
            }),
            reference: Box::new(|_, x| x[0].clone()),
        };
        let outcome = case.run(&Device::cpu_at(Ledger::new(), 1, level), compute, &[1.0]);
        assert_eq!(outcome.value, [0.0]);
        assert!(outcome.grads.iter().flatten().flatten().all(|g| *g == 0.0));
    }
}

//! Sizes that do not fit are errors that say so; nothing panics, and nothing is written outside.

use std::sync::Arc;

use smidgen_codec::{Ledger, Tag};
use smidgen_tensor::{
    AttentionShape, Compute, Device, Dropout, Error, Format, Gate, HeldGrads, LinearSpec, ParamId,
    Params, Prefix, Role, RopeTable, Tape, Targets, Tensor, Var,
};

/// Weights `[6, 4]`, `[3, 4]`, `[5, 3]`, a gain `[1, 4]`, one of nothing, and an input `[5, 4]` in bf16 or f32.
fn on_tape<R>(format: Format, test: impl Fn(&mut Tape<'_>, &[ParamId], Var) -> R) -> R {
    let device = Device::cpu(Ledger::new(), 2);
    let mut params = Params::new();
    let ids: Vec<ParamId> = [[6, 4], [3, 4], [5, 3], [1, 4], [1, 0]]
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            params.add(&device, &format!("p{i}"), Role::MatrixHidden, *shape).expect("memory")
        })
        .collect();
    let mut tape = Tape::training(&device, Compute::Bf16, &mut params);
    let x = Tensor::zeros(device.pool(), Tag::Activations, [5, 4], format).expect("memory");
    let x = tape.input(x, true);
    test(&mut tape, &ids, x)
}

fn refused<T>(test: impl Fn(&mut Tape<'_>, &[ParamId], Var) -> Result<T, Error>) {
    let error = on_tape(Format::F32, test).err().expect("sizes that do not fit");
    assert!(matches!(error, Error::Shape { .. } | Error::Value { .. }), "{error}");
}

#[test]
fn embedding_refuses_tokens_outside_the_table() {
    refused(|tape, p, _| tape.embedding(p[0], &[0, 6].into()));
}

#[test]
fn norms_refuse_groups_that_do_not_fit() {
    refused(|tape, p, x| tape.rms_norm(x, p[0], 1e-5));
    refused(|tape, p, x| tape.rms_norm(x, p[4], 1e-5));
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..3, 1..5, 4..8, 4..0] {
        refused(|tape, p, x| tape.rms_norm_heads(x, p[3], 1e-5, range.clone()));
    }
    refused(|tape, p, x| tape.rms_norm_heads(x, p[4], 1e-5, 0..0));
}

#[test]
fn linear_refuses_weights_that_do_not_fit() {
    refused(|tape, p, x| tape.linear(x, &LinearSpec::new([p[2]]), None));
    refused(|tape, p, x| tape.linear(x, &LinearSpec::new([p[0], p[2]]), None));
    // Three rows of bf16 before another weight would share a word with it.
    refused(|tape, p, x| tape.linear(x, &LinearSpec::new([p[1], p[0]]), None));
    refused(|tape, _, x| tape.linear(x, &LinearSpec::new([]), None));
    refused(|tape, p, x| tape.linear(x, &LinearSpec { weights: vec![p[0]], biases: vec![] }, None));
    refused(|tape, p, x| {
        tape.linear(x, &LinearSpec { weights: vec![p[0]], biases: vec![Some(p[3])] }, None)
    });
    refused(|tape, p, x| tape.linear(x, &LinearSpec::new([p[0]]), Some(x)));
    // A residual in bf16 would be read as f32.
    let residual = on_tape(Format::Bf16, |tape, p, x| {
        tape.linear(x, &LinearSpec::new([p[0]]), None).expect("it fits");
        let narrow = tape.linear(x, &LinearSpec::new([p[0]]), None).expect("it fits");
        tape.linear(x, &LinearSpec::new([p[0]]), Some(narrow))
    });
    assert!(matches!(residual, Err(Error::Value { .. })));
}

#[test]
fn rope_refuses_columns_and_positions_that_do_not_fit() {
    let table = Arc::new(RopeTable::new(4, 9, 1e4));
    let positions: Arc<[u32]> = (0..5).collect();
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..2, 1..4, 0..8, 4..0] {
        refused(|tape, _, x| tape.rope(x, &table, &positions, range.clone()));
    }
    refused(|tape, _, x| tape.rope(x, &table, &[0, 1].into(), 0..4));
    refused(|tape, _, x| tape.rope(x, &table, &[0, 1, 2, 3, 9].into(), 0..4));
}

#[test]
fn attention_refuses_shapes_that_do_not_fit() {
    let good =
        AttentionShape { batch: 1, tokens: 5, heads: 0, kv_heads: 1, head_dim: 2, prefix: 0 };
    refused(|tape, _, x| tape.attention(x, good, None, None));
    let shape = |heads, kv_heads, head_dim| AttentionShape { heads, kv_heads, head_dim, ..good };
    for bad in [shape(0, 2, 1), shape(4, 0, 1), shape(2, 1, 1), shape(1, 1, 0), shape(9, 9, 2)] {
        refused(|tape, _, x| tape.attention(x, bad, None, None));
    }
    // A row of 12 fits these heads, so that only the rest is wrong.
    let wide = AttentionShape { heads: 4, kv_heads: 1, head_dim: 2, ..good };
    let qkv = |tape: &mut Tape<'_>, p: &[ParamId], x| {
        tape.linear(x, &LinearSpec::new([p[0], p[0]]), None).expect("it fits")
    };
    let starts = |s: &[u32]| Arc::<[u32]>::from(s);
    for bad in [starts(&[0]), starts(&[0, 2, 0, 0, 0])] {
        refused(|tape, p, x| {
            let x = qkv(tape, p, x);
            tape.attention(x, wide, Some(&bad), None)
        });
    }
    // Sequences of one token: the second cannot begin at a place of the first.
    let two = AttentionShape { batch: 5, tokens: 1, ..wide };
    refused(|tape, p, x| {
        let x = qkv(tape, p, x);
        tape.attention(x, two, Some(&starts(&[0, 1, 0, 0, 0])), None)
    });
    refused(|tape, p, x| {
        let x = qkv(tape, p, x);
        tape.attention(x, AttentionShape { prefix: 2, ..wide }, None, None)
    });
    refused(|tape, p, x| {
        let qkv = qkv(tape, p, x);
        let prefix = Prefix { keys: x, values: x, lens: None };
        tape.attention(qkv, wide, None, Some(&prefix))
    });
    refused(|tape, p, x| {
        let qkv = qkv(tape, p, x);
        let prefix = Prefix { keys: x, values: x, lens: None };
        tape.attention(qkv, AttentionShape { prefix: 2, ..wide }, None, Some(&prefix))
    });
    for lens in [vec![6], vec![1, 1]] {
        refused(|tape, p, x| {
            let qkv = tape.linear(x, &LinearSpec::new([p[0]]), None).expect("it fits");
            let keys = Tensor::zeros(tape.device().pool(), Tag::Activations, [5, 2], Format::F32);
            let keys = tape.input(keys.expect("memory"), false);
            let one = AttentionShape { heads: 1, prefix: 5, ..good };
            let prefix = Prefix { keys, values: keys, lens: Some(lens.clone().into()) };
            tape.attention(qkv, one, None, Some(&prefix))
        });
    }
}

#[test]
fn sums_gates_and_rows_refuse_what_does_not_fit() {
    let zeros = |tape: &mut Tape<'_>, shape| {
        let zeros = Tensor::zeros(tape.device().pool(), Tag::Activations, shape, Format::F32);
        tape.input(zeros.expect("memory"), false)
    };
    refused(|tape, _, x| {
        let other = zeros(tape, [5, 3]);
        tape.add(x, other, None)
    });
    for rate in [-0.1, 1.0, f32::NAN] {
        refused(|tape, _, x| tape.add(x, x, Some(Dropout { rate, key: 1 })));
    }
    // The last would fit, but for a parameter that is no single number.
    for (p, logits) in
        [([5, 3], [5, 2]), ([5, 4], [4, 2]), ([5, 4], [5, 3]), ([5, 4], [5, 0]), ([5, 4], [5, 2])]
    {
        refused(|tape, ids, _| {
            let (r, p, logits) = (zeros(tape, [5, 4]), zeros(tape, p), zeros(tape, logits));
            tape.gated_add(r, p, logits, ids[3], Gate::Hard)
        });
    }
    for places in [&[0, 1][..], &[1, 0, 2], &[0, 1, 5], &[1, 1, 2]] {
        refused(|tape, _, x| {
            let rows = zeros(tape, [3, 4]);
            tape.put_rows(x, rows, &places.into())
        });
    }
}

#[test]
fn swiglu_refuses_odd_or_no_columns() {
    refused(|tape, p, x| {
        let odd = tape.linear(x, &LinearSpec::new([p[1]]), None)?;
        tape.swiglu(odd)
    });
    let device = Device::cpu(Ledger::new(), 1);
    let params = Params::new();
    let mut tape = Tape::inference(&device, Compute::F32, &params);
    let none = Tensor::zeros(device.pool(), Tag::Activations, [3, 0], Format::F32);
    let none = tape.input(none.expect("memory"), false);
    assert!(matches!(tape.swiglu(none), Err(Error::Shape { .. })));
}

#[test]
fn losses_refuse_targets_that_do_not_fit() {
    let targets = |tokens: &[u32], weights: &[f32]| Targets {
        tokens: tokens.into(),
        weights: weights.into(),
        scale: 1.0,
        chunk_bytes: 0,
    };
    let ones = [1.0; 5];
    refused(|tape, p, x| tape.head_loss(x, p[0], targets(&[0; 4], &ones)));
    refused(|tape, p, x| tape.head_loss(x, p[0], targets(&[0; 5], &ones[1..])));
    refused(|tape, p, x| tape.head_loss(x, p[0], targets(&[0, 0, 0, 0, 6], &ones)));
    refused(|tape, p, x| tape.head_loss(x, p[2], targets(&[0; 5], &ones)));
    refused(|tape, _, x| {
        let device = tape.device().clone();
        let weights = Tensor::zeros(device.pool(), Tag::Activations, [4, 5], Format::F32)?;
        tape.dot(x, &Arc::new(weights))
    });
}

#[test]
fn the_way_back_begins_at_a_single_number() {
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let weight = params.add(&device, "w", Role::MatrixHidden, [2, 2]).expect("memory");
    let mut tape = Tape::training(&device, Compute::F32, &mut params);
    let x = Tensor::zeros(device.pool(), Tag::Activations, [3, 2], Format::F32).expect("memory");
    let x = tape.input(x, true);
    let y = tape.linear(x, &LinearSpec::new([weight]), None).expect("it fits");
    let ended = tape.backward(y, &mut HeldGrads::new());
    assert!(matches!(ended, Err(Error::Shape { .. })));
}

#[test]
fn a_refused_name_leaves_the_first_parameter_in_place() {
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let first = params.add(&device, "w", Role::Norm, [1, 2]).expect("memory");
    let again = params.add(&device, "w", Role::Norm, [1, 3]);
    assert!(matches!(again, Err(Error::Value { .. })));
    assert_eq!(params.find("w"), Some(first));
    assert_eq!((params.len(), device.ledger().live_bytes(Tag::Weights)), (1, 8));
    assert!(matches!(params.load(first, &[1.0]), Err(Error::Shape { .. })));
}

/// Products of sizes that leave the range of `usize` must not wrap to something small.
#[test]
fn sizes_past_all_memory_are_errors() {
    let device = Device::cpu(Ledger::new(), 1);
    for shape in [[usize::MAX, 2], [1 << 62, 4], [usize::MAX, usize::MAX], [1 << 60, 1]] {
        let error = |t: Result<Tensor, Error>| assert!(t.is_err(), "{shape:?}");
        error(Tensor::uninit(device.pool(), Tag::Weights, shape, Format::F32));
        error(Tensor::zeros(device.pool(), Tag::Weights, shape, Format::Bf16));
        error(Tensor::from_f32(device.pool(), Tag::Weights, shape, &[]));
        let one = Tensor::zeros(device.pool(), Tag::Weights, [1, 1], Format::F32);
        error(one.expect("memory").reshape(shape));
    }
    assert!(device.pool().bytes(Tag::Weights, usize::MAX).is_err());
    assert_eq!(device.ledger().total_live_bytes(), 0);
}

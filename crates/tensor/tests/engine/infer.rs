//! Decoding without a tape: the same numbers, token by token or in chunks of any size.

use smidgen_codec::{Ledger, Tag};
use smidgen_tensor::infer::{self, KvLayer, PackedLinear};
use smidgen_tensor::{
    AttentionShape, Compute, Device, Error, Format, Level, Param, RopeTable, Tape, Tensor,
};

use crate::check::{Given, normals, params, relative_error};
use crate::reference::{self, Mat};

fn everywhere(test: impl Fn(&Device, Compute, f64)) {
    for level in Level::available() {
        for (compute, bound) in [(Compute::F32, 1e-5), (Compute::Bf16, 1e-2)] {
            test(&Device::cpu_at(Ledger::new(), 2, level), compute, bound);
        }
    }
}

/// A tensor in the operand format, and what it really holds.
fn operand(device: &Device, compute: Compute, shape: [usize; 2], values: &[f32]) -> (Tensor, Mat) {
    let mut tensor =
        Tensor::uninit(device.pool(), Tag::Activations, shape, compute.format()).expect("memory");
    match compute {
        Compute::F32 => tensor.slice_mut::<f32>().copy_from_slice(values),
        Compute::Bf16 => {
            let to = tensor.slice_mut::<half::bf16>();
            to.iter_mut().zip(values).for_each(|(t, v)| *t = half::bf16::from_f32(*v));
        }
    }
    let mat = mat(&tensor);
    (tensor, mat)
}

fn mat(tensor: &Tensor) -> Mat {
    let data = tensor.to_vec().iter().map(|v| f64::from(*v)).collect();
    Mat { rows: tensor.rows(), cols: tensor.cols(), data }
}

fn rows(x: &Mat, from: usize, count: usize) -> Vec<f32> {
    x.data[from * x.cols..][..count * x.cols].iter().map(|v| *v as f32).collect()
}

#[test]
fn a_cache_read_in_any_chunks_is_one_attention() {
    let (heads, kv_heads, e, tokens) = (4, 2, 6, 83);
    let s = AttentionShape { batch: 1, tokens, heads, kv_heads, head_dim: e, prefix: 0 };
    let values = normals(1, tokens * s.qkv_cols(), 1.0);
    everywhere(|device, compute, bound| {
        let (_, exact) = operand(device, compute, [tokens, s.qkv_cols()], &values);
        let expected = reference::attention(&exact, s, None, None, None);
        for chunks in [vec![1; 83], vec![83], vec![24, 25, 1, 33], vec![1, 48, 2, 32], vec![80, 3]]
        {
            let mut cache = KvLayer::new(device, compute, 90, kv_heads, e).expect("memory");
            let mut got = Vec::new();
            for count in chunks.iter().copied() {
                let at = cache.len();
                let part = rows(&exact, at, count);
                let (part, _) = operand(device, compute, [count, s.qkv_cols()], &part);
                let out = cache.attend(device, compute, heads, &part).expect("attention");
                got.extend(mat(&out).data);
                assert_eq!(cache.len(), at + count);
            }
            let error = relative_error(&got, &expected.data);
            assert!(error < bound, "{} {compute:?} {chunks:?}: {error}", device.level().name());
            let width = kv_heads * e;
            let (mut keys, mut values) = (vec![0.0; tokens * width], vec![0.0; tokens * width]);
            cache.read(device, compute, &mut keys, &mut values).expect("all held tokens");
            let wide = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
            for token in 0..tokens {
                let row = exact.row(token);
                assert_eq!(wide(&keys[token * width..][..width]), row[heads * e..][..width]);
                assert_eq!(wide(&values[token * width..][..width]), row[heads * e + width..]);
            }
        }
    });
}

/// What is written over a token is what later tokens see of it, and its neighbours stay.
#[test]
fn a_token_of_a_cache_is_replaced() {
    let (kv_heads, e, tokens) = (2, 6, 7);
    let (cols, width) = (3 * kv_heads * e, kv_heads * e);
    everywhere(|device, compute, _| {
        let (first, _) = operand(device, compute, [tokens, cols], &normals(1, tokens * cols, 1.0));
        let (next, _) = operand(device, compute, [1, cols], &normals(2, cols, 1.0));
        let fresh = |qkv: &Tensor| {
            let mut cache = KvLayer::new(device, compute, 8, kv_heads, e).expect("memory");
            cache.attend(device, compute, kv_heads, qkv).expect("attention");
            cache
        };
        let mut other = first.to_vec();
        let changed = normals(3, 2 * width, 1.0);
        other[4 * cols + width..][..2 * width].copy_from_slice(&changed);
        let (other, _) = operand(device, compute, [tokens, cols], &other);
        let (mut written, mut expected) = (fresh(&first), fresh(&other));
        let (key, value) = changed.split_at(width);
        written.write(device, compute, 4, key, value).expect("a held token");
        let next = |cache: &mut KvLayer| {
            cache.attend(device, compute, kv_heads, &next).expect("attention").to_vec()
        };
        assert_eq!(next(&mut written), next(&mut expected));
        assert!(written.write(device, compute, 8, key, value).is_err(), "seven and one are held");
        assert!(written.write(device, compute, 0, &key[1..], value).is_err());
        assert!(written.read(device, compute, &mut [0.0; 5], &mut [0.0; 5]).is_err());
    });
}

/// What was forgotten leaves no trace, also where it shares a word with what follows.
#[test]
fn a_truncated_cache_goes_on_as_if_it_had_never_read_more() {
    let (cols, e) = (3 * 4, 4);
    everywhere(|device, compute, _| {
        let read = |seed, count: usize| {
            operand(device, compute, [count, cols], &normals(seed, count * cols, 1.0)).0
        };
        let run = |extra: usize| {
            let mut cache = KvLayer::new(device, compute, 40, 1, e).expect("memory");
            cache.attend(device, compute, 1, &read(1, 7)).expect("attention");
            if extra > 0 {
                cache.attend(device, compute, 1, &read(2, extra)).expect("attention");
                cache.truncate(7);
            }
            let next = cache.attend(device, compute, 1, &read(3, 2)).expect("attention");
            next.to_vec()
        };
        assert_eq!(run(0), run(1));
        assert_eq!(run(0), run(20));
    });
}

#[test]
fn packed_weights_give_what_the_reference_gives() {
    everywhere(|device, compute, bound| {
        for count in [0, 1, 12, 13, 50] {
            let given = [
                Given::normal(1, [33, 10], 1.0),
                Given::normal(2, [5, 10], 1.0),
                Given::normal(3, [1, 5], 1.0),
            ];
            let (params, ids) = params(device, &given);
            let p: Vec<&Param> = ids.iter().map(|id| params.get(*id)).collect();
            let packed = PackedLinear::new(device, compute, &[p[0], p[1]], &[None, Some(p[2])])
                .expect("memory");
            assert_eq!(packed.out(), 38);
            let (x, exact) = operand(device, compute, [count, 10], &normals(4, count * 10, 1.0));
            let residual = normals(5, count * 38, 1.0);
            let residual =
                Tensor::from_f32(device.pool(), Tag::Activations, [count, 38], &residual);
            let residual = residual.expect("memory");
            let wide: Vec<Mat> = p.iter().map(|p| mat(&p.value)).collect();
            let with = packed.apply(device, compute, &x, Some(&residual), Format::F32);
            let without = packed.apply(device, compute, &x, None, compute.format());
            for (got, residual) in [(with, Some(mat(&residual))), (without, None)] {
                let biases = [None, Some(&wide[2])];
                let expected =
                    reference::linear(&exact, &[&wide[0], &wide[1]], &biases, residual.as_ref());
                let error = relative_error(&mat(&got.expect("a product")).data, &expected.data);
                assert!(error < bound, "{count} rows: {error}");
            }
        }
    });
}

/// Norm, positions and activation are the tape's own kernels: the same bits.
#[test]
fn the_other_operations_are_those_of_the_tape() {
    everywhere(|device, compute, _| {
        let (params, ids) = params(device, &[Given::gain(1, 6), Given::normal(2, [9, 6], 1.0)]);
        let (x, _) = operand(device, compute, [5, 12], &normals(3, 60, 1.0));
        let positions = [0, 3, 1, 8, 2];
        let table = std::sync::Arc::new(RopeTable::new(6, 9, 100.0));
        let mut tape = Tape::inference(device, compute, &params);
        let on_tape = tape.input(x.clone(), false);
        let normed = tape.rms_norm_heads(on_tape, ids[0], 1e-5, 6..12).expect("it fits");
        let turned = tape.rope(normed, &table, &positions.into(), 0..12).expect("it fits");
        let expected = tape.swiglu(turned).expect("it fits");
        let table_rows = tape.embedding(ids[1], &[8, 0].into()).expect("it fits");
        let format = compute.format();
        let mut got =
            infer::rms_norm(device, &x, params.get(ids[0]), 1e-5, 6..12, format).expect("it fits");
        infer::rope(device, &mut got, &table, &positions, 0..12);
        let got = infer::swiglu(device, &got, format).expect("it fits");
        let value = |var| tape.value(var).expect("held").to_vec();
        assert_eq!(got.to_vec(), value(expected));
        let rows = infer::embedding(device, params.get(ids[1]), &[8, 0]).expect("it fits");
        assert_eq!(rows.to_vec(), value(table_rows));
    });
}

#[test]
fn sizes_that_do_not_fit_are_errors() {
    let device = Device::cpu(Ledger::new(), 1);
    let compute = Compute::F32;
    let given = [[4, 6], [4, 5], [1, 4], [1, 6]].map(|shape| Given::normal(1, shape, 1.0));
    let (params, ids) = params(&device, &given);
    let p: Vec<&Param> = ids.iter().map(|id| params.get(*id)).collect();
    let zeros = |shape, format| {
        Tensor::zeros(device.pool(), Tag::Activations, shape, format).expect("memory")
    };
    let f32s = |shape| zeros(shape, Format::F32);
    let refused = |error: Option<Error>| {
        assert!(matches!(error, Some(Error::Shape { .. } | Error::Value { .. })), "{error:?}");
    };
    let pack = |weights: &[&Param], biases: &[Option<&Param>]| {
        refused(PackedLinear::new(&device, compute, weights, biases).err());
    };
    pack(&[], &[]);
    pack(&[p[0], p[1]], &[None, None]);
    pack(&[p[0]], &[]);
    pack(&[p[0]], &[Some(p[3])]);
    let packed = PackedLinear::new(&device, compute, &[p[0]], &[Some(p[2])]).expect("it fits");
    let apply = |compute, x, residual: Option<Tensor>, format| {
        refused(packed.apply(&device, compute, &x, residual.as_ref(), format).err());
    };
    apply(compute, f32s([2, 5]), None, Format::F32);
    apply(Compute::Bf16, f32s([2, 6]), None, Format::F32);
    apply(compute, f32s([2, 6]), None, Format::Bf16);
    apply(compute, f32s([2, 6]), Some(f32s([1, 4])), Format::F32);
    apply(compute, f32s([2, 6]), Some(zeros([2, 4], Format::Bf16)), Format::F32);
    refused(infer::embedding(&device, p[0], &[4]).err());
    refused(infer::rms_norm(&device, &f32s([2, 6]), p[0], 1e-5, 0..6, Format::F32).err());
    refused(infer::rms_norm(&device, &f32s([2, 6]), p[3], 1e-5, 0..5, Format::F32).err());
    refused(infer::swiglu(&device, &f32s([2, 3]), Format::F32).err());
    refused(KvLayer::new(&device, compute, 8, 0, 4).err());
    refused(KvLayer::new(&device, compute, 8, 2, 3).err());
    let mut cache = KvLayer::new(&device, compute, 8, 2, 4).expect("memory");
    let mut attend =
        |compute, heads, qkv: Tensor| refused(cache.attend(&device, compute, heads, &qkv).err());
    attend(compute, 3, f32s([1, 28]));
    attend(compute, 4, f32s([1, 31]));
    attend(compute, 4, f32s([9, 32]));
    attend(compute, 4, zeros([1, 32], Format::Bf16));
    attend(Compute::Bf16, 4, zeros([1, 32], Format::Bf16));
    assert!(cache.is_empty());
}

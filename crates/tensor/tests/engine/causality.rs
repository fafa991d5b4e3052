//! What comes later, or belongs to another document, changes nothing: not a bit, forward or backward.

use std::sync::Arc;

use proptest::prelude::*;
use smidgen_codec::{Ledger, Tag};
use smidgen_tensor::{
    AttentionShape, Compute, Device, HeldGrads, Level, Params, Prefix, Tape, Tensor, Var,
};

use crate::attention::documents;
use crate::check::normals;

#[derive(Clone, Debug)]
struct Setting {
    shape: AttentionShape,
    begins: Vec<u32>,
    /// Tokens before this one must not see those from it on.
    cut: usize,
    level: Level,
    compute: Compute,
}

fn setting() -> impl Strategy<Value = Setting> {
    let heads = (1..3usize, 1..3usize, 1..6usize);
    let levels: Vec<Level> = Level::available().collect();
    let rest = (proptest::sample::select(levels), any::<bool>(), any::<bool>());
    (1..3usize, 1..120usize, heads, 0..4usize, rest).prop_flat_map(
        |(batch, tokens, (kv_heads, group, half), prefix, (level, bf16, split))| {
            let heads = kv_heads * group;
            let shape =
                AttentionShape { batch, tokens, heads, kv_heads, head_dim: 2 * half, prefix };
            let compute = if bf16 { Compute::Bf16 } else { Compute::F32 };
            let begins =
                proptest::collection::vec(0..tokens as u32, if split { 0..4 } else { 0..1 });
            (begins, 0..tokens).prop_map(move |(begins, cut)| Setting {
                shape,
                begins,
                cut,
                level,
                compute,
            })
        },
    )
}

/// Result and gradient of `qkv` for a functional of the result.
fn attend(s: &Setting, qkv: &[f32], functional: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let device = Device::cpu_at(Ledger::new(), 1, s.level);
    let mut params = Params::new();
    let rows = s.shape.batch * s.shape.tokens;
    let tensor = |shape, values: &[f32]| {
        Tensor::from_f32(device.pool(), Tag::Activations, shape, values).expect("memory")
    };
    let mut tape = Tape::training(&device, s.compute, &mut params);
    let x = tape.input(tensor([rows, s.shape.qkv_cols()], qkv), true);
    let shape = [s.shape.batch * s.shape.prefix, s.shape.kv_heads * s.shape.head_dim];
    let mut prefix = |seed| -> Var {
        tape.input(tensor(shape, &normals(seed, shape[0] * shape[1], 1.0)), false)
    };
    let prefix =
        (s.shape.prefix > 0).then(|| Prefix { keys: prefix(8), values: prefix(9), lens: None });
    let starts = documents(s.shape, &s.begins);
    let out = tape.attention(x, s.shape, Some(&starts), prefix.as_ref()).expect("attention");
    let value = tape.value(out).expect("the result is held").clone();
    let loss = tape.dot(out, &Arc::new(tensor(value.shape(), functional))).expect("a loss");
    let grads = tape.backward(loss, &mut HeldGrads::new()).expect("a way back");
    (value.to_vec(), grads.get(x).expect("a gradient").to_vec())
}

/// `values` with other numbers in every row for which `changes` says so.
fn changed(values: &[f32], cols: usize, changes: impl Fn(usize) -> bool) -> Vec<f32> {
    let other = normals(5, values.len(), 2.0);
    let pick = |i: usize| if changes(i / cols) { other[i] } else { values[i] };
    (0..values.len()).map(pick).collect()
}

/// Bits of the wanted rows; a zero of either sign is the same one.
fn rows(values: &[f32], cols: usize, wanted: impl Fn(usize) -> bool) -> Vec<u32> {
    let wanted = values.iter().enumerate().filter(|(i, _)| wanted(i / cols));
    wanted.map(|(_, v)| (v + 0.0).to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn later_tokens_change_nothing_before_them(s in setting()) {
        let (cols, width) = (s.shape.qkv_cols(), s.shape.heads * s.shape.head_dim);
        let count = s.shape.batch * s.shape.tokens;
        let later = |row: usize| row % s.shape.tokens >= s.cut;
        let qkv = normals(1, count * cols, 1.0);
        let functional = normals(2, count * width, 1.0);
        let (value, _) = attend(&s, &qkv, &functional);
        let (value2, _) = attend(&s, &changed(&qkv, cols, later), &functional);
        prop_assert_eq!(rows(&value, width, |r| !later(r)), rows(&value2, width, |r| !later(r)));
        // On the way back: a loss of earlier rows alone gives later rows no gradient at all.
        let early: Vec<f32> =
            functional.iter().enumerate().map(|(i, f)| if later(i / width) { 0.0 } else { *f }).collect();
        let (_, grad) = attend(&s, &qkv, &early);
        prop_assert!(rows(&grad, cols, later).iter().all(|bits| *bits == 0));
    }

    #[test]
    fn nothing_crosses_the_begin_of_a_document(mut s in setting()) {
        // A document begins at the cut of every sequence: neither side sees the other.
        s.begins.push(s.cut as u32);
        let (cols, width) = (s.shape.qkv_cols(), s.shape.heads * s.shape.head_dim);
        let count = s.shape.batch * s.shape.tokens;
        let before = |row: usize| row % s.shape.tokens < s.cut;
        let qkv = normals(1, count * cols, 1.0);
        let functional = normals(2, count * width, 1.0);
        let (value, grad) = attend(&s, &qkv, &functional);
        let (value2, grad2) = attend(&s, &changed(&qkv, cols, before), &functional);
        prop_assert_eq!(rows(&value, width, |r| !before(r)), rows(&value2, width, |r| !before(r)));
        prop_assert_eq!(rows(&grad, cols, |r| !before(r)), rows(&grad2, cols, |r| !before(r)));
    }

    #[test]
    fn sequences_of_a_batch_do_not_see_each_other(s in setting()) {
        let (cols, width) = (s.shape.qkv_cols(), s.shape.heads * s.shape.head_dim);
        let first = |row: usize| row < s.shape.tokens;
        let count = s.shape.batch * s.shape.tokens;
        let qkv = normals(1, count * cols, 1.0);
        let functional = normals(2, count * width, 1.0);
        let (value, grad) = attend(&s, &qkv, &functional);
        let (value2, grad2) = attend(&s, &changed(&qkv, cols, |r| !first(r)), &functional);
        prop_assert_eq!(rows(&value, width, first), rows(&value2, width, first));
        prop_assert_eq!(rows(&grad, cols, first), rows(&grad2, cols, first));
    }
}

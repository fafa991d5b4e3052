//! What the ledger says of a step: every promise about bytes, as an equation or a bound.

use std::sync::Arc;

use smidgen_codec::{Ledger, Tag};
use smidgen_tensor::{
    AttentionShape, Compute, Device, Error, Format, GradSink, HeldGrads, Keep, Level, LinearSpec,
    Param, ParamId, Params, Role, RopeTable, Tape, Targets, Tensor,
};

use crate::check::{Given, indices, normals, params};
use crate::small::{Sizes, Small};

/// Drops each gradient as it comes.
#[derive(Default)]
struct Streamed {
    taken: Vec<ParamId>,
}

impl GradSink for Streamed {
    fn take(&mut self, id: ParamId, _: &mut Param, _: Tensor) -> Result<(), Error> {
        self.taken.push(id);
        Ok(())
    }
}

fn bytes(small: &Small, id: ParamId) -> usize {
    small.params.get(id).value.byte_len()
}

fn small(sizes: Sizes) -> Small {
    Small::new(sizes, Level::detect(), 2)
}

#[test]
fn a_frozen_parameter_costs_no_gradient_bytes() {
    for keep in [Keep::Values, Keep::Inputs] {
        let mut small = small(Sizes::SMALL);
        let only = small.ids[8];
        small.params.iter_mut().for_each(|(id, param)| param.trainable = id == only);
        let mut sink = Streamed::default();
        small.step(Compute::F32, keep, &mut sink).expect("a step");
        assert_eq!(sink.taken, [only]);
        assert_eq!(small.peak(Tag::Grads), bytes(&small, only));
    }
}

#[test]
fn a_model_frozen_whole_costs_nothing_at_all() {
    let mut small = small(Sizes::SMALL);
    small.params.iter_mut().for_each(|(_, param)| param.trainable = false);
    let mut sink = Streamed::default();
    small.step(Compute::F32, Keep::Values, &mut sink).expect("a step");
    assert!(sink.taken.is_empty());
    assert_eq!(small.peak(Tag::Grads), 0);
}

#[test]
fn streamed_gradients_peak_at_the_largest_parameter() {
    let mut small = small(Sizes::SMALL);
    let largest = small.ids.iter().map(|id| bytes(&small, *id)).max();
    small.step(Compute::F32, Keep::Values, &mut Streamed::default()).expect("a step");
    assert_eq!(Some(small.peak(Tag::Grads)), largest);
}

/// A tied table gathers from the head to the embedding, so it stands beside every other gradient.
#[test]
fn a_tied_table_stands_beside_the_largest_other_gradient() {
    let mut small = small(Sizes { tied: true, ..Sizes::SMALL });
    let others = small.ids[1..].iter().map(|id| bytes(&small, *id)).max();
    small.step(Compute::F32, Keep::Values, &mut Streamed::default()).expect("a step");
    assert_eq!(Some(small.peak(Tag::Grads) - bytes(&small, small.ids[0])), others);
}

#[test]
fn held_gradients_cost_as_much_as_the_parameters() {
    let mut small = small(Sizes::SMALL);
    let mut held = HeldGrads::new();
    small.step(Compute::Bf16, Keep::Values, &mut held).expect("a step");
    assert_eq!(small.live(Tag::Grads), small.live(Tag::Weights));
    assert_eq!(small.peak(Tag::Grads), small.live(Tag::Weights));
    held.clear();
    assert_eq!(small.live(Tag::Grads), 0);
}

#[test]
fn recomputed_blocks_hold_fewer_bytes_and_give_the_same_bits() {
    let sizes = Sizes { layers: 8, ..Sizes::SMALL };
    for compute in [Compute::F32, Compute::Bf16] {
        let run = |keep| {
            let mut small = small(sizes);
            let mut held = HeldGrads::new();
            let (loss, _) = small.step(compute, keep, &mut held).expect("a step");
            let grads: Vec<Vec<f32>> =
                small.ids.iter().map(|id| held.get(*id).expect("a gradient").to_vec()).collect();
            (loss, grads, small.peak(Tag::Activations))
        };
        let ((loss, grads, kept), (loss2, grads2, recomputed)) =
            (run(Keep::Values), run(Keep::Inputs));
        assert!(loss == loss2 && grads == grads2);
        // Eight layers of about ten values each become eight inputs and one layer.
        assert!(recomputed * 2 < kept, "{recomputed} bytes are not half of {kept}");
    }
}

#[test]
fn all_bytes_but_the_weights_come_back() {
    for keep in [Keep::Values, Keep::Inputs] {
        let mut small = small(Sizes::SMALL);
        let before = small.device.ledger().total_live_bytes();
        let left = small.step(Compute::F32, keep, &mut Streamed::default()).expect("a step");
        drop(left);
        // Packed weights may be kept for the next step; nothing else may.
        assert_eq!(small.device.ledger().total_live_bytes() - small.live(Tag::Packed), before);
        // So it is when a tape is given up halfway.
        let mut tape = Tape::training(&small.device, Compute::F32, &mut small.params);
        small.sizes.loss(&mut tape, &small.ids, keep).expect("a loss");
        drop(tape);
        assert_eq!(small.device.ledger().total_live_bytes() - small.live(Tag::Packed), before);
    }
}

/// To the byte: of norm, product and activation only the product stays.
#[test]
fn a_block_keeps_no_value_that_is_cheap_to_make_again() {
    for (keep, kept) in [(Keep::Values, 7 * 6 * 4), (Keep::Inputs, 0)] {
        let device = Device::cpu(Ledger::new(), 1);
        let (mut params, ids) =
            params(&device, &[Given::gain(1, 5), Given::normal(2, [6, 5], 1.0)]);
        let mut tape = Tape::training(&device, Compute::F32, &mut params);
        let x = Tensor::zeros(device.pool(), Tag::Activations, [7, 5], Format::F32);
        let x = tape.input(x.expect("memory"), true);
        let out = tape.block(keep, &[x], move |tape, x| {
            let h = tape.rms_norm(x[0], ids[0], 1e-5)?;
            let h = tape.linear(h, &LinearSpec::new([ids[1]]), None)?;
            let h = tape.swiglu(h)?;
            Ok(vec![tape.rope(h, &Arc::new(RopeTable::new(2, 1, 1.0)), &[0; 7].into(), 0..2)?])
        });
        assert!(out.is_ok());
        let (input, output) = (7 * 5 * 4, 7 * 3 * 4);
        assert_eq!(device.ledger().live_bytes(Tag::Activations), input + kept + output);
    }
}

/// The tape lets go of values and gradients as it goes back.
#[test]
fn the_way_back_frees_values_as_it_goes() {
    let mut small = small(Sizes { layers: 6, ..Sizes::SMALL });
    let mut tape = Tape::training(&small.device, Compute::F32, &mut small.params);
    let loss = small.sizes.loss(&mut tape, &small.ids, Keep::Values).expect("a loss");
    let ledger = small.device.ledger().clone();
    let forward = ledger.live_bytes(Tag::Activations);
    ledger.reset_peaks();
    tape.backward(loss, &mut Streamed::default()).expect("a way back");
    // One layer's gradients come on top of what the forward pass left, not six.
    let peak = ledger.peak_bytes(Tag::Activations);
    assert!(peak < forward + forward / 3, "{peak} bytes on the way back, {forward} before it");
    assert_eq!(ledger.live_bytes(Tag::Activations), 0);
}

/// Peak of activations and workspace of a head with a loss, by the bytes of a chunk.
fn head_bytes(chunk_bytes: usize, compute: Compute) -> usize {
    let (rows, width, vocab) = (600, 8, 2051);
    let device = Device::cpu(Ledger::new(), 2);
    let mut params = Params::new();
    let head = params.add(&device, "head", Role::Head, [vocab, width]).expect("memory");
    let x = Tensor::from_f32(
        device.pool(),
        Tag::Activations,
        [rows, width],
        &normals(1, rows * width, 1.0),
    );
    let targets = Targets {
        tokens: indices(2, rows, vocab),
        weights: vec![1.0; rows].into(),
        scale: 1.0 / rows as f32,
        chunk_bytes,
    };
    let mut tape = Tape::training(&device, compute, &mut params);
    let x = tape.input(x.expect("memory"), true);
    let loss = tape.head_loss(x, head, targets).expect("a loss");
    tape.backward(loss, &mut Streamed::default()).expect("a way back");
    device.ledger().peak_bytes(Tag::Activations) + device.ledger().peak_bytes(Tag::Workspace)
}

#[test]
fn logits_never_exist_whole() {
    let whole = 600 * 2051 * 4;
    for compute in [Compute::F32, Compute::Bf16] {
        for chunk_bytes in [1, 20_000, 200_000] {
            let peak = head_bytes(chunk_bytes, compute);
            // Logits, their gradient and its packed form, at a row's least; and three small tensors.
            let bound = 3 * chunk_bytes.max(2051 * 4 * 12) + 200_000;
            assert!(peak <= bound, "{peak} bytes for chunks of {chunk_bytes}, bound {bound}");
            assert!(peak < whole / 4);
        }
    }
}

/// Peak of everything but weights in one attention, both ways.
fn attention_bytes(tokens: usize, compute: Compute) -> usize {
    let s = AttentionShape { batch: 1, tokens, heads: 2, kv_heads: 1, head_dim: 8, prefix: 0 };
    let device = Device::cpu(Ledger::new(), 2);
    let mut params = Params::new();
    let values = normals(1, tokens * s.qkv_cols(), 1.0);
    let tensor = |cols, values: &[f32]| {
        Tensor::from_f32(device.pool(), Tag::Activations, [tokens, cols], values).expect("memory")
    };
    let mut tape = Tape::training(&device, compute, &mut params);
    let qkv = tape.input(tensor(s.qkv_cols(), &values), true);
    let out = tape.attention(qkv, s, None, None).expect("attention");
    let loss = tape.dot(out, &Arc::new(tensor(16, &normals(2, tokens * 16, 1.0))));
    tape.backward(loss.expect("a loss"), &mut Streamed::default()).expect("a way back");
    device.ledger().total_peak_bytes()
}

#[test]
fn attention_takes_memory_linear_in_the_length() {
    for compute in [Compute::F32, Compute::Bf16] {
        let (one, two) = (attention_bytes(1024, compute), attention_bytes(2048, compute));
        assert!(two <= 2 * one + one / 10, "{one} bytes for 1024 tokens, {two} for 2048");
        // All scores of one head would be 16 MiB.
        assert!(two < 2048 * 2048 * 4 / 4);
    }
}

//! Every operation but attention, and the whole model, against their references.

use std::sync::Arc;

use smidgen_codec::rng::bits32;
use smidgen_codec::{Ledger, Tag};
use smidgen_tensor::{
    Compute, Device, Dropout, Gate, GateNoise, Keep, LinearSpec, Params, RopeTable, Tape, Targets,
    Tensor,
};

use crate::check::{Case, Given, check, check_within, indices, normals};
use crate::reference::{self, Mat};
use crate::small::Sizes;

const EPS: f32 = 1e-5;
/// One operation in bf16 is held to 2e-2; errors of a dozen in a row add up.
const MODEL_BF16: f64 = 4e-2;

#[test]
fn embedding_adds_up_repeated_tokens() {
    for (tokens, vocab, width) in [(1, 1, 1), (7, 3, 5), (65, 10, 64), (130, 40, 65)] {
        let tokens = indices(1, tokens, vocab);
        let same = tokens.clone();
        check(&Case {
            name: format!("embedding {} of {vocab} x {width}", tokens.len()),
            params: vec![Given::normal(1, [vocab, width], 1.0)],
            inputs: vec![],
            build: Box::new(move |tape, p, _| tape.embedding(p[0], &tokens)),
            reference: Box::new(move |p, _| reference::embedding(&p[0], &same)),
        });
    }
}

#[test]
fn rms_norm_of_rows() {
    // One value is normalised to its sign: only a large eps leaves a gradient that is not all rounding.
    for (rows, width, eps) in
        [(1, 1, 1.0), (3, 5, EPS), (64, 15, EPS), (65, 16, EPS), (129, 17, EPS), (5, 300, EPS)]
    {
        check(&Case {
            name: format!("rms_norm {rows} x {width}"),
            params: vec![Given::gain(2, width)],
            inputs: vec![Given::normal(3, [rows, width], 1.5)],
            build: Box::new(move |tape, p, x| tape.rms_norm(x[0], p[0], eps)),
            reference: Box::new(move |p, x| reference::rms_norm(&x[0], &p[0], eps, 0..width)),
        });
    }
}

#[test]
fn rms_norm_of_heads_copies_the_other_columns() {
    for (rows, e, range, cols) in [(5, 2, 0..4, 7), (66, 10, 10..30, 41), (5, 64, 64..128, 128)] {
        let same = range.clone();
        check(&Case {
            name: format!("rms_norm_heads {rows} x {cols}, heads of {e} in {range:?}"),
            params: vec![Given::gain(2, e)],
            inputs: vec![Given::normal(3, [rows, cols], 0.7)],
            build: Box::new(move |tape, p, x| tape.rms_norm_heads(x[0], p[0], EPS, range.clone())),
            reference: Box::new(move |p, x| reference::rms_norm(&x[0], &p[0], EPS, same.clone())),
        });
    }
}

#[test]
fn a_frozen_norm_still_passes_its_gradient_on() {
    check(&Case {
        name: "frozen rms_norm".into(),
        params: vec![Given::gain(2, 9).frozen()],
        inputs: vec![Given::normal(3, [11, 9], 1.0)],
        build: Box::new(|tape, p, x| tape.rms_norm(x[0], p[0], EPS)),
        reference: Box::new(|p, x| reference::rms_norm(&x[0], &p[0], EPS, 0..9)),
    });
}

#[test]
fn rope_turns_heads_of_any_even_size() {
    for (rows, e, heads, rest) in [(1, 2, 1, 0), (5, 6, 2, 3), (65, 10, 3, 0), (9, 64, 1, 64)] {
        let cols = e * heads + rest;
        let positions = indices(4, rows, 300);
        let same = positions.clone();
        check(&Case {
            name: format!("rope {rows} x {heads} heads of {e}"),
            params: vec![],
            inputs: vec![Given::normal(3, [rows, cols], 1.0)],
            build: Box::new(move |tape, _, x| {
                let table = Arc::new(RopeTable::new(e, 300, 10_000.0));
                tape.rope(x[0], &table, &positions, rest..cols)
            }),
            reference: Box::new(move |_, x| reference::rope(&x[0], e, 10_000.0, &same, rest..cols)),
        });
    }
}

#[test]
fn linear_of_odd_sizes() {
    for (rows, k, n) in
        [(1, 1, 1), (11, 31, 33), (12, 32, 32), (13, 33, 31), (65, 7, 1), (3, 130, 97)]
    {
        check_linear(rows, k, n);
    }
}

/// More than 2048 products in one sum go through memory: forward, for the input, for the weight.
#[test]
fn linear_of_long_sums() {
    for (rows, k, n) in [(3, 2101, 4), (2, 3, 2101), (2101, 3, 2)] {
        check_linear(rows, k, n);
    }
}

fn check_linear(rows: usize, k: usize, n: usize) {
    check(&Case {
        name: format!("linear {rows} x {k} -> {n}"),
        params: vec![Given::normal(1, [n, k], 1.0)],
        inputs: vec![Given::normal(2, [rows, k], 1.0)],
        build: Box::new(|tape, p, x| tape.linear(x[0], &LinearSpec::new([p[0]]), None)),
        reference: Box::new(|p, x| reference::linear(&x[0], &[&p[0]], &[None], None)),
    });
}

#[test]
fn linear_stacks_weights_and_adds_biases_and_a_residual() {
    check(&Case {
        name: "linear with everything".into(),
        params: vec![
            Given::normal(1, [34, 19], 0.5),
            Given::normal(2, [2, 19], 0.5).frozen(),
            Given::normal(3, [7, 19], 0.5),
            Given::normal(4, [1, 34], 0.5),
            Given::normal(5, [1, 7], 0.5),
        ],
        inputs: vec![Given::normal(6, [29, 19], 1.0), Given::normal(7, [29, 43], 1.0)],
        build: Box::new(|tape, p, x| {
            let mut spec = LinearSpec::new([p[0], p[1], p[2]]);
            (spec.biases[0], spec.biases[2]) = (Some(p[3]), Some(p[4]));
            tape.linear(x[0], &spec, Some(x[1]))
        }),
        reference: Box::new(|p, x| {
            let biases = [Some(&p[3]), None, Some(&p[4])];
            reference::linear(&x[0], &[&p[0], &p[1], &p[2]], &biases, Some(&x[1]))
        }),
    });
}

/// The gradient of the first input comes as bf16, that of the residual as f32: both are for one value.
#[test]
fn a_value_may_be_input_and_residual_at_once() {
    check(&Case {
        name: "x W + x".into(),
        params: vec![Given::normal(1, [20, 20], 0.2)],
        inputs: vec![Given::normal(6, [9, 20], 1.0)],
        build: Box::new(|tape, p, x| tape.linear(x[0], &LinearSpec::new([p[0]]), Some(x[0]))),
        reference: Box::new(|p, x| reference::linear(&x[0], &[&p[0]], &[None], Some(&x[0]))),
    });
}

/// The residual's gradient is there before the norm's: the norm adds to it in place, also where it only copies.
#[test]
fn a_norm_of_heads_adds_to_a_gradient_that_is_there() {
    check(&Case {
        name: "head norm beside a residual".into(),
        params: vec![Given::gain(1, 4), Given::normal(2, [13, 13], 0.3)],
        inputs: vec![Given::normal(6, [9, 13], 1.0)],
        build: Box::new(|tape, p, x| {
            let h = tape.rms_norm_heads(x[0], p[0], EPS, 1..9)?;
            tape.linear(h, &LinearSpec::new([p[1]]), Some(x[0]))
        }),
        reference: Box::new(|p, x| {
            let h = reference::rms_norm(&x[0], &p[0], EPS, 1..9);
            reference::linear(&h, &[&p[1]], &[None], Some(&x[0]))
        }),
    });
}

#[test]
fn one_bias_may_be_used_twice() {
    check(&Case {
        name: "W (W x + b) + b".into(),
        params: vec![Given::normal(1, [6, 6], 0.4), Given::normal(2, [1, 6], 1.0)],
        inputs: vec![Given::normal(6, [9, 6], 1.0)],
        build: Box::new(|tape, p, x| {
            let spec = LinearSpec { weights: vec![p[0]], biases: vec![Some(p[1])] };
            let h = tape.linear(x[0], &spec, None)?;
            tape.linear(h, &spec, None)
        }),
        reference: Box::new(|p, x| {
            let map = |x: &Mat| reference::linear(x, &[&p[0]], &[Some(&p[1])], None);
            map(&map(&x[0]))
        }),
    });
}

#[test]
fn one_weight_may_be_stacked_twice() {
    check(&Case {
        name: "[W | W]".into(),
        params: vec![Given::normal(1, [6, 20], 0.2)],
        inputs: vec![Given::normal(6, [9, 20], 1.0)],
        build: Box::new(|tape, p, x| tape.linear(x[0], &LinearSpec::new([p[0], p[0]]), None)),
        reference: Box::new(|p, x| reference::linear(&x[0], &[&p[0], &p[0]], &[None; 2], None)),
    });
}

#[test]
fn swiglu_of_odd_widths() {
    for (rows, width) in [(1, 1), (3, 15), (65, 16), (7, 17)] {
        check(&Case {
            name: format!("swiglu {rows} x {width}"),
            params: vec![],
            inputs: vec![Given::normal(3, [rows, 2 * width], 2.0)],
            build: Box::new(|tape, _, x| tape.swiglu(x[0])),
            reference: Box::new(|_, x| reference::swiglu(&x[0])),
        });
    }
}

/// Odd and even vocabularies, chunks of one row, of ragged ends and of everything, rows of no weight.
#[test]
fn head_loss_in_chunks() {
    for (rows, width, vocab, chunk_bytes) in [
        (1, 1, 2, 0),
        (5, 6, 7, 1),
        (26, 10, 33, 33 * 4 * 12),
        (30, 9, 32, 32 * 4 * 13),
        (17, 8, 51, 1 << 20),
        (3, 5, 2051, 1),
    ] {
        let tokens = indices(1, rows, vocab);
        let mut weights: Vec<f32> = normals(2, rows, 1.0).iter().map(|w| w.abs()).collect();
        weights.iter_mut().step_by(4).skip(1).for_each(|w| *w = 0.0);
        let (weights, scale): (Arc<[f32]>, _) = (weights.into(), 0.37);
        let targets =
            Targets { tokens: tokens.clone(), weights: weights.clone(), scale, chunk_bytes };
        check(&Case {
            name: format!("head_loss {rows} x {width}, {vocab} words, {chunk_bytes} bytes"),
            params: vec![Given::normal(1, [vocab, width], 1.0)],
            inputs: vec![Given::normal(2, [rows, width], 1.0)],
            build: Box::new(move |tape, p, x| tape.head_loss(x[0], p[0], targets.clone())),
            reference: Box::new(move |p, x| {
                reference::head_loss(&x[0], &p[0], &tokens, &weights, scale)
            }),
        });
    }
}

#[test]
fn a_frozen_head_passes_its_gradient_on() {
    let (tokens, weights): (_, Arc<[f32]>) = (indices(1, 8, 13), vec![1.0; 8].into());
    let targets = Targets {
        tokens: tokens.clone(),
        weights: weights.clone(),
        scale: 0.125,
        chunk_bytes: 100,
    };
    check(&Case {
        name: "frozen head_loss".into(),
        params: vec![Given::normal(1, [13, 6], 1.0).frozen()],
        inputs: vec![Given::normal(2, [8, 6], 1.0)],
        build: Box::new(move |tape, p, x| tape.head_loss(x[0], p[0], targets.clone())),
        reference: Box::new(move |p, x| {
            reference::head_loss(&x[0], &p[0], &tokens, &weights, 0.125)
        }),
    });
}

#[test]
fn dot_sums_over_many_chunks() {
    check(&Case {
        name: "dot".into(),
        params: vec![],
        inputs: vec![Given::normal(2, [3, 20_001], 1.0)],
        build: Box::new(|_, _, x| Ok(x[0])),
        reference: Box::new(|_, x| x[0].clone()),
    });
}

#[test]
fn gelu_of_any_size() {
    for (rows, width) in [(1, 1), (3, 15), (65, 300)] {
        check(&Case {
            name: format!("gelu {rows} x {width}"),
            params: vec![],
            inputs: vec![Given::normal(3, [rows, width], 2.0)],
            build: Box::new(|tape, _, x| tape.gelu(x[0])),
            reference: Box::new(|_, x| reference::gelu(&x[0])),
        });
    }
}

/// The values that are kept are found by running the operation once with ones.
#[test]
fn sums_with_and_without_dropout() {
    for dropout in [None, Some(Dropout { rate: 0.3, key: 9 })] {
        let shape = [19, 7];
        let factors = factors(shape, dropout);
        check(&Case {
            name: format!("add, {dropout:?}"),
            params: vec![],
            inputs: vec![Given::normal(1, shape, 1.0), Given::normal(2, shape, 1.0)],
            build: Box::new(move |tape, _, x| tape.add(x[0], x[1], dropout)),
            reference: Box::new(move |_, x| {
                let mut y = x[1].clone();
                y.data.iter_mut().zip(&factors).for_each(|(y, factor)| *y *= factor);
                reference::add(&x[0], &y)
            }),
        });
    }
}

/// What dropout multiplies every value with.
fn factors(shape: [usize; 2], dropout: Option<Dropout>) -> Vec<f64> {
    let device = Device::cpu(Ledger::new(), 1);
    let params = Params::new();
    let mut tape = Tape::inference(&device, Compute::F32, &params);
    let mut full = |value: f32| {
        let values = vec![value; shape[0] * shape[1]];
        let tensor = Tensor::from_f32(device.pool(), Tag::Activations, shape, &values);
        tape.input(tensor.expect("memory"), false)
    };
    let (zeros, ones) = (full(0.0), full(1.0));
    let out = tape.add(zeros, ones, dropout).expect("a sum");
    tape.value(out).expect("held").to_vec().into_iter().map(f64::from).collect()
}

#[test]
fn gates_hard_and_soft() {
    let soft = |tau, noise| Gate::Soft { tau, noise, key: 3 };
    for (a, how) in [
        (0.5, Gate::Hard),
        (-0.5, Gate::Hard),
        (0.3, soft(1.0, GateNoise::Logistic)),
        (-0.2, soft(0.4, GateNoise::Logistic)),
        (0.1, soft(0.7, GateNoise::GumbelSingle)),
    ] {
        for (rows, heads, e) in [(1, 1, 1), (5, 3, 6), (70, 2, 17)] {
            let wide = [rows, heads * e];
            check(&Case {
                name: format!("gated add {rows} x {heads} heads of {e}, {a} {how:?}"),
                params: vec![Given { shape: [1, 1], values: vec![a], trainable: true }],
                inputs: vec![
                    Given::normal(1, wide, 1.0),
                    Given::normal(2, wide, 1.0),
                    Given::normal(3, [rows, heads], 1.0),
                ],
                build: Box::new(move |tape, p, x| tape.gated_add(x[0], x[1], x[2], p[0], how)),
                reference: Box::new(move |p, x| {
                    reference::gated_add(&x[0], &x[1], &x[2], |i| open(how, p[0].data[0], i))
                }),
            });
        }
    }
}

/// A gate by its definition.
fn open(how: Gate, a: f64, index: usize) -> f64 {
    match how {
        Gate::Hard => f64::from(u8::from(a > 0.0)),
        Gate::Soft { tau, noise, key } => {
            let bits = bits32(key, index as u64) >> 9;
            let u = (f64::from(bits) + 0.5) / f64::from(1 << 23);
            let noise = match noise {
                GateNoise::Logistic => (u / (1.0 - u)).ln(),
                GateNoise::GumbelSingle => -(-u.ln()).ln(),
            };
            1.0 / (1.0 + (-(a + noise) / f64::from(tau)).exp())
        }
    }
}

/// Rows that are put over others, all of them, or none.
#[test]
fn rows_put_in_their_places() {
    for places in [vec![], vec![3], vec![0, 2, 6], (0..7).collect()] {
        let (places, width): (Arc<[u32]>, _) = (places.into(), 5);
        let same = places.clone();
        let base = Given::normal(1, [7, width], 1.0);
        for base in [base.clone(), base.frozen()] {
            let (places, same) = (places.clone(), same.clone());
            check(&Case {
                name: format!("put rows at {places:?}"),
                params: vec![],
                inputs: vec![base, Given::normal(2, [places.len(), width], 1.0)],
                build: Box::new(move |tape, _, x| tape.put_rows(x[0], x[1], &places)),
                reference: Box::new(move |_, x| reference::put_rows(&x[0], &x[1], &same)),
            });
        }
    }
}

fn whole_model(sizes: Sizes, keep: Keep) -> Case {
    Case {
        name: format!("model, {keep:?}, {sizes:?}"),
        params: sizes.given(),
        inputs: vec![],
        build: Box::new(move |tape, p, _| sizes.loss(tape, p, keep)),
        reference: Box::new(move |p, _| sizes.reference(p)),
    }
}

#[test]
fn the_whole_model() {
    for keep in [Keep::Values, Keep::Inputs] {
        check_within(&whole_model(Sizes::SMALL, keep), MODEL_BF16);
    }
}

#[test]
fn the_whole_model_tied_and_looped() {
    for keep in [Keep::Values, Keep::Inputs] {
        check_within(
            &whole_model(Sizes { tied: true, looped: true, ..Sizes::SMALL }, keep),
            MODEL_BF16,
        );
    }
}

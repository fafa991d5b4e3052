//! Blocks that are computed again on the way back: the same gradients, whatever goes in and out.

use std::sync::Arc;

use smidgen_tensor::{Error, Keep, LinearSpec, ParamId, RopeTable, Tape, Var};

use crate::check::{Case, Given, check};
use crate::reference::{self, Mat};

const EPS: f32 = 1e-5;
const KEEPS: [Keep; 2] = [Keep::Values, Keep::Inputs];

/// `x W^T` as an operation and as its reference.
fn map(tape: &mut Tape<'_>, x: Var, weight: ParamId) -> Result<Var, Error> {
    tape.linear(x, &LinearSpec::new([weight]), None)
}

fn map64(x: &Mat, weight: &Mat) -> Mat {
    reference::linear(x, &[weight], &[None], None)
}

fn norm64(x: &Mat, gain: &Mat) -> Mat {
    reference::rms_norm(x, gain, EPS, 0..x.cols)
}

/// A case over two square weights, a gain and one input.
fn check_block(
    name: &str,
    build: impl Fn(&mut Tape<'_>, [ParamId; 3], Var) -> Result<Var, Error> + 'static,
    reference: impl Fn(&[Mat], &Mat) -> Mat + 'static,
) {
    check(&Case {
        name: name.into(),
        params: vec![
            Given::normal(1, [8, 8], 0.5),
            Given::normal(2, [8, 8], 0.5),
            Given::gain(3, 8),
        ],
        inputs: vec![Given::normal(4, [7, 8], 1.0)],
        build: Box::new(move |tape, p, x| build(tape, [p[0], p[1], p[2]], x[0])),
        reference: Box::new(move |p, x| reference(p, &x[0])),
    });
}

#[test]
fn blocks_inside_blocks() {
    for (outer, inner) in KEEPS.into_iter().flat_map(|o| KEEPS.map(|i| (o, i))) {
        check_block(
            &format!("{inner:?} in {outer:?}"),
            move |tape, [w, v, gain], x| {
                let out = tape.block(outer, &[x], move |tape, x| {
                    let h = map(tape, x[0], w)?;
                    let h = tape.block(inner, &[h], move |tape, x| {
                        let h = tape.rms_norm(x[0], gain, EPS)?;
                        Ok(vec![map(tape, h, v)?])
                    })?;
                    Ok(vec![tape.rms_norm(h[0], gain, EPS)?])
                })?;
                Ok(out[0])
            },
            |p, x| norm64(&map64(&norm64(&map64(x, &p[0]), &p[2]), &p[1]), &p[2]),
        );
    }
}

/// The cheap value is gone at the end of the outer block, before the inner one is made again.
#[test]
fn a_recomputed_block_may_read_a_cheap_value() {
    check_block(
        "block over a norm",
        |tape, [w, v, gain], x| {
            let out = tape.block(Keep::Values, &[x], move |tape, x| {
                let h = tape.rms_norm(x[0], gain, EPS)?;
                tape.block(Keep::Inputs, &[h], move |tape, x| {
                    let h = map(tape, x[0], w)?;
                    Ok(vec![map(tape, h, v)?])
                })
            })?;
            Ok(out[0])
        },
        |p, x| map64(&map64(&norm64(x, &p[2]), &p[0]), &p[1]),
    );
}

#[test]
fn a_block_may_hand_an_input_through() {
    for keep in KEEPS {
        check_block(
            &format!("pass through, {keep:?}"),
            move |tape, [w, v, _], x| {
                let h = tape.linear(x, &LinearSpec::new([w]), Some(x))?;
                let out =
                    tape.block(keep, &[h], move |tape, x| Ok(vec![x[0], map(tape, x[0], v)?]))?;
                tape.linear(out[1], &LinearSpec::new([w]), Some(out[0]))
            },
            |p, x| {
                let h = reference::linear(x, &[&p[0]], &[None], Some(x));
                reference::linear(&map64(&h, &p[1]), &[&p[0]], &[None], Some(&h))
            },
        );
    }
}

#[test]
fn a_block_may_return_a_value_twice() {
    for keep in KEEPS {
        check_block(
            &format!("twice, {keep:?}"),
            move |tape, [w, v, _], x| {
                let out = tape.block(keep, &[x], move |tape, x| {
                    let h = map(tape, x[0], w)?;
                    Ok(vec![h, h])
                })?;
                map(tape, out[0], v)
            },
            |p, x| map64(&map64(x, &p[0]), &p[1]),
        );
    }
}

/// The second weight is read inside the block, but nothing of it leaves: its uses must still be counted down.
#[test]
fn a_parameter_inside_a_dead_block_still_arrives() {
    for keep in KEEPS {
        check_block(
            &format!("dead inside, {keep:?}"),
            move |tape, [w, v, _], x| {
                let h = map(tape, x, v)?;
                tape.block(keep, &[x], move |tape, x| {
                    map(tape, x[0], w)?;
                    map(tape, x[0], v)?;
                    Ok(vec![])
                })?;
                map(tape, h, w)
            },
            |p, x| map64(&map64(x, &p[1]), &p[0]),
        );
    }
}

#[test]
fn a_block_whose_output_nobody_uses_changes_nothing() {
    for keep in KEEPS {
        check_block(
            &format!("unused, {keep:?}"),
            move |tape, [w, v, _], x| {
                let h = map(tape, x, w)?;
                tape.block(keep, &[h], move |tape, x| Ok(vec![map(tape, x[0], v)?]))?;
                tape.block(keep, &[h], move |tape, x| Ok(vec![map(tape, x[0], w)?]))?;
                map(tape, h, v)
            },
            |p, x| map64(&map64(x, &p[0]), &p[1]),
        );
    }
}

/// Rope works in place, but a block's input is needed again when the block is.
#[test]
fn rope_may_turn_the_input_of_a_recomputed_block() {
    let positions: Arc<[u32]> = (0..7).collect();
    for keep in KEEPS {
        let (here, there) = (positions.clone(), positions.clone());
        check_block(
            &format!("rope, {keep:?}"),
            move |tape, [w, v, _], x| {
                let h = map(tape, x, w)?;
                let positions = here.clone();
                let out = tape.block(keep, &[h], move |tape, x| {
                    let table = Arc::new(RopeTable::new(4, 7, 100.0));
                    let h = tape.rope(x[0], &table, &positions, 0..8)?;
                    Ok(vec![map(tape, h, v)?])
                })?;
                Ok(out[0])
            },
            move |p, x| map64(&reference::rope(&map64(x, &p[0]), 4, 100.0, &there, 0..8), &p[1]),
        );
    }
}

/// Rope works in place, but not over a value that an earlier operation needs on its way back.
#[test]
fn rope_spares_a_value_that_was_read_before() {
    check_block(
        "read, then turned",
        |tape, [w, v, gain], x| {
            let h = map(tape, x, w)?;
            let read = tape.rms_norm(h, gain, EPS)?;
            let table = Arc::new(RopeTable::new(4, 7, 100.0));
            let turned = tape.rope(h, &table, &(0..7).collect(), 0..8)?;
            let _dead = map(tape, turned, v)?;
            map(tape, read, v)
        },
        |p, x| map64(&norm64(&map64(x, &p[0]), &p[2]), &p[1]),
    );
}

#[test]
fn an_error_inside_a_block_comes_out() {
    for keep in KEEPS {
        let case = Case {
            name: "error".into(),
            params: vec![Given::normal(1, [3, 9], 1.0)],
            inputs: vec![Given::normal(2, [4, 8], 1.0)],
            build: Box::new(move |tape, p, x| {
                let (w, x) = (p[0], x[0]);
                let failed = tape.block(keep, &[x], move |tape, x| Ok(vec![map(tape, x[0], w)?]));
                assert!(matches!(failed, Err(Error::Shape { .. })));
                // The tape goes on as if the block had not been.
                tape.swiglu(x)
            }),
            reference: Box::new(|_, x| reference::swiglu(&x[0])),
        };
        let outcome = {
            let device = smidgen_tensor::Device::cpu(smidgen_codec::Ledger::new(), 1);
            case.run(&device, smidgen_tensor::Compute::F32, &[1.0; 16])
        };
        assert!(outcome.grads[0].is_none() && outcome.grads[1].is_some());
    }
}

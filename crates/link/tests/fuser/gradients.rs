//! Every kind of parameter of every variant, by central differences of the training loss itself.

use smidgen_link::fuse::{FUSERS, FuserObjective};
use smidgen_tensor::{Compute, HeldGrads, Keep, ParamId, Params, Role, Tape};
use smidgen_train::Objective;

use crate::models::*;

/// Loss of a step, and the gradients that came.
fn loss(
    objective: &mut FuserObjective,
    params: &mut Params,
    device: &smidgen_tensor::Device,
) -> (f64, HeldGrads) {
    let (mut sum, mut held) = (0.0, HeldGrads::new());
    for micro in 0..2 {
        let mut tape = Tape::training(device, Compute::F32, params);
        let loss = objective.loss(&mut tape, 3, micro).unwrap();
        sum += f64::from(tape.value(loss).unwrap().slice::<f32>()[0]);
        tape.backward(loss, &mut held).unwrap();
    }
    (sum, held)
}

#[test]
fn every_parameter_follows_its_gradient() {
    let device = device();
    for variant in FUSERS {
        for (space, keep) in SPACES.into_iter().zip([Keep::Values, Keep::Inputs]) {
            let (sharer, receiver) =
                (sharer_arc(&device, Compute::F32), receiver(&device, Compute::F32));
            let training = smidgen_link::fuse::FuserTraining { keep, ..training(20) };
            let config = config(variant.name(), space);
            let (mut objective, mut params) =
                FuserObjective::new(sharer, receiver, config, data(), training).unwrap();
            objective.init(&mut params, 1).unwrap();
            let mut kinds = std::collections::BTreeSet::new();
            let ids: Vec<ParamId> =
                params.iter().filter(|(_, p)| p.trainable).map(|(id, _)| id).collect();
            for id in &ids {
                // Away from the round first values.
                let values: Vec<f32> =
                    params.get(*id).value.to_vec().iter().map(|x| x * 0.9 + 0.03).collect();
                params.load(*id, &values).unwrap();
            }
            let (_, held) = loss(&mut objective, &mut params, &device);
            for id in ids {
                let (name, role) = (params.get(id).name.clone(), params.get(id).role);
                if variant.name() == "linear" && role == Role::Gate {
                    // It only says whether the map was computed.
                    assert!(held.get(id).is_none());
                    continue;
                }
                let grad = held.get(id).unwrap_or_else(|| panic!("a gradient of {name}")).to_vec();
                let length = grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                assert!(length > 1e-6, "{name}: {length}");
                let start = params.get(id).value.to_vec();
                // Far enough that the loss in f32 tells, near enough that the slope holds.
                let size = start.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
                let step = (2e-4 / length).clamp(1e-2 * size.max(0.1), 5e-2 * size.max(1.0));
                let mut moved = |by: f64, params: &mut Params| {
                    let move_by = |(x, g): (&f32, &f32)| x + (by * f64::from(*g) / length) as f32;
                    let values: Vec<f32> = start.iter().zip(&grad).map(move_by).collect();
                    params.load(id, &values).unwrap();
                    loss(&mut objective, params, &device).0
                };
                let slope = (moved(step, &mut params) - moved(-step, &mut params)) / (2.0 * step);
                params.load(id, &start).unwrap();
                let error = (slope / length - 1.0).abs();
                assert!(error < 5e-2, "{} {name}: slope {slope}, length {length}", variant.name());
                kinds.insert(name.split('.').skip(3).collect::<Vec<_>>().join("."));
            }
            assert!(kinds.len() >= 2, "{kinds:?}");
            let frozen = params.iter().filter(|(_, p)| !p.trainable);
            assert!(frozen.map(|(id, _)| id).all(|id| held.get(id).is_none()));
        }
    }
}

/// The formulas count what is really there.
#[test]
fn parameters_are_counted() {
    let device = device();
    let (sharer, receiver) = (sharer(&device, Compute::F32), receiver(&device, Compute::F32));
    for variant in FUSERS {
        for blocks in [2, 3, 5] {
            let config = smidgen_link::fuse::FuserConfig {
                blocks,
                ..config(variant.name(), Default::default())
            };
            let count = variant.param_count(&config, &pair(&sharer, &receiver), 2);
            let fuser = open_fuser(config, &sharer, &receiver);
            assert_eq!(fuser.params.element_count(), count, "{}", variant.name());
        }
    }
}

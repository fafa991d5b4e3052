//! One checker for all gradients: a tape against central differences of its reference.
//!
//! The loss is a random linear functional of the result, `sum w y`. A gradient is probed along single
//! coordinates and along dense unit vectors, which see every coordinate at once; the probes of one gradient
//! are one vector, and the norm of its error over its norm is what the bounds hold.

use std::sync::Arc;

use smidgen_codec::{Ledger, Rng, Tag};
use smidgen_tensor::{
    Compute, Device, Error, HeldGrads, Level, ParamId, Params, Role, Tape, Tensor, Var,
};

use crate::reference::Mat;

/// Step of the central differences, along a unit vector.
const H: f64 = 1e-4;
const SINGLE: usize = 8;
const DENSE: usize = 5;

/// Normally distributed values, the same for the same name and seed.
pub(crate) fn normals(seed: u64, len: usize, std: f32) -> Vec<f32> {
    let mut values = vec![0.0; len];
    Rng::named(seed, "tests").fill_normal(0, 0, std, &mut values);
    values
}

/// `len` numbers below `bound`.
pub(crate) fn indices(seed: u64, len: usize, bound: usize) -> Arc<[u32]> {
    let rng = Rng::named(seed, "tests");
    (0..len).map(|i| rng.below(1, 0, i as u64, bound as u64) as u32).collect()
}

/// Values of a parameter or an input.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) shape: [usize; 2],
    pub(crate) values: Vec<f32>,
    pub(crate) trainable: bool,
}

impl Given {
    /// Normals with mean 0.
    pub(crate) fn normal(seed: u64, shape: [usize; 2], std: f32) -> Given {
        Given { shape, values: normals(seed, shape[0] * shape[1], std), trainable: true }
    }

    /// Normals around 1, for gains.
    pub(crate) fn gain(seed: u64, width: usize) -> Given {
        let mut given = Given::normal(seed, [1, width], 0.3);
        given.values.iter_mut().for_each(|v| *v += 1.0);
        given
    }

    pub(crate) fn frozen(mut self) -> Given {
        self.trainable = false;
        self
    }

    fn mat(&self) -> Mat {
        let data = self.values.iter().map(|v| f64::from(*v)).collect();
        Mat { rows: self.shape[0], cols: self.shape[1], data }
    }
}

type Build = dyn Fn(&mut Tape<'_>, &[ParamId], &[Var]) -> Result<Var, Error>;
type Reference = dyn Fn(&[Mat], &[Mat]) -> Mat;

/// An operation or a network, and what it should compute from parameters and inputs.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) params: Vec<Given>,
    pub(crate) inputs: Vec<Given>,
    pub(crate) build: Box<Build>,
    pub(crate) reference: Box<Reference>,
}

/// What one run of a case gave.
pub(crate) struct Outcome {
    pub(crate) value: Vec<f32>,
    /// Of the parameters, then of the inputs; `None` where none came.
    pub(crate) grads: Vec<Option<Vec<f32>>>,
}

/// Parameters `p0`, `p1`, .. with the given values.
pub(crate) fn params(device: &Device, given: &[Given]) -> (Params, Vec<ParamId>) {
    let mut params = Params::new();
    let ids = given
        .iter()
        .enumerate()
        .map(|(i, g)| {
            let name = format!("p{i}");
            let id = params.add(device, &name, Role::MatrixHidden, g.shape).expect("memory");
            params.load(id, &g.values).expect("as many values as the shape says");
            params.get_mut(id).trainable = g.trainable;
            id
        })
        .collect();
    (params, ids)
}

impl Case {
    /// Both ways once on a device; `functional` weighs the result.
    pub(crate) fn run(&self, device: &Device, compute: Compute, functional: &[f32]) -> Outcome {
        let (mut params, ids) = params(device, &self.params);
        let mut tape = Tape::training(device, compute, &mut params);
        let tensor = |shape, values: &[f32]| {
            Tensor::from_f32(device.pool(), Tag::Activations, shape, values)
        };
        let vars: Vec<Var> = self
            .inputs
            .iter()
            .map(|g| tape.input(tensor(g.shape, &g.values).expect("memory"), g.trainable))
            .collect();
        let out = (self.build)(&mut tape, &ids, &vars).expect(&self.name);
        let value = tape.value(out).expect("the result is held").clone();
        let weights = Arc::new(tensor(value.shape(), functional).expect("memory"));
        let loss = tape.dot(out, &weights).expect("the functional fits");
        let mut held = HeldGrads::new();
        let grads = tape.backward(loss, &mut held).expect(&self.name);
        let of_params = ids.iter().map(|id| held.get(*id).map(Tensor::to_vec));
        let of_inputs = vars.iter().map(|var| grads.get(*var).map(Tensor::to_vec));
        Outcome { value: value.to_vec(), grads: of_params.chain(of_inputs).collect() }
    }

    fn loss(&self, params: &[Mat], inputs: &[Mat], functional: &[f32]) -> f64 {
        let out = (self.reference)(params, inputs);
        out.data.iter().zip(functional).map(|(y, w)| y * f64::from(*w)).sum()
    }
}

/// Unit vectors that probe a gradient of `len` values.
fn probes(seed: u64, len: usize) -> Vec<Vec<f64>> {
    let rng = Rng::named(seed, "probes");
    let single = |at: usize| {
        let mut unit = vec![0.0; len];
        unit[at] = 1.0;
        unit
    };
    if len <= SINGLE + DENSE {
        return (0..len).map(single).collect();
    }
    let inside = (0..SINGLE as u64 - 2).map(|i| rng.below(0, 0, i, len as u64) as usize);
    let dense = (0..DENSE as u64).map(|k| {
        let size = 1.0 / (len as f64).sqrt();
        (0..len as u64).map(|i| if rng.at(1, k, i) & 1 == 0 { size } else { -size }).collect()
    });
    [0, len - 1].into_iter().chain(inside).map(single).chain(dense).collect()
}

/// The functional a case is tested with.
pub(crate) fn functional(len: usize) -> Vec<f32> {
    normals(77, len, 1.0)
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// Norm of the difference over the norm of what is expected.
pub(crate) fn relative_error(got: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let difference: Vec<f64> = got.iter().zip(expected).map(|(g, e)| g - e).collect();
    match norm(expected) {
        0.0 => norm(&difference),
        size => norm(&difference) / size,
    }
}

/// Unit vectors and the derivatives along them.
struct Slopes {
    probes: Vec<Vec<f64>>,
    along: Vec<f64>,
}

struct Expected {
    value: Mat,
    functional: Vec<f32>,
    /// Per parameter and input, if it learns.
    slopes: Vec<Option<Slopes>>,
}

fn expect(case: &Case) -> Expected {
    let mut mats: Vec<Mat> = case.params.iter().chain(&case.inputs).map(Given::mat).collect();
    let split = case.params.len();
    let value = (case.reference)(&mats[..split], &mats[split..]);
    let functional = functional(value.data.len());
    let mut slopes = Vec::new();
    for (i, given) in case.params.iter().chain(&case.inputs).enumerate() {
        if !given.trainable {
            slopes.push(None);
            continue;
        }
        let base = mats[i].data.clone();
        let probes = probes(i as u64, base.len());
        let along = probes
            .iter()
            .map(|unit| {
                let mut at = |step: f64| {
                    let moved = base.iter().zip(unit).map(|(x, u)| x + step * u);
                    mats[i].data = moved.collect();
                    case.loss(&mats[..split], &mats[split..], &functional)
                };
                (at(H) - at(-H)) / (2.0 * H)
            })
            .collect();
        mats[i].data = base;
        slopes.push(Some(Slopes { probes, along }));
    }
    Expected { value, functional, slopes }
}

/// Holds value and gradients to the reference at every kernel level: 1e-3 in f32, 2e-2 in bf16.
pub(crate) fn check(case: &Case) {
    check_within(case, 2e-2);
}

/// As [`check`], with a bound of its own for bf16.
pub(crate) fn check_within(case: &Case, bf16_bound: f64) {
    let expected = expect(case);
    for level in Level::available() {
        for (compute, value_bound, bound) in
            [(Compute::F32, 1e-5, 1e-3), (Compute::Bf16, bf16_bound, bf16_bound)]
        {
            let device = Device::cpu_at(Ledger::new(), 2, level);
            let outcome = case.run(&device, compute, &expected.functional);
            let place = format!("{} at {} in {compute:?}", case.name, level.name());
            let value: Vec<f64> = outcome.value.iter().map(|v| f64::from(*v)).collect();
            let error = relative_error(&value, &expected.value.data);
            assert!(error < value_bound, "{place}: value is off by {error}");
            for (i, (grad, slopes)) in outcome.grads.iter().zip(&expected.slopes).enumerate() {
                let Some(Slopes { probes, along }) = slopes else {
                    assert!(grad.is_none(), "{place}: a frozen value {i} got a gradient");
                    continue;
                };
                let Some(grad) = grad else {
                    let unread = along.iter().all(|slope| *slope == 0.0);
                    assert!(unread, "{place}: no gradient {i}");
                    continue;
                };
                let got: Vec<f64> = probes
                    .iter()
                    .map(|u| u.iter().zip(grad).map(|(u, g)| u * f64::from(*g)).sum())
                    .collect();
                let error = relative_error(&got, along);
                assert!(error < bound, "{place}: gradient {i} is off by {error}");
            }
        }
    }
}

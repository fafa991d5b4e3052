//! AdamW against its formula: closed cases, and a trajectory made by another program.

use serde::Deserialize;
use smidgen_codec::{Ledger, Rng, Stream};
use smidgen_optim::{Assignment, GroupConfig, OptimState, ParamSpec, Role, StepCx};
use smidgen_tensor::Device;

/// One parameter of `n` values under AdamW.
struct Run {
    device: Device,
    state: OptimState,
    value: Vec<f32>,
    step: u64,
}

impl Run {
    fn new(group: GroupConfig, value: Vec<f32>) -> Self {
        let params = [ParamSpec::new("w", [1, value.len()], Role::MatrixHidden)];
        let plan = Assignment::resolve(&[group], &params).unwrap();
        let device = Device::cpu(Ledger::new(), 2);
        let state = OptimState::allocate(plan, device.pool()).unwrap();
        Self { device, state, value, step: 0 }
    }

    fn step(&mut self, grad: &[f32]) {
        self.step += 1;
        let cx = StepCx::new(&self.device, self.step, Rng::new(1, Stream::Rounding));
        self.state.step(&cx, 0, self.value.as_mut_slice().into(), grad).unwrap();
    }
}

fn group(lr: f64, weight_decay: f64, eps: f64) -> GroupConfig {
    let (weight_decay, eps) = (Some(weight_decay), Some(eps));
    GroupConfig { lr, weight_decay, eps, ..GroupConfig::default() }
}

#[test]
fn the_first_step_is_the_rate() {
    let grads = [1e-3, -2.0, 1e-8, 0.0, 50.0];
    let mut run = Run::new(group(0.01, 0.0, 1e-8), vec![0.0; 5]);
    run.step(&grads);
    for (p, g) in run.value.iter().zip(grads) {
        let expected = -0.01 * g / (g.abs() + 1e-8);
        assert!((p - expected).abs() <= 1e-6 * expected.abs(), "{p} {expected}");
    }
}

#[test]
fn without_gradient_only_decay_acts() {
    let start = [1.0f32, -3.0, 0.125];
    let mut run = Run::new(group(0.01, 0.1, 1e-8), start.to_vec());
    for _ in 0..100 {
        run.step(&[0.0; 3]);
    }
    for (p, p0) in run.value.iter().zip(start) {
        let expected = p0 * (1.0f32 - 0.001).powi(100);
        assert!((p - expected).abs() < 1e-5 * expected.abs(), "{p} {expected}");
    }
}

#[test]
fn scaling_all_gradients_changes_nothing_without_eps() {
    let grad = |step: usize, i: usize| ((step * 31 + i * 17 + 1) as f32 * 0.61).sin();
    let mut run = Run::new(group(0.01, 0.1, 0.0), vec![0.5; 40]);
    // A power of two, so that even the bits stay.
    let mut scaled = Run::new(group(0.01, 0.1, 0.0), vec![0.5; 40]);
    for step in 0..50 {
        let grads: Vec<f32> = (0..40).map(|i| grad(step, i)).collect();
        run.step(&grads);
        scaled.step(&grads.iter().map(|g| g * 1024.0).collect::<Vec<_>>());
    }
    assert_eq!(run.value, scaled.value);
}

#[test]
fn the_gradient_scale_is_the_scale_of_the_gradient() {
    let grads = [0.3f32, -0.7, 2.0];
    let mut plain = Run::new(group(0.01, 0.1, 1e-8), vec![1.0; 3]);
    plain.step(&grads.map(|g| g * 0.25));
    let mut scaled = Run::new(group(0.01, 0.1, 1e-8), vec![1.0; 3]);
    let rng = Rng::new(1, Stream::Rounding);
    let cx = StepCx { grad_scale: 0.25, ..StepCx::new(&scaled.device, 1, rng) };
    scaled.state.step(&cx, 0, scaled.value.as_mut_slice().into(), &grads).unwrap();
    assert_eq!(plain.value, scaled.value);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    lr: f64,
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    start: Vec<f32>,
    grads: Vec<Vec<f32>>,
    trajectory: Vec<Vec<f64>>,
}

/// Made by `scripts/golden_adamw.py` in 64-bit arithmetic.
#[test]
fn two_hundred_steps_match_the_golden_trajectory() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/golden/adamw.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let config = GroupConfig {
        betas: Some(golden.betas),
        ..group(golden.lr, golden.weight_decay, golden.eps)
    };
    let mut run = Run::new(config, golden.start);
    assert_eq!(golden.trajectory.len(), 200);
    for (step, (grads, expected)) in golden.grads.iter().zip(&golden.trajectory).enumerate() {
        run.step(grads);
        for (p, expected) in run.value.iter().zip(expected) {
            assert!((f64::from(*p) - expected).abs() < 1e-6, "step {step}: {p} {expected}");
        }
    }
}

#[test]
fn a_scheduled_beta_takes_the_place_of_the_rules_own() {
    let two_steps = |group: GroupConfig, beta1| {
        let mut run = Run::new(group, vec![0.5; 4]);
        for step in 1..=2 {
            let cx = StepCx::new(&run.device, step, Rng::new(1, Stream::Rounding));
            let cx = StepCx { beta1, ..cx };
            run.state
                .step(&cx, 0, run.value.as_mut_slice().into(), &[1.0, -0.1 * step as f32, 0.0, 3.0])
                .unwrap();
        }
        run.value
    };
    let own = GroupConfig { betas: Some([0.7, 0.95]), ..group(0.01, 0.0, 1e-8) };
    let scheduled = two_steps(group(0.01, 0.0, 1e-8), Some(0.7));
    assert_eq!(two_steps(own, None), scheduled);
    assert_ne!(two_steps(group(0.01, 0.0, 1e-8), None), scheduled);
}

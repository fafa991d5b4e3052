//! Rules against their formulas: trajectories made by another program, and closed cases.

use serde::Deserialize;
use smidgen_codec::{Ledger, Rng, Stream, Tag};
use smidgen_optim::{Assignment, Error, GroupConfig, OptimState, ParamSpec, Role, StepCx};
use smidgen_tensor::{Device, Level};

/// One matrix under a group.
struct Run {
    device: Device,
    state: OptimState,
    value: Vec<f32>,
    step: u64,
}

impl Run {
    fn new(group: GroupConfig, shape: [usize; 2], value: &[f32]) -> Self {
        // Products in f32, so that what differs is the rule and not the rounding of operands.
        Self::at(Level::Avx2, group, shape, value)
    }

    fn at(level: Level, group: GroupConfig, shape: [usize; 2], value: &[f32]) -> Self {
        let params = [ParamSpec::new("w", shape, Role::MatrixHidden)];
        let plan = Assignment::resolve(&[group], &params).unwrap();
        let device = Device::cpu_at(Ledger::new(), 2, level);
        let state = OptimState::allocate(plan, device.pool()).unwrap();
        Self { device, state, value: value.to_vec(), step: 0 }
    }

    fn step(&mut self, grad: &[f32]) {
        self.try_step(grad, 1.0).unwrap();
    }

    fn try_step(&mut self, grad: &[f32], grad_scale: f32) -> Result<(), Error> {
        self.step += 1;
        let cx = StepCx::new(&self.device, self.step, Rng::new(1, Stream::Rounding));
        let cx = StepCx { grad_scale, ..cx };
        self.state.step(&cx, 0, self.value.as_mut_slice().into(), grad)
    }
}

fn group(text: &str) -> GroupConfig {
    toml::from_str(text).unwrap()
}

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Rng::new(seed, Stream::Init).fill_normal(0, 0, 1.0, &mut values);
    values
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Golden {
    kept: Vec<usize>,
    inputs: Vec<Input>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    shape: [usize; 2],
    start: Vec<f32>,
    grads: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    group: GroupConfig,
    shape: [usize; 2],
    values: Vec<Vec<f64>>,
}

/// Made by `scripts/golden_optim.py`, with PyTorch and bitsandbytes.
#[test]
fn trajectories_are_the_golden_ones() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/golden/optim.json");
    let golden: Golden = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(golden.cases.len(), 19);
    for level in [Level::Avx2, Level::detect()] {
        // bf16 operands, where the machine has them, are what torch.optim.Muon multiplies too.
        let tolerance = if level == Level::Avx2 { 1e-5 } else { 1e-2 };
        for case in &golden.cases {
            let input = golden.inputs.iter().find(|input| input.shape == case.shape).unwrap();
            let mut run = Run::at(level, case.group.clone(), case.shape, &input.start);
            let mut kept = golden.kept.iter().zip(&case.values);
            let mut next = kept.next();
            for (step, grad) in input.grads.iter().enumerate() {
                run.step(grad);
                let Some((_, expected)) = next.filter(|(at, _)| **at == step + 1) else { continue };
                for (p, expected) in run.value.iter().zip(expected) {
                    let far = (f64::from(*p) - expected).abs();
                    let tolerance = if case.group.rule == "muon" { tolerance } else { 2e-6 };
                    assert!(far < tolerance, "{:?} step {step}: {p} {expected}", case.group);
                }
                next = kept.next();
            }
            assert!(next.is_none(), "every kept step is compared");
        }
    }
}

/// The average takes in the gradient after the update, with the second decay: by hand.
#[test]
fn lion_follows_the_hand_trace() {
    let mut run = Run::new(group("rule = 'lion'\nlr = 0.5\nweight_decay = 0.0"), [1, 2], &[0.0; 2]);
    run.step(&[1.0, -2.0]);
    assert_eq!(run.value, [-0.5, 0.5]);
    let mut average = [0.0; 2];
    run.state.slots(0)[0].data().decode_into(&mut average).unwrap();
    assert!((average[0] - 0.01).abs() < 1e-8 && (average[1] + 0.02).abs() < 1e-8);
    // 0.9 * 0.01 - 0.1 * 0.05 > 0, so the sign is still the first gradient's; with the decays
    // swapped it would be 0.99 * 0.1 - .. of another size, and after -0.2 the sign must turn.
    run.step(&[-0.05, 0.1]);
    assert_eq!(run.value, [-1.0, 1.0]);
    run.step(&[-0.2, 0.4]);
    assert_eq!(run.value, [-0.5, 0.5]);
}

#[test]
fn lion_moves_by_the_rate_or_not_at_all_whatever_the_scale() {
    let config = || group("rule = 'lion'\nlr = 0.25\nweight_decay = 0.0");
    let mut run = Run::new(config(), [1, 64], &[0.0; 64]);
    let mut scaled = Run::new(config(), [1, 64], &[0.0; 64]);
    for step in 0..20 {
        let mut grad = noise(64, step);
        grad[7] = 0.0;
        let before = run.value.clone();
        run.step(&grad);
        for (new, old) in run.value.iter().zip(before) {
            assert!([0.0, 0.25].contains(&(new - old).abs()));
        }
        scaled.try_step(&grad, 1.0 / 4096.0).unwrap();
    }
    assert_eq!(run.value, scaled.value);
    assert_eq!(run.value[7], 0.0);
}

#[test]
fn options_of_sgd_act_and_no_momentum_needs_no_state() {
    let value_of = |text: &str| {
        let mut run = Run::new(group(text), [1, 3], &[1.0, -1.0, 0.5]);
        for _ in 0..3 {
            run.step(&[0.5, 0.25, -1.0]);
        }
        (run.value, run.state.slots(0).len())
    };
    let (plain, slots) = value_of("rule = 'sgd'\nlr = 0.1\nmomentum = 0.0");
    assert_eq!(slots, 0);
    assert!((plain[0] - 0.85).abs() < 1e-6);
    let (heavy, slots) = value_of("rule = 'sgd'\nlr = 0.1");
    assert_eq!(slots, 1);
    let (ahead, _) = value_of("rule = 'sgd'\nlr = 0.1\nnesterov = true");
    assert!(plain[0] > heavy[0] && heavy[0] > ahead[0]);
    assert_eq!(heavy, value_of("rule = 'sgd'\nlr = 0.1\nnesterov = false").0);
}

/// A rate of squares of rank one is divided out exactly: every value moves by the clipped rate.
#[test]
fn adafactor_takes_rank_one_apart() {
    let (rows, cols) = (20, 30);
    let grad: Vec<f32> = (0..rows * cols)
        .map(|at| (1.0 + (at / cols) as f32) * 1e-3 * (1.0 + (at % cols) as f32))
        .collect();
    let mut run = Run::new(group("rule = 'adafactor'\nlr = 0.5"), [rows, cols], &[0.0; 600]);
    for step in 1..=3 {
        run.step(&grad);
        assert!(run.value.iter().all(|p| (p + 0.5 * step as f32).abs() < 1e-4));
    }
    assert_eq!(run.device.ledger().live_bytes(Tag::State), 4 * (rows + cols));
}

#[test]
fn options_of_adafactor_act() {
    let value_of = |text: &str| {
        let start: Vec<f32> = noise(35, 3).iter().map(|x| 4.0 * x).collect();
        let mut run =
            Run::new(group(&format!("rule = 'adafactor'\nlr = 0.1\n{text}")), [5, 7], &start);
        for step in 0..4 {
            run.step(&noise(35, 10 + step));
        }
        run.value
    };
    let plain = value_of("");
    assert_eq!(plain, value_of("relative_step = false\nclip_rms = 1.0\nmomentum = 0.0"));
    for text in ["relative_step = true", "clip_rms = 0.1", "momentum = 0.9", "weight_decay = 0.1"] {
        assert_ne!(plain, value_of(text), "{text}");
    }
    assert_ne!(plain, value_of("eps = 1.0"));
    assert_eq!(value_of("clip_rms = 1e9"), value_of("clip_rms = inf"));
}

#[test]
fn gradients_of_zero_move_nothing() {
    for text in [
        "rule = 'muon'\nweight_decay = 0.0",
        "rule = 'muon'\nweight_decay = 0.0\nrow_norm = true\npolar = 'newton-schulz'",
        "rule = 'adafactor'\nmomentum = 0.9",
        "rule = 'lion'\nweight_decay = 0.0",
        "rule = 'sgd'",
    ] {
        let start = noise(48 * 5, 1);
        let mut run = Run::at(Level::detect(), group(text), [48, 5], &start);
        run.step(&[0.0; 48 * 5]);
        assert_eq!(run.value, start, "{text}");
        // A row and a column of zeros beside others.
        let mut grad = noise(48 * 5, 2);
        grad[..5].fill(0.0);
        grad.iter_mut().step_by(5).for_each(|g| *g = 0.0);
        run.step(&grad);
        assert!(run.value.iter().all(|p| p.is_finite()), "{text}");
        assert_eq!(run.value[..5], start[..5], "{text}");
    }
}

/// Gradients whose squares leave the range of f32 on either side.
#[test]
fn tiny_and_huge_gradients_stay_finite() {
    for rule in ["muon", "adafactor", "lion"] {
        let config = format!("rule = '{rule}'\nweight_decay = 0.0\nlr = 0.1");
        for scale in [1e-30f32, 1e15] {
            let mut run = Run::at(Level::detect(), group(&config), [6, 8], &[0.0; 48]);
            let grad: Vec<f32> = noise(48, 5).iter().map(|g| g * scale).collect();
            run.step(&grad);
            let moved = run.value.iter().map(|p| p.abs()).fold(0.0, f32::max);
            assert!(moved.is_finite() && (moved > 0.0 || rule == "adafactor"), "{rule} {scale}");
        }
    }
}

#[test]
fn muon_does_not_see_the_scale_and_its_options_act() {
    let value_of = |text: &str, scale: f32| {
        let config = group(&format!("rule = 'muon'\nlr = 0.1\n{text}"));
        let mut run = Run::new(config, [12, 20], &noise(240, 3));
        for step in 0..3 {
            run.try_step(&noise(240, 10 + step), scale).unwrap();
        }
        run.value
    };
    let plain = value_of("", 1.0);
    let scaled = value_of("", 1e-6);
    assert!(plain.iter().zip(&scaled).all(|(a, b)| (a - b).abs() < 1e-5));
    let default = "polar = 'polar-express'\niterations = 5\nscale = 'rms'\nrow_norm = false\n\
                   cautious = false\nnesterov = true\nmomentum = 0.95\nweight_decay = 0.1";
    assert_eq!(plain, value_of(default, 1.0));
    for text in [
        "polar = 'newton-schulz'",
        "iterations = 3",
        "scale = 'spectral'",
        "row_norm = true",
        "cautious = true",
        "nesterov = false",
        "momentum = 0.8",
        "weight_decay = 0.2",
    ] {
        assert_ne!(plain, value_of(text, 1.0), "{text}");
    }
}

/// Rows get the same size, and the update keeps its norm.
#[test]
fn rows_of_an_update_become_alike() {
    let update = |text: &str| {
        let config = group(&format!("rule = 'muon'\nlr = 1.0\nweight_decay = 0.0\n{text}"));
        let mut run = Run::new(config, [40, 16], &[0.0; 640]);
        run.step(&noise(640, 8));
        run.value
    };
    let rows = |value: &[f32]| -> Vec<f64> {
        value.chunks(16).map(|row| row.iter().map(|x| f64::from(x * x)).sum::<f64>()).collect()
    };
    let (plain, even) = (rows(&update("")), rows(&update("row_norm = true")));
    let spread = |rows: &[f64]| {
        rows.iter().cloned().fold(0.0, f64::max) / rows.iter().cloned().fold(f64::MAX, f64::min)
    };
    assert!(spread(&plain) > 1.5 && spread(&even) < 1.001, "{} {}", spread(&plain), spread(&even));
    let norm = |rows: &[f64]| rows.iter().sum::<f64>();
    assert!((norm(&plain) / norm(&even) - 1.0).abs() < 1e-4);
}

/// An average in 8 bits gives nearly the same orthogonal update, and a byte per value.
#[test]
fn eight_bits_hold_the_average_of_muon() {
    let shape = [128, 256];
    let count = shape[0] * shape[1];
    let start = vec![0.0; count];
    let update = |state: &str| {
        let text = format!(
            "rule = 'muon'\nlr = 1.0\nweight_decay = 0.0\nnesterov = false\nstate = '{state}'"
        );
        let mut run = Run::at(Level::detect(), group(&text), shape, &start);
        let mut before = start.clone();
        // The second update is the first to be made of decoded state.
        for step in 0..2 {
            before.clone_from(&run.value);
            run.step(&noise(count, 20 + step));
        }
        let bytes = run.device.ledger().live_bytes(Tag::State);
        let update: Vec<f32> = run.value.iter().zip(&before).map(|(new, old)| new - old).collect();
        (update, bytes)
    };
    let (full, _) = update("f32");
    let (eight, bytes) = update("int8/2048");
    assert!(cosine(&full, &eight) > 0.999, "{}", cosine(&full, &eight));
    assert_eq!(bytes, count + 4 * count / 2048);
}

#[test]
fn muon_refuses_what_is_no_hidden_matrix() {
    let refused = |shape, role| {
        let params = [ParamSpec::new("p", shape, role)];
        Assignment::resolve(&[group("rule = 'muon'")], &params).unwrap_err().to_string()
    };
    let hint = "\n  hint: give this group `role = \"matrix_hidden\"`, and end with a group of another \
                rule, such as `rule = \"adamw\"`";
    assert_eq!(
        refused([1, 64], Role::MatrixHidden),
        format!("group `all`: rule `muon` cannot update `p`: its shape [1, 64] is no matrix{hint}")
    );
    let embedding = refused([100, 64], Role::Embedding);
    assert!(embedding.contains("its role is `embedding`, not `matrix_hidden`"), "{embedding}");
    refused([64, 64], Role::Head);
}

#[test]
fn numbers_and_keys_that_rules_do_not_take_are_named() {
    let message = |text: &str| {
        let params = [ParamSpec::new("p", [4, 4], Role::MatrixHidden)];
        Assignment::resolve(&[group(text)], &params).unwrap_err().to_string()
    };
    for (text, start) in [
        ("rule = 'lion'\nbetas = [0.9, 1.5]", "`betas` of group `all`: expected numbers from 0"),
        ("rule = 'lion'\neps = 1e-8", "group `all`: rule and projection do not read `eps`"),
        ("rule = 'sgd'\nmomentum = 1.0", "`momentum` of group `all`"),
        ("rule = 'sgd'\nmomentum = 0.0\nnesterov = true", "`momentum` of group `all`: expected a"),
        ("rule = 'muon'\niterations = 0", "`iterations` of group `all`: expected a number from 1"),
        (
            "rule = 'adafactor'\nclip_rms = 0.0",
            "`clip_rms` of group `all`: expected a number above",
        ),
        ("rule = 'adamw'\nnesterov = true", "group `all`: rule and projection do not read `nest"),
    ] {
        assert!(message(text).starts_with(start), "{}", message(text));
    }
}

//! Rules in subspaces: what they compute, what they cost, what they refuse.

use smidgen_codec::{Ledger, Rng, Stream, Tag};
use smidgen_optim::{
    Assignment, Error, GroupConfig, MatrixScale, Moments, OptimState, ParamSpec, Polar,
    ProjectionKind, Rank, Role, StateTensor, StepCx,
};
use smidgen_tensor::{Device, Level};

const KINDS: [ProjectionKind; 3] =
    [ProjectionKind::Galore, ProjectionKind::Galore2, ProjectionKind::Adarank];

fn wave(count: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Rng::new(seed, Stream::Init).fill_normal(0, 0, 1.0, &mut values);
    values
}

/// `a b`, of shapes `[m, k]` and `[k, n]`.
fn times([m, k, n]: [usize; 3], a: &[f32], b: &[f32]) -> Vec<f32> {
    let one = |i: usize, j: usize| {
        (0..k).map(|t| f64::from(a[i * k + t]) * f64::from(b[t * n + j])).sum::<f64>() as f32
    };
    (0..m * n).map(|at| one(at / n, at % n)).collect()
}

/// A matrix of that rank, another one for each seed, of the same row and column space.
fn low_rank([m, n]: [usize; 2], rank: usize, seed: u64) -> Vec<f32> {
    let (left, right) = (wave(m * rank, 1), wave(rank * n, 2));
    let middle = times([m, rank, rank], &left, &wave(rank * rank, seed));
    times([m, rank, n], &middle, &right)
}

fn group(kind: ProjectionKind, rank: usize) -> GroupConfig {
    GroupConfig {
        projection: Some(kind),
        galore_rank: Some(Rank::Count(rank)),
        galore_scale: Some(1.0),
        projector: Some("f32".into()),
        weight_decay: Some(0.0),
        lr: 1.0,
        ..GroupConfig::default()
    }
}

struct Run {
    device: Device,
    state: OptimState,
    values: Vec<f32>,
    step: u64,
}

impl Run {
    fn new(config: &GroupConfig, shape: [usize; 2], threads: usize) -> Run {
        Run::at(Level::detect(), config, shape, threads)
    }

    fn at(level: Level, config: &GroupConfig, shape: [usize; 2], threads: usize) -> Run {
        let device = Device::cpu_at(Ledger::new(), threads, level);
        let params = [ParamSpec::new("w", shape, Role::MatrixHidden)];
        let plan = Assignment::resolve(std::slice::from_ref(config), &params).unwrap();
        let state = OptimState::allocate(plan, device.pool()).unwrap();
        Run { device, state, values: wave(shape[0] * shape[1], 77), step: 0 }
    }

    fn step(&mut self, grad: &[f32]) {
        self.step += 1;
        let cx = StepCx::new(&self.device, self.step, Rng::new(3, Stream::Rounding));
        self.state.step(&cx, 0, self.values.as_mut_slice().into(), grad).unwrap();
    }

    fn steps(&mut self, count: u64) {
        for _ in 0..count {
            self.step(&wave(self.values.len(), 1000 + self.step));
        }
    }

    fn slot(&self, name: &str) -> Vec<f32> {
        let slot = self.state.slots(0).iter().find(|slot| slot.spec().name == name).unwrap();
        let mut values = vec![0.0; slot.data().layout().values()];
        slot.data().decode_into(&mut values).unwrap();
        values
    }

    fn saved(&self) -> Vec<(String, String, [usize; 2], Vec<u8>)> {
        let tensors = self.state.tensors();
        tensors.map(|t| (t.name, t.format, t.shape, t.bytes.to_vec())).collect()
    }
}

/// The largest difference, against the largest value.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    let most = b.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    a.iter().zip(b).fold(0.0, |far, (a, b)| f32::max(far, (a - b).abs())) / most
}

fn squares(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(*x).powi(2)).sum()
}

#[test]
fn the_basis_is_orthonormal_and_holds_the_leading_energy() {
    for kind in KINDS {
        for shape in [[40, 90], [90, 40]] {
            let mut run = Run::new(&group(kind, 12), shape, 2);
            let grad = low_rank(shape, 20, 3);
            run.step(&grad);
            let basis = run.slot("projector");
            let mut transposed = vec![0.0; basis.len()];
            (0..basis.len()).for_each(|at| transposed[at % 40 * 12 + at / 40] = basis[at]);
            let gram = times([12, 40, 12], &basis, &transposed);
            let one = |at: usize| if at.is_multiple_of(13) { 1.0 } else { 0.0 };
            let used = gram.iter().step_by(13).filter(|x| **x > 0.5).count();
            let miss: f64 = gram
                .iter()
                .enumerate()
                .filter(|(at, _)| at / 12 < used && at % 12 < used)
                .map(|(at, x)| f64::from(x - one(at)).powi(2))
                .sum();
            assert!(miss.sqrt() < 1e-5, "{kind:?} {shape:?}: {miss}");
            if kind != ProjectionKind::Adarank {
                assert_eq!(used, 12);
            }
        }
    }
}

/// Gradients of rank r in one subspace of r directions: nothing is lost, and the rule does what it
/// does on the whole matrix.
#[test]
fn gradients_of_the_rank_give_the_trajectory_of_the_rule() {
    for kind in [ProjectionKind::Galore, ProjectionKind::Galore2] {
        for shape in [[24, 60], [60, 24]] {
            let config = GroupConfig {
                rule: "sgd".into(),
                momentum: Some(0.9),
                lr: 0.01,
                refresh: Some(3),
                weight_decay: Some(0.1),
                ..group(kind, 5)
            };
            let whole = GroupConfig {
                projection: None,
                galore_rank: None,
                refresh: None,
                galore_scale: None,
                projector: None,
                ..config.clone()
            };
            let (mut small, mut full) = (Run::new(&config, shape, 2), Run::new(&whole, shape, 2));
            for seed in 0..8 {
                let grad = low_rank(shape, 5, 50 + seed);
                small.step(&grad);
                full.step(&grad);
            }
            assert!(apart(&small.values, &full.values) < 1e-4, "{kind:?} {shape:?}");
        }
    }
}

/// The whole rank is the rule itself, to the bit.
#[test]
fn a_rank_of_the_whole_matrix_is_the_plain_rule() {
    let config = GroupConfig { galore_rank: Some(Rank::Share(1.0)), ..group(KINDS[1], 1) };
    let mut whole = Run::new(&config, [16, 40], 1);
    let plain = GroupConfig { weight_decay: Some(0.0), lr: 1.0, ..GroupConfig::default() };
    let mut plain = Run::new(&plain, [16, 40], 1);
    whole.steps(3);
    plain.steps(3);
    assert!(whole.values == plain.values);
    assert_eq!(whole.saved(), plain.saved());
}

/// Adam in the subspace, by hand: one step from zero moves each projected value by the rate.
#[test]
fn adam_sees_the_projected_gradient() {
    for shape in [[20, 50], [50, 20]] {
        let mut run = Run::new(&GroupConfig { lr: 0.5, ..group(KINDS[0], 4) }, shape, 1);
        let start = run.values.clone();
        run.step(&wave(1000, 9));
        let moved: Vec<f32> = run.values.iter().zip(&start).map(|(a, b)| a - b).collect();
        // N = -0.5 sign(R), and an orthonormal basis keeps its norm.
        let expected = 0.25 * (4 * 50) as f64;
        assert!((squares(&moved) / expected - 1.0).abs() < 1e-3, "{}", squares(&moved));
    }
}

/// The columns of the basis are orthonormal, so making the small matrix orthogonal and lifting it is
/// making the lifted one orthogonal: 8-bit Muon in a subspace is Muon of the projected average.
#[test]
fn muon_in_a_subspace_is_muon_of_what_is_left_of_the_gradient() {
    let (shape @ [m, n], rank) = ([32, 80], 8);
    let muon = GroupConfig {
        rule: "muon".into(),
        scale: Some(MatrixScale::Spectral),
        momentum: Some(0.0),
        nesterov: Some(false),
        polar: Some(Polar::NewtonSchulz),
        ..group(ProjectionKind::Galore, rank)
    };
    let grad = wave(m * n, 5);
    // Below the level with products in bf16: what these round away of a matrix of low rank the iteration
    // makes large.
    let level = Level::detect().min(Level::Avx512);
    let mut inside = Run::at(level, &muon, shape, 2);
    let start = inside.values.clone();
    inside.step(&grad);
    let basis = inside.slot("projector");
    let back: Vec<f32> = (0..basis.len()).map(|at| basis[at % rank * m + at / rank]).collect();
    let left = times([m, rank, n], &back, &times([rank, m, n], &basis, &grad));
    let whole = GroupConfig {
        projection: None,
        galore_rank: None,
        galore_scale: None,
        projector: None,
        ..muon
    };
    let mut outside = Run::at(level, &whole, shape, 2);
    outside.step(&left);
    let moved = |run: &Run| run.values.iter().zip(&start).map(|(a, b)| a - b).collect::<Vec<_>>();
    let far = apart(&moved(&inside), &moved(&outside));
    assert!(far < 0.02, "{far}");
}

#[test]
fn four_bits_of_a_basis_hold_its_energy() {
    let (shape, rank) = ([64, 160], 16);
    let grad = low_rank(shape, 24, 3);
    let [exact, coded] = ["f32", "int4-asym/256"].map(|projector| {
        let config = GroupConfig {
            projector: Some(projector.into()),
            ..group(ProjectionKind::Galore2, rank)
        };
        let mut run = Run::new(&config, shape, 1);
        run.step(&grad);
        run.slot("projector")
    });
    assert_ne!(exact, coded);
    // What the span of the coded basis holds: its rows made orthonormal, one after another.
    let energy = |basis: &[f32]| {
        let mut rows: Vec<Vec<f64>> = Vec::new();
        for row in basis.chunks(shape[0]) {
            let mut row: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
            for other in &rows {
                let dot: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= dot * b);
            }
            let norm = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            rows.push(row.into_iter().map(|x| x / norm).collect());
        }
        let flat: Vec<f32> = rows.iter().flatten().map(|x| *x as f32).collect();
        squares(&times([rank, shape[0], shape[1]], &flat, &grad))
    };
    let share = energy(&coded) / energy(&exact);
    assert!((0.95..=1.001).contains(&share), "{share}");
}

#[test]
fn scale_and_decay_do_what_they_say() {
    let base = group(KINDS[0], 4);
    let moved = |config: &GroupConfig| {
        let mut run = Run::new(config, [20, 30], 1);
        let start = run.values.clone();
        run.steps(1);
        let moved: Vec<f32> = run.values.iter().zip(&start).map(|(a, b)| a - b).collect();
        (moved, start)
    };
    let (one, start) = moved(&base);
    let (quarter, _) = moved(&GroupConfig { galore_scale: Some(0.25), ..base.clone() });
    let scaled: Vec<f32> = one.iter().map(|x| x * 0.25).collect();
    assert!(apart(&quarter, &scaled) < 1e-4);
    let (decayed, _) = moved(&GroupConfig { weight_decay: Some(0.125), ..base });
    let expected: Vec<f32> = one.iter().zip(&start).map(|(x, p)| x - 0.125 * p).collect();
    assert!(apart(&decayed, &expected) < 1e-4);
}

/// Momentum of one direction, after the subspace turned to one that holds it at another place.
#[test]
fn averages_are_kept_turned_or_forgotten() {
    let shape = [12, 30];
    let lifted = |moments| {
        let config = GroupConfig {
            rule: "sgd".into(),
            momentum: Some(0.5),
            refresh: Some(1),
            moments: Some(moments),
            ..group(KINDS[0], 2)
        };
        let mut run = Run::new(&config, shape, 1);
        // Two directions whose order changes: the first basis is (a, b), the second (b, a).
        let (rows, cols) = (wave(12, 1), wave(30, 2));
        let (rows2, cols2) = (wave(12, 3), wave(30, 4));
        let outer = |a: &[f32], b: &[f32], by: f32| -> Vec<f32> {
            a.iter().flat_map(|x| b.iter().map(move |y| by * x * y)).collect()
        };
        let sum = |x: f32, y: f32| -> Vec<f32> {
            let pair = outer(&rows, &cols, x).into_iter().zip(outer(&rows2, &cols2, y));
            pair.map(|(a, b)| a + b).collect()
        };
        run.step(&sum(5.0, 1.0));
        let before = run.values.clone();
        run.step(&sum(1e-3, 5e-3));
        let moved: Vec<f32> = run.values.iter().zip(&before).map(|(a, b)| a - b).collect();
        (moved, sum(5.0, 1.0))
    };
    let along = |moments| {
        let (moved, first) = lifted(moments);
        let dot: f64 = moved.iter().zip(&first).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        dot / (squares(&moved) * squares(&first)).sqrt()
    };
    assert!(along(Moments::Rotate) < -0.999, "{}", along(Moments::Rotate));
    assert!(along(Moments::Keep) > -0.9, "{}", along(Moments::Keep));
    assert!(along(Moments::Reset) > -0.9, "{}", along(Moments::Reset));
}

#[test]
fn the_rank_shrinks_to_the_energy_and_never_grows() {
    let shape = [40, 60];
    let config = GroupConfig { energy: Some(0.9), refresh: Some(1), ..group(KINDS[2], 20) };
    let mut run = Run::new(&config, shape, 2);
    let mut ranks = Vec::new();
    for (rank, seed) in [(12, 1), (12, 2), (4, 3), (30, 4), (2, 5), (40, 6)] {
        let grad = low_rank(shape, rank, seed);
        run.step(&grad);
        let used = run.slot("phase")[3] as usize;
        let basis = run.slot("projector");
        assert!(basis[used * 40..].iter().all(|x| *x == 0.0) && used > 0);
        let held = squares(&times([20, 40, 60], &basis, &grad)) / squares(&grad);
        let free = ranks.last().is_none_or(|before| used < *before);
        assert!(held >= 0.9 - 1e-4 || !free, "{held}");
        ranks.push(used);
    }
    assert!(ranks.is_sorted_by(|a, b| a >= b), "{ranks:?}");
    assert!(ranks[0] <= 12 && ranks[2] <= 4 && ranks[5] <= 2, "{ranks:?}");
}

#[test]
fn a_steady_subspace_is_found_less_often() {
    let refreshes = |adaptive| {
        let config =
            GroupConfig { adaptive: Some(adaptive), refresh: Some(1), ..group(KINDS[1], 3) };
        let mut run = Run::new(&config, [20, 30], 1);
        (0..30).for_each(|_| run.step(&low_rank([20, 30], 3, 8)));
        run.slot("phase")[0]
    };
    assert_eq!(refreshes(false), 30.0);
    assert!(refreshes(true) < 12.0, "{}", refreshes(true));
}

#[test]
fn sums_of_projected_gradients_are_projected_sums() {
    for kind in KINDS {
        let config = GroupConfig { weight_decay: Some(0.1), lr: 0.1, ..group(kind, 6) };
        let shape = [30, 40];
        let (mut sums, mut whole) = (Run::new(&config, shape, 2), Run::new(&config, shape, 2));
        // The same subspace for both: the first step has one micro-batch.
        let first = wave(1200, 1);
        whole.step(&first);
        sums.step(&first);
        let parts: Vec<Vec<f32>> = (0..4).map(|seed| wave(1200, 30 + seed)).collect();
        let all: Vec<f32> = (0..1200).map(|i| parts.iter().map(|part| part[i]).sum()).collect();
        whole.step(&all);
        sums.step = 2;
        let cx = StepCx::new(&sums.device, 2, Rng::new(3, Stream::Rounding));
        assert_eq!(sums.state.sum_shape(0), Some([6, 40]));
        for part in &parts {
            assert!(!sums.state.accumulate(&cx, 0, part).unwrap());
            assert_eq!(sums.device.ledger().live_bytes(Tag::Grads), 6 * 40 * 4);
        }
        sums.state.step_accumulated(&cx, 0, sums.values.as_mut_slice().into()).unwrap();
        assert_eq!(sums.device.ledger().live_bytes(Tag::Grads), 0);
        assert!(apart(&sums.values, &whole.values) < 1e-5, "{kind:?}");
        let again = sums.state.step_accumulated(&cx, 0, sums.values.as_mut_slice().into());
        assert!(matches!(again, Err(Error::Unsummed { .. })));
    }
}

#[test]
fn threads_and_a_resume_change_no_bit() {
    for rule in ["adamw", "lion", "muon", "sgd"] {
        for (kind, state) in [(KINDS[0], "f32"), (KINDS[1], "int8-dynamic"), (KINDS[2], "bf16")] {
            let config = GroupConfig {
                rule: rule.into(),
                state: state.into(),
                projection: Some(kind),
                galore_rank: Some(Rank::Share(0.25)),
                refresh: Some(3),
                lr: 0.01,
                ..GroupConfig::default()
            };
            let shape = [130, 300];
            let mut whole = Run::new(&config, shape, 1);
            whole.steps(8);
            for threads in [2, 3] {
                let mut first = Run::new(&config, shape, threads);
                first.steps(5);
                let saved = first.saved();
                let mut second = Run::new(&config, shape, 4 - threads);
                let tensors = saved.iter().map(|(name, format, shape, bytes)| {
                    let (name, format) = (name.clone(), format.clone());
                    StateTensor { name, format, shape: *shape, bytes }
                });
                second.state.load(tensors.collect::<Vec<_>>()).unwrap();
                (second.values, second.step) = (first.values, 5);
                second.steps(3);
                assert!(second.values == whole.values, "{rule} {kind:?} {state} {threads}");
                assert!(second.saved() == whole.saved(), "{rule} {kind:?} {state} {threads}");
            }
            assert!(whole.values.iter().all(|x| x.is_finite()));
        }
    }
}

/// The bar of 0.70 bytes for each covered parameter, from the ledger.
#[test]
fn a_quarter_of_the_rank_in_eight_bits_costs_little() {
    let config = GroupConfig {
        state: "int8-dynamic".into(),
        projector: Some("bf16".into()),
        ..group(KINDS[1], 1024)
    };
    let run = Run::new(&config, [4096, 11008], 1);
    let ledger = run.device.ledger();
    let bytes = ledger.live_bytes(Tag::State) + ledger.live_bytes(Tag::Proj);
    let share = bytes as f64 / (4096.0 * 11008.0);
    assert!(share <= 0.70, "{share}");
    let projector = ledger.live_bytes(Tag::Proj) - 1024 * 4096 * 2;
    assert!(projector < 64, "{projector}");
}

#[test]
fn vectors_tables_and_heads_stay_whole_unless_named() {
    let slots = |config: GroupConfig, role| {
        let params =
            [ParamSpec::new("w", [40, 60], role), ParamSpec::new("v", [1, 60], Role::Norm)];
        let plan = Assignment::resolve(&[config], &params).unwrap();
        let state = OptimState::allocate(plan, Device::cpu(Ledger::new(), 1).pool()).unwrap();
        assert!(state.slots(1).iter().all(|slot| slot.spec().tag == Tag::State));
        state.slots(0).iter().any(|slot| slot.spec().tag == Tag::Proj)
    };
    let share = || GroupConfig { galore_rank: None, ..group(KINDS[1], 1) };
    assert!(slots(share(), Role::MatrixHidden));
    assert!(!slots(share(), Role::Embedding));
    assert!(!slots(share(), Role::Head));
    let named = GroupConfig { role: vec![Role::Head, Role::Norm], ..share() };
    assert!(slots(named, Role::Head));
    let named = GroupConfig { pattern: Some("?".into()), ..share() };
    assert!(slots(named, Role::Embedding));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let params = [ParamSpec::new("w", [40, 60], Role::MatrixHidden)];
    let refused =
        |config: GroupConfig| Assignment::resolve(&[config], &params).unwrap_err().to_string();
    let over = refused(group(KINDS[0], 41));
    assert!(over.contains("`galore_rank = 41` is over the smaller side of [40, 60]"), "{over}");
    for rank in [Rank::Share(0.0), Rank::Share(1.5), Rank::Share(f64::NAN), Rank::Count(0)] {
        let text = refused(GroupConfig { galore_rank: Some(rank), ..group(KINDS[0], 1) });
        assert!(text.starts_with("`galore_rank` of group `all`: expected"), "{text}");
    }
    let text = refused(GroupConfig { energy: Some(0.5), ..group(KINDS[0], 4) });
    assert!(text.contains("do not read `energy`"), "{text}");
    let text = refused(GroupConfig { energy: Some(2.0), ..group(KINDS[2], 4) });
    assert!(text.starts_with("`energy`"), "{text}");
    let text = refused(GroupConfig { refresh: Some(0), ..group(KINDS[2], 4) });
    assert!(text.starts_with("`refresh`"), "{text}");
    let text = refused(GroupConfig { projector: Some("int5".into()), ..group(KINDS[2], 4) });
    assert!(text.starts_with("unknown format `int5`"), "{text}");
    let alone = GroupConfig { galore_rank: Some(Rank::Count(4)), ..GroupConfig::default() };
    assert!(refused(alone).contains("do not read `galore_rank`"));
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing_where_a_subspace_is_due() {
    let mut run = Run::new(&group(KINDS[1], 4), [20, 30], 1);
    let (saved, values) = (run.saved(), run.values.clone());
    let mut grad = wave(600, 1);
    grad[17] = f32::NAN;
    let cx = StepCx::new(&run.device, 1, Rng::new(3, Stream::Rounding));
    let bad = run.state.step(&cx, 0, run.values.as_mut_slice().into(), &grad);
    assert!(matches!(bad, Err(Error::NotFinite { param: 0 })));
    assert!(run.saved() == saved && run.values == values);
    run.step(&vec![0.0; 600]);
    assert!(run.values.iter().all(|x| x.is_finite()), "a gradient of zeros is no gradient");
}

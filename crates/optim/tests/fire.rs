//! Isometric re-initialisation against the exact polar factor.

use nalgebra::DMatrix;
use smidgen_codec::{Ledger, Rng, Stream};
use smidgen_optim::{Error, FireOptions, FireReport, fire, fire_targets, plasticity};
use smidgen_tensor::{Device, ParamId, Params, Role};

fn normals(count: usize, seed: u64) -> Vec<f32> {
    let mut values = vec![0.0; count];
    Rng::new(seed, Stream::Init).fill_normal(0, 0, 0.3, &mut values);
    values
}

fn matrix([rows, cols]: [usize; 2], values: &[f32]) -> DMatrix<f64> {
    DMatrix::from_fn(rows, cols, |i, j| f64::from(values[i * cols + j]))
}

fn weights(shape: [usize; 2], values: &[f32], threads: usize) -> (Device, Params, ParamId) {
    let device = Device::cpu(Ledger::new(), threads);
    let mut params = Params::new();
    let id = params.add(&device, "w", Role::MatrixHidden, shape).unwrap();
    params.load(id, values).unwrap();
    (device, params, id)
}

fn fired(shape: [usize; 2], values: &[f32], options: &FireOptions) -> (Vec<f32>, FireReport) {
    let (device, mut params, id) = weights(shape, values, 2);
    let report = fire(&device, &mut params, &[id], options).unwrap().remove(0);
    let (alone, mut others, other) = weights(shape, values, 1);
    fire(&alone, &mut others, &[other], options).unwrap();
    let new = params.get(id).value.to_vec();
    assert!(new == others.get(other).value.to_vec(), "threads");
    (new, report)
}

const SHAPES: [[usize; 2]; 4] = [[24, 60], [60, 24], [40, 40], [2, 3]];

#[test]
fn the_result_is_the_polar_factor_times_the_scale() {
    for shape @ [rows, cols] in SHAPES {
        let values = normals(rows * cols, 5);
        let (new, report) = fired(shape, &values, &FireOptions::default());
        let scale = (rows as f64 / cols as f64).sqrt();
        let svd = matrix(shape, &values).svd(true, true);
        let polar = svd.u.unwrap() * svd.v_t.unwrap() * scale;
        let far = (matrix(shape, &new) - &polar).abs().max();
        assert!(far < 1e-4, "{shape:?}: {far}");
        for sigma in matrix(shape, &new).singular_values().iter() {
            assert!((sigma - scale).abs() < 1e-3, "{shape:?}: {sigma}");
        }
        for sigma in report.sigma_after {
            assert!((sigma - scale).abs() < 1e-3, "{shape:?}: {sigma}");
        }
        let before = matrix(shape, &values).singular_values();
        assert!((report.sigma_before[1] - before.max()).abs() < 1e-4);
        assert!(report.dfi_after < 1e-6 && report.dfi_before > 1e-2, "{report:?}");
        let sfe = (matrix(shape, &new) - matrix(shape, &values)).norm_squared();
        assert!((report.sfe / sfe - 1.0).abs() < 1e-4);
        assert!(report.iterations > 3 && report.missing == 0, "{report:?}");
        // Once more changes nothing.
        let (again, second) = fired(shape, &new, &FireOptions::default());
        let far = (matrix(shape, &again) - matrix(shape, &new)).abs().max();
        assert!(far < 1e-4 && second.sfe < 1e-6, "{far} {second:?}");
    }
}

/// Procrustes: no other isometry is nearer.
#[test]
fn no_random_isometry_is_nearer() {
    let shape = [12, 20];
    let values = normals(240, 8);
    let (new, _) = fired(shape, &values, &FireOptions::default());
    let scale = (12f64 / 20.0).sqrt();
    let old = matrix(shape, &values);
    let ours = (matrix(shape, &new) - &old).norm();
    for seed in 0..100 {
        let other = matrix([20, 12], &normals(240, 100 + seed)).qr().q().transpose() * scale;
        assert!((other - &old).norm() > ours);
    }
}

#[test]
fn missing_directions_stay_zero_or_are_completed() {
    let shape = [16, 30];
    let (left, right) = (matrix([16, 5], &normals(80, 1)), matrix([5, 30], &normals(150, 2)));
    let product = left * right;
    let values: Vec<f32> = product.transpose().iter().map(|x| *x as f32).collect();
    let (new, report) = fired(shape, &values, &FireOptions::default());
    let scale = (16f64 / 30.0).sqrt();
    let sigma = matrix(shape, &new).singular_values();
    let near = |x: &f64, y: f64| (x - y).abs() < 1e-3;
    assert_eq!(report.missing, 11);
    assert_eq!(sigma.iter().filter(|x| near(x, scale)).count(), 5, "{sigma}");
    let whole = FireOptions { complete: true, ..FireOptions::default() };
    let (complete, report) = fired(shape, &values, &whole);
    assert_eq!(report.missing, 0);
    assert!(matrix(shape, &complete).singular_values().iter().all(|x| near(x, scale)));
    // What was there is still there.
    let back = |new: &[f32]| (matrix(shape, new).transpose() * &product).norm();
    assert!((back(&complete) / back(&new) - 1.0).abs() < 1e-3);
}

#[test]
fn matrices_are_named_and_bad_ones_refused() {
    let device = Device::cpu(Ledger::new(), 1);
    let mut params = Params::new();
    let mut add = |name: &str, role, shape| params.add(&device, name, role, shape).unwrap();
    let embed = add("embed.weight", Role::Embedding, [8, 4]);
    let query = add("layers.0.attn.q.weight", Role::MatrixHidden, [4, 4]);
    let norm = add("norm.weight", Role::Norm, [1, 4]);
    let down = add("layers.0.ffn.down.weight", Role::MatrixHidden, [4, 8]);
    assert_eq!(fire_targets(&params, None).unwrap(), [query, down]);
    assert_eq!(fire_targets(&params, Some("*attn*")).unwrap(), [query]);
    assert_eq!(fire_targets(&params, Some("embed*")).unwrap(), [embed]);
    let error = fire_targets(&params, Some("norm.weight")).unwrap_err();
    assert!(matches!(error, Error::NoMatrix { .. }));
    let text = fire_targets(&params, Some("*.att.*")).unwrap_err().to_string();
    assert!(text.starts_with("`*.att.*` matches no matrix\n  hint: the nearest name is"), "{text}");
    let zeros = fire(&device, &mut params, &[query], &FireOptions::default());
    assert!(matches!(zeros, Err(Error::BadWeights { .. })));
    params.load(norm, &[1.0; 4]).unwrap();
    params.load(query, &normals(16, 1)).unwrap();
    params.load(down, &[f32::NAN; 32]).unwrap();
    let before = params.get(query).value.to_vec();
    let bad = fire(&device, &mut params, &[query, down], &FireOptions::default());
    assert!(matches!(bad, Err(Error::BadWeights { param }) if param.contains("down")));
    assert_eq!(params.get(query).value.to_vec(), before);
    fire(&device, &mut params, &[query], &FireOptions::default()).unwrap();
    assert_ne!(params.get(query).value.to_vec(), before);
    assert_eq!(params.get(norm).value.to_vec(), [1.0; 4]);
}

#[test]
fn ranks_have_the_values_of_their_formulas() {
    let of = |shape: [usize; 2], values: &[f32]| {
        let (device, params, id) = weights(shape, values, 1);
        plasticity(&device, params.get(id)).unwrap()
    };
    let diagonal = [2.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let ranks = of([3, 3], &diagonal);
    assert!((ranks.stable_rank - 1.5).abs() < 1e-6, "{ranks:?}");
    let entropy = -0.5 * 0.5f64.ln() - 2.0 * 0.25 * 0.25f64.ln();
    assert!((ranks.effective_rank - entropy.exp()).abs() < 1e-5, "{ranks:?}");
    let (new, _) = fired([20, 50], &normals(1000, 3), &FireOptions::default());
    let ranks = of([20, 50], &new);
    assert!((ranks.stable_rank - 20.0).abs() < 1e-2 && (ranks.effective_rank - 20.0).abs() < 1e-2);
    assert_eq!(of([2, 2], &[0.0; 4]).stable_rank, 0.0);
}

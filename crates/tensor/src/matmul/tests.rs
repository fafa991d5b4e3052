use half::bf16;
use smidgen_codec::{Ledger, Tag};

use super::*;
use crate::tensor::View;

fn numbers(len: usize, seed: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

fn round(compute: Compute, x: f32) -> f64 {
    f64::from(if compute == Compute::Bf16 { <bf16 as Element>::from_f32(x).to_f32() } else { x })
}

/// Every shape class, operand order, store and level against sums in f64.
#[test]
fn products_match_the_plain_sum() {
    let pool = Pool::new(Ledger::new());
    let team = Team::new(2);
    for level in Level::available() {
        for compute in [Compute::F32, Compute::Bf16] {
            let engine = Engine { level, compute, pool: &pool, team: &team };
            for (m, n, k) in [
                (1, 1, 1),
                (1, 33, 7),
                (11, 31, 16),
                (12, 32, 32),
                (13, 65, 33),
                (40, 96, 2050),
                (25, 7, 4100),
                (100, 40, 64),
            ] {
                check(&engine, m, n, k);
            }
        }
    }
}

fn check(engine: &Engine<'_>, m: usize, n: usize, k: usize) {
    let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
    let at = transpose(&a, m, k);
    let bt = transpose(&b, k, n);
    let compute = engine.compute;
    let exact: Vec<f64> = (0..m * n)
        .map(|i| {
            (0..k)
                .map(|t| round(compute, a[i / n * k + t]) * round(compute, b[t * n + i % n]))
                .sum()
        })
        .collect();
    let tolerance = 2e-6 * (k as f64).sqrt() + 1e-6 * k as f64 * 0.1;
    let split = (k / 2 / 2 * 2).min(k);
    let whole = View::new(&b, k, n, n);
    let stacked = [whole.window(0, split, 0, n), whole.window(split, k - split, 0, n)];
    let columns = View::new(&bt, n, k, k);
    let lanes = [columns.window(0, n / 2, 0, k), columns.window(n / 2, n - n / 2, 0, k)];
    for right in [Right::Stacked(&stacked), Right::Transposed(&lanes)] {
        let panels = pack(engine, right, Tag::Workspace).unwrap();
        for left in [Left::Rows(View::new(&a, m, k, k)), Left::Columns(View::new(&at, k, m, m))] {
            let other = numbers(m * n, 3);
            let mut c = other.clone();
            product(engine, left, &panels, Out::slice(&mut c, n), Store::Set).unwrap();
            compare(&c, &exact, tolerance);
            product(engine, left, &panels, Out::slice(&mut c, n), Store::Add).unwrap();
            compare(&c, &exact.iter().map(|x| 2.0 * x).collect::<Vec<_>>(), 2.0 * tolerance);
            product(
                engine,
                left,
                &panels,
                Out::slice(&mut c, n),
                Store::AddTo { other: other.as_ptr(), stride: n },
            )
            .unwrap();
            compare(
                &c,
                &exact.iter().zip(&other).map(|(x, o)| x + f64::from(*o)).collect::<Vec<_>>(),
                tolerance,
            );
            let mut narrow = vec![bf16::ZERO; m * n];
            if compute == Compute::Bf16 {
                product(engine, left, &panels, Out::slice(&mut narrow, n), Store::Bf16).unwrap();
                let wide: Vec<f32> = narrow.iter().map(|x| x.to_f32()).collect();
                compare(
                    &wide,
                    &exact,
                    tolerance + exact.iter().fold(0.0, |a, b| f64::max(a, b.abs())) / 250.0,
                );
            }
        }
    }
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}

fn compare(got: &[f32], exact: &[f64], tolerance: f64) {
    for (g, e) in got.iter().zip(exact) {
        assert!((f64::from(*g) - e).abs() <= tolerance, "{g} is not {e} within {tolerance}");
    }
}

/// The same bits for every number of threads, at every level.
#[test]
fn threads_do_not_change_a_bit() {
    let pool = Pool::new(Ledger::new());
    let (a, b) = (numbers(300 * 200, 1), numbers(200 * 170, 2));
    for level in Level::available() {
        for compute in [Compute::F32, Compute::Bf16] {
            let results: Vec<Vec<f32>> = [1, 2, 4]
                .map(|threads| {
                    let team = Team::new(threads);
                    let engine = Engine { level, compute, pool: &pool, team: &team };
                    let view = [View::new(&b, 200, 170, 170)];
                    let panels = pack(&engine, Right::Stacked(&view), Tag::Workspace).unwrap();
                    let mut c = vec![0f32; 300 * 170];
                    product(
                        &engine,
                        Left::Rows(View::new(&a, 300, 200, 200)),
                        &panels,
                        Out::slice(&mut c, 170),
                        Store::Set,
                    )
                    .unwrap();
                    c
                })
                .into();
            assert!(results[0] == results[1] && results[0] == results[2]);
        }
    }
}

/// Copies between formats, with room to spare, give the same bits at every level.
#[test]
fn conversions_are_the_same_at_every_level() {
    use crate::kernels::levels::{LENGTHS, bits, for_formats, same_at_every_level, wild};
    fn both<A: Element>(len: usize) {
        let from = wild::<A>(1, len);
        same_at_every_level("convert", |level| {
            let (mut wide, mut narrow) = (vec![9f32; len + 3], vec![bf16::ONE; len + 1]);
            convert(level, &from, &mut wide);
            convert(level, &from, &mut narrow);
            (bits(&wide), bits(&narrow))
        });
    }
    for len in LENGTHS {
        for_formats!(both(len));
    }
}

/// A product over no rows, or of no rows or columns, writes what it should and nothing else.
#[test]
fn products_over_nothing() {
    let pool = Pool::new(Ledger::new());
    let team = Team::new(2);
    for level in Level::available() {
        for compute in [Compute::F32, Compute::Bf16] {
            let engine = Engine { level, compute, pool: &pool, team: &team };
            for (m, n, k) in [(3, 5, 0), (0, 5, 3), (3, 0, 5), (0, 0, 0)] {
                let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
                let right = [View::new(&b, k, n, n)];
                let panels = pack(&engine, Right::Stacked(&right), Tag::Workspace).unwrap();
                for left in
                    [Left::Rows(View::new(&a, m, k, k)), Left::Columns(View::new(&a, k, m, m))]
                {
                    let mut c = vec![7f32; m * n + 1];
                    product(&engine, left, &panels, Out::slice(&mut c, n), Store::Set).unwrap();
                    assert!(c[..m * n].iter().all(|c| *c == 0.0) && c[m * n] == 7.0);
                    product(&engine, left, &panels, Out::slice(&mut c, n), Store::Add).unwrap();
                    assert!(c[..m * n].iter().all(|c| *c == 0.0));
                }
            }
        }
    }
}

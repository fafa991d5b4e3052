//! The same bits for any number of threads, and the same numbers at any kernel level.

use smidgen_codec::Ledger;
use smidgen_tensor::{Compute, Device, HeldGrads, Keep, Level};

use crate::check::relative_error;
use crate::small::{Sizes, Small};

/// Large enough that every operation is cut into several tasks.
const SIZES: Sizes = Sizes {
    batch: 3,
    tokens: 150,
    heads: 6,
    kv_heads: 3,
    head_dim: 16,
    ffn: 130,
    vocab: 301,
    ..Sizes::SMALL
};

fn run(level: Level, compute: Compute, threads: usize, keep: Keep) -> (f32, Vec<Vec<f32>>) {
    let mut small = Small::new(SIZES, level, threads);
    let mut held = HeldGrads::new();
    let (loss, _) = small.step(compute, keep, &mut held).expect("a step");
    let grad = |id| held.get(id).expect("every parameter has a gradient").to_vec();
    (loss, small.ids.iter().map(|id| grad(*id)).collect())
}

#[test]
fn one_two_and_four_threads_give_the_same_bits() {
    for level in Level::available() {
        for compute in [Compute::F32, Compute::Bf16] {
            let one = run(level, compute, 1, Keep::Values);
            for threads in [2, 4] {
                let other = run(level, compute, threads, Keep::Inputs);
                assert!(one == other, "{threads} threads at {} in {compute:?}", level.name());
            }
        }
    }
}

/// A run repeated on the same device sees used memory instead of fresh zeros; nothing may depend on it.
#[test]
fn a_second_run_gives_the_same_bits() {
    for compute in [Compute::F32, Compute::Bf16] {
        let mut small = Small::new(SIZES, Level::detect(), 2);
        let mut step = || {
            let mut held = HeldGrads::new();
            let (loss, _) = small.step(compute, Keep::Values, &mut held).expect("a step");
            let grads: Vec<_> =
                small.ids.iter().map(|id| held.remove(*id).map(|g| g.to_vec())).collect();
            (loss, grads)
        };
        assert!(step() == step());
    }
}

/// Whoever finds the team busy computes alone; neither disturbs the other.
#[test]
fn two_models_may_share_a_device() {
    let device = Device::cpu(Ledger::new(), 2);
    let step = || {
        let mut small = Small::on(device.clone(), SIZES);
        let mut held = HeldGrads::new();
        let (loss, _) = small.step(Compute::F32, Keep::Inputs, &mut held).expect("a step");
        let grad = |id| held.get(id).expect("every parameter has a gradient").to_vec();
        (loss, small.ids.iter().map(|id| grad(*id)).collect::<Vec<_>>())
    };
    let alone = step();
    let together = std::thread::scope(|scope| {
        let others = [scope.spawn(step), scope.spawn(step)];
        others.map(|other| other.join().expect("no panic"))
    });
    assert!(together.into_iter().all(|other| other == alone));
}

#[test]
fn all_levels_agree() {
    for (compute, bound) in [(Compute::F32, 1e-4), (Compute::Bf16, 2e-2)] {
        let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
        let (loss, grads) = run(Level::Portable, compute, 2, Keep::Values);
        for level in Level::available() {
            let (here, grads_here) = run(level, compute, 2, Keep::Values);
            assert!((here / loss - 1.0).abs() < bound as f32);
            for (a, b) in grads_here.iter().zip(&grads) {
                let error = relative_error(&wide(a), &wide(b));
                assert!(error < bound, "{} in {compute:?}: {error}", level.name());
            }
        }
    }
}

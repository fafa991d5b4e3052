//! What a new subspace costs: exact against randomised, with the energy that each holds.
//!
//! `cargo run --release -p smidgen-optim --example refresh -- ROWS COLS RANK`

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Instant;

use smidgen_codec::{Ledger, Rng, Stream, Tag};
use smidgen_optim::{
    Assignment, GroupConfig, OptimState, ParamSpec, ProjectionKind, Rank, Role, StepCx,
};
use smidgen_tensor::{Blend, Compute, Device, Operand, Tensor, available_threads, product};

/// A gradient whose singular values fall about as 1 / i: a sum of random outer products.
fn gradient(device: &Device, shape: [usize; 2]) -> Result<Tensor, Box<dyn Error>> {
    let side = shape[0].min(shape[1]);
    let rng = Rng::new(1, Stream::Init);
    let pool = device.pool();
    let mut left = vec![0.0; shape[0] * side];
    rng.fill_normal(0, 0, 1.0, &mut left);
    for row in left.chunks_mut(side) {
        row.iter_mut().enumerate().for_each(|(i, x)| *x /= (i + 1) as f32);
    }
    let mut right = vec![0.0; side * shape[1]];
    rng.fill_normal(1, 0, 1.0, &mut right);
    let left = Tensor::from_f32(pool, Tag::Workspace, [shape[0], side], &left)?;
    let right = Tensor::from_f32(pool, Tag::Workspace, [side, shape[1]], &right)?;
    let mut out = Tensor::uninit(pool, Tag::Workspace, shape, smidgen_tensor::Format::F32)?;
    let (a, b) = (Operand::of(&left), Operand::of(&right));
    product(device, Compute::F32, a, b, Blend::SET, &mut out)?;
    Ok(out)
}

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> =
        std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let [rows, cols, rank] = numbers[..] else { return Err("expected ROWS COLS RANK".into()) };
    let device = Device::cpu(Ledger::new(), available_threads());
    let grad = gradient(&device, [rows, cols])?;
    let mut found = Vec::new();
    for kind in [ProjectionKind::Galore, ProjectionKind::Galore2] {
        let group = GroupConfig {
            projection: Some(kind),
            galore_rank: Some(Rank::Count(rank)),
            projector: Some("f32".into()),
            ..GroupConfig::default()
        };
        let params = [ParamSpec::new("w", [rows, cols], Role::MatrixHidden)];
        let plan = Assignment::resolve(&[group], &params)?;
        let mut state = OptimState::allocate(plan, device.pool())?;
        let mut value = vec![0.0f32; rows * cols];
        let mut seconds = [0.0; 2];
        for (step, seconds) in (1..).zip(&mut seconds) {
            let cx = StepCx::new(&device, step, Rng::new(0, Stream::Rounding));
            let start = Instant::now();
            state.step(&cx, 0, value.as_mut_slice().into(), grad.slice())?;
            *seconds = start.elapsed().as_secs_f64();
        }
        let projector = state.slots(0)[1].data();
        let basis = projector.as_f32().ok_or("the projector is in f32")?;
        let basis = Operand::slice(basis, projector.shape())?;
        let whole = Operand::of(&grad);
        let whole = if rows <= cols { whole } else { whole.transposed() };
        let shape = [rank, rows.max(cols)];
        let mut part = Tensor::uninit(device.pool(), Tag::Workspace, shape, grad.format())?;
        product(&device, Compute::F32, basis, whole, Blend::SET, &mut part)?;
        let energy: f64 = part.slice::<f32>().iter().map(|x| f64::from(*x).powi(2)).sum();
        found.push((seconds[0] - seconds[1], energy));
        let (refresh, update) = (seconds[0] - seconds[1], seconds[1]);
        println!("{kind:?}: refresh {refresh:.3} s, update {update:.3} s, energy {energy:.6e}");
    }
    let [(slow, all), (fast, held)] = found[..] else { return Ok(()) };
    println!("{:.1}x faster at {:.4} of the energy", slow / fast, held / all);
    Ok(())
}

//! How fast a fuser trains: `cargo run --release -p smidgen-link --example fuser_speed [f32|bf16]`.
//!
//! Models and fuser of the `small` preset with weights that were drawn, prompts of 48 tokens, answers of
//! two. Prints fused tokens per second and where the time goes.

use std::sync::Arc;
use std::time::Instant;

use smidgen_codec::{Ledger, Rng};
use smidgen_link::Side;
use smidgen_link::align::Alignment;
use smidgen_link::fuse::{FuserConfig, FuserData, FuserObjective, FuserTraining, Item};
use smidgen_model::{Decoder, KeySpace, Spec};
use smidgen_tensor::{Compute, Device, HeldGrads, Keep, Params, Tape};
use smidgen_train::{Objective, Trainer};

fn side(device: &Device, compute: Compute, spec: Spec) -> Side {
    let mut params = Params::new();
    let decoder = Decoder::new(device, spec, &mut params).expect("a model");
    decoder.init(&mut params, 1);
    Side { device: device.clone(), compute, decoder, params }
}

fn item(seed: u64) -> Item {
    let rng = Rng::named(seed, "speed");
    let tokens = |what, count: u64| (0..count).map(|i| rng.below(0, what, i, 384) as u32).collect();
    let (sharer, receiver, response) = (tokens(0, 48), tokens(1, 49), tokens(2, 2));
    let alignment = Alignment::identity(48);
    Item { sharer, receiver, alignment, response, response_bytes: 0 }
}

#[allow(clippy::print_stdout)]
fn main() {
    let compute = match std::env::args().nth(1).as_deref() {
        Some("f32") => Compute::F32,
        _ => Compute::Bf16,
    };
    let device = Device::cpu(Ledger::new(), 2);
    let sharer = Spec { kv_heads: 2, tied: true, ..Spec::new(512, 128, 6, 4, 384, 256) };
    let receiver = Spec { kv_heads: 2, tied: true, ..Spec::new(384, 96, 4, 4, 288, 256) };
    let config =
        FuserConfig { hidden: 96, inner: 96, k_space: KeySpace::PreRope, ..FuserConfig::default() };
    let data = FuserData { train: (0..2048).map(item).collect(), val: vec![item(9999)] };
    let (batch, micro_batches, any_rate, keep) = (64, 1, None, Keep::Values);
    let training = FuserTraining { steps: 100, batch, micro_batches, seed: 1, any_rate, keep };
    let recipe = training.recipe(compute, 1e-3);
    let (sharer, receiver) =
        (Arc::new(side(&device, compute, sharer)), side(&device, compute, receiver));
    let (mut objective, mut params) =
        FuserObjective::new(sharer, receiver, config, data, training).expect("a fuser");
    objective.init(&mut params, 1).expect("first values");
    for step in 0..3 {
        let started = Instant::now();
        let mut tape = Tape::training(&device, compute, &mut params);
        let loss = objective.loss(&mut tape, step, 0).expect("a loss");
        let forward = started.elapsed();
        let grads = tape.backward(loss, &mut HeldGrads::new()).expect("gradients");
        println!("forward {forward:?}, with the way back {:?}", started.elapsed());
        if step == 2 {
            let mut profile: Vec<_> = grads.profile().iter().collect();
            profile.sort_by_key(|(_, time)| std::cmp::Reverse(**time));
            profile.iter().for_each(|(name, time)| println!("  {name}: {time:?}"));
        }
    }
    let tokens = objective.step_targets() as f64;
    let mut trainer = Trainer::new(&device, recipe, &mut objective, params).expect("a trainer");
    let (started, steps) = (Instant::now(), 20);
    (0..steps).for_each(|_| {
        trainer.step().expect("a step");
    });
    let rate = f64::from(steps) * tokens / started.elapsed().as_secs_f64();
    let peak = device.ledger().total_peak_bytes() >> 20;
    println!("{rate:.0} fused tokens/s, {:.0} s for 2.3 M, {peak} MiB at most", 2.3e6 / rate);
}

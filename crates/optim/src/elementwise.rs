//! The engine of rules that update each value by itself.
//!
//! A parameter is cut into chunks of fixed size, one task each. Slots in plain f32 are updated in
//! place; other formats are decoded, updated and coded again a cache-sized tile at a time, so full
//! f32 state never exists. No value depends on another, so every number of threads and every
//! vector width gives the same bits.

use std::array;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use smidgen_codec::{ChunkMut, Rounding};
use smidgen_tensor::{Level, multiversion};

use crate::clip::CHUNK;
use crate::{Error, Param, Slot, StepCx, Values};

/// The place of the weights among the slots, for their random numbers.
const VALUE_PLACE: u8 = u8::MAX;
/// Values decoded at once: some slots of it stay in the first-level cache.
const TILE: usize = 1 << 10;

/// Calls `update(value, gradient, slots)` for every value of `param`.
///
/// The gradient comes multiplied by [`StepCx::grad_scale`]. `update` is inlined into loops for each
/// vector width, so it should be plain arithmetic.
///
/// # Errors
/// [`Error::Slots`] unless there are `N` slots, [`Error::Length`] unless value, gradient and slots
/// have the values of the parameter's shape; nothing is changed then. [`Error::NotFinite`] when a
/// gradient was not finite: it is found on the way, so value and slots are already spoiled.
pub fn elementwise<const N: usize, F>(
    cx: &StepCx<'_>,
    param: Param<'_>,
    slots: &mut [Slot],
    update: F,
) -> Result<(), Error>
where
    F: Fn(&mut f32, f32, [&mut f32; N]) + Sync,
{
    let got = slots.len();
    let slots: &mut [Slot; N] = slots.try_into().map_err(|_| Error::Slots { expected: N, got })?;
    check(&param, slots)?;
    let unit = slots.iter().map(|slot| slot.data().layout().chunk_unit()).fold(1, common_multiple);
    let chunk = round_up(CHUNK, unit, param.value.len());
    let tile = round_up(TILE, unit, param.value.len());
    let rounding = cx.stochastic(param.index, VALUE_PLACE);
    let mut number = 0;
    let mut parts = slots.each_mut().map(|slot| {
        let rounding = slot.rounding(cx, param.index, number);
        number += 1;
        slot.data_mut().chunks_mut(chunk).map(move |chunk| Part::new(chunk, rounding))
    });
    let mut values = param.value;
    let grads = param.grad.chunks(chunk).enumerate();
    let tasks: Vec<_> = grads
        .map(|(i, grad)| {
            let part = |parts: &mut _| Iterator::next(parts).expect("as many chunks as values");
            let parts = parts.each_mut().map(part);
            let rounding = rounding.advance(i * chunk);
            let value = Weights { values: values.take(chunk), rounding, tile: Vec::new() };
            Mutex::new(Task { value, grad, parts })
        })
        .collect();
    let finite = AtomicBool::new(true);
    let level = cx.device.level();
    cx.device.team().run(tasks.len(), |index| {
        let mut task = tasks[index].lock().expect("each chunk has one task");
        if !task.run(level, cx.grad_scale, tile, &update) {
            finite.store(false, Relaxed);
        }
    });
    if finite.into_inner() { Ok(()) } else { Err(Error::NotFinite { param: param.index }) }
}

/// One chunk of a parameter and of its slots.
struct Task<'a, const N: usize> {
    value: Weights<'a>,
    grad: &'a [f32],
    parts: [Part<'a>; N],
}

impl<const N: usize> Task<'_, N> {
    /// Updates the chunk; whether all its gradients were finite.
    fn run<F>(&mut self, level: Level, scale: f32, tile: usize, update: &F) -> bool
    where
        F: Fn(&mut f32, f32, [&mut f32; N]),
    {
        let in_place = self.value.values.as_f32_mut().is_some()
            && self.parts.iter_mut().all(|part| part.chunk.as_f32_mut().is_some());
        let tile = if in_place { self.grad.len() } else { tile };
        let mut largest = 0;
        for (number, grad) in self.grad.chunks(tile).enumerate() {
            let (at, len) = (number * tile, grad.len());
            let value = self.value.load(at, len);
            let slots = self.parts.each_mut().map(|part| part.load(at, len));
            largest = largest.max(update_tile(level, value, grad, scale, slots, update));
            self.value.store(at, len);
            self.parts.iter_mut().for_each(|part| part.store(at, len));
        }
        largest < f32::INFINITY.to_bits()
    }
}

/// One chunk of the values, and room for a widened tile of it.
struct Weights<'a> {
    values: Values<'a>,
    rounding: Rounding,
    tile: Vec<f32>,
}

impl Weights<'_> {
    fn load(&mut self, at: usize, len: usize) -> &mut [f32] {
        if self.values.as_f32_mut().is_some() {
            let values = self.values.as_f32_mut().expect("it was there a line above");
            return &mut values[at..at + len];
        }
        self.tile.resize(len, 0.0);
        self.values.load(at, &mut self.tile);
        &mut self.tile
    }

    fn store(&mut self, at: usize, len: usize) {
        if self.values.as_f32_mut().is_none() {
            self.values.store(at, &self.tile[..len], self.rounding.advance(at));
        }
    }
}

/// One chunk of a slot, and room for a decoded tile of it.
struct Part<'a> {
    chunk: ChunkMut<'a>,
    rounding: Rounding,
    tile: Vec<f32>,
}

impl<'a> Part<'a> {
    fn new(chunk: ChunkMut<'a>, rounding: Rounding) -> Self {
        Self { chunk, rounding, tile: Vec::new() }
    }

    fn load(&mut self, at: usize, len: usize) -> &mut [f32] {
        if self.chunk.as_f32_mut().is_some() {
            let values = self.chunk.as_f32_mut().expect("it was there a line above");
            return &mut values[at..at + len];
        }
        self.tile.resize(len, 0.0);
        self.chunk.decode(at, &mut self.tile);
        &mut self.tile
    }

    fn store(&mut self, at: usize, len: usize) {
        if self.chunk.as_f32_mut().is_none() {
            self.chunk.encode(at, &self.tile[..len], self.rounding);
        }
    }
}

multiversion! {
    /// Updates a tile; the bits of the largest gradient without its sign, which order as integers
    /// do: a NaN or an infinity ends above every number.
    fn update_tile<F: Fn(&mut f32, f32, [&mut f32; N]); const N: usize>(
        value: &mut [f32],
        grad: &[f32],
        scale: f32,
        slots: [&mut [f32]; N],
        update: &F,
    ) -> u32 {
        let len = value.len();
        // One length for all, so that the loop below needs no check.
        let grad = &grad[..len];
        let slots = slots.map(|slot| &mut slot[..len]);
        let mut largest = 0;
        for i in 0..len {
            let g = grad[i] * scale;
            largest = largest.max(g.abs().to_bits());
            let mut state: [f32; N] = array::from_fn(|n| slots[n][i]);
            update(&mut value[i], g, state.each_mut());
            for n in 0..N {
                slots[n][i] = state[n];
            }
        }
        largest
    }
}

fn check(param: &Param<'_>, slots: &[Slot]) -> Result<(), Error> {
    let expected = param.shape[0].saturating_mul(param.shape[1]);
    let lengths = [("value", param.value.len()), ("gradient", param.grad.len())];
    let slots = slots.iter().map(|slot| (slot.spec().name, slot.data().layout().values()));
    for (what, got) in lengths.into_iter().chain(slots) {
        if got != expected {
            return Err(Error::Length { what, expected, got });
        }
    }
    Ok(())
}

/// The smallest multiple of `unit` that is at least `target`, or one that covers `len` values.
fn round_up(target: usize, unit: usize, len: usize) -> usize {
    target.min(len.max(1)).checked_next_multiple_of(unit).unwrap_or(unit)
}

fn common_multiple(a: usize, b: usize) -> usize {
    let (mut gcd, mut rest) = (a.max(1), b.max(1));
    while rest != 0 {
        (gcd, rest) = (rest, gcd % rest);
    }
    (a.max(1) / gcd).saturating_mul(b.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_multiples_of_every_unit() {
        assert_eq!(common_multiple(1, 1), 1);
        assert_eq!(common_multiple(64, 256), 256);
        assert_eq!(common_multiple(100, 64), 1600);
        assert_eq!(round_up(1024, 100, 1 << 20), 1100);
        assert_eq!(round_up(1024, 64, 10), 64);
        assert_eq!(round_up(1024, 64, 0), 64);
    }
}

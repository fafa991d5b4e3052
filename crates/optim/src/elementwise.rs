//! The loop over all values of a parameter: the only writer of weights.
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
    let Param { index, shape, value, grad } = param;
    check_length("value", shape, value.len())?;
    check_length("gradient", shape, grad.len())?;
    for slot in slots.iter() {
        check_length(slot.spec().name, shape, slot.data().layout().values())?;
    }
    apply(cx, index, value, slots, Updates::Slice(grad, cx.grad_scale), update)
}

/// Where the second operand of [`apply`] comes from.
#[derive(Clone, Copy)]
pub enum Updates<'a> {
    /// From here, times a number.
    Slice(&'a [f32], f32),
    /// From a function that writes those of the values from an index on. It should give the same
    /// numbers however the values are cut.
    Made(&'a (dyn Fn(usize, &mut [f32]) + Sync)),
}

/// The loop of [`elementwise`] with any array in place of the gradient: calls
/// `update(value, element of updates, slots)` for every value of parameter `index`.
///
/// # Errors
/// [`Error::Slots`] unless there are `N` slots, [`Error::Length`] unless updates and slots are as
/// many as the values; nothing is changed then. [`Error::NotFinite`] as for [`elementwise`].
pub fn apply<const N: usize, F>(
    cx: &StepCx<'_>,
    index: usize,
    mut values: Values<'_>,
    slots: &mut [Slot],
    updates: Updates<'_>,
    update: F,
) -> Result<(), Error>
where
    F: Fn(&mut f32, f32, [&mut f32; N]) + Sync,
{
    let (len, got) = (values.len(), slots.len());
    let slots: &mut [Slot; N] = slots.try_into().map_err(|_| Error::Slots { expected: N, got })?;
    if let Updates::Slice(updates, _) = updates {
        check_length("updates", [1, len], updates.len())?;
    }
    for slot in slots.iter() {
        check_length(slot.spec().name, [1, len], slot.data().layout().values())?;
    }
    let unit = slots.iter().map(|slot| slot.data().layout().chunk_unit()).fold(1, common_multiple);
    let chunk = round_up(CHUNK, unit, len);
    let tile = round_up(TILE, unit, len);
    let rounding = cx.stochastic(index, VALUE_PLACE);
    let mut number = 0;
    let mut parts = slots.each_mut().map(|slot| {
        let rounding = slot.rounding(cx, index, number);
        number += 1;
        slot.data_mut().chunks_mut(chunk).map(move |chunk| Part::new(chunk, rounding))
    });
    let tasks: Vec<_> = (0..len.div_ceil(chunk.max(1)))
        .map(|i| {
            let part = |parts: &mut _| Iterator::next(parts).expect("as many chunks as values");
            let parts = parts.each_mut().map(part);
            let rounding = rounding.advance(i * chunk);
            let value = Weights { values: values.take(chunk), rounding, tile: Vec::new() };
            let updates = Source { from: updates, first: i * chunk, tile: Vec::new() };
            Mutex::new(Task { value, updates, parts })
        })
        .collect();
    let finite = AtomicBool::new(true);
    let level = cx.device.level();
    cx.device.team().run(tasks.len(), |index| {
        let mut task = tasks[index].lock().expect("each chunk has one task");
        if !task.run(level, tile, &update) {
            finite.store(false, Relaxed);
        }
    });
    if finite.into_inner() { Ok(()) } else { Err(Error::NotFinite { param: index }) }
}

/// One chunk of a parameter and of its slots.
struct Task<'a, const N: usize> {
    value: Weights<'a>,
    updates: Source<'a>,
    parts: [Part<'a>; N],
}

impl<const N: usize> Task<'_, N> {
    /// Updates the chunk; whether all its gradients were finite.
    fn run<F>(&mut self, level: Level, tile: usize, update: &F) -> bool
    where
        F: Fn(&mut f32, f32, [&mut f32; N]),
    {
        let len = self.value.values.len();
        let in_place = self.value.values.as_f32_mut().is_some()
            && matches!(self.updates.from, Updates::Slice(..))
            && self.parts.iter_mut().all(|part| part.chunk.as_f32_mut().is_some());
        let tile = if in_place { len.max(1) } else { tile };
        let mut largest = 0;
        for at in (0..len).step_by(tile) {
            let len = tile.min(len - at);
            let value = self.value.load(at, len);
            let (updates, scale) = self.updates.load(at, len);
            let slots = self.parts.each_mut().map(|part| part.load(at, len));
            largest = largest.max(update_tile(level, value, updates, scale, slots, update));
            self.value.store(at, len);
            self.parts.iter_mut().for_each(|part| part.store(at, len));
        }
        largest < f32::INFINITY.to_bits()
    }
}

/// One chunk of the updates, and room for a tile of those that are made.
struct Source<'a> {
    from: Updates<'a>,
    first: usize,
    tile: Vec<f32>,
}

impl Source<'_> {
    /// A tile, and what it is to be multiplied by.
    fn load(&mut self, at: usize, len: usize) -> (&[f32], f32) {
        let first = self.first + at;
        match self.from {
            Updates::Slice(values, by) => (&values[first..first + len], by),
            Updates::Made(make) => {
                self.tile.resize(len, 0.0);
                make(first, &mut self.tile);
                (&self.tile, 1.0)
            }
        }
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

pub(crate) fn check_length(what: &'static str, shape: [usize; 2], got: usize) -> Result<(), Error> {
    let expected = shape[0].saturating_mul(shape[1]);
    if got == expected { Ok(()) } else { Err(Error::Length { what, expected, got }) }
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

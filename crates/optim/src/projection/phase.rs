//! Where a parameter stands between two refreshes of its subspace: a slot of a few numbers.

use crate::{Slot, SlotSpec};

/// Cosines that are remembered, and what their mean must be for a longer period.
const QUEUE: usize = 5;
const STANDS_STILL: f32 = 0.4;
/// Numbers in the slot: refreshes, period, age, rank, count of cosines, cosines.
const NUMBERS: usize = 5 + QUEUE;
/// Counts are exact in f32 up to here.
const LONGEST: u64 = 1 << 23;

/// The slot's name.
pub(super) const PHASE: &str = "phase";

/// When the subspace was found, and when it will be again.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Phase {
    /// How often it was found.
    pub(super) refreshes: u64,
    /// Updates from one time to the next.
    pub(super) period: u64,
    /// Updates since the last time.
    pub(super) age: u64,
    /// Directions in use.
    pub(super) rank: usize,
    /// How much of its first direction stayed, the last few times.
    cosines: Vec<f32>,
}

impl Phase {
    /// The slot that holds it.
    pub(super) fn spec() -> SlotSpec {
        SlotSpec::signed(PHASE, [1, NUMBERS])
    }

    /// Reads the slot; all zeros before the first refresh.
    pub(super) fn load(slot: &Slot) -> Phase {
        let numbers = slot.data().as_f32().expect("the slot is in f32, in aligned memory");
        let [refreshes, period, age, rank, count] = [0, 1, 2, 3, 4].map(|i| numbers[i] as u64);
        let cosines = numbers[5..][..QUEUE.min(count as usize)].to_vec();
        Phase { refreshes, period, age, rank: rank as usize, cosines }
    }

    /// Writes the slot.
    pub(super) fn store(&self, slot: &mut Slot) {
        let numbers = slot.data_mut().as_f32_mut().expect("the slot is in f32, in aligned memory");
        let counts = [self.refreshes, self.period, self.age, self.rank as u64];
        numbers.fill(0.0);
        for (to, count) in numbers.iter_mut().zip(counts) {
            *to = count.min(LONGEST) as f32;
        }
        numbers[4] = self.cosines.len() as f32;
        numbers[5..][..self.cosines.len()].copy_from_slice(&self.cosines);
    }

    /// Whether the subspace must be found before the next update.
    pub(super) fn is_due(&self) -> bool {
        self.refreshes == 0 || self.age >= self.period
    }

    /// Enters a refresh; `cosine` is what stayed of the first direction, where there was one.
    pub(super) fn refreshed(&mut self, period: u64, adaptive: bool, cosine: Option<f32>) {
        if self.refreshes == 0 {
            self.period = period.min(LONGEST);
        }
        self.refreshes += 1;
        self.age = 0;
        let Some(cosine) = cosine.filter(|_| adaptive) else { return };
        if self.cosines.len() == QUEUE {
            self.cosines.remove(0);
        }
        self.cosines.push(cosine);
        let mean = self.cosines.iter().sum::<f32>() / QUEUE as f32;
        if self.cosines.len() == QUEUE && mean >= STANDS_STILL {
            self.period = (self.period * 2).min(LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five refreshes in the same direction double the period, and each one after them does again.
    #[test]
    fn a_subspace_that_stands_still_is_refreshed_less_often() {
        let mut phase = Phase::default();
        assert!(phase.is_due());
        phase.refreshed(10, true, None);
        assert!(!phase.is_due());
        let mut periods = Vec::new();
        for _ in 0..7 {
            phase.refreshed(10, true, Some(0.9));
            periods.push(phase.period);
        }
        assert_eq!(periods, [10, 10, 10, 10, 20, 40, 80]);
        phase.refreshed(10, true, Some(-4.0));
        assert_eq!(phase.period, 80);
        let mut steady = Phase::default();
        (0..9).for_each(|_| steady.refreshed(10, false, Some(1.0)));
        assert_eq!((steady.period, steady.refreshes), (10, 9));
    }
}

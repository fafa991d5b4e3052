//! Draws one after another, from a place of its own in a counter-based stream.

use smidgen_codec::Rng;

/// A sequence of draws that is a function of (seed, purpose, number) alone.
#[derive(Clone, Debug)]
pub(crate) struct Dice {
    rng: Rng,
    place: [u64; 2],
    drawn: u64,
}

impl Dice {
    /// The draws for `place` of what `purpose` names.
    pub(crate) fn new(seed: u64, purpose: &str, place: [u64; 2]) -> Dice {
        Dice { rng: Rng::named(seed, purpose), place, drawn: 0 }
    }

    /// Uniform in 0..`bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.drawn += 1;
        self.rng.below(self.place[0], self.place[1], self.drawn, bound as u64) as usize
    }

    /// Uniform in [0, 1).
    pub(crate) fn uniform(&mut self) -> f64 {
        self.drawn += 1;
        self.rng.uniform(self.place[0], self.place[1], self.drawn)
    }

    /// One of a list that is not empty.
    pub(crate) fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    /// Any order, each as likely (Fisher-Yates).
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for left in (1..list.len()).rev() {
            list.swap(left, self.below(left + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_as_likely_as_each_other_and_repeat() {
        let mut counts = [0; 6];
        for place in 0..6000 {
            let mut list = [0, 1, 2];
            Dice::new(1, "test", [place, 0]).shuffle(&mut list);
            counts[list[0] * 2 + usize::from(list[1] > list[2])] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        let draws = |seed| {
            let mut dice = Dice::new(seed, "test", [3, 4]);
            [0; 8].map(|_| dice.below(1000))
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }
}

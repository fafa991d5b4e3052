//! A set of numbers as ranges that neither overlap nor touch.

use std::collections::BTreeMap;
use std::ops::Range;

/// Disjoint ranges, joined where they meet.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges(BTreeMap<usize, usize>);

impl Ranges {
    /// Adds a range that overlaps none.
    pub(super) fn insert(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &until)) = self.0.range(..start).next_back()
            && until == start
        {
            self.0.remove(&before);
            start = before;
        }
        if let Some(until) = self.0.remove(&end) {
            end = until;
        }
        self.0.insert(start, end);
    }

    /// Takes a range out, whose every number is there.
    pub(super) fn remove(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let (&start, &end) =
            self.0.range(..=range.start).next_back().expect("only what is there is removed");
        self.0.remove(&start);
        if start < range.start {
            self.0.insert(start, range.start);
        }
        if range.end < end {
            self.0.insert(range.end, end);
        }
    }

    /// The parts of `range` that are there, in order.
    pub(super) fn within(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let first = self.0.range(..range.start).next_back().into_iter();
        let rest = self.0.range(range.start..range.end.max(range.start));
        let cut =
            first.chain(rest).map(|(&start, &end)| start.max(range.start)..end.min(range.end));
        cut.filter(|part| !part.is_empty()).collect()
    }

    /// The parts of `range` that are not there, in order.
    pub(super) fn gaps(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let mut from = range.start;
        let mut gaps = Vec::new();
        for part in self.within(range.clone()) {
            gaps.push(from..part.start);
            from = part.end;
        }
        gaps.push(from..range.end);
        gaps.retain(|gap| !gap.is_empty());
        gaps
    }

    /// Every range, in order.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = Range<usize>> {
        self.0.iter().map(|(&start, &end)| start..end)
    }
}

/// Numbers of all ranges together.
pub(super) fn count(ranges: &[Range<usize>]) -> usize {
    ranges.iter().map(ExactSizeIterator::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a list of flags: what is inside, in the fewest ranges.
        #[test]
        fn ranges_are_a_set(steps in proptest::collection::vec((0usize..64, 1usize..16), 1..40), look in 0usize..64) {
            let (mut ranges, mut flags) = (Ranges::default(), [false; 80]);
            for (start, len) in steps {
                let part = start..start + len;
                if flags[part.clone()].iter().all(|flag| !flag) {
                    ranges.insert(part.clone());
                    flags[part].fill(true);
                } else if flags[part.clone()].iter().all(|flag| *flag) {
                    ranges.remove(part.clone());
                    flags[part].fill(false);
                }
            }
            let edges = flags.windows(2).filter(|pair| !pair[0] && pair[1]).count();
            prop_assert_eq!(ranges.iter().count(), edges + usize::from(flags[0]));
            let window = look..look + 16;
            let inside: Vec<usize> = ranges.within(window.clone()).into_iter().flatten().collect();
            let outside: Vec<usize> = ranges.gaps(window.clone()).into_iter().flatten().collect();
            prop_assert!(inside.iter().all(|n| flags[*n]) && outside.iter().all(|n| !flags[*n]));
            prop_assert_eq!(inside.len() + outside.len(), window.len());
            prop_assert_eq!(count(&ranges.within(window)), inside.len());
        }
    }
}

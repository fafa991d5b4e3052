//! The one loop of byte-pair encoding: join the best pair of neighbours until none can be joined.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// No token, or no neighbour.
pub(crate) const NONE: u32 = u32::MAX;

/// A part of a word that is one token, or no token yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symbol {
    /// Where it begins in the word, in bytes.
    pub(crate) start: u32,
    /// Where it ends; its start once it has been swallowed.
    pub(crate) end: u32,
    /// Its token, or [`NONE`].
    pub(crate) id: u32,
    prev: u32,
    next: u32,
}

/// A pair that can be joined: the lowest rank first, then the leftmost.
type Candidate = Reverse<(u32, u32, u32, u32, u32)>;

/// The symbols of a word; kept from word to word for its memory.
#[derive(Default)]
pub(crate) struct Joiner {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

impl Joiner {
    /// Forgets the last word.
    pub(crate) fn clear(&mut self) {
        self.symbols.clear();
    }

    /// Adds a smallest part behind the others.
    pub(crate) fn push(&mut self, len: usize, id: u32) {
        let place = self.symbols.len() as u32;
        let start = self.symbols.last().map_or(0, |last| last.end);
        if let Some(last) = self.symbols.last_mut() {
            last.next = place;
        }
        let prev = place.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol { start, end: start + len as u32, id, prev, next: NONE });
    }

    /// Joins neighbours as long as `rule` gives a rank and a token for some pair.
    pub(crate) fn join(&mut self, rule: impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>) {
        self.queue.clear();
        for right in 1..self.symbols.len() as u32 {
            self.propose(right - 1, right, &rule);
        }
        while let Some(Reverse((_, left, right, end, id))) = self.queue.pop() {
            let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
            // One of the two may have been joined with another since.
            if l.next != right || l.start == l.end || r.end != end {
                continue;
            }
            let joined = &mut self.symbols[left as usize];
            (joined.end, joined.id, joined.next) = (r.end, id, r.next);
            self.symbols[right as usize].end = r.start;
            if r.next != NONE {
                self.symbols[r.next as usize].prev = left;
                self.propose(left, r.next, &rule);
            }
            if l.prev != NONE {
                self.propose(l.prev, left, &rule);
            }
        }
    }

    /// What is left, in order.
    pub(crate) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|symbol| symbol.start < symbol.end)
    }

    fn propose(
        &mut self,
        left: u32,
        right: u32,
        rule: &impl Fn(&Symbol, &Symbol) -> Option<(u32, u32)>,
    ) {
        let (l, r) = (&self.symbols[left as usize], &self.symbols[right as usize]);
        if let Some((rank, id)) = rule(l, r) {
            self.queue.push(Reverse((rank, left, right, r.end, id)));
        }
    }
}

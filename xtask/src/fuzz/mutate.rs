//! Inputs made wrong: a few changes to a valid file, each a pure function of (seed, case).

use smidgen_codec::Rng;

/// Numbers at which lengths, counts and offsets go wrong.
const EDGES: [u64; 12] = [
    0,
    1,
    7,
    0x7f,
    0xff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    i64::MAX as u64,
    u64::MAX - 7,
    u64::MAX,
];

/// Pieces of text at which parsers of text go wrong.
const WORDS: [&[u8]; 14] = [
    b"null",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"\"\"",
    b"[",
    b"{",
    b"]",
    b"}",
    b"\\u0000",
    b"\xff\xfe",
    b"true",
    b"nan",
    b"= = ",
];

/// Draws for one case, in order.
struct Draws<'a> {
    rng: &'a Rng,
    case: u64,
    next: u64,
}

impl Draws<'_> {
    fn below(&mut self, bound: usize) -> usize {
        self.next += 1;
        self.rng.below(self.case, 0, self.next, bound.max(1) as u64) as usize
    }

    fn number(&mut self) -> u64 {
        if self.below(2) == 0 {
            return EDGES[self.below(EDGES.len())];
        }
        self.next += 1;
        self.rng.at(self.case, 0, self.next) >> self.below(64)
    }
}

/// Case number `case`: one of the seeds with one to five changes.
pub(crate) fn mutated(seeds: &[Vec<u8>], rng: &Rng, case: u64) -> Vec<u8> {
    let mut draws = Draws { rng, case, next: 0 };
    let mut bytes = seeds[draws.below(seeds.len())].clone();
    for _ in 0..=draws.below(5) {
        let other = &seeds[draws.below(seeds.len())];
        change(&mut bytes, other, &mut draws);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, other: &[u8], draws: &mut Draws<'_>) {
    let at = draws.below(bytes.len() + 1);
    // Headers say how the rest is read: half of all changes go there.
    let at = if draws.below(2) == 0 { at.min(draws.below(96)) } else { at };
    let len = 1 + draws.below(24);
    let end = (at + len).min(bytes.len());
    match draws.below(9) {
        0 => flip(bytes, at, draws.below(8)),
        1 => put(bytes, at, &[draws.number() as u8]),
        2 => put(bytes, at, &(draws.number() as u32).to_le_bytes()),
        3 => put(bytes, at, &draws.number().to_le_bytes()),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..end)),
        6 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        7 => put(bytes, at, WORDS[draws.below(WORDS.len())]),
        _ => {
            let from = draws.below(other.len() + 1);
            let part = other[from..(from + len).min(other.len())].to_vec();
            bytes.splice(at..end, part);
        }
    }
}

fn flip(bytes: &mut [u8], at: usize, bit: usize) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << bit;
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    let len = value.len().min(bytes.len() - at);
    bytes[at..at + len].copy_from_slice(&value[..len]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_always_the_same_and_rarely_its_seed() {
        let seeds = [b"{\"a\": 1}".to_vec(), vec![0; 100]];
        let rng = Rng::named(1, "fuzz");
        let all: Vec<Vec<u8>> = (0..1000).map(|case| mutated(&seeds, &rng, case)).collect();
        assert_eq!(all[7], mutated(&seeds, &rng, 7));
        assert!(all.iter().filter(|bytes| seeds.contains(bytes)).count() < 300);
        assert!(all.iter().any(|b| b.len() < 8) && all.iter().any(|b| b.len() > 100));
    }

    #[test]
    fn no_bytes_can_be_changed_too() {
        let rng = Rng::named(1, "fuzz");
        for case in 0..500 {
            mutated(&[Vec::new()], &rng, case);
        }
    }
}

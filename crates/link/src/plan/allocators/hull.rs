//! `rd_hull`, the default: every byte where it lowers the loss most.
//!
//! Per token only recipes on the lower convex hull of (bytes, distortion) matter; a step along it
//! gains w_t (e_before - e_after) for some more bytes. Take steps in the order of gain per byte
//! (ties: earlier token, then earlier step) while they fit; a token whose step does not fit stops
//! there, and smaller steps go on. Then one exchange: the first step that did not fit against an
//! accepted one that gained less. O(M T) after one sort, for each piece of the byte model.
//!
//! Guarantee: the loss is within one step of the linear optimum of every piece, so of `rd_dp`. It is
//! compared with `rd_greedy_v0` and the better is taken, so it is never worse than that either.

use super::super::problem::{Choice, Linear, Problem, Step};
use super::{Allocator, RdGreedyV0};
use crate::Error;

/// Accepted steps that are tried for an exchange.
const TRIES: usize = 64;

/// Steps along the convex hull.
#[derive(Clone, Copy, Debug)]
pub struct RdHull;

impl Allocator for RdHull {
    fn name(&self) -> &'static str {
        "rd_hull"
    }

    fn allocate(&self, problem: &Problem) -> Result<Choice, Error> {
        let found = problem.best_of_pieces(|linear| {
            let steps = linear.hull();
            Ok(fill(linear, &steps, vec![0; linear.problem.weights.len()]))
        })?;
        Ok(problem.better(found, RdGreedyV0.allocate(problem)?))
    }
}

/// One accepted or refused step of a token.
#[derive(Clone, Copy)]
struct Move {
    token: usize,
    step: usize,
}

/// Goes on from `levels`, the steps that each token has taken, which fit; returns the choice.
pub(super) fn fill(linear: &Linear<'_>, steps: &[Step], mut levels: Vec<u8>) -> Choice {
    let cost = |level: &u8| steps[..usize::from(*level)].iter().map(|step| step.bytes).sum::<u64>();
    let mut spent = levels.iter().map(cost).sum::<u64>();
    let least = steps.iter().map(|step| step.bytes).min().unwrap_or(u64::MAX);
    let (mut accepted, mut refused) = (Vec::new(), None);
    for next in Walk::new(linear.problem, steps) {
        if spent.saturating_add(least) > linear.room_bytes {
            // The first that nothing is left for is the one worth an exchange.
            refused = refused.or((usize::from(levels[next.token]) == next.step).then_some(next));
            if refused.is_some() { break } else { continue }
        }
        if usize::from(levels[next.token]) != next.step {
            continue;
        }
        let bytes = steps[next.step].bytes;
        if spent + bytes <= linear.room_bytes {
            levels[next.token] += 1;
            spent += bytes;
            accepted.push(next);
        } else {
            refused = refused.or(Some(next));
        }
    }
    if let Some(refused) = refused {
        exchange(linear, steps, &mut levels, spent, &accepted, refused);
    }
    let recipe = |level: u8| steps[usize::from(level) - 1].recipe;
    levels.into_iter().map(|level| (level > 0).then(|| recipe(level))).collect()
}

/// Takes back one accepted step for the refused one, where that gains and fits.
fn exchange(
    linear: &Linear<'_>,
    steps: &[Step],
    levels: &mut [u8],
    spent: u64,
    accepted: &[Move],
    refused: Move,
) {
    let gain = |next: &Move| linear.problem.weights[next.token] * steps[next.step].gain;
    let is_last = |next: &&Move| usize::from(levels[next.token]) == next.step + 1;
    let fits = |next: &&Move| {
        let after = spent - steps[next.step].bytes + steps[refused.step].bytes;
        next.token != refused.token && after <= linear.room_bytes && gain(next) < gain(&refused)
    };
    let tried = accepted.iter().rev().filter(is_last).take(TRIES).filter(fits);
    if let Some(back) = tried.min_by(|a, b| gain(a).total_cmp(&gain(b))).copied() {
        levels[back.token] -= 1;
        levels[refused.token] += 1;
    }
}

/// All steps of all tokens, by gain per byte.
///
/// The gain of a step is the weight times a factor of the step alone, so the tokens of each step
/// are in the order of their weights, and the whole order is a merge of as many lists as there are
/// steps.
struct Walk<'a> {
    problem: &'a Problem,
    slopes: Vec<f64>,
    /// How far each step's list has been read.
    next: Vec<usize>,
}

impl<'a> Walk<'a> {
    fn new(problem: &'a Problem, steps: &[Step]) -> Walk<'a> {
        let slopes = steps.iter().map(Step::slope).collect();
        Walk { problem, slopes, next: vec![0; steps.len()] }
    }

    /// The head of a step's list: gain per byte and token.
    fn head(&self, step: usize) -> Option<(f64, u32)> {
        let token = *self.problem.order.get(self.next[step])?;
        Some((self.problem.weights[token as usize] * self.slopes[step], token))
    }
}

impl Iterator for Walk<'_> {
    type Item = Move;

    fn next(&mut self) -> Option<Move> {
        let mut best: Option<(f64, u32, usize)> = None;
        for step in 0..self.slopes.len() {
            let Some((ratio, token)) = self.head(step) else { continue };
            let wins = best
                .is_none_or(|(most, first, _)| ratio > most || (ratio == most && token < first));
            if wins {
                best = Some((ratio, token, step));
            }
        }
        let (_, token, step) = best?;
        self.next[step] += 1;
        Some(Move { token: token as usize, step })
    }
}

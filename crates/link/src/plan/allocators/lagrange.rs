//! `rd_lagrange`: a price per byte, found by bisection, and each token's own best answer to it.
//!
//! At price p a token takes the recipe with the least w e + p bytes, ties to the cheaper; the least
//! price at which all of them fit, then the steps of `rd_hull` for what is left. The same points of
//! the hull by another way: a cross-check. Source: Shoham and Gersho (1988).

use super::super::problem::{Choice, Linear, Problem, Step};
use super::hull::fill;
use super::{Allocator, RdGreedyV0};
use crate::Error;

/// Bisection of the price.
#[derive(Clone, Copy, Debug)]
pub struct RdLagrange;

impl Allocator for RdLagrange {
    fn name(&self) -> &'static str {
        "rd_lagrange"
    }

    fn allocate(&self, problem: &Problem) -> Result<Choice, Error> {
        let found = problem.best_of_pieces(|linear| {
            let steps = linear.hull();
            let levels = levels(linear, &steps, price(linear, &steps));
            Ok(fill(linear, &steps, levels))
        })?;
        Ok(problem.better(found, RdGreedyV0.allocate(problem)?))
    }
}

/// The least price found at which everything that is worth it fits.
fn price(linear: &Linear<'_>, steps: &[Step]) -> f64 {
    let heaviest =
        linear.problem.order.first().map_or(0.0, |t| linear.problem.weights[*t as usize]);
    let (mut low, mut high) = (0.0, heaviest * steps.first().map_or(0.0, Step::slope));
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return high;
        }
        if bytes(linear, steps, middle) <= u128::from(linear.room_bytes) {
            high = middle;
        } else {
            low = middle;
        }
    }
}

/// What everything weighs that is worth the price: for each step the tokens are a part of the order.
fn bytes(linear: &Linear<'_>, steps: &[Step], price: f64) -> u128 {
    let count = |step: &Step| worth(linear.problem, step, price) as u128;
    steps.iter().map(|step| count(step) * u128::from(step.bytes)).sum()
}

/// How many of the heaviest tokens gain more by a step than its bytes cost.
fn worth(problem: &Problem, step: &Step, price: f64) -> usize {
    problem.order.partition_point(|token| problem.weights[*token as usize] * step.slope() > price)
}

/// The steps that each token takes at a price.
fn levels(linear: &Linear<'_>, steps: &[Step], price: f64) -> Vec<u8> {
    let mut levels = vec![0; linear.problem.weights.len()];
    for step in steps {
        for token in &linear.problem.order[..worth(linear.problem, step, price)] {
            levels[*token as usize] += 1;
        }
    }
    levels
}

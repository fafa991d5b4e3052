//! `rd_dp`: the exact answer, for tests and short prompts.
//!
//! A knapsack with one choice per token over the bytes that are left, costs divided by their
//! greatest common divisor, solved in each piece of the byte model. O(T cap / gcd), and as many
//! bytes of memory: refused beyond 5e7.

use super::super::problem::{Choice, Linear, Problem};
use super::Allocator;
use crate::Error;

/// The most cells of the table.
const MOST_CELLS: u64 = 50_000_000;
/// A cell's entry for a token that is dropped.
const DROP: u8 = u8::MAX;

/// Dynamic programming.
#[derive(Clone, Copy, Debug)]
pub struct RdDp;

impl Allocator for RdDp {
    fn name(&self) -> &'static str {
        "rd_dp"
    }

    fn allocate(&self, problem: &Problem) -> Result<Choice, Error> {
        problem.best_of_pieces(solve)
    }
}

fn solve(linear: &Linear<'_>) -> Result<Choice, Error> {
    let weights = &linear.problem.weights;
    let open: Vec<(u8, u64, f64)> = linear.open().collect();
    let unit = open.iter().fold(0, |unit, (_, bytes, _)| gcd(unit, *bytes)).max(1);
    let dearest = open.iter().map(|(_, bytes, _)| *bytes).max().unwrap_or(0);
    // More room than every token can use is no more room.
    let useful = dearest.saturating_mul(weights.len() as u64);
    let units = linear.room_bytes.min(useful) / unit;
    let cells = (units + 1).saturating_mul(weights.len() as u64);
    if cells > MOST_CELLS {
        let expected = format!("a problem of at most {MOST_CELLS} cells for `rd_dp`");
        return Err(Error::value("token_precision_mode", expected, cells));
    }
    let costs: Vec<usize> = open.iter().map(|(_, bytes, _)| (bytes / unit) as usize).collect();
    let width = units as usize + 1;
    // The least loss of the tokens so far with at most so many units.
    let mut least = vec![0.0; width];
    let mut table = vec![DROP; cells as usize];
    for (weight, row) in weights.iter().zip(table.chunks_exact_mut(width)) {
        for left in (0..width).rev() {
            let (mut best, mut entry) = (least[left] + weight, DROP);
            for (i, ((_, _, e), cost)) in open.iter().zip(&costs).enumerate() {
                if let Some(before) = left.checked_sub(*cost) {
                    let loss = least[before] + weight * e;
                    if loss < best {
                        (best, entry) = (loss, i as u8);
                    }
                }
            }
            (least[left], row[left]) = (best, entry);
        }
    }
    let mut left = width - 1;
    let mut choice: Choice = vec![None; weights.len()];
    for (recipe, row) in choice.iter_mut().zip(table.chunks_exact(width)).rev() {
        if row[left] != DROP {
            let entry = usize::from(row[left]);
            *recipe = Some(open[entry].0);
            left -= costs[entry];
        }
    }
    Ok(choice)
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

//! `rd_greedy_v0`: the best precision while it fits, then the next one for what is left.
//!
//! Tokens by weight; each gets the dearest recipe that fits with what it opens, else a cheaper one,
//! else nothing. So a cheap precision only fills the last gap: its defect, kept to be shown.
//! Source: the budgets of LatentWire. Differs: the cap is on true bytes of the whole message.

use super::super::model::planned_bytes;
use super::super::problem::{Choice, Problem};
use super::Allocator;
use crate::Error;

/// The reference's rule.
#[derive(Clone, Copy, Debug)]
pub struct RdGreedyV0;

impl Allocator for RdGreedyV0 {
    fn name(&self) -> &'static str {
        "rd_greedy_v0"
    }

    fn allocate(&self, problem: &Problem) -> Result<Choice, Error> {
        let recipes = dearest_first(problem);
        // On the way to all tokens their list would be paid for that all tokens do not need.
        if let Some(all) = recipes.first().and_then(|recipe| problem.whole(*recipe)) {
            return Ok(all);
        }
        let mut choice: Choice = vec![None; problem.weights.len()];
        let mut counts = vec![0; problem.distortions.len()];
        for token in &problem.order {
            for recipe in &recipes {
                counts[*recipe] += 1;
                if planned_bytes(&problem.pieces, &counts, problem.total_tokens)
                    <= problem.cap_bytes
                {
                    choice[*token as usize] = Some(*recipe as u8);
                    break;
                }
                counts[*recipe] -= 1;
            }
        }
        Ok(choice)
    }
}

/// Recipes by the bytes of a token where all of them are open.
fn dearest_first(problem: &Problem) -> Vec<usize> {
    let rows = problem.pieces.iter().map(|piece| &piece.row_bytes);
    let open = rows.max_by_key(|rows| rows.iter().flatten().count());
    let mut recipes: Vec<usize> = (0..problem.distortions.len()).collect();
    let row = |m: usize| open.and_then(|rows| rows[m]);
    recipes.sort_by(|a, b| row(*b).cmp(&row(*a)).then(a.cmp(b)));
    recipes
}

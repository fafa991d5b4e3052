//! What an allocator is asked, in numbers that are linear in the tokens.
//!
//! Loss D = sum over tokens of w_t e_m(t), e_drop = 1, under a cap on the bytes.

use super::model::{ByteModel, Piece, planned_bytes};
use crate::Error;

/// Tokens, recipes and a cap.
#[derive(Clone, Debug)]
pub struct Problem {
    /// T of the message, of which the tokens below are a part.
    pub total_tokens: usize,
    /// w, one for each token in scope, at least 0.
    pub weights: Vec<f64>,
    /// e, one for each recipe, at least 0: the share of a token's change that is lost.
    pub distortions: Vec<f64>,
    /// Bounds on the bytes.
    pub pieces: Vec<Piece>,
    /// The most that the message may weigh.
    pub cap_bytes: u64,
    /// Places in `weights`, the heaviest token first, ties to the earlier one. Those of weight 0 are
    /// not there: their bytes would buy nothing.
    pub order: Vec<u32>,
}

/// The recipe of each token; none drops it.
pub type Choice = Vec<Option<u8>>;

impl Problem {
    /// Checks weights and distortions.
    ///
    /// # Errors
    /// [`Error::Value`] where one is negative or not finite, [`Error::Length`] where the
    /// distortions are not one per recipe.
    pub fn new(
        model: &dyn ByteModel,
        weights: Vec<f64>,
        distortions: Vec<f64>,
        cap_bytes: u64,
    ) -> Result<Problem, Error> {
        let (expected, got) = (model.recipes(), distortions.len());
        if expected != got {
            return Err(Error::Length { what: "distortions of the recipes", expected, got });
        }
        for (key, values) in [("weights", &weights), ("distortions", &distortions)] {
            if let Some(wrong) = values.iter().find(|x| !(**x >= 0.0 && x.is_finite())) {
                return Err(Error::value(key, "finite numbers of at least 0", wrong));
            }
        }
        let weight = |place: u32| weights[place as usize];
        let places = 0..weights.len() as u32;
        let mut order: Vec<u32> = places.filter(|place| weight(*place) > 0.0).collect();
        order.sort_unstable_by(|a, b| weight(*b).total_cmp(&weight(*a)).then(a.cmp(b)));
        let (total_tokens, pieces) = (model.tokens(), model.pieces());
        Ok(Problem { total_tokens, weights, distortions, pieces, cap_bytes, order })
    }

    /// D of a choice, summed in the order of the tokens.
    pub fn loss(&self, choice: &[Option<u8>]) -> f64 {
        let kept = |recipe: &Option<u8>| recipe.map_or(1.0, |m| self.distortions[usize::from(m)]);
        choice.iter().zip(&self.weights).map(|(recipe, weight)| weight * kept(recipe)).sum()
    }

    /// Tokens of each recipe.
    pub fn counts(&self, choice: &[Option<u8>]) -> Vec<u64> {
        let mut counts = vec![0; self.distortions.len()];
        choice.iter().flatten().for_each(|m| counts[usize::from(*m)] += 1);
        counts
    }

    /// The bytes that a choice was planned with.
    pub fn bytes(&self, choice: &[Option<u8>]) -> u64 {
        planned_bytes(&self.pieces, &self.counts(choice), self.total_tokens)
    }

    /// The better of two choices: less loss, then fewer bytes, then the first.
    pub(super) fn better(&self, first: Choice, second: Choice) -> Choice {
        let (a, b) = (self.loss(&first), self.loss(&second));
        let second_wins = b < a || (b == a && self.bytes(&second) < self.bytes(&first));
        if second_wins { second } else { first }
    }

    /// Solves the linear problem of every piece that has room, and takes the best of the answers;
    /// nothing is sent where there is none.
    pub(super) fn best_of_pieces(
        &self,
        solve: impl Fn(&Linear<'_>) -> Result<Choice, Error>,
    ) -> Result<Choice, Error> {
        let mut best: Choice = vec![None; self.weights.len()];
        for piece in &self.pieces {
            let Some(room_bytes) = self.cap_bytes.checked_sub(piece.fixed_bytes) else { continue };
            let found = match piece.row_bytes.iter().position(Option::is_some) {
                Some(recipe) if piece.is_whole => self.whole(recipe),
                _ => Some(solve(&Linear { problem: self, piece, room_bytes })?),
            };
            if let Some(found) = found {
                best = self.better(best, found);
            }
        }
        Ok(best)
    }

    /// Every token of the message with one recipe, where that fits.
    pub(super) fn whole(&self, recipe: usize) -> Option<Choice> {
        let tokens = self.weights.len();
        let mut counts = vec![0; self.distortions.len()];
        counts[recipe] = tokens as u64;
        let bytes = planned_bytes(&self.pieces, &counts, self.total_tokens);
        let is_all = tokens == self.total_tokens && tokens > 0;
        (is_all && bytes <= self.cap_bytes).then(|| vec![Some(recipe as u8); tokens])
    }
}

/// The problem within one piece: costs are per token, and what is fixed is paid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Linear<'a> {
    pub(super) problem: &'a Problem,
    pub(super) piece: &'a Piece,
    /// What tokens may weigh together.
    pub(super) room_bytes: u64,
}

/// A way from one point of the hull to the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// The recipe that it leads to.
    pub(super) recipe: u8,
    /// What it costs more.
    pub(super) bytes: u64,
    /// What it distorts less.
    pub(super) gain: f64,
}

impl Step {
    /// Gain per byte of a token with weight 1.
    pub(super) fn slope(&self) -> f64 {
        self.gain / self.bytes as f64
    }
}

impl Linear<'_> {
    /// Recipes that are open here: number, bytes of a token, distortion.
    pub(super) fn open(&self) -> impl Iterator<Item = (u8, u64, f64)> + '_ {
        let rows = self.piece.row_bytes.iter().zip(&self.problem.distortions);
        rows.enumerate().filter_map(|(m, (row, e))| row.map(|row| (m as u8, row, *e)))
    }

    /// The lower convex hull of (bytes, distortion) from (0, 1) on, as steps whose slopes fall.
    pub(super) fn hull(&self) -> Vec<Step> {
        let mut points: Vec<(u8, u64, f64)> = self.open().collect();
        points.sort_by(|a, b| a.1.cmp(&b.1).then(a.2.total_cmp(&b.2)).then(a.0.cmp(&b.0)));
        let mut hull: Vec<Step> = Vec::new();
        let (mut bytes, mut distortion) = (0, 1.0);
        for (recipe, cost, e) in points {
            // Dearer and no better than what is there.
            if e >= distortion || cost <= bytes {
                continue;
            }
            let mut step = Step { recipe, bytes: cost - bytes, gain: distortion - e };
            while let Some(last) = hull.pop_if(|last| last.slope() <= step.slope()) {
                step.bytes += last.bytes;
                step.gain += last.gain;
            }
            hull.push(step);
            (bytes, distortion) = (cost, e);
        }
        hull
    }
}

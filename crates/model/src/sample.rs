//! Drawing the next token from logits.

use smidgen_codec::{Rng, Stream};

use crate::Error;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely tokens that together have this share; 1 keeps all.
    pub top_p: f32,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { temperature: 0.8, top_k: 0, top_p: 0.95, seed: 0 }
    }
}

/// Draws tokens; draw i is a function of (seed, i, logits).
#[derive(Debug)]
pub struct Sampler {
    options: Sampling,
    rng: Rng,
    drawn: u64,
    order: Vec<u32>,
}

impl Sampler {
    /// A sampler that has drawn nothing.
    ///
    /// # Errors
    /// [`Error::Sampling`] for options outside their range.
    pub fn new(options: Sampling) -> Result<Sampler, Error> {
        if !(options.temperature.is_finite() && options.temperature >= 0.0) {
            let got = options.temperature.to_string();
            return Err(Error::Sampling {
                key: "temperature",
                expected: "a number from 0 on",
                got,
            });
        }
        if !(options.top_p > 0.0 && options.top_p <= 1.0) {
            return Err(Error::Sampling {
                key: "top_p",
                expected: "over 0, at most 1",
                got: options.top_p.to_string(),
            });
        }
        Ok(Sampler {
            options,
            rng: Rng::new(options.seed, Stream::Sample),
            drawn: 0,
            order: Vec::new(),
        })
    }

    /// The next token. Ties go to the lower id; logits that are not numbers are never drawn.
    pub fn draw(&mut self, logits: &[f32]) -> u32 {
        let key = |id: u32| {
            if logits[id as usize].is_nan() { f32::NEG_INFINITY } else { logits[id as usize] }
        };
        self.drawn += 1;
        if self.options.temperature == 0.0 {
            let first = |best: u32, id: u32| if key(id) > key(best) { id } else { best };
            return (0..logits.len() as u32).reduce(first).unwrap_or(0);
        }
        self.order.clear();
        self.order.extend(0..logits.len() as u32);
        self.order.sort_unstable_by(|a, b| key(*b).total_cmp(&key(*a)).then(a.cmp(b)));
        if self.options.top_k > 0 {
            self.order.truncate(self.options.top_k);
        }
        let top = key(self.order[0]);
        let weight = |id: &u32| f64::from((key(*id) - top) / self.options.temperature).exp();
        let total: f64 = self.order.iter().map(weight).sum();
        let mut kept = 0.0;
        let wanted = f64::from(self.options.top_p) * total;
        let count = self.order.iter().take_while(|id| {
            let needed = kept < wanted;
            kept += if needed { weight(id) } else { 0.0 };
            needed
        });
        let count = count.count().max(1);
        let mut left = self.rng.uniform(self.drawn, 0, 0) * kept;
        for id in &self.order[..count] {
            left -= weight(id);
            if left <= 0.0 {
                return *id;
            }
        }
        self.order[count - 1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(options: Sampling, logits: &[f32]) -> Vec<f64> {
        let mut sampler = Sampler::new(options).unwrap();
        let mut counts = vec![0; logits.len()];
        (0..4000).for_each(|_| counts[sampler.draw(logits) as usize] += 1);
        counts.into_iter().map(|count| f64::from(count) / 4000.0).collect()
    }

    #[test]
    fn every_option_changes_what_it_says() {
        let logits = [2.0f32.ln(), 1.0f32.ln(), 0.0, 0.5f32.ln()];
        let all = Sampling { temperature: 1.0, top_k: 0, top_p: 1.0, seed: 3 };
        let free = frequencies(all, &logits);
        assert!(
            (free[0] - 2.0 / 4.5).abs() < 0.03 && (free[3] - 0.5 / 4.5).abs() < 0.03,
            "{free:?}"
        );
        assert_eq!(
            frequencies(Sampling { temperature: 0.0, ..all }, &logits),
            vec![1.0, 0.0, 0.0, 0.0]
        );
        let two = frequencies(Sampling { top_k: 2, ..all }, &logits);
        assert!(two[2] == 0.0 && two[3] == 0.0 && two[1] > 0.2, "{two:?}");
        let nucleus = frequencies(Sampling { top_p: 0.4, ..all }, &logits);
        assert_eq!(nucleus[0], 1.0);
        assert_ne!(free, frequencies(Sampling { seed: 4, ..all }, &logits));
        assert!(Sampler::new(Sampling { top_p: 0.0, ..all }).is_err());
        assert!(Sampler::new(Sampling { temperature: f32::NAN, ..all }).is_err());
        assert_eq!(frequencies(all, &[f32::NAN, 1.0])[1], 1.0);
    }
}

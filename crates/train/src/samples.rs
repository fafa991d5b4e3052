//! What a language model writes at each validation: the same prompts and seeds every time, so that the
//! texts of a run can be read one after another, and of a resumed run are the same.

use smidgen_codec::{Rng, Stream};
use smidgen_data::{Dataset, Shard, Tokenizer};
use smidgen_model::{Decoder, Sampler, Sampling, Session};
use smidgen_tensor::{Compute, Device, Params};

use crate::{Config, Error, Sample, Samples};

/// Tokens of an automatic prompt at most.
const OPENING_TOKENS: u64 = 16;
/// Documents that automatic prompts come from.
const OPENINGS: u64 = 2;
/// Targets trained in the time that one token takes to be written: decoding reads every weight for it.
pub(crate) const TARGETS_PER_TOKEN: u64 = 4;

/// Encoded prompts, and how they are continued.
pub(crate) struct Prompts {
    /// Each with the token that opens a document in front.
    prompts: Vec<(String, Vec<u32>)>,
    tokens: usize,
    sampling: Sampling,
}

/// Tokens of a prompt with its continuation, at most; 0 where nothing is written.
pub(crate) fn sample_tokens(config: &Config) -> usize {
    let validate = &config.validate;
    // No text has more tokens than bytes.
    let longest = match &validate.prompts {
        Some(prompts) => prompts.iter().map(|prompt| prompt.len() as u64).max(),
        None => Some(OPENING_TOKENS),
    };
    let context = config.model.context.unwrap_or(usize::MAX) as u64;
    match (longest, validate.sample_tokens.into()) {
        (None, _) | (_, 0) => 0,
        (Some(prompt), tokens) => ((prompt + 1).min(context) + tokens) as usize,
    }
}

impl Prompts {
    pub(crate) fn new(
        config: &Config,
        dataset: &Dataset,
        context: usize,
    ) -> Result<Prompts, Error> {
        let (validate, tokenizer) = (&config.validate, &dataset.tokenizer);
        let texts = match &validate.prompts {
            Some(prompts) => prompts.clone(),
            None => openings(&dataset.val, tokenizer, config.seed),
        };
        let encode = |text: String| {
            let mut ids = vec![tokenizer.prefix()];
            ids.extend(tokenizer.encode(&text)?);
            // The end of a prompt beyond the model matters most.
            let from = ids.len().saturating_sub(context);
            Ok((text, ids.split_off(from)))
        };
        let sampling = Sampling {
            temperature: validate.temperature as f32,
            seed: config.seed,
            ..Sampling::default()
        };
        let tokens = validate.sample_tokens as usize;
        Ok(Prompts {
            prompts: texts.into_iter().map(encode).collect::<Result<_, Error>>()?,
            tokens,
            sampling,
        })
    }

    /// Training targets that take about as long.
    pub(crate) fn cost(&self) -> u64 {
        (self.prompts.len() * self.tokens) as u64 * TARGETS_PER_TOKEN
    }

    /// Continues every prompt.
    pub(crate) fn write(
        &self,
        device: &Device,
        compute: Compute,
        decoder: &Decoder,
        params: &Params,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Samples>, Error> {
        let Some(longest) = self.prompts.iter().map(|(_, ids)| ids.len()).max() else {
            return Ok(None);
        };
        if self.tokens == 0 {
            return Ok(None);
        }
        let mut session = Session::new(device, compute, decoder, params, longest + self.tokens)?;
        let (mut texts, mut entropies) = (Vec::new(), Vec::new());
        for (prompt, ids) in &self.prompts {
            session.truncate(0);
            let mut sampler = Sampler::new(self.sampling)?;
            let written =
                complete(&mut session, &mut sampler, ids, self.tokens, |logits, next| {
                    entropies.push(entropy(logits));
                    !tokenizer.ends(next)
                })?;
            texts.push(Sample { prompt: prompt.clone(), text: tokenizer.decode(&written) });
        }
        let entropy = Some(entropies.iter().sum::<f64>() / entropies.len().max(1) as f64);
        Ok(Some(Samples { texts, entropy }))
    }
}

/// Continues a prompt token by token, as long as `goes_on` says so of the logits and what was drawn.
pub(crate) fn complete(
    session: &mut Session<'_>,
    sampler: &mut Sampler,
    prompt: &[u32],
    tokens: usize,
    mut goes_on: impl FnMut(&[f32], u32) -> bool,
) -> Result<Vec<u32>, Error> {
    let (mut logits, mut written) = (session.feed(prompt)?, Vec::new());
    for left in (0..tokens).rev() {
        let next = sampler.draw(&logits);
        if !goes_on(&logits, next) {
            break;
        }
        written.push(next);
        if left > 0 {
            logits = session.feed(&[next])?;
        }
    }
    Ok(written)
}

/// The beginnings of some held-out documents, drawn by the seed, and nothing at all.
fn openings(val: &Shard, tokenizer: &Tokenizer, seed: u64) -> Vec<String> {
    let documents = val.documents();
    let first = Rng::new(seed, Stream::Sample).below(0, 0, 0, documents);
    let numbers =
        (0..OPENINGS.min(documents)).map(|i| (first + i * documents.div_ceil(2)) % documents);
    let text = |number| {
        // Without the token that opens it.
        let (from, end) = (val.offset(number) + 1, val.offset(number + 1));
        let mut ids = vec![0; end.saturating_sub(from).min(OPENING_TOKENS) as usize];
        val.read(from, &mut ids);
        tokenizer.decode(&ids)
    };
    numbers.map(text).chain([String::new()]).collect()
}

/// Entropy of the distribution that logits stand for, in nats.
fn entropy(logits: &[f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sum, mut weighted) = (0.0, 0.0);
    for logit in logits {
        let below = f64::from(logit - top);
        let weight = below.exp();
        sum += weight;
        // What is never drawn adds nothing, however far below it is.
        weighted += if weight > 0.0 { weight * below } else { 0.0 };
    }
    sum.ln() - weighted / sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_known_distributions() {
        assert!((entropy(&[1.5; 8]) - 8f64.ln()).abs() < 1e-12);
        assert!(entropy(&[100.0, -100.0, f32::NEG_INFINITY]) < 1e-12);
        let half = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
        assert!((entropy(&half) - 1.5 * 2f64.ln()).abs() < 1e-6);
    }
}

//! The compile rate at a validation: functions of the held-out text are written on, and the compiler
//! says what it thinks of them, in a sandbox. The same prompts and seeds every time.

use smidgen_data::{Dataset, Shard, Tokenizer};
use smidgen_eval::compile::CompileTask;
use smidgen_eval::sandbox::{Limits, Sandbox, SandboxPolicy};
use smidgen_model::{Decoder, Sampler, Sampling, Session};
use smidgen_tensor::{Compute, Device, Params};

use crate::samples::{TARGETS_PER_TOKEN, complete};
use crate::{CompileRate, Config, Error};

/// Held-out text that prompts are looked for in.
const TEXT_BYTES: usize = 8 << 20;

/// Prompts, and how they are continued.
pub(crate) struct Compiling {
    task: CompileTask,
    prompts: Vec<Vec<u32>>,
    tokens: usize,
    sampling: Sampling,
}

/// Fails by name where completions are to be compiled and the system cannot lock the compiler in.
pub(crate) fn check_sandbox(config: &Config) -> Result<(), Error> {
    if config.validate.compile_samples > 0 {
        Sandbox::new(&policy(config))?;
    }
    Ok(())
}

fn policy(config: &Config) -> SandboxPolicy {
    let allow_unsandboxed = config.validate.allow_unsandboxed;
    SandboxPolicy { limits: Limits::default(), allow_unsandboxed }
}

impl Compiling {
    /// Nothing where `validate.compile_samples` is 0.
    pub(crate) fn new(
        config: &Config,
        dataset: &Dataset,
        context: usize,
    ) -> Result<Option<Compiling>, Error> {
        let validate = &config.validate;
        if validate.compile_samples == 0 {
            return Ok(None);
        }
        let (tokenizer, texts) = (&dataset.tokenizer, texts(&dataset.val, &dataset.tokenizer));
        let samples = validate.compile_samples as usize;
        let texts = texts.iter().map(String::as_str);
        let task = CompileTask::new(texts, samples, config.seed, &policy(config))?;
        let encode = |prompt: &String| -> Result<Vec<u32>, Error> {
            let mut ids = vec![tokenizer.prefix()];
            ids.extend(tokenizer.encode(prompt)?);
            let from = ids.len().saturating_sub(context);
            Ok(ids.split_off(from))
        };
        let prompts = task.prompts().iter().map(encode).collect::<Result<_, _>>()?;
        let temperature = validate.temperature as f32;
        let sampling = Sampling { temperature, seed: config.seed, ..Sampling::default() };
        Ok(Some(Compiling { task, prompts, tokens: validate.compile_tokens as usize, sampling }))
    }

    /// Training targets that take about as long to train as the completions to write.
    pub(crate) fn cost(&self) -> u64 {
        (self.prompts.len() * self.tokens) as u64 * TARGETS_PER_TOKEN
    }

    /// Continues every prompt and asks the compiler.
    pub(crate) fn rate(
        &self,
        device: &Device,
        compute: Compute,
        decoder: &Decoder,
        params: &Params,
        tokenizer: &Tokenizer,
    ) -> Result<CompileRate, Error> {
        let longest = self.prompts.iter().map(Vec::len).max().unwrap_or(0);
        let mut session = Session::new(device, compute, decoder, params, longest + self.tokens)?;
        let mut completions = Vec::with_capacity(self.prompts.len());
        for (index, prompt) in self.prompts.iter().enumerate() {
            session.truncate(0);
            let seed = self.sampling.seed.wrapping_add(index as u64);
            let mut sampler = Sampler::new(Sampling { seed, ..self.sampling })?;
            let goes_on = |_: &[f32], next| !tokenizer.ends(next);
            let ids = complete(&mut session, &mut sampler, prompt, self.tokens, goes_on)?;
            completions.push(tokenizer.decode(&ids));
        }
        let report = self.task.score(&completions)?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(CompileRate {
            samples: count(report.samples),
            parsed: count(report.parsed),
            compiled: count(report.compiled),
            low: report.low,
            high: report.high,
        })
    }
}

/// The held-out documents, as many as fit.
fn texts(val: &Shard, tokenizer: &Tokenizer) -> Vec<String> {
    let mut left = TEXT_BYTES;
    let text = |number| {
        let (from, end) = (val.offset(number) + 1, val.offset(number + 1));
        let mut ids = vec![0; end.saturating_sub(from) as usize];
        val.read(from, &mut ids);
        tokenizer.decode(&ids)
    };
    let fits = |text: &String| {
        let fits = text.len() <= left;
        left = left.saturating_sub(text.len());
        fits
    };
    (0..val.documents()).map(text).take_while(fits).collect()
}

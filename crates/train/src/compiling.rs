//! The compile rate: functions of held-out text are written on, and the compiler says what it thinks
//! of them, in a sandbox. The same prompts and seeds every time.

use smidgen_data::{Dataset, Shard, Tokenizer};
use smidgen_eval::compile::{CompileReport, CompileTask};
use smidgen_eval::sandbox::{Limits, Sandbox, SandboxPolicy};
use smidgen_model::{Decoder, Sampler, Sampling, Session};
use smidgen_store::RunView;
use smidgen_tensor::{Compute, Device, Params};

use crate::samples::{TARGETS_PER_TOKEN, complete};
use crate::{CompileRate, Config, Error, TrainedModel};

/// Held-out text that prompts are looked for in.
const TEXT_BYTES: usize = 8 << 20;

/// How completions are asked for and judged.
#[derive(Clone, Debug, PartialEq)]
pub struct CompileOptions {
    /// Functions to complete, one completion each; fewer where the texts have fewer.
    pub samples: usize,
    /// Tokens of a completion at most.
    pub tokens: usize,
    /// Of the sampling; 0 takes the most likely token.
    pub temperature: f32,
    /// Chooses the functions and draws the tokens.
    pub seed: u64,
    /// How careful to be with what the model writes.
    pub policy: SandboxPolicy,
}

impl CompileOptions {
    fn of(config: &Config) -> Self {
        let validate = &config.validate;
        Self {
            samples: validate.compile_samples as usize,
            tokens: validate.compile_tokens as usize,
            temperature: validate.temperature as f32,
            seed: config.seed,
            policy: policy(config),
        }
    }
}

/// The compile rate of a model over Rust texts it was not trained on. `written` is told how many
/// completions there are, after each.
///
/// # Errors
/// [`Error::Eval`] where there is no compiler, no sandbox, or nothing to complete.
pub fn compile_rate(
    device: &Device,
    model: &TrainedModel,
    texts: &[String],
    options: &CompileOptions,
    written: &mut dyn FnMut(u64),
) -> Result<CompileReport, Error> {
    let TrainedModel { decoder, params, tokenizer, compute, .. } = model;
    let compiling = Compiling::of(texts, tokenizer, decoder.spec().context, options)?;
    compiling.report(device, *compute, decoder, params, tokenizer, written)
}

/// The documents that a run holds out, the first eight megabytes of them.
///
/// # Errors
/// Those of [`Dataset::open`].
pub fn held_out_texts(run: &RunView) -> Result<Vec<String>, Error> {
    let dataset = Dataset::open(run.path())?;
    Ok(texts(&dataset.val, &dataset.tokenizer))
}

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
        if config.validate.compile_samples == 0 {
            return Ok(None);
        }
        let texts = texts(&dataset.val, &dataset.tokenizer);
        Compiling::of(&texts, &dataset.tokenizer, context, &CompileOptions::of(config)).map(Some)
    }

    fn of(
        texts: &[String],
        tokenizer: &Tokenizer,
        context: usize,
        options: &CompileOptions,
    ) -> Result<Compiling, Error> {
        let &CompileOptions { samples, tokens, temperature, seed, ref policy } = options;
        let task = CompileTask::new(texts.iter().map(String::as_str), samples, seed, policy)?;
        let encode = |prompt: &String| -> Result<Vec<u32>, Error> {
            let mut ids = vec![tokenizer.prefix()];
            ids.extend(tokenizer.encode(prompt)?);
            let from = ids.len().saturating_sub(context);
            Ok(ids.split_off(from))
        };
        let prompts = task.prompts().iter().map(encode).collect::<Result<_, _>>()?;
        let sampling = Sampling { temperature, seed, ..Sampling::default() };
        Ok(Compiling { task, prompts, tokens, sampling })
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
        let report = self.report(device, compute, decoder, params, tokenizer, &mut |_| {})?;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Ok(CompileRate {
            samples: count(report.samples),
            parsed: count(report.parsed),
            compiled: count(report.compiled),
            low: report.low,
            high: report.high,
        })
    }

    fn report(
        &self,
        device: &Device,
        compute: Compute,
        decoder: &Decoder,
        params: &Params,
        tokenizer: &Tokenizer,
        written: &mut dyn FnMut(u64),
    ) -> Result<CompileReport, Error> {
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
            written(completions.len() as u64);
        }
        Ok(self.task.score(&completions)?)
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

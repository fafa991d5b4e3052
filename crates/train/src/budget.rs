//! Which plan fits into the memory.
//!
//! The ways to do a run are put in one order, the preferred ones first, and the first that fits is
//! taken: so more memory never chooses less. Without anybody's leave they all give the same losses to
//! rounding: smaller chunks of the loss, blocks computed again, micro-batches cut and accumulated,
//! gradients used as they come where no policy forbids it. What changes a run (a coarser operand, a
//! coarser state, a shorter context) is only offered, and taken when [`Relax`] says so.

use serde::{Deserialize, Serialize};
use smidgen_model::Spec;
use smidgen_optim::{Assignment, Clip, GradMode, ParamSpec, Weights};
use smidgen_store::Bytes;
use smidgen_tensor::{Compute, Level};

use crate::bytes::{LOSS_CHUNK_BYTES, Load, Peaks, predict};
use crate::plan::compute;
use crate::process::Process;
use crate::samples::sample_tokens;
use crate::{Config, Error, Precision};

/// Chunks of the loss to try, in bytes; less would leave no whole register tile of rows.
const CHUNKS: [usize; 3] = [LOSS_CHUNK_BYTES, 2 << 20, 512 << 10];
/// Formats of state in the order of their bytes; f32 stands before all of them.
const SMALLER_STATE: [&str; 1] = ["bf16"];
/// A context is not halved below this.
const LEAST_CONTEXT: usize = 64;

/// A change of a run that has to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Relax {
    /// Operands in bf16 where they would be f32.
    Precision,
    /// The state of update rules in a smaller format.
    State,
    /// Matrices and tables in bf16, updates rounded stochastically.
    Weights,
    /// Shorter training sequences.
    Context,
}

impl Relax {
    /// All of them, in the order in which they are taken.
    pub const ALL: [Relax; 4] = [Relax::Precision, Relax::State, Relax::Weights, Relax::Context];

    /// The name in configurations and arguments.
    pub fn name(self) -> &'static str {
        match self {
            Relax::Precision => "precision",
            Relax::State => "state",
            Relax::Weights => "weights",
            Relax::Context => "context",
        }
    }
}

/// A plan that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// What it would have changed; nothing is the run as asked for.
    pub levers: Vec<String>,
    /// Bytes it would have needed, the process included.
    pub needed_bytes: u64,
    /// Bytes too many.
    pub over_bytes: u64,
}

/// A plan that would fit with leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// What has to be allowed: `--allow` and these.
    pub allow: Vec<Relax>,
    /// What it would change.
    pub levers: Vec<String>,
    /// Bytes it would need, the process included.
    pub needed_bytes: u64,
}

/// What was decided about memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Bytes there may be.
    pub memory_bytes: u64,
    /// Bytes the plan needs: its ledger's peak and the process.
    pub needed_bytes: u64,
    /// Those of the process, beside the ledger.
    pub process_bytes: u64,
    /// Whether that is enough.
    pub fits: bool,
    /// What was changed so that it is.
    pub levers: Vec<String>,
    /// The nearest plan that was preferred and does not fit.
    pub rejected: Option<Rejected>,
    /// Where nothing allowed fits: the nearest plan that would.
    pub offer: Option<Offer>,
}

impl Choice {
    /// An error where the plan does not fit.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.fits {
            return Ok(());
        }
        let hint = match &self.offer {
            Some(offer) => {
                let names: Vec<&str> = offer.allow.iter().map(|relax| relax.name()).collect();
                format!(
                    "`--allow {}` would do with {} ({})",
                    names.join(","),
                    Bytes(offer.needed_bytes),
                    offer.levers.join(", ")
                )
            }
            None => "a smaller `train.batch`, `model.context` or model".into(),
        };
        let (needed_bytes, limit_bytes) = (self.needed_bytes, self.memory_bytes);
        Err(Error::OverBudget { needed_bytes, limit_bytes, hint })
    }
}

/// What is asked: a complete configuration but for what memory decides.
pub(crate) struct Question<'a> {
    pub(crate) config: &'a Config,
    pub(crate) spec: &'a Spec,
    pub(crate) params: &'a [ParamSpec],
    pub(crate) level: Level,
}

/// The parameters of a question in the groups of the configuration, by the format of their state.
type Groups = Vec<(Option<&'static str>, Assignment)>;

/// A way to do a run.
#[derive(Clone, Debug, PartialEq)]
struct Way {
    compute: Precision,
    /// The format of states that would be f32.
    state: Option<&'static str>,
    weights: Weights,
    context: usize,
    batch: usize,
    grad_accum: u32,
    grad: GradMode,
    recompute: bool,
    loss_chunk: usize,
}

/// A way, with its bytes.
#[derive(Clone)]
struct Weighed {
    way: Way,
    peaks: Peaks,
    process_bytes: u64,
}

impl Weighed {
    fn needed_bytes(&self) -> u64 {
        self.peaks.total.saturating_add(self.process_bytes)
    }
}

/// Fills in what memory decides: the first way that fits, or else the smallest there is.
///
/// # Errors
/// Those of groups whose state has another format.
pub(crate) fn decide(question: &Question<'_>) -> Result<(Config, Peaks, Choice), Error> {
    let asked = question.asked();
    let groups = &question.groups(&asked)?;
    let memory_bytes = question.config.memory.expect("settled").0;
    let allow = &question.config.allow;
    let (mut before, mut smallest): (Option<Weighed>, Option<Weighed>) = (None, None);
    let mut found = None;
    for way in question.ways(&asked, allow) {
        let weighed = question.weigh(way, groups);
        if weighed.needed_bytes() <= memory_bytes {
            found = Some(weighed);
            break;
        }
        if smallest.as_ref().is_none_or(|least| weighed.needed_bytes() < least.needed_bytes()) {
            smallest = Some(weighed.clone());
        }
        before = Some(weighed);
    }
    let fits = found.is_some();
    let offer = if fits { None } else { question.offer(&asked, memory_bytes, groups) };
    let taken = found.or(smallest).expect("there is at least the run as asked for");
    let rejected = before.filter(|_| fits).map(|before| Rejected {
        levers: levers(&asked, &before.way),
        needed_bytes: before.needed_bytes(),
        over_bytes: before.needed_bytes().saturating_sub(memory_bytes),
    });
    let choice = Choice {
        memory_bytes,
        needed_bytes: taken.needed_bytes(),
        process_bytes: taken.process_bytes,
        fits,
        levers: levers(&asked, &taken.way),
        rejected,
        offer,
    };
    let config = taken.way.applied(question.config);
    Ok((config, taken.peaks, choice))
}

impl Question<'_> {
    /// The run as asked for, with the most memory.
    fn asked(&self) -> Way {
        let (train, filled) = (&self.config.train, "the loop was filled in");
        Way {
            compute: train.compute,
            state: None,
            weights: train.weights,
            context: train.context.expect(filled),
            batch: train.batch.expect(filled),
            grad_accum: train.grad_accum,
            grad: train.grad,
            recompute: train.recompute.unwrap_or(false),
            loss_chunk: train.loss_chunk.map_or(LOSS_CHUNK_BYTES, |bytes| bytes.0 as usize),
        }
    }

    /// All ways, the preferred ones first.
    fn ways(&self, asked: &Way, allow: &[Relax]) -> impl Iterator<Item = Way> {
        relaxed(asked, allow).into_iter().flat_map(|way| self.exact(&way))
    }

    /// The ways to the same losses.
    fn exact(&self, asked: &Way) -> Vec<Way> {
        let mut ways = Vec::new();
        for way in splits(asked) {
            self.thrifty(&way, &mut ways);
        }
        let clips = self.config.policy().clip == Clip::Global;
        if asked.grad == GradMode::Held && asked.grad_accum == 1 && !clips {
            self.thrifty(&Way { grad: GradMode::Streamed, ..asked.clone() }, &mut ways);
        }
        ways
    }

    /// One batch shape with less and less kept at once; what a person wrote stays.
    fn thrifty(&self, way: &Way, ways: &mut Vec<Way>) {
        let train = &self.config.train;
        let whole = way.batch.saturating_mul(way.context).saturating_mul(4 * self.spec.vocab);
        let written = train.loss_chunk.is_some();
        let chunks: Vec<usize> = match written {
            true => vec![way.loss_chunk],
            // A smaller chunk than before only helps where there was more than one.
            false => CHUNKS.into_iter().filter(|c| *c == CHUNKS[0] || *c < whole).collect(),
        };
        let recompute = train.recompute.map_or(vec![false, true], |written| vec![written]);
        for recompute in recompute {
            let with =
                |loss_chunk: &usize| Way { recompute, loss_chunk: *loss_chunk, ..way.clone() };
            ways.extend(chunks.iter().map(with));
        }
    }

    /// Resolving groups takes longer than weighing a way.
    fn groups(&self, asked: &Way) -> Result<Groups, Error> {
        let states = [None].into_iter().chain(SMALLER_STATE.map(Some));
        let resolve = |state| {
            let config = Way { state, ..asked.clone() }.applied(self.config);
            Ok((state, Assignment::resolve(&config.optim, self.params)?))
        };
        states.map(resolve).collect()
    }

    fn weigh(&self, way: Way, groups: &Groups) -> Weighed {
        let (config, mut states) = (self.config, groups.iter());
        let found = states.find(|(state, _)| *state == way.state);
        let assignment = &found.expect("every state that a way has was resolved").1;
        let threads = self.config.threads.expect("settled");
        let compute: Compute = compute(way.compute);
        let peaks = predict(&Load {
            spec: self.spec,
            params: self.params,
            assignment,
            weights: way.weights,
            grad: way.grad,
            recompute: way.recompute,
            compute,
            level: self.level,
            threads,
            batch: way.batch,
            context: way.context,
            grad_accum: way.grad_accum,
            loss_chunk: way.loss_chunk,
            ema: config.train.ema.is_some(),
            sample_tokens: sample_tokens(self.config),
        });
        let tokens = way.batch.saturating_mul(way.context);
        let process = Process { spec: self.spec, threads, level: self.level, compute, tokens };
        let process_bytes = process.bytes(peaks.total);
        Weighed { way, peaks, process_bytes }
    }

    /// The first way that would fit if everything were allowed.
    fn offer(&self, asked: &Way, memory_bytes: u64, groups: &Groups) -> Option<Offer> {
        let mut weighed = self.ways(asked, &Relax::ALL).map(|way| self.weigh(way, groups));
        let found = weighed.find(|weighed| weighed.needed_bytes() <= memory_bytes)?;
        let allow = Relax::ALL.into_iter().filter(|relax| found.way.uses(asked, *relax));
        let (levers, needed_bytes) = (levers(asked, &found.way), found.needed_bytes());
        Some(Offer { allow: allow.collect(), levers, needed_bytes })
    }
}

/// The run as asked for, and with more and more of what is allowed given up.
fn relaxed(asked: &Way, allow: &[Relax]) -> Vec<Way> {
    let mut ways = vec![asked.clone()];
    let last = |ways: &[Way]| ways.last().expect("it is never empty").clone();
    if allow.contains(&Relax::Precision) && asked.compute != Precision::Bf16 {
        ways.push(Way { compute: Precision::Bf16, ..asked.clone() });
    }
    if allow.contains(&Relax::State) {
        let before = last(&ways);
        ways.extend(SMALLER_STATE.map(|name| Way { state: Some(name), ..before.clone() }));
    }
    if allow.contains(&Relax::Weights) && asked.weights == Weights::F32 {
        ways.push(Way { weights: Weights::Bf16, ..last(&ways) });
    }
    let mut way = last(&ways);
    while allow.contains(&Relax::Context) && way.context >= 2 * LEAST_CONTEXT {
        way.context /= 2;
        ways.push(way.clone());
    }
    ways
}

/// The same rows of a step in smaller and smaller micro-batches; streamed gradients allow but one.
fn splits(asked: &Way) -> Vec<Way> {
    let mut ways = vec![asked.clone()];
    let mut way = asked.clone();
    while way.grad == GradMode::Held && way.batch > 1 {
        let parts = smallest_divisor(way.batch);
        way.batch /= parts;
        way.grad_accum = way.grad_accum.saturating_mul(parts as u32);
        ways.push(way.clone());
    }
    ways
}

/// Into how many equal parts rows are cut next; `rows` itself where it is a prime.
pub(crate) fn smallest_divisor(rows: usize) -> usize {
    let tried = (2..).take_while(|part| part * part <= rows);
    tried.into_iter().find(|part| rows.is_multiple_of(*part)).unwrap_or(rows)
}

impl Way {
    /// The configuration that goes this way; resolved again it changes no more.
    fn applied(&self, config: &Config) -> Config {
        let mut config = config.clone();
        let train = &mut config.train;
        train.compute = self.compute;
        train.weights = self.weights;
        train.context = Some(self.context);
        train.batch = Some(self.batch);
        train.grad_accum = self.grad_accum;
        train.grad = self.grad;
        train.recompute = Some(self.recompute);
        train.loss_chunk = Some(Bytes(self.loss_chunk as u64));
        if let Some(state) = self.state {
            let wide = config.optim.iter_mut().filter(|group| group.state == "f32");
            wide.for_each(|group| group.state = state.into());
        }
        config
    }

    fn uses(&self, asked: &Way, relax: Relax) -> bool {
        match relax {
            Relax::Precision => self.compute != asked.compute,
            Relax::State => self.state.is_some(),
            Relax::Weights => self.weights != asked.weights,
            Relax::Context => self.context != asked.context,
        }
    }
}

/// What a way changes, for people.
fn levers(asked: &Way, way: &Way) -> Vec<String> {
    let mut levers = Vec::new();
    if way.compute != asked.compute {
        levers.push("operands in bf16".to_string());
    }
    levers.extend(way.state.map(|state| format!("state in {state}")));
    if way.weights != asked.weights {
        levers.push("weights in bf16".to_string());
    }
    if way.context != asked.context {
        levers.push(format!("context {} -> {}", asked.context, way.context));
    }
    if way.grad_accum != asked.grad_accum {
        let (old, new) = ((asked.batch, asked.grad_accum), (way.batch, way.grad_accum));
        levers.push(format!("batch {} x {} -> {} x {}", old.0, old.1, new.0, new.1));
    }
    if way.grad != asked.grad {
        levers.push("gradients streamed".to_string());
    }
    if way.recompute != asked.recompute {
        levers.push("blocks computed again".to_string());
    }
    if way.loss_chunk != asked.loss_chunk {
        let (old, new) = (Bytes(asked.loss_chunk as u64), Bytes(way.loss_chunk as u64));
        levers.push(format!("loss chunk {old} -> {new}"));
    }
    levers
}

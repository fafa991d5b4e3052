//! The bytes of a run by ledger tag, before anything is allocated.
//!
//! A walk over the phases of a run (forward, loss, the way back block by block, validation, samples) that books
//! what model, tape and optimizer book, in their order and for as long; [`Weigh`] does so for each
//! operation. Its peaks are those of the ledger in a real run: exact for weights, gradients and state.

use std::collections::BTreeMap;

use smidgen_codec::{Entry, Level, Tag};
use smidgen_model::Spec;
use smidgen_optim::{Assignment, GradMode, ParamSpec, Weights};
use smidgen_tensor::weigh::{Gather, LinearShape, Weigh};
use smidgen_tensor::{AttentionShape, Compute, Format};

use crate::shape::format;

/// Bytes of logits alive at once, where memory does not ask for less.
pub(crate) const LOSS_CHUNK_BYTES: usize = 8 << 20;

/// The name of bytes that lie in a file, beside those of the tags.
pub(crate) const PAGED: &str = "paged";

/// What a run's bytes depend on.
#[derive(Clone, Debug)]
pub(crate) struct Load<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) params: &'a [ParamSpec],
    pub(crate) assignment: &'a Assignment,
    /// How matrices and tables are kept.
    pub(crate) weights: Weights,
    pub(crate) grad: GradMode,
    pub(crate) recompute: bool,
    pub(crate) compute: Compute,
    pub(crate) level: Level,
    pub(crate) threads: usize,
    /// Sequences of a micro-batch, and tokens of each.
    pub(crate) batch: usize,
    pub(crate) context: usize,
    pub(crate) grad_accum: u32,
    /// Bytes of logits alive at once.
    pub(crate) loss_chunk: usize,
    /// Whether an average of the weights is kept.
    pub(crate) ema: bool,
    /// Tokens of a prompt with its continuation; 0 where nothing is sampled.
    pub(crate) sample_tokens: usize,
}

/// Peaks of a ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peaks {
    /// By tag, those of nothing left out.
    pub(crate) by_tag: BTreeMap<&'static str, u64>,
    /// Of all tags together, which is less than the sum of their peaks.
    pub(crate) total: u64,
}

/// The peaks of a run.
pub(crate) fn predict(load: &Load<'_>) -> Peaks {
    let walk = Walk::new(load);
    let values = |param: &ParamSpec| param.shape[0] * param.shape[1];
    let kept = |param: &ParamSpec| param.role.kept_in(format(load.weights)).bytes();
    let weights = load.params.iter().map(|param| kept(param) * values(param)).sum();
    let average = if load.ema { 4 * load.params.iter().map(values).sum::<usize>() } else { 0 };
    let slots = load.assignment.slot_bytes();
    let (paged, resident): (Vec<_>, Vec<_>) = slots.partition(|(.., is_paged)| *is_paged);
    let kept = [(Tag::Weights, weights), (Tag::State, average)];
    let slots = resident.into_iter().map(|(tag, bytes, _)| (tag, bytes));
    let _kept: Vec<Entry> =
        kept.into_iter().chain(slots).map(|(tag, bytes)| walk.weigh.bytes(tag, bytes)).collect();
    walk.step(load);
    walk.validation();
    walk.samples(load.sample_tokens);
    let peak = |tag: Tag| (tag.name(), walk.weigh.peak_bytes(tag));
    // Bytes in a file are under no tag, and no part of the total.
    let paged = (PAGED, paged.iter().map(|(_, bytes, _)| *bytes as u64).sum());
    let by_tag = Tag::ALL.into_iter().map(peak).chain([paged]);
    let by_tag = by_tag.filter(|(_, bytes)| *bytes > 0).collect();
    Peaks { by_tag, total: walk.weigh.total_peak_bytes() }
}

/// What updates need besides state, by the bytes of the gradient.
fn updates(assignment: &Assignment) -> BTreeMap<usize, usize> {
    let mut most = BTreeMap::new();
    for (param, bytes) in assignment.workspace_bytes().filter(|(_, bytes)| *bytes > 0) {
        let entry = most.entry(4 * param.shape[0] * param.shape[1]).or_insert(0);
        *entry = bytes.max(*entry);
    }
    most
}

/// A decoder on a tape that only counts.
struct Walk<'a> {
    weigh: Weigh,
    spec: &'a Spec,
    shape: AttentionShape,
    rows: usize,
    loss_chunk: usize,
}

/// The residual stream between blocks, each value with the block before it where that is kept.
struct Stream {
    embedded: Entry,
    first: (Option<Kept>, Entry),
    /// Those of all blocks between.
    between: Entry,
    last: Option<(Option<Kept>, Entry)>,
}

/// The values of a block that are held after it.
struct Kept {
    /// Rows of queries, keys and values: with normalised ones also those they came from.
    qkv: Vec<Entry>,
    heads: Entry,
    lse: Entry,
    mid: Entry,
    gate_up: Entry,
    /// Values that cost little to make again, where they are still there: norms and gates.
    cheap: Option<[Entry; 3]>,
}

impl<'a> Walk<'a> {
    fn new(load: &Load<'a>) -> Walk<'a> {
        let spec = load.spec;
        let shape = AttentionShape {
            batch: load.batch,
            tokens: load.context,
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            prefix: 0,
        };
        let weigh = Weigh::new(load.level, load.compute, load.threads);
        let (rows, loss_chunk) = (load.batch * load.context, load.loss_chunk);
        Walk { weigh, spec, shape, rows, loss_chunk }
    }

    /// A step of one micro-batch or of several: the second one finds the gradients of the first, and
    /// later ones are like the second.
    fn step(&self, load: &Load<'_>) {
        let mut gather = match load.grad {
            GradMode::Held => Gather::Held { kept: Vec::new(), again: false },
            GradMode::Streamed => Gather::Streamed { workspace: updates(load.assignment) },
        };
        let mut sums = None;
        for _ in 0..load.grad_accum.min(2) {
            self.micro_batch(load.recompute, &mut gather);
            if load.grad == GradMode::Streamed && load.grad_accum > 1 {
                let bytes = load.assignment.sum_bytes();
                sums.get_or_insert_with(|| self.weigh.bytes(Tag::Grads, bytes));
            }
            if let Gather::Held { again, .. } = &mut gather {
                *again = true;
            }
        }
        if let Gather::Held { .. } = &gather {
            let most = updates(load.assignment).into_values().max().unwrap_or(0);
            drop(self.weigh.bytes(Tag::Workspace, most));
        }
    }

    fn stream(&self) -> Entry {
        self.weigh.stream(self.rows, self.spec.width)
    }

    fn normed(&self) -> Entry {
        self.weigh.operand(self.rows, self.spec.width)
    }

    fn table(&self) -> [usize; 2] {
        [self.spec.vocab, self.spec.width]
    }

    /// The way forward through all blocks. Those between the first and the last are alike: what they
    /// leave is booked at once.
    fn forward(&self, keeps: bool) -> Stream {
        let embedded = self.stream();
        let before = self.weigh.live_bytes(Tag::Activations);
        let first = self.kept(keeps);
        let each = self.weigh.live_bytes(Tag::Activations) - before;
        let between = self.between(Tag::Activations, each);
        let last = (self.spec.layers > 1).then(|| self.kept(keeps));
        Stream { embedded, first, between, last }
    }

    /// A block as it is left for the way back: with its values where they are kept.
    fn kept(&self, keeps: bool) -> (Option<Kept>, Entry) {
        let (mut block, out) = self.block(keeps);
        block.cheap = None;
        (keeps.then_some(block), out)
    }

    /// So many bytes for each block that is neither the first nor the last.
    fn between(&self, tag: Tag, each: usize) -> Entry {
        self.weigh.bytes(tag, each.saturating_mul(self.spec.layers.saturating_sub(2)))
    }

    fn micro_batch(&self, recompute: bool, gather: &mut Gather) {
        let weigh = &self.weigh;
        let stream = self.forward(!recompute);
        let normed = self.normed();
        let head = weigh.head_loss(self.rows, self.table(), self.loss_chunk, true);
        let head = head.expect("a recorded loss has gradients");
        let ends =
            [Tag::Activations, Tag::Workspace].map(|tag| weigh.tensor(tag, [1, 1], Format::F32));
        // The gradients of an earlier micro-batch are there: the new ones are added to them.
        let weight = matches!(gather, Gather::Held { again: false, .. } | Gather::Streamed { .. })
            .then_some(head.weight);
        let table = match self.spec.tied {
            true => weight,
            false => {
                gather.finish(weigh, weight);
                None
            }
        };
        drop(ends);
        let mut grad = self.stream();
        weigh.norm_back(self.rows, self.spec.width, gather);
        drop((head.hidden, normed));
        let Stream { embedded, first, between, last } = stream;
        let before = weigh.live_bytes(Tag::Grads);
        if let Some((block, out)) = last {
            let block = block.unwrap_or_else(|| self.block(true).0);
            grad = self.block_back(block, out, grad, gather);
        }
        // Between the ends bytes rise or fall evenly: the most is at one of the ends.
        let each = weigh.live_bytes(Tag::Grads) - before;
        drop(between);
        gather.finish(weigh, Some(self.between(Tag::Grads, each)));
        let block = first.0.unwrap_or_else(|| self.block(true).0);
        grad = self.block_back(block, first.1, grad, gather);
        let table = table.or_else(|| gather.start(weigh, self.table()));
        drop((grad, embedded));
        gather.finish(weigh, table);
    }

    fn validation(&self) {
        let _stream = self.forward(false);
        let _normed = self.normed();
        self.weigh.head_loss(self.rows, self.table(), self.loss_chunk, false);
    }

    /// Decoding: every weight packed, keys and values of every token. What a token needs on its way is
    /// counted as the widest values of a prompt.
    fn samples(&self, tokens: usize) {
        if tokens == 0 {
            return;
        }
        let (weigh, spec) = (&self.weigh, self.spec);
        let maps = [
            weigh.packed_linear(&self.qkv(&self.qkv_outs())),
            weigh.packed_linear(&self.o(&[spec.width])),
            weigh.packed_linear(&self.gate_up(&[spec.ffn; 2])),
            weigh.packed_linear(&self.down(&[spec.width])),
        ];
        let cache = weigh.kv_layer(tokens, spec.kv_heads, spec.head_dim);
        let others = spec.layers - 1;
        let packed = maps.iter().map(Entry::bytes).sum::<usize>().saturating_mul(others);
        let _others = [(Tag::Packed, packed), (Tag::Kv, cache.bytes().saturating_mul(others))]
            .map(|(tag, bytes)| weigh.bytes(tag, bytes));
        let head = LinearShape { outs: &[spec.vocab], ..self.gate_up(&[]) };
        let _head = weigh.packed_linear(&head);
        let widest = (3 * spec.ffn).max(spec.qkv_cols()) + 2 * spec.width;
        drop(weigh.tensor(Tag::Workspace, [tokens, widest], Format::F32));
    }

    /// The way forward through a block: everything in it, and the residual stream behind it.
    fn block(&self, records: bool) -> (Kept, Entry) {
        let (weigh, spec, rows) = (&self.weigh, self.spec, self.rows);
        let first = self.normed();
        let mut qkv = vec![weigh.linear(rows, &self.qkv(&self.qkv_outs()))];
        for _ in 0..if spec.qk_norm { 2 } else { 0 } {
            qkv.push(weigh.operand(rows, spec.qkv_cols()));
        }
        let (heads, lse) = weigh.attention(self.shape);
        let lse = if records { lse } else { weigh.bytes(Tag::Activations, 0) };
        let mid = weigh.linear(rows, &self.o(&[spec.width]));
        let second = self.normed();
        let gate_up = weigh.linear(rows, &self.gate_up(&[spec.ffn; 2]));
        let act = weigh.operand(rows, spec.ffn);
        let out = weigh.linear(rows, &self.down(&[spec.width]));
        let cheap = Some([first, second, act]);
        (Kept { qkv, heads, lse, mid, gate_up, cheap }, out)
    }

    /// The way back through a block; takes and gives the gradient of the residual stream.
    fn block_back(&self, block: Kept, out: Entry, grad: Entry, gather: &mut Gather) -> Entry {
        let (weigh, spec, rows) = (&self.weigh, self.spec, self.rows);
        let Kept { mut qkv, heads, lse, mid, gate_up, cheap } = block;
        let gone = cheap.is_none();
        let [first, second, act] = cheap.map_or([None, None, None], |values| values.map(Some));
        let (d_act, again) = weigh.linear_back(rows, &self.down(&[spec.width]), gone, gather);
        drop(out);
        let d_gate_up = weigh.operand(rows, 2 * spec.ffn);
        drop((d_act, act, again));
        let (d_normed, again) =
            weigh.linear_back(rows, &self.gate_up(&[spec.ffn; 2]), gone, gather);
        drop((d_gate_up, gate_up));
        weigh.norm_back(rows, spec.width, gather);
        drop((d_normed, second, again));
        let (d_heads, _) = weigh.linear_back(rows, &self.o(&[spec.width]), false, gather);
        drop(mid);
        let mut d_qkv = weigh.attention_back(self.shape);
        drop((d_heads, lse, heads, qkv.pop()));
        while let Some(before) = qkv.pop() {
            d_qkv = weigh.operand(rows, spec.qkv_cols());
            weigh.norm_back(rows, spec.head_dim, gather);
            drop(before);
        }
        let (d_normed, again) = weigh.linear_back(rows, &self.qkv(&self.qkv_outs()), gone, gather);
        drop(d_qkv);
        weigh.norm_back(rows, spec.width, gather);
        drop((d_normed, first, again));
        grad
    }

    fn qkv_outs(&self) -> [usize; 3] {
        let e = self.spec.head_dim;
        [self.spec.heads * e, self.spec.kv_heads * e, self.spec.kv_heads * e]
    }

    fn qkv<'s>(&self, outs: &'s [usize]) -> LinearShape<'s> {
        let (width, biases) = (self.spec.width, self.spec.qkv_bias);
        LinearShape { width, outs, biases, residual: false }
    }

    fn o<'s>(&self, outs: &'s [usize]) -> LinearShape<'s> {
        let width = self.spec.heads * self.spec.head_dim;
        LinearShape { width, outs, biases: false, residual: true }
    }

    fn gate_up<'s>(&self, outs: &'s [usize]) -> LinearShape<'s> {
        LinearShape { width: self.spec.width, outs, biases: false, residual: false }
    }

    fn down<'s>(&self, outs: &'s [usize]) -> LinearShape<'s> {
        LinearShape { width: self.spec.ffn, outs, biases: false, residual: true }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use smidgen_codec::Ledger;
    use smidgen_model::{Decoder, TokenBatch};
    use smidgen_optim::{Clip, GradPolicy, GroupConfig, Schedule};
    use smidgen_tensor::{Device, Keep, Params, Tape, Targets, Var};

    use super::*;
    use crate::shape::param_specs;
    use crate::{Error, Metric, Objective, Recipe, Trainer, Validation};

    /// A decoder over made-up tokens.
    struct Model {
        decoder: Decoder,
        batch: usize,
        context: usize,
        keep: Keep,
        loss_chunk: usize,
    }

    impl Model {
        fn loss_of(&self, tape: &mut Tape<'_>) -> Result<Var, Error> {
            let vocab = self.decoder.spec().vocab as u32;
            let count = self.batch * self.context;
            let tokens: Vec<u32> = (0..count as u32).map(|i| i * 7919 % vocab).collect();
            let targets = Targets {
                tokens: Arc::from(tokens.clone()),
                weights: vec![1.0; count].into(),
                scale: 1.0,
                chunk_bytes: self.loss_chunk,
            };
            let batch = TokenBatch::whole(self.batch, tokens)?;
            Ok(self.decoder.loss(tape, &batch, targets, self.keep)?)
        }
    }

    impl Objective for Model {
        fn name(&self) -> &'static str {
            "model"
        }

        fn init(&self, params: &mut Params, seed: u64) -> Result<(), Error> {
            self.decoder.init(params, seed);
            Ok(())
        }

        fn step_targets(&self) -> u64 {
            1
        }

        fn loss(&mut self, tape: &mut Tape<'_>, _: u64, _: usize) -> Result<Var, Error> {
            self.loss_of(tape)
        }

        fn validate(
            &mut self,
            device: &Device,
            compute: Compute,
            params: &Params,
        ) -> Result<Validation, Error> {
            self.loss_of(&mut Tape::inference(device, compute, params))?;
            Ok(Validation { loss: 1.0, bpb: None, targets: 1, compile: None })
        }

        fn validation_targets(&self) -> u64 {
            1
        }
    }

    /// Two steps and a validation of a load: the ledger that counted them.
    fn real(load: &Load<'_>, groups: &[GroupConfig]) -> Ledger {
        let device = Device::cpu_at(Ledger::new(), load.threads, load.level);
        let mut params = Params::with_format(format(load.weights));
        let decoder = Decoder::new(&device, load.spec.clone(), &mut params).unwrap();
        let keep = if load.recompute { Keep::Inputs } else { Keep::Values };
        let (batch, context, loss_chunk) = (load.batch, load.context, load.loss_chunk);
        let mut model = Model { decoder, batch, context, keep, loss_chunk };
        let policy = GradPolicy {
            grad: load.grad,
            clip: Clip::Off,
            grad_accum: load.grad_accum,
            ..GradPolicy::default()
        };
        let recipe = Recipe {
            seed: 1,
            compute: load.compute,
            policy,
            schedule: Schedule::Constant { warmup_steps: 0 },
            groups: groups.to_vec(),
            ema: load.ema.then_some(0.9),
            weights: load.weights,
        };
        let mut trainer = Trainer::new(&device, recipe, &mut model, params).unwrap();
        trainer.step().unwrap();
        trainer.validate(Metric::Loss).unwrap();
        trainer.step().unwrap();
        device.ledger().clone()
    }

    fn spec() -> impl Strategy<Value = Spec> {
        let sizes = (1usize..6, 1usize..5, 0usize..3, 1usize..9, 1usize..80, 3usize..400);
        (sizes, any::<[bool; 3]>()).prop_map(|((layers, heads, share, half, ffn, vocab), flags)| {
            let kv_heads = [1, heads, heads][share];
            let width = 2 * half * heads;
            let spec = Spec::new(vocab, width, layers, heads, 2 * ffn, 64);
            let [tied, qk_norm, qkv_bias] = flags;
            Spec { kv_heads, tied, qk_norm, qkv_bias, ..spec }
        })
    }

    /// Rules with workspace: no more than planned, and not much less.
    #[test]
    fn updates_of_matrices_stay_within_their_plan() {
        let spec = Spec { tied: true, ..Spec::new(400, 96, 3, 4, 256, 64) };
        let rest = GroupConfig { name: "rest".into(), ..GroupConfig::default() };
        let muon = GroupConfig {
            role: vec![smidgen_optim::Role::MatrixHidden],
            rule: "muon".into(),
            ..GroupConfig::default()
        };
        let galore = GroupConfig {
            projection: Some(smidgen_optim::ProjectionKind::Galore2),
            rule: "adamw".into(),
            ..muon.clone()
        };
        for first in [muon, galore] {
            for (grad, level) in [GradMode::Held, GradMode::Streamed]
                .into_iter()
                .flat_map(|grad| Level::available().map(move |level| (grad, level)))
            {
                let groups = [first.clone(), rest.clone()];
                let params = param_specs(&spec, Weights::Bf16);
                let assignment = Assignment::resolve(&groups, &params).unwrap();
                let load = Load {
                    spec: &spec,
                    params: &params,
                    assignment: &assignment,
                    weights: Weights::Bf16,
                    grad,
                    recompute: false,
                    compute: Compute::Bf16,
                    level,
                    threads: 1,
                    batch: 1,
                    context: 16,
                    grad_accum: 1,
                    loss_chunk: LOSS_CHUNK_BYTES,
                    ema: false,
                    sample_tokens: 0,
                };
                let (plan, ledger) = (predict(&load), real(&load, &groups));
                let (planned, seen) = (plan.total, ledger.total_peak_bytes() as u64);
                let close = seen <= planned && planned * 2 < seen * 3;
                assert!(close, "{} {grad:?} {level:?}: {seen} of {planned}", first.rule);
                for tag in [Tag::Weights, Tag::State, Tag::Proj] {
                    let planned = plan.by_tag.get(tag.name()).copied().unwrap_or(0);
                    assert_eq!(planned, ledger.peak_bytes(tag) as u64, "{}", tag.name());
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(160))]

        /// Whatever the shape and the policy: the plan is the ledger.
        #[test]
        fn the_plan_is_the_ledger(
            spec in spec(),
            (batch, context, grad_accum) in (1usize..5, 1usize..65, 1u32..4),
            (streamed, recompute, bf16) in any::<(bool, bool, bool)>(),
            threads in 1usize..3,
            chunk in prop::sample::select(vec![1usize, 4 << 10, 64 << 10, LOSS_CHUNK_BYTES]),
            state in prop::sample::select(vec!["f32", "bf16"]),
            (portable, ema) in any::<(bool, bool)>(),
            weights in prop::sample::select(vec![Weights::F32, Weights::Bf16, Weights::Kahan]),
        ) {
            let group = GroupConfig { state: state.into(), ..GroupConfig::default() };
            let params = param_specs(&spec, weights);
            let assignment = Assignment::resolve(std::slice::from_ref(&group), &params).unwrap();
            let load = Load {
                spec: &spec,
                params: &params,
                assignment: &assignment,
                weights,
                grad: if streamed { GradMode::Streamed } else { GradMode::Held },
                recompute,
                compute: if bf16 { Compute::Bf16 } else { Compute::F32 },
                level: if portable { Level::Portable } else { Level::detect() },
                threads,
                batch,
                context,
                grad_accum: if streamed { 1 } else { grad_accum },
                loss_chunk: chunk,
                ema,
                sample_tokens: 0,
            };
            let plan = predict(&load);
            let ledger = real(&load, &[group]);
            for tag in Tag::ALL {
                let planned = plan.by_tag.get(tag.name()).copied().unwrap_or(0);
                prop_assert_eq!(planned, ledger.peak_bytes(tag) as u64, "{}", tag.name());
            }
            prop_assert_eq!(plan.total, ledger.total_peak_bytes() as u64);
        }
    }
}

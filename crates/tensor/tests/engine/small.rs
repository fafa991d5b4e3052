//! A two-layer model out of every operation, small enough for every test that needs a whole step.

use std::sync::Arc;

use smidgen_codec::{Ledger, Tag};
use smidgen_tensor::{
    AttentionShape, Compute, Device, Error, GradSink, Gradients, Keep, Level, LinearSpec, ParamId,
    Params, RopeTable, Tape, Targets, Var,
};

use crate::check::{Given, indices, normals, params};
use crate::reference::{self, Mat};

pub(crate) const EPS: f32 = 1e-5;
pub(crate) const THETA: f64 = 10_000.0;

/// Sizes of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) ffn: usize,
    pub(crate) vocab: usize,
    pub(crate) layers: usize,
    /// Whether the table of embeddings is the output matrix as well.
    pub(crate) tied: bool,
    /// Whether every layer has the parameters of the first.
    pub(crate) looped: bool,
}

impl Sizes {
    pub(crate) const SMALL: Sizes = Sizes {
        batch: 2,
        tokens: 19,
        heads: 4,
        kv_heads: 2,
        head_dim: 6,
        ffn: 14,
        vocab: 23,
        layers: 2,
        tied: false,
        looped: false,
    };

    fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    fn attention(&self) -> AttentionShape {
        AttentionShape {
            batch: self.batch,
            tokens: self.tokens,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            prefix: 0,
        }
    }

    /// Columns of queries and keys.
    fn turned(&self) -> usize {
        (self.heads + self.kv_heads) * self.head_dim
    }

    /// Table, final norm, head (none when tied), then nine parameters per layer.
    pub(crate) fn given(&self) -> Vec<Given> {
        let (d, kv) = (self.width(), self.kv_heads * self.head_dim);
        let std = 1.0 / (d as f32).sqrt();
        let mut given = vec![Given::normal(1, [self.vocab, d], 0.5), Given::gain(2, d)];
        if !self.tied {
            given.push(Given::normal(3, [self.vocab, d], std));
        }
        for layer in 0..if self.looped { 1 } else { self.layers } {
            let seed = 10 + 10 * layer as u64;
            given.extend([
                Given::gain(seed, d),
                Given::normal(seed + 1, [d, d], std),
                Given::normal(seed + 2, [kv, d], std),
                Given::normal(seed + 3, [kv, d], std),
                Given::normal(seed + 4, [d, d], std),
                Given::gain(seed + 5, d),
                Given::normal(seed + 6, [self.ffn, d], std),
                Given::normal(seed + 7, [self.ffn, d], std),
                Given::normal(seed + 8, [d, self.ffn], 0.3),
            ]);
        }
        given
    }

    fn layer<'a, T>(&self, all: &'a [T], layer: usize) -> &'a [T] {
        let first = if self.tied { 2 } else { 3 };
        &all[first + 9 * if self.looped { 0 } else { layer }..][..9]
    }

    fn head<'a, T>(&self, all: &'a [T]) -> &'a T {
        &all[if self.tied { 0 } else { 2 }]
    }

    fn positions(&self) -> Arc<[u32]> {
        (0..self.batch * self.tokens).map(|i| (i % self.tokens) as u32).collect()
    }

    /// What goes in and what should come out.
    pub(crate) fn data(&self) -> (Arc<[u32]>, Targets) {
        let rows = self.batch * self.tokens;
        let targets = Targets {
            tokens: indices(5, rows, self.vocab),
            weights: normals(6, rows, 1.0).iter().map(|w| w.abs()).collect(),
            scale: 1.0 / rows.max(1) as f32,
            chunk_bytes: 13 * self.vocab * 4,
        };
        (indices(4, rows, self.vocab), targets)
    }

    /// The loss on a tape, one block per layer.
    pub(crate) fn loss(
        self,
        tape: &mut Tape<'_>,
        ids: &[ParamId],
        keep: Keep,
    ) -> Result<Var, Error> {
        let (tokens, targets) = self.data();
        let table = Arc::new(RopeTable::new(self.head_dim, self.tokens, THETA));
        let mut x = tape.embedding(ids[0], &tokens)?;
        for layer in 0..self.layers {
            let own: Vec<ParamId> = self.layer(ids, layer).to_vec();
            let (table, positions) = (table.clone(), self.positions());
            x = tape.block(keep, &[x], move |tape, x| {
                let x = x[0];
                let h = tape.rms_norm(x, own[0], EPS)?;
                let qkv = tape.linear(h, &LinearSpec::new([own[1], own[2], own[3]]), None)?;
                let qkv = tape.rope(qkv, &table, &positions, 0..self.turned())?;
                let mixed = tape.attention(qkv, self.attention(), None, None)?;
                let x = tape.linear(mixed, &LinearSpec::new([own[4]]), Some(x))?;
                let h = tape.rms_norm(x, own[5], EPS)?;
                let gate_up = tape.linear(h, &LinearSpec::new([own[6], own[7]]), None)?;
                let h = tape.swiglu(gate_up)?;
                Ok(vec![tape.linear(h, &LinearSpec::new([own[8]]), Some(x))?])
            })?[0];
        }
        let x = tape.rms_norm(x, ids[1], EPS)?;
        tape.head_loss(x, *self.head(ids), targets)
    }

    /// The same in f64.
    pub(crate) fn reference(self, all: &[Mat]) -> Mat {
        let (tokens, targets) = self.data();
        let (d, plain) = (self.width(), [None, None, None]);
        let mut x = reference::embedding(&all[0], &tokens);
        for layer in 0..self.layers {
            let own = self.layer(all, layer);
            let h = reference::rms_norm(&x, &own[0], EPS, 0..d);
            let qkv = reference::linear(&h, &[&own[1], &own[2], &own[3]], &plain, None);
            let turned = 0..self.turned();
            let qkv = reference::rope(&qkv, self.head_dim, THETA, &self.positions(), turned);
            let mixed = reference::attention(&qkv, self.attention(), None, None, None);
            x = reference::linear(&mixed, &[&own[4]], &plain, Some(&x));
            let h = reference::rms_norm(&x, &own[5], EPS, 0..d);
            let h = reference::linear(&h, &[&own[6], &own[7]], &plain, None);
            x = reference::linear(&reference::swiglu(&h), &[&own[8]], &plain, Some(&x));
        }
        let x = reference::rms_norm(&x, &all[1], EPS, 0..d);
        let Targets { tokens, weights, scale, .. } = targets;
        reference::head_loss(&x, self.head(all), &tokens, &weights, scale)
    }
}

/// The model with its parameters on a device.
pub(crate) struct Small {
    pub(crate) sizes: Sizes,
    pub(crate) device: Device,
    pub(crate) params: Params,
    pub(crate) ids: Vec<ParamId>,
}

impl Small {
    pub(crate) fn new(sizes: Sizes, level: Level, threads: usize) -> Small {
        Small::on(Device::cpu_at(Ledger::new(), threads, level), sizes)
    }

    /// On a device that others may use too.
    pub(crate) fn on(device: Device, sizes: Sizes) -> Small {
        let (params, ids) = params(&device, &sizes.given());
        Small { sizes, device, params, ids }
    }

    /// Forward and backward once: the loss and what is left of the tape.
    pub(crate) fn step(
        &mut self,
        compute: Compute,
        keep: Keep,
        sink: &mut dyn GradSink,
    ) -> Result<(f32, Gradients), Error> {
        let mut tape = Tape::training(&self.device, compute, &mut self.params);
        let loss = self.sizes.loss(&mut tape, &self.ids, keep)?;
        let value = tape.value(loss).expect("the loss is held").slice::<f32>()[0];
        Ok((value, tape.backward(loss, sink)?))
    }

    /// Bytes live now under a tag.
    pub(crate) fn live(&self, tag: Tag) -> usize {
        self.device.ledger().live_bytes(tag)
    }

    /// The most bytes at once under a tag.
    pub(crate) fn peak(&self, tag: Tag) -> usize {
        self.device.ledger().peak_bytes(tag)
    }
}

//! Decoding one sequence token by token, with weights packed once and keys and values cached.

use std::sync::Arc;

use smidgen_tensor::infer::{self, KvLayer, PackedLinear};
use smidgen_tensor::{Compute, Device, Format, LinearSpec, Param, Params, RopeTable, Tensor};

use crate::{Decoder, Error};

struct Layer {
    qkv: PackedLinear,
    o: PackedLinear,
    gate_up: PackedLinear,
    down: PackedLinear,
    cache: KvLayer,
}

/// One sequence being read and continued.
pub struct Session<'p> {
    device: Device,
    compute: Compute,
    decoder: Decoder,
    params: &'p Params,
    layers: Vec<Layer>,
    head: PackedLinear,
    rope: Arc<RopeTable>,
    capacity: usize,
    /// Sums of what feed-forward units give, `[L][F]`, where somebody asked.
    activity: Option<Vec<Vec<f64>>>,
}

impl<'p> Session<'p> {
    /// Packs the weights and makes room for `capacity` tokens.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn new(
        device: &Device,
        compute: Compute,
        decoder: &Decoder,
        params: &'p Params,
        capacity: usize,
    ) -> Result<Session<'p>, Error> {
        let spec = decoder.spec();
        let packed = |linear: &LinearSpec| {
            let weights: Vec<&Param> = linear.weights.iter().map(|id| params.get(*id)).collect();
            let biases: Vec<Option<&Param>> =
                linear.biases.iter().map(|id| id.map(|id| params.get(id))).collect();
            PackedLinear::new(device, compute, &weights, &biases)
        };
        let mut layers = Vec::with_capacity(spec.layers);
        for block in decoder.blocks.iter() {
            layers.push(Layer {
                qkv: packed(&block.qkv)?,
                o: packed(&block.o)?,
                gate_up: packed(&block.gate_up)?,
                down: packed(&block.down)?,
                cache: KvLayer::new(device, compute, capacity, spec.kv_heads, spec.head_dim)?,
            });
        }
        let head = packed(&LinearSpec::new([decoder.head]))?;
        // A session may run past the training context; its table covers its own capacity.
        let rope = if capacity <= decoder.rope.len() {
            decoder.rope.clone()
        } else {
            Arc::new(RopeTable::new(spec.head_dim, capacity, spec.rope_theta))
        };
        Ok(Session {
            device: device.clone(),
            compute,
            decoder: decoder.clone(),
            params,
            layers,
            head,
            rope,
            capacity,
            activity: None,
        })
    }

    /// Tokens read so far.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.cache.len())
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets everything after the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.layers.iter_mut().for_each(|layer| layer.cache.truncate(len));
    }

    /// Reads tokens and gives the logits after the last one, `[V]`.
    ///
    /// # Errors
    /// [`Error::ContextFull`], and those of the engine.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let held = self.len();
        if tokens.is_empty() || held + tokens.len() > self.capacity {
            return Err(Error::ContextFull { held, new: tokens.len(), capacity: self.capacity });
        }
        let (device, spec, format) =
            (self.device.clone(), self.decoder.spec().clone(), self.compute.format());
        let positions: Vec<u32> = (held..held + tokens.len()).map(|p| p as u32).collect();
        let mut x = infer::embedding(&device, self.params.get(self.decoder.embed), tokens)?;
        for index in 0..self.layers.len() {
            x = self.layer(index, x, &positions)?;
        }
        let last = last_row(&device, &x)?;
        let normed = infer::rms_norm(
            &device,
            &last,
            self.params.get(self.decoder.norm),
            spec.norm_eps,
            0..spec.width,
            format,
        )?;
        let logits = self.head.apply(&device, self.compute, &normed, None, Format::F32)?;
        Ok(logits.slice::<f32>().to_vec())
    }

    /// Reads tokens and gives, for each layer, what its feed-forward units give in size, averaged over
    /// the tokens: `[L][F]`. A unit that gives next to nothing is dormant.
    ///
    /// # Errors
    /// As for [`Session::feed`].
    pub fn activity(&mut self, tokens: &[u32]) -> Result<Vec<Vec<f64>>, Error> {
        let spec = self.decoder.spec();
        self.activity = Some(vec![vec![0.0; spec.ffn]; spec.layers]);
        let read = self.feed(tokens);
        let mut sums = self.activity.take().expect("put there above");
        read?;
        sums.iter_mut().flatten().for_each(|sum| *sum /= tokens.len() as f64);
        Ok(sums)
    }

    fn layer(&mut self, index: usize, x: Tensor, positions: &[u32]) -> Result<Tensor, Error> {
        let (device, compute, format) = (&self.device, self.compute, self.compute.format());
        let (block, spec) = (&self.decoder.blocks[index], self.decoder.spec());
        let layer = &mut self.layers[index];
        let (q_cols, k_cols) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let norm = |x: &Tensor, id, range| {
            infer::rms_norm(device, x, self.params.get(id), spec.norm_eps, range, format)
        };
        let normed = norm(&x, block.attn_norm, 0..spec.width)?;
        let mut qkv = layer.qkv.apply(device, compute, &normed, None, format)?;
        if let Some((q_norm, k_norm)) = block.qk_norm {
            qkv = norm(&qkv, q_norm, 0..q_cols)?;
            qkv = norm(&qkv, k_norm, q_cols..q_cols + k_cols)?;
        }
        infer::rope(device, &mut qkv, &self.rope, positions, 0..q_cols + k_cols);
        let heads = layer.cache.attend(device, compute, spec.heads, &qkv)?;
        let x = layer.o.apply(device, compute, &heads, Some(&x), Format::F32)?;
        let normed = norm(&x, block.mlp_norm, 0..spec.width)?;
        let gate_up = layer.gate_up.apply(device, compute, &normed, None, format)?;
        let act = infer::swiglu(device, &gate_up, format)?;
        if let Some(sums) = &mut self.activity {
            add_sizes(&act, &mut sums[index]);
        }
        Ok(layer.down.apply(device, compute, &act, Some(&x), Format::F32)?)
    }
}

/// Adds the sizes of each column of `act` `[T, F]`.
fn add_sizes(act: &Tensor, sums: &mut [f64]) {
    for row in act.to_vec().chunks_exact(act.cols()) {
        row.iter().zip(&mut *sums).for_each(|(x, sum)| *sum += f64::from(x.abs()));
    }
}

/// The last row alone: only its logits are asked for.
fn last_row(device: &Device, x: &Tensor) -> Result<Tensor, Error> {
    let (rows, cols) = (x.rows(), x.cols());
    let values = &x.slice::<f32>()[(rows - 1) * cols..];
    Ok(Tensor::from_f32(device.pool(), smidgen_codec::Tag::Workspace, [1, cols], values)?)
}

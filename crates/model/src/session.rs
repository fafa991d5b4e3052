//! Decoding one sequence token by token, with weights packed once and keys and values cached.

use std::sync::Arc;

use smidgen_codec::Tag;
use smidgen_tensor::infer::{self, KvLayer, PackedLinear};
use smidgen_tensor::{Compute, Device, Format, LinearSpec, Param, Params, RopeTable, Tensor};

use crate::{Decoder, Error, KeySpace};

struct Layer {
    qkv: PackedLinear,
    o: PackedLinear,
    gate_up: PackedLinear,
    down: PackedLinear,
    cache: KvLayer,
    /// Keys before positions, `[capacity, K E]`, where they are kept.
    plain: Option<Tensor>,
    /// Whether turned keys were written since: what they were before is not known.
    stale: bool,
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
                plain: None,
                stale: false,
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
        for layer in &mut self.layers {
            layer.cache.truncate(len);
            layer.stale &= len > 0;
        }
    }

    /// Keeps keys as they were before positions were applied, too, from the next token on: for an empty
    /// session that caches are taken out of or put into.
    ///
    /// # Errors
    /// [`Error::Spec`] where tokens were read already, and those of the engine.
    pub fn keep_plain_keys(&mut self) -> Result<(), Error> {
        if !self.is_empty() {
            let (expected, got) = ("an empty session".into(), format!("{} tokens", self.len()));
            return Err(Error::Spec { key: "plain keys", expected, got });
        }
        let spec = self.decoder.spec();
        let shape = [self.capacity, spec.kv_heads * spec.head_dim];
        for layer in &mut self.layers {
            layer.plain = Some(Tensor::zeros(self.device.pool(), Tag::Kv, shape, Format::F32)?);
        }
        Ok(())
    }

    /// Reads the keys and values of a layer, `[len, K E]` each, exactly as they are held.
    ///
    /// # Errors
    /// [`Error::Spec`] for a layer that is not there and for keys of a space that are not kept, and those
    /// of the engine for arrays of another size.
    pub fn read_layer(
        &self,
        layer: usize,
        space: KeySpace,
        keys: &mut [f32],
        values: &mut [f32],
    ) -> Result<(), Error> {
        let layer = self.layers.get(layer).ok_or_else(|| self.no_layer(layer))?;
        layer.cache.read(&self.device, self.compute, keys, values)?;
        if space == KeySpace::PreRope {
            let plain = layer.plain.as_ref().filter(|_| !layer.stale);
            plain.ok_or_else(no_plain_keys)?.read_f32(0, keys);
        }
        Ok(())
    }

    /// Puts keys and values `[tokens, K E]` in the place of those of held tokens of a layer. Keys before
    /// positions are turned by those of their tokens; after turned ones, keys before positions are not
    /// known until the session begins anew. What was read with [`Session::read_layer`] and is
    /// written back changes no bit of what follows.
    ///
    /// # Errors
    /// [`Error::Spec`] for a layer that is not there, those of the engine for tokens that are not held
    /// and arrays of another size; the layer may hold some of the tokens then.
    pub fn write_layer(
        &mut self,
        layer: usize,
        space: KeySpace,
        tokens: &[u32],
        keys: &[f32],
        values: &[f32],
    ) -> Result<(), Error> {
        let held = self.len();
        let missing = self.no_layer(layer);
        let layer = self.layers.get_mut(layer).ok_or(missing)?;
        let width = self.decoder.spec().kv_heads * self.decoder.spec().head_dim;
        if let Some(token) = tokens.iter().find(|token| **token as usize >= held) {
            let expected = format!("below {held}, those held");
            return Err(Error::Spec { key: "token", expected, got: token.to_string() });
        }
        if values.len() != tokens.len() * width {
            let expected = format!("{} values", tokens.len() * width);
            return Err(Error::Spec { key: "values", expected, got: values.len().to_string() });
        }
        let pool = self.device.pool();
        let mut turned = Tensor::from_f32(pool, Tag::Workspace, [tokens.len(), width], keys)?;
        if space == KeySpace::PostRope {
            layer.stale = true;
        } else {
            if let Some(plain) = &mut layer.plain {
                for (token, key) in tokens.iter().zip(keys.chunks_exact(width)) {
                    plain.write_f32(*token as usize * width, key);
                }
            }
            infer::rope(&self.device, &mut turned, &self.rope, tokens, 0..width);
        }
        let keys = turned.slice::<f32>().chunks_exact(width);
        for ((token, key), value) in tokens.iter().zip(keys).zip(values.chunks_exact(width)) {
            layer.cache.write(&self.device, self.compute, *token as usize, key, value)?;
        }
        Ok(())
    }

    fn no_layer(&self, layer: usize) -> Error {
        let expected = format!("below {}", self.layers.len());
        Error::Spec { key: "layer", expected, got: layer.to_string() }
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
        if let Some(plain) = &mut layer.plain {
            keep_keys(plain, layer.cache.len(), &qkv, q_cols);
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

fn no_plain_keys() -> Error {
    let expected = "a session that keeps keys before positions".into();
    Error::Spec { key: "plain keys", expected, got: "one that has none".into() }
}

/// Copies the key columns of new rows behind those of the first `held`.
fn keep_keys(plain: &mut Tensor, held: usize, qkv: &Tensor, first: usize) {
    let width = plain.cols();
    let to = &mut plain.slice_mut::<f32>()[held * width..];
    for (row, to) in to.chunks_exact_mut(width).take(qkv.rows()).enumerate() {
        qkv.read_f32(row * qkv.cols() + first, to);
    }
}

/// The last row alone: only its logits are asked for.
fn last_row(device: &Device, x: &Tensor) -> Result<Tensor, Error> {
    let (rows, cols) = (x.rows(), x.cols());
    let values = &x.slice::<f32>()[(rows - 1) * cols..];
    Ok(Tensor::from_f32(device.pool(), Tag::Workspace, [1, cols], values)?)
}

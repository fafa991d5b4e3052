//! A model at one end of a link: what reads prompts and gives caches away, or takes them in.

use smidgen_model::{Decoder, KeySpace, LayerKv, Spec, TokenBatch};
use smidgen_tensor::{Compute, Device, Params, Tensor};
use smidgen_train::TrainedModel;

use crate::{Error, KvCache, KvShape};

/// Prompts of a batch are filled up with this token behind their ends, where nobody sees it.
pub(crate) const FILL: u32 = 0;

impl KvShape {
    /// The cache of a model.
    pub fn of(spec: &Spec) -> KvShape {
        let (layers, kv_heads, dim) = (spec.layers, spec.kv_heads, spec.head_dim);
        KvShape { layers, kv_heads, key_dim: dim, value_dim: dim }
    }
}

/// A decoder with its weights and where it computes.
pub struct Side {
    /// Memory and threads.
    pub device: Device,
    /// The operand format.
    pub compute: Compute,
    /// The decoder.
    pub decoder: Decoder,
    /// Its weights.
    pub params: Params,
}

impl Side {
    /// The side of a model that was trained.
    pub fn of(model: TrainedModel, device: &Device) -> Side {
        let TrainedModel { decoder, params, compute, .. } = model;
        Side { device: device.clone(), compute, decoder, params }
    }

    /// The shape of its caches.
    pub fn kv_shape(&self) -> KvShape {
        KvShape::of(self.decoder.spec())
    }

    /// A name for shape and weights: SHA-256 in hexadecimal; other numbers have another. A model that is
    /// kept in bf16 has another name than the same numbers in f32.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.decoder.spec(), &self.params)
    }

    /// Reads prompts, a batch at once, and keeps keys and values of every layer; `plain` asks for keys
    /// before positions too.
    ///
    /// # Errors
    /// [`Error::Value`] for no prompts or one without tokens, those of the model.
    pub fn prefill(&self, prompts: &[&[u32]], plain: bool) -> Result<Prefill, Error> {
        Prefill::new(&self.device, self.compute, &self.decoder, &self.params, prompts, plain)
    }

    /// The caches of prompts, each of its own length: what a sharer gives away.
    ///
    /// # Errors
    /// As for [`Side::prefill`].
    pub fn read(&self, prompts: &[&[u32]], space: KeySpace) -> Result<Vec<KvCache>, Error> {
        let read = self.prefill(prompts, space == KeySpace::PreRope)?;
        (0..prompts.len()).map(|row| read.cache(&self.device, row, space)).collect()
    }
}

/// SHA-256 over the shape of a decoder, and names and bytes of the first parameters of `params`: those
/// that the shape asks for.
pub(crate) fn fingerprint(spec: &Spec, params: &Params) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(spec).expect("sizes and numbers have a JSON form"));
    for (_, param) in params.iter().take(spec.params().len()) {
        hash.update(&param.name);
        hash.update(param.value.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keys and values of prompts that were read side by side.
#[derive(Clone, Debug)]
pub struct Prefill {
    shape: KvShape,
    /// Of each prompt its tokens.
    lens: Vec<usize>,
    /// Rows of a prompt in the arrays, P: the tokens of the longest.
    length: usize,
    layers: Vec<LayerKv>,
}

impl Prefill {
    pub(crate) fn new(
        device: &Device,
        compute: Compute,
        decoder: &Decoder,
        params: &Params,
        prompts: &[&[u32]],
        plain: bool,
    ) -> Result<Prefill, Error> {
        let lens: Vec<usize> = prompts.iter().map(|prompt| prompt.len()).collect();
        let length = lens.iter().copied().max().unwrap_or(0);
        if lens.contains(&0) || lens.is_empty() {
            return Err(Error::value("prompts", "at least one, each of some tokens", "none"));
        }
        let batch = TokenBatch::whole(prompts.len(), padded(prompts, length, FILL))?;
        let layers = decoder.capture(device, compute, params, &batch, plain)?;
        Ok(Prefill { shape: KvShape::of(decoder.spec()), lens, length, layers })
    }

    /// The shape of each prompt's cache.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Prompts, B.
    pub fn rows(&self) -> usize {
        self.lens.len()
    }

    /// Rows of each prompt in the arrays, P.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Tokens of each prompt.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Keys and values of every layer, `[B P, K E]`.
    pub fn layers(&self) -> &[LayerKv] {
        &self.layers
    }

    /// The cache of one prompt.
    ///
    /// # Errors
    /// [`Error::Value`] for keys of a space that were not asked for, and [`Error::Refused`].
    ///
    /// # Panics
    /// When there is no such row.
    pub fn cache(&self, device: &Device, row: usize, space: KeySpace) -> Result<KvCache, Error> {
        let layers = self.layers.iter().map(|layer| Ok((keys_in(layer, space)?, &layer.values)));
        let layers = layers.collect::<Result<Vec<_>, Error>>()?;
        let (len, width) = (self.lens[row], self.layers[0].values.cols());
        let mut cache = KvCache::zeroed(device.ledger(), self.shape, len)?;
        let (keys, values) = cache.parts_mut();
        let (first, count) = (row * self.length * width, len * width);
        for (layer, (from_keys, from_values)) in layers.into_iter().enumerate() {
            let to = layer * count..(layer + 1) * count;
            keys[to.clone()].copy_from_slice(&from_keys.slice::<f32>()[first..][..count]);
            values[to].copy_from_slice(&from_values.slice::<f32>()[first..][..count]);
        }
        Ok(cache)
    }
}

/// The keys of a space, where the layer holds them.
pub(crate) fn keys_in(layer: &LayerKv, space: KeySpace) -> Result<&Tensor, Error> {
    layer.keys_in(space).ok_or_else(|| {
        Error::value("k_space", "keys before positions", "a batch that was read without them")
    })
}

/// Rows of one length; what is missing of a row is `fill`.
pub(crate) fn padded(rows: &[&[u32]], length: usize, fill: u32) -> Vec<u32> {
    let mut tokens = Vec::with_capacity(rows.len() * length);
    for row in rows {
        tokens.extend_from_slice(row);
        tokens.resize(tokens.len() + length - row.len(), fill);
    }
    tokens
}

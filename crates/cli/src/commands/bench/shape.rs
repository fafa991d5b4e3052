//! The model that is measured: the options' defaults are those of the PyTorch peer.

use clap::ValueEnum;
use smidgen_codec::{Ledger, Rng, Stream};
use smidgen_model::{Decoder, Error, Spec};
use smidgen_tensor::{Compute, Device, Params};

/// The operand format of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    F32,
    Bf16,
}

impl Mode {
    pub(crate) fn compute(self) -> Compute {
        match self {
            Mode::F32 => Compute::F32,
            Mode::Bf16 => Compute::Bf16,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        self.compute().format().name()
    }
}

/// Sizes of the model and of a batch.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Shape {
    /// Format of the operands of products; sums and weights are f32
    #[arg(long, value_enum, default_value = "bf16")]
    pub(crate) mode: Mode,
    /// Tokens of the vocabulary
    #[arg(long, default_value_t = 4096)]
    pub(crate) vocab: usize,
    /// Width of the residual stream
    #[arg(long, default_value_t = 384)]
    pub(crate) width: usize,
    /// Blocks
    #[arg(long, default_value_t = 6)]
    pub(crate) layers: usize,
    /// Attention heads
    #[arg(long, default_value_t = 6)]
    pub(crate) heads: usize,
    /// Feed-forward width
    #[arg(long, default_value_t = 1024)]
    pub(crate) ffn: usize,
    /// Tokens of a row
    #[arg(long, default_value_t = 256)]
    pub(crate) context: usize,
    /// Rows of a batch
    #[arg(long, default_value_t = 8)]
    pub(crate) batch: usize,
    /// Compute threads
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
    /// Seed of weights and tokens
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

impl Shape {
    pub(crate) fn spec(&self) -> Result<Spec, Error> {
        for (key, value, most) in [("batch", self.batch, 1 << 20), ("threads", self.threads, 1024)]
        {
            if value == 0 || value > most {
                let expected = format!("1 to {most}");
                return Err(Error::Spec { key, expected, got: value.to_string() });
            }
        }
        if self.heads == 0 || !self.width.is_multiple_of(self.heads) {
            let expected = format!("a divisor of `width` = {}", self.width);
            return Err(Error::Spec { key: "heads", expected, got: self.heads.to_string() });
        }
        let Shape { vocab, width, layers, heads, ffn, context, .. } = *self;
        let spec = Spec::new(vocab, width, layers, heads, ffn, context);
        spec.validate().map(|()| spec)
    }

    pub(crate) fn device(&self) -> Device {
        Device::cpu(Ledger::new(), self.threads)
    }

    /// A decoder with first values.
    pub(crate) fn model(&self, device: &Device) -> Result<(Decoder, Params), Error> {
        let mut params = Params::new();
        let decoder = Decoder::new(device, self.spec()?, &mut params)?;
        decoder.init(&mut params, self.seed);
        Ok((decoder, params))
    }

    /// Random tokens.
    pub(crate) fn tokens(&self, count: usize) -> Vec<u32> {
        let rng = Rng::new(self.seed, Stream::Data);
        (0..count).map(|i| rng.below(0, 0, i as u64, self.vocab as u64) as u32).collect()
    }
}

/// The middle value; of two the lower, of none 0.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

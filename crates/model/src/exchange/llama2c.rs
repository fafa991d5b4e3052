//! llama2.c files: seven numbers, then every weight in f32 in a fixed order.
//!
//! Little-endian: dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len; a negative
//! vocabulary means that the head is a matrix of its own, at the end. Two rotary tables precede it,
//! which the original program ignores: its base is 10000, its eps 1e-5.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use smidgen_store::Error as Store;

use crate::{Error, Spec};

const HEADER_BYTES: u64 = 28;

/// An open file whose length is that of its header.
#[derive(Debug)]
pub(super) struct Llama2c {
    path: PathBuf,
    pub(super) spec: Spec,
}

impl Llama2c {
    pub(super) fn open(path: &Path) -> Result<Llama2c, Error> {
        let io =
            |action| move |source| Error::from(Store::Io { action, path: path.into(), source });
        let mut file = File::open(path).map_err(io("open"))?;
        let length = file.metadata().map_err(io("read"))?.len();
        let mut header = [0; HEADER_BYTES as usize];
        if length < HEADER_BYTES {
            return Err(corrupt(path, "a header of 28 bytes".into(), format!("{length} bytes")));
        }
        file.read_exact(&mut header).map_err(io("read"))?;
        if header.starts_with(b"24ka") || header.starts_with(b"ak42") {
            let expected = "a llama2.c file of version 0, as `export.py --version 0` makes";
            return Err(corrupt(path, expected.into(), "one of a later version".into()));
        }
        let mut numbers = header.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
        let mut next = || numbers.next().expect("the header has seven numbers");
        let [dim, ffn, layers, heads, kv_heads] = std::array::from_fn(|_| next());
        let (vocab, context) = (next(), next());
        let size = |value: i32| usize::try_from(value).unwrap_or(0);
        let plain = Spec::new(
            vocab.unsigned_abs() as usize,
            size(dim),
            size(layers),
            size(heads),
            size(ffn),
            size(context),
        );
        let spec = Spec { kv_heads: size(kv_heads), tied: vocab > 0, ..plain };
        let sound = spec.validate();
        sound
            .map_err(|error| corrupt(path, "a GGUF or llama2.c file".into(), error.to_string()))?;
        let expected = HEADER_BYTES as u128 + 4 * (weights(&spec) + tables(&spec));
        if expected != u128::from(length) || spec.heads * spec.head_dim != spec.width {
            let expected = format!("{expected} bytes, as its header says");
            return Err(corrupt(path, expected, format!("{length} bytes")));
        }
        Ok(Llama2c { path: path.into(), spec })
    }

    /// Reads one of our parameters; `out` has its bytes.
    pub(super) fn read_into(&self, ours: &str, out: &mut [u8]) -> Result<(), Error> {
        let io = |source| Store::Io { action: "read", path: self.path.clone(), source };
        let start = HEADER_BYTES + 4 * self.offset(ours);
        let read = |mut file: File| {
            file.seek(SeekFrom::Start(start))?;
            file.read_exact(out)
        };
        Ok(File::open(&self.path).and_then(read).map_err(io)?)
    }

    /// Values before a parameter. Each kind of a block lies together, layer after layer.
    fn offset(&self, ours: &str) -> u64 {
        let spec = &self.spec;
        let layers = spec.layers as u64;
        let mut offset = (spec.vocab * spec.width) as u64;
        if ours == "embed.weight" {
            return 0;
        }
        for (name, size) in kinds(spec) {
            if let Some((layer, rest)) = super::names::layer_of(ours)
                && rest == name
            {
                return offset + size * layer.parse::<u64>().expect("our names count layers");
            }
            offset += layers * size;
        }
        match ours {
            "norm.weight" => offset,
            _ => offset + spec.width as u64 + tables(spec) as u64,
        }
    }
}

/// The parameters of a block in the order of the file, and their sizes.
fn kinds(spec: &Spec) -> [(&'static str, u64); 9] {
    let (d, f) = (spec.width as u64, spec.ffn as u64);
    let kv = (spec.kv_heads * spec.head_dim) as u64;
    [
        ("attn.norm.weight", d),
        ("attn.q.weight", d * d),
        ("attn.k.weight", kv * d),
        ("attn.v.weight", kv * d),
        ("attn.o.weight", d * d),
        ("mlp.norm.weight", d),
        ("mlp.gate.weight", f * d),
        ("mlp.down.weight", d * f),
        ("mlp.up.weight", f * d),
    ]
}

/// Values of all parameters: sizes up to 2^28 do not pass 128 bits.
fn weights(spec: &Spec) -> u128 {
    let block: u128 = kinds(spec).iter().map(|(_, size)| u128::from(*size)).sum();
    let table = spec.vocab as u128 * spec.width as u128;
    let tables = table * if spec.tied { 1 } else { 2 };
    tables + spec.layers as u128 * block + spec.width as u128
}

/// Values of the rotary tables.
fn tables(spec: &Spec) -> u128 {
    spec.context as u128 * spec.head_dim as u128
}

fn corrupt(path: &Path, expected: String, got: String) -> Error {
    Store::Corrupt { file: path.into(), expected, got }.into()
}

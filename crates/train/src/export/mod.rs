//! A model into the files of other programs: a folder that `transformers` loads, a GGUF file that
//! llama.cpp loads. Both appear whole or not at all, and neither replaces anything.

mod card;
mod folder;
mod gguf;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use smidgen_codec::Format;
use smidgen_data::Tokenizer;
use smidgen_store::Files;

pub use self::folder::export_folder;
pub use self::gguf::export_gguf;

use crate::{TrainedModel, is_run};

/// What is exported, and how.
pub struct Export<'a> {
    /// The model.
    pub model: &'a TrainedModel,
    /// Where it was opened: a run, or a model of another program.
    pub from: &'a Path,
    /// The format of its matrices.
    pub format: Format,
    /// The seam every write goes through.
    pub files: &'a dyn Files,
    /// Told the bytes of weights written so far.
    pub progress: &'a mut dyn FnMut(u64),
}

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// The folder or file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// What another program takes it for: a class, or an architecture.
    pub kind: &'static str,
    /// Tensors whose rows are no whole blocks of the format, and which are f16 in its place.
    pub coarser: Vec<String>,
}

impl Export<'_> {
    /// The name of the folder or file it came from.
    fn name(&self) -> String {
        let full = self.from.canonicalize().unwrap_or_else(|_| self.from.to_path_buf());
        let name = if full.is_dir() { full.file_name() } else { full.file_stem() };
        name.map_or("model".into(), |name| name.to_string_lossy().into_owned())
    }

    /// The tokenizer as other programs need it. A run saw no text without the token that opens a
    /// document, so other programs are told to put it there; other models keep their custom.
    fn tokenizer(&self) -> Tokenizer {
        let own = &self.model.tokenizer;
        if is_run(self.from) { own.opening_texts() } else { own.clone() }
    }
}

/// Tokens that end a text; the one that begins it is among them only where it is the only one.
fn ends(tokenizer: &Tokenizer) -> Vec<u32> {
    let prefix = tokenizer.prefix();
    let ends: Vec<u32> = tokenizer.end_ids().iter().copied().filter(|id| *id != prefix).collect();
    if ends.is_empty() { vec![prefix] } else { ends }
}

/// Tells how much went through.
struct Told<'a> {
    inner: &'a mut dyn Write,
    told: &'a mut dyn FnMut(u64),
    bytes: u64,
}

impl<'a> Told<'a> {
    fn new(inner: &'a mut dyn Write, told: &'a mut dyn FnMut(u64)) -> Told<'a> {
        Told { inner, told, bytes: 0 }
    }
}

impl Write for Told<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.bytes += written as u64;
        (self.told)(self.bytes);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

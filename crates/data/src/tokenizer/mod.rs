//! Any text in, token ids out, and the same bytes back: tokenizers made here, and those of others.
//!
//! Two ways of encoding are known, byte-level BPE and SentencePiece BPE, and five kinds of files they
//! come from: `tokenizer.json`, `vocab.json` with `merges.txt`, SentencePiece's `.model`, the
//! `tokenizer.bin` of llama2.c, and the arrays of a GGUF file. What cannot be done exactly is refused
//! by name. A damaged file is an error: reading one never takes more than a few times its size.

mod added;
mod alphabet;
mod byte_level;
mod folder;
mod gguf;
mod join;
mod json;
mod llama2c;
mod merges;
mod pattern;
mod pieces;
mod sentence;
mod sentencepiece;
mod stream;
mod train;
mod vocab;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use smidgen_store::{Files, sha256_bytes, write_text};

use crate::Error;
use added::{Added, Segment};
use byte_level::ByteLevel;
pub use gguf::GgufVocab;
use pieces::Pieces;
use sentence::{Lead, Sentence};
pub use stream::TokenStream;
pub use train::LEAST_VOCAB;
pub(crate) use train::pool;
use vocab::{Kind, Vocab};

/// The one special token of the tokenizers made here: it opens every document and ends the last one.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// Characters of the longest message about a file.
const MOST_MESSAGE: usize = 400;

/// Texts to ids and back. Immutable, cheap to clone, and safe to use from many threads.
#[derive(Clone)]
pub struct Tokenizer(Arc<Parts>);

/// What every kind of tokenizer comes down to.
#[derive(Clone)]
struct Parts {
    vocab: Vocab,
    added: Added,
    encoder: Encoder,
    borders: Borders,
}

/// Where texts begin and end.
#[derive(Clone, Debug)]
struct Borders {
    prefix: u32,
    /// Whether other programs put the prefix before a text too.
    begins: bool,
    /// Ascending; the prefix is one of them.
    ends: Vec<u32>,
}

/// The two ways from text to ids.
#[derive(Clone)]
enum Encoder {
    ByteLevel(ByteLevel),
    Sentence(Sentence),
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// `Read`; `Tokenizer` for a file that does not parse, is of a kind that cannot be followed
    /// exactly, or has no token that opens a document.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::from_json(&read(path)?, path)
    }

    /// As [`Tokenizer::load`], for the very file that a manifest names.
    ///
    /// # Errors
    /// As [`Tokenizer::load`], and `Hash` for a file with other bytes.
    pub fn load_exactly(path: &Path, sha256: &str) -> Result<Self, Error> {
        let json = read(path)?;
        let got = sha256_bytes(&json);
        if got != sha256 {
            return Err(Error::Hash { path: path.to_owned(), expected: sha256.to_owned(), got });
        }
        Self::from_json(&json, path)
    }

    /// Parses the text of a `tokenizer.json`; `path` serves the error messages.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_json(json: &[u8], path: &Path) -> Result<Self, Error> {
        json::read(json, &folder::Hints::default()).map_err(unusable(path))
    }

    /// Reads the tokenizer of a Hugging Face folder: `tokenizer.json`, or `vocab.json` with
    /// `merges.txt`, or `tokenizer.model`; and, where they are, `tokenizer_config.json` and
    /// `generation_config.json`, which say what opens and what ends a text.
    ///
    /// # Errors
    /// As [`Tokenizer::load`], naming the file.
    pub fn from_folder(folder: &Path) -> Result<Self, Error> {
        folder::read_folder(folder)
    }

    /// Takes the vocabulary of a GGUF file; `path` serves the error messages.
    ///
    /// # Errors
    /// `Tokenizer` for arrays that do not fit together, and for a kind that cannot be followed
    /// exactly, named.
    pub fn from_gguf(vocab: &GgufVocab<'_>, path: &Path) -> Result<Self, Error> {
        gguf::read(vocab).map_err(unusable(path))
    }

    /// The arrays that a GGUF file holds of this tokenizer.
    ///
    /// # Errors
    /// `Tokenize` where llama.cpp would make other ids of some texts, or fail on them.
    pub fn to_gguf(&self) -> Result<GgufVocab<'static>, Error> {
        gguf::write(&self.0).map_err(|what| Error::Tokenize {
            what: "be written as GGUF",
            message: what.to_owned(),
        })
    }

    /// Reads the bytes of a SentencePiece `.model`; `path` serves the error messages.
    ///
    /// # Errors
    /// `Tokenizer` for a file that does not parse, and for a kind that cannot be followed exactly,
    /// named.
    pub fn from_sentencepiece(model: &[u8], path: &Path) -> Result<Self, Error> {
        sentencepiece::read(model).map_err(unusable(path))
    }

    /// Reads the bytes of a llama2.c `tokenizer.bin` of `vocab` tokens; `path` serves the error
    /// messages.
    ///
    /// # Errors
    /// `Tokenizer` for a file that does not parse or has another number of tokens.
    pub fn from_llama2c(bin: &[u8], vocab: usize, path: &Path) -> Result<Self, Error> {
        llama2c::read(bin, vocab).map_err(unusable(path))
    }

    /// The text of a `tokenizer.json` with everything this tokenizer needs; other programs read it
    /// too. The same tokenizer gives the same text on every machine.
    pub fn to_json(&self) -> String {
        json::write::write(&self.0)
    }

    /// Writes a `tokenizer.json`, all or nothing.
    ///
    /// # Errors
    /// `Store` if the file cannot be written.
    pub fn save(&self, files: &dyn Files, path: &Path) -> Result<(), Error> {
        Ok(write_text(files, path, &self.to_json())?)
    }

    /// The ids of a text, without the prefix. Joined and decoded they give the text again, or its
    /// composed form where the tokenizer composes. Text that spells a special token is text: only the
    /// caller sets borders of documents.
    ///
    /// # Errors
    /// `Tokenize` for 4 GiB or more at once.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        // Places in a text are 32-bit numbers, and a blank may be added.
        if text.len() >= u32::MAX as usize {
            let message = format!("expected less than 4 GiB of text, got {} bytes", text.len());
            return Err(Error::Tokenize { what: "encode", message });
        }
        let Parts { vocab, added, encoder, .. } = &*self.0;
        let text = match encoder {
            Encoder::Sentence(by) => by.prepare(text),
            Encoder::ByteLevel(_) => text.into(),
        };
        let mut ids = Vec::new();
        for piece in self.pieces(&text) {
            for (place, segment) in added.segments(vocab, piece).into_iter().enumerate() {
                match (segment, encoder) {
                    (Segment::Token(id), _) => ids.push(id),
                    (Segment::Text(text), Encoder::ByteLevel(by)) => {
                        by.encode(vocab, text, &mut ids)
                    }
                    (Segment::Text(text), Encoder::Sentence(by)) => {
                        by.encode(vocab, text, place == 0, &mut ids);
                    }
                }
            }
        }
        Ok(ids)
    }

    /// Parts of a text whose ids, joined, are the ids of the text.
    pub(crate) fn pieces<'a>(&self, text: &'a str) -> Pieces<'a> {
        if self.is_gpt2() && self.0.added.is_empty() {
            Pieces::of(text)
        } else {
            Pieces::whole(text)
        }
    }

    /// The token borders of GPT-2's pattern are known without running it.
    fn is_gpt2(&self) -> bool {
        matches!(&self.0.encoder, Encoder::ByteLevel(by)
            if std::ptr::eq(by.pattern, pattern::Pattern::gpt2()) && !by.composed)
    }

    /// The text of some ids from the beginning of a text on. Special and unknown ids give nothing;
    /// half a character gives U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        let added = self.adds_blank() && bytes.first() == Some(&b' ');
        String::from_utf8_lossy(&bytes[usize::from(added)..]).into_owned()
    }

    /// Whether encoding puts a blank before a text, which decoding takes away again.
    pub(crate) fn adds_blank(&self) -> bool {
        matches!(&self.0.encoder, Encoder::Sentence(by) if by.lead != Lead::Never)
    }

    /// The bytes a token stands for; none for special and for unknown ids.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.0.vocab.bytes(id)
    }

    /// How vocabulary files spell a token; empty for unknown ids.
    pub fn token_name(&self, id: u32) -> String {
        if (id as usize) < self.vocab_size() { self.0.spelled(id) } else { String::new() }
    }

    /// The token that opens every document of the training text: the begin token where the model was
    /// trained with one, `<|endoftext|>` otherwise.
    pub fn prefix(&self) -> u32 {
        self.0.borders.prefix
    }

    /// Whether other programs put the prefix before a text too, as the files say.
    pub fn adds_prefix(&self) -> bool {
        self.0.borders.begins
    }

    /// The same tokenizer, whose files tell other programs to put the prefix before a text.
    pub fn opening_texts(&self) -> Self {
        let mut parts = Parts::clone(&self.0);
        parts.borders.begins = true;
        Tokenizer(Arc::new(parts))
    }

    /// Every id that ends a text, ascending; the prefix is one of them.
    pub fn end_ids(&self) -> &[u32] {
        &self.0.borders.ends
    }

    /// Whether a text ends with this id.
    pub fn ends(&self, id: u32) -> bool {
        self.0.borders.ends.binary_search(&id).is_ok()
    }

    /// How many ids there are: every id is smaller.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab.len()
    }
}

impl Parts {
    /// A token as vocabulary files spell it.
    fn spelled(&self, id: u32) -> String {
        let name = self.vocab.name(id);
        match (&self.encoder, self.vocab.kind(id)) {
            (Encoder::ByteLevel(_), Kind::Normal) => alphabet::spelled(name),
            (Encoder::Sentence(_), Kind::Normal) => alphabet::with_marks(name),
            _ => String::from_utf8_lossy(name).into_owned(),
        }
    }

    /// `greedy` are the user-defined tokens that take white space behind them along.
    ///
    /// Fails for an id outside the vocabulary.
    fn assemble(
        vocab: Vocab,
        greedy: &[u32],
        encoder: Encoder,
        mut borders: Borders,
    ) -> Result<Tokenizer, String> {
        let Borders { prefix, ends, .. } = &mut borders;
        ends.push(*prefix);
        ends.sort_unstable();
        ends.dedup();
        if let Some(id) = ends.iter().find(|&&id| id as usize >= vocab.len()) {
            let count = vocab.len();
            return Err(format!("special tokens: expected ids below {count}, got {id}"));
        }
        let added = Added::of(&vocab, greedy);
        Ok(Tokenizer(Arc::new(Parts { vocab, added, encoder, borders })))
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.0.encoder {
            Encoder::ByteLevel(by) => by.pattern.names[0],
            Encoder::Sentence(_) => "SentencePiece",
        };
        write!(f, "Tokenizer({kind}, {} tokens)", self.vocab_size())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

fn unusable(path: &Path) -> impl FnOnce(String) -> Error {
    let path = path.to_owned();
    // A message may quote a token, and a damaged file may have one of a megabyte.
    move |what| Error::Tokenizer { path, what: what.chars().take(MOST_MESSAGE).collect() }
}

//! Byte-level BPE: any text in, token ids out, and the same bytes back.

use std::fs;
use std::path::Path;

use serde_json::Value;
use smidgen_store::{Files, sha256_bytes, write_text};
use tokenizers::PreTokenizerWrapper;

use crate::{Error, GgufVocab, pieces::Pieces};

/// The one special token: it opens every document and ends the last one.
pub const END_OF_TEXT: &str = "<|endoftext|>";

/// A trained byte-level tokenizer. Immutable, and safe to use from many threads.
#[derive(Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The bytes of every token; none for special ones.
    bytes: Vec<Box<[u8]>>,
    eot: u32,
    /// The split pattern is GPT-2's, whose token borders are known without running it.
    cuttable: bool,
    sha256: String,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// `Read`; `Tokenizer` for a file that does not parse, is of another kind than byte-level BPE,
    /// or lacks `<|endoftext|>`.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let json =
            fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::from_json(&json, path)
    }

    /// As [`Tokenizer::load`], for the very file that a manifest names.
    ///
    /// # Errors
    /// As [`Tokenizer::load`], and `Hash` for a file with other bytes.
    pub fn load_exactly(path: &Path, sha256: &str) -> Result<Self, Error> {
        let json =
            fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
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
        let bad = |what: String| Error::Tokenizer { path: path.to_owned(), what };
        let mut inner = parse(json).map_err(bad)?;
        // Text that spells `<|endoftext|>` is text: only this crate sets document borders.
        inner.set_encode_special_tokens(true);
        let eot = inner
            .token_to_id(END_OF_TEXT)
            .ok_or_else(|| bad(format!("expected the special token `{END_OF_TEXT}`, got none")))?;
        let bytes = token_bytes(&inner).map_err(bad)?;
        let cuttable = matches!(
            inner.get_pre_tokenizer(),
            Some(PreTokenizerWrapper::ByteLevel(split)) if split.use_regex && !split.add_prefix_space
        ) && inner.get_normalizer().is_none();
        Ok(Self { inner, bytes, eot, cuttable, sha256: sha256_bytes(json) })
    }

    /// The text of the `tokenizer.json`: the same for the same tokenizer on every machine.
    ///
    /// # Errors
    /// `Tokenize` if the library cannot write it.
    pub fn to_json(&self) -> Result<String, Error> {
        self.inner
            .to_string(true)
            .map_err(|error| Error::Tokenize { what: "be written", message: error.to_string() })
    }

    /// Writes a `tokenizer.json`, all or nothing.
    ///
    /// # Errors
    /// `Store` if the file cannot be written.
    pub fn save(&self, files: &dyn Files, path: &Path) -> Result<(), Error> {
        Ok(write_text(files, path, &self.to_json()?)?)
    }

    /// The ids of a text, which joined and decoded give the text again.
    ///
    /// # Errors
    /// `Tokenize` if the library fails; text of any kind is legal input.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        let mut ids = Vec::new();
        for piece in self.pieces(text) {
            let encoding = self.inner.encode_fast(piece, false);
            let encoding = encoding
                .map_err(|error| Error::Tokenize { what: "encode", message: error.to_string() })?;
            ids.extend_from_slice(encoding.get_ids());
        }
        Ok(ids)
    }

    /// Parts of a text whose ids, joined, are the ids of the text.
    pub(crate) fn pieces<'a>(&self, text: &'a str) -> Pieces<'a> {
        if self.cuttable { Pieces::of(text) } else { Pieces::whole(text) }
    }

    /// The text of some ids. Special and unknown ids give nothing; half a character gives U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| self.token_bytes(id)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes a token stands for; none for special and for unknown ids.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], |bytes| bytes)
    }

    /// Reads the tokenizer of a Hugging Face folder.
    ///
    /// # Errors
    /// As [`Tokenizer::load`].
    pub fn from_folder(folder: &Path) -> Result<Self, Error> {
        Self::load(&folder.join("tokenizer.json"))
    }

    /// Takes a vocabulary out of a GGUF file; `path` serves the error messages.
    ///
    /// # Errors
    /// `Tokenizer` for a kind that is not supported, named.
    pub fn from_gguf(vocab: GgufVocab<'_>, path: &Path) -> Result<Self, Error> {
        let what = format!("`tokenizer.ggml.model`: `{}` is not supported", vocab.model);
        Err(Error::Tokenizer { path: path.to_owned(), what })
    }

    /// Reads the text of a SentencePiece `.model`; `path` serves the error messages.
    ///
    /// # Errors
    /// `Tokenizer` for a file that does not parse or is of a kind that is not supported, named.
    pub fn from_sentencepiece(_: &[u8], path: &Path) -> Result<Self, Error> {
        let what = "SentencePiece is not supported".to_owned();
        Err(Error::Tokenizer { path: path.to_owned(), what })
    }

    /// Reads the bytes of a llama2.c `tokenizer.bin` of `vocab` tokens; `path` serves the error messages.
    ///
    /// # Errors
    /// `Tokenizer` for a file that does not parse or has another size.
    pub fn from_llama2c(_: &[u8], vocab: usize, path: &Path) -> Result<Self, Error> {
        let what = format!("a llama2.c vocabulary of {vocab} tokens is not supported");
        Err(Error::Tokenizer { path: path.to_owned(), what })
    }

    /// The token that opens every document of the training text: `<|endoftext|>`, or the begin token
    /// where the model was trained with one.
    pub fn prefix(&self) -> u32 {
        self.eot
    }

    /// Every id that ends a text, ascending; the prefix is one of them.
    pub fn end_ids(&self) -> &[u32] {
        std::slice::from_ref(&self.eot)
    }

    /// Whether a text ends with this id.
    pub fn ends(&self, id: u32) -> bool {
        self.end_ids().contains(&id)
    }

    /// The id of `<|endoftext|>`.
    pub fn eot(&self) -> u32 {
        self.eot
    }

    /// How many ids there are: every id is smaller.
    pub fn vocab_size(&self) -> usize {
        self.bytes.len()
    }

    /// The SHA-256 of the JSON text this tokenizer was read from, hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }
}

/// The library's own parser, kept from what it panics on: a component that is no object with a
/// known `type`. The rest of that kind is caught, so that a damaged file is an error and no crash.
fn parse(json: &[u8]) -> Result<tokenizers::Tokenizer, String> {
    let foreign = |what: &dyn std::fmt::Display| format!("expected a tokenizer.json, got {what}");
    let value: Value = serde_json::from_slice(json).map_err(|error| foreign(&error))?;
    let kind = |component: &str| value.get(component).and_then(|part| part.get("type"));
    for (component, expected) in [("model", "BPE"), ("decoder", "ByteLevel")] {
        let got = kind(component).unwrap_or(&Value::Null);
        if got != expected {
            return Err(format!("`{component}.type`: expected `{expected}`, got {got}"));
        }
    }
    for component in ["normalizer", "pre_tokenizer", "post_processor"] {
        let there = value.get(component).is_some_and(|part| !part.is_null());
        if there && !kind(component).is_some_and(Value::is_string) {
            return Err(format!("`{component}`: expected null or an object with a `type`"));
        }
    }
    match std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(json)) {
        Ok(parsed) => parsed.map_err(|error| foreign(&error)),
        Err(_) => Err(foreign(&"one that the tokenizer library cannot read")),
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens, {})", self.vocab_size(), self.sha256)
    }
}

/// The table id -> bytes. Ids must be 0..N without a hole, else a damaged file could ask for
/// a table of four billion rows.
fn token_bytes(inner: &tokenizers::Tokenizer) -> Result<Vec<Box<[u8]>>, String> {
    let vocab = inner.get_vocab(true);
    let added = inner.get_added_tokens_decoder();
    let mut table: Vec<Option<Box<[u8]>>> = vec![None; vocab.len()];
    for (token, id) in vocab {
        let row = table.get_mut(id as usize);
        let row = row.ok_or_else(|| format!("expected ids without a hole, got id {id}"))?;
        let bytes = match added.get(&id) {
            Some(token) if token.special => Vec::new(),
            Some(token) => token.content.clone().into_bytes(),
            None => plain_bytes(&token)
                .ok_or_else(|| format!("expected byte-level tokens, got `{token}`"))?,
        };
        *row = Some(bytes.into());
    }
    table.into_iter().collect::<Option<_>>().ok_or_else(|| "expected ids without a hole".to_owned())
}

/// Undoes the byte-level alphabet: printable bytes stand for themselves, the 68 others for the
/// characters from U+0100 on, in order.
fn plain_bytes(token: &str) -> Option<Vec<u8>> {
    token.chars().map(plain_byte).collect()
}

fn plain_byte(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8), // 0x00..=0x20
        code @ 0x121..=0x142 => Some((code - 0x121) as u8 + 0x7f), // 0x7f..=0xa0
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_the_librarys() {
        use tokenizers::pre_tokenizers::byte_level::ByteLevel;
        let mut bytes: Vec<u8> = ByteLevel::alphabet().into_iter().filter_map(plain_byte).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        // `Ġ` is the blank, `Ċ` the line feed, as every GPT-2 vocabulary shows.
        assert_eq!((plain_byte('Ġ'), plain_byte('Ċ')), (Some(b' '), Some(b'\n')));
        assert_eq!(plain_byte('€'), None);
    }

    #[test]
    fn other_files_are_typed_errors() {
        let path = Path::new("x/tokenizer.json");
        let message =
            |json: &str| Tokenizer::from_json(json.as_bytes(), path).unwrap_err().to_string();
        assert!(
            message("{}").starts_with("`x/tokenizer.json` is not a tokenizer this program can use")
        );
        assert!(message("\u{0}\u{1}").contains("expected a tokenizer.json"));
        let word_level = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
            "normalizer":null,"pre_tokenizer":null,"post_processor":null,"decoder":null,
            "model":{"type":"WordLevel","vocab":{"a":0},"unk_token":"a"}}"#;
        assert!(message(word_level).contains("`model.type`: expected `BPE`, got \"WordLevel\""));
    }
}

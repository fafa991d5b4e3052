//! Reads `tokenizer.json`, the format of Hugging Face's `tokenizers`.
//!
//! The large parts, vocabulary and merges, are read straight into their tables; the small ones say
//! which of the two ways of encoding it is, and with which settings. The library's own reader takes
//! nine times the bytes of a file for it and compiles whatever expression it names; this one does
//! neither.

mod large;
mod settings;
pub(super) mod write;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::alphabet::without_marks;
use super::byte_level::ByteLevel;
use super::folder::Hints;
use super::gguf::spelled_bytes;
use super::sentence::{Lead, Order, Sentence};
use super::vocab::Vocab;
use super::{Borders, Encoder, Parts, Tokenizer};
pub(super) use large::read_vocab;

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow, default)]
    added_tokens: Vec<AddedToken<'a>>,
    #[serde(borrow)]
    normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    decoder: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
}

/// A token that the model's vocabulary may or may not have.
#[derive(Deserialize)]
pub(super) struct AddedToken<'a> {
    pub(super) id: u32,
    #[serde(borrow)]
    pub(super) content: Cow<'a, str>,
    #[serde(default)]
    pub(super) special: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) single_word: bool,
}

/// What the format has no place for. The library skips unknown keys of a model, not those of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ours<'a> {
    prefix: u32,
    begins: bool,
    ends: Vec<u32>,
    #[serde(borrow)]
    sentence: Option<OurSentence<'a>>,
}

/// A SentencePiece tokenizer as its own file has it; the rest of the JSON comes near it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OurSentence<'a> {
    #[serde(borrow)]
    scores: &'a RawValue,
    leads: bool,
    trims: bool,
}

#[derive(Deserialize)]
struct Model<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    dropout: Option<&'a RawValue>,
    #[serde(borrow)]
    unk_token: Option<Cow<'a, str>>,
    #[serde(borrow)]
    continuing_subword_prefix: Option<Cow<'a, str>>,
    #[serde(borrow)]
    end_of_word_suffix: Option<Cow<'a, str>>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Option<&'a RawValue>,
    #[serde(borrow)]
    merges: Option<&'a RawValue>,
    #[serde(borrow)]
    smidgen: Option<Ours<'a>>,
}

/// Reads the text of a file; `hints` are what other files of its folder say.
pub(super) fn read(json: &[u8], hints: &Hints) -> Result<Tokenizer, String> {
    let foreign = |error: serde_json::Error| format!("expected a tokenizer.json, got {error}");
    let mut file: File<'_> = serde_json::from_slice(json).map_err(foreign)?;
    let model = file.model.map_or("{}", RawValue::get);
    let model: Model<'_> = serde_json::from_str(model).map_err(foreign)?;
    model.check()?;
    check_added(&file.added_tokens)?;
    file.added_tokens.sort_by_key(|token| token.id);

    let is_byte_level = settings::is_byte_level(&settings::parse("decoder", file.decoder)?)?;
    let spelling: large::Spelling = if is_byte_level {
        |token| spelled_bytes(token).map(Cow::Owned)
    } else {
        |token| Ok(bytes_of(without_marks(token)))
    };
    let vocab = model.vocab.ok_or("`model.vocab`: expected an object, got none")?.get();
    let vocab = read_vocab(vocab, &file.added_tokens, model.byte_fallback, spelling)?;
    let merges = model.merges.ok_or("`model.merges`: expected an array, got none")?.get();
    let merges = large::read_merges(merges, &vocab, spelling)?;

    let normalizer = settings::parse("normalizer", file.normalizer)?;
    let pre_tokenizer = settings::parse("pre_tokenizer", file.pre_tokenizer)?;
    let encoder = if is_byte_level {
        let mut by = ByteLevel::new(&vocab, merges, settings::pattern(&pre_tokenizer)?)?;
        by.composed = settings::is_composed(&normalizer)?;
        by.whole_words = model.ignore_merges;
        Encoder::ByteLevel(by)
    } else if let Some(ours) = model.smidgen.as_ref().and_then(|ours| ours.sentence.as_ref()) {
        let scores = serde_json::from_str(ours.scores.get()).map_err(foreign)?;
        let lead = if ours.leads { Lead::First } else { Lead::Never };
        let mut by = Sentence::new(&vocab, Order::Scores(scores), lead, model.unknown(&vocab))?;
        by.trims = ours.trims;
        Encoder::Sentence(by)
    } else {
        let (lead, spares, cut) = settings::blanks(&normalizer, &pre_tokenizer)?;
        let order = Order::Merges(merges);
        let mut by = Sentence::new(&vocab, order, lead, model.unknown(&vocab))?;
        by.spares = spares;
        by.cut = cut.unwrap_or(by.cut);
        Encoder::Sentence(by)
    };
    let borders = match model.smidgen {
        Some(Ours { prefix, begins, ends, .. }) => Borders { prefix, begins, ends },
        None => {
            let template = settings::parse("post_processor", file.post_processor)?;
            hints.borders(&vocab, settings::begin_token(&template))?
        }
    };
    let greedy: Vec<u32> =
        file.added_tokens.iter().filter(|token| token.rstrip).map(|token| token.id).collect();
    Parts::assemble(vocab, &greedy, encoder, borders)
}

fn bytes_of(text: Cow<'_, str>) -> Cow<'_, [u8]> {
    match text {
        Cow::Borrowed(text) => text.as_bytes().into(),
        Cow::Owned(text) => text.into_bytes().into(),
    }
}

impl Model<'_> {
    fn check(&self) -> Result<(), String> {
        let kind = self.kind.map_or("null", RawValue::get);
        if kind != "\"BPE\"" {
            return Err(format!("`model.type`: expected `BPE`, got {kind}"));
        }
        let prefix = self.continuing_subword_prefix.as_deref().unwrap_or_default();
        let suffix = self.end_of_word_suffix.as_deref().unwrap_or_default();
        let dropout = self.dropout.map_or("null", RawValue::get);
        for (name, refused) in [
            ("continuing_subword_prefix", !prefix.is_empty()),
            ("end_of_word_suffix", !suffix.is_empty()),
            ("dropout", !matches!(dropout, "null" | "0" | "0.0")),
        ] {
            if refused {
                return Err(format!("`model.{name}` is not supported"));
            }
        }
        Ok(())
    }

    fn unknown(&self, vocab: &Vocab) -> Option<u32> {
        vocab.named(self.unk_token.as_deref()?)
    }
}

/// Special tokens are never searched for in a text, so that how they would be does not matter.
fn check_added(tokens: &[AddedToken<'_>]) -> Result<(), String> {
    let odd = |token: &&AddedToken<'_>| !token.special && (token.single_word || token.lstrip);
    match tokens.iter().find(odd) {
        Some(AddedToken { content, .. }) => {
            Err(format!("added token `{content}`: `single_word` and `lstrip` are not supported"))
        }
        None => Ok(()),
    }
}

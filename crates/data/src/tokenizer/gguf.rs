//! A vocabulary as a GGUF file holds it: plain arrays under `tokenizer.ggml.*`.

use std::borrow::Cow;

use super::alphabet::{plain_bytes, without_marks};
use super::byte_level::ByteLevel;
use super::merges::Merges;
use super::pattern::Pattern;
use super::sentence::{Lead, Order, Sentence};
use super::vocab::{Kind, Vocab};
use super::{Borders, END_OF_TEXT, Encoder, Parts, Tokenizer};

/// The arrays and ids of `tokenizer.ggml.*`. What a file lacks stays empty or `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GgufVocab<'a> {
    /// `model`: `gpt2` (byte-level BPE) or `llama` (SentencePiece BPE).
    pub model: Cow<'a, str>,
    /// `pre`: the name of the split pattern.
    pub pre: Option<Cow<'a, str>>,
    /// `tokens`, V texts as the file spells them.
    pub tokens: Vec<Cow<'a, str>>,
    /// `scores`, V of them or none: a higher one is joined earlier.
    pub scores: Vec<f32>,
    /// `token_type`, V of them or none: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub types: Vec<i32>,
    /// `merges`: pairs of tokens with a blank between, the first is joined first.
    pub merges: Vec<Cow<'a, str>>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`, `eot_token_id` and `eom_token_id`: every id that ends a text.
    pub ends: Vec<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

pub(super) fn read(file: &GgufVocab<'_>) -> Result<Tokenizer, String> {
    let count = file.tokens.len();
    for (key, len) in [("scores", file.scores.len()), ("token_type", file.types.len())] {
        if len != 0 && len != count {
            return Err(format!("`tokenizer.ggml.{key}`: expected {count} entries, got {len}"));
        }
    }
    match &*file.model {
        "gpt2" => read_byte_level(file),
        "llama" => read_sentence(file),
        other => Err(format!("`tokenizer.ggml.model`: expected `gpt2` or `llama`, got `{other}`")),
    }
}

fn read_byte_level(file: &GgufVocab<'_>) -> Result<Tokenizer, String> {
    let known = || format!("`tokenizer.ggml.pre`: expected one of: {}", Pattern::known());
    let pre = file.pre.as_deref().ok_or_else(|| format!("{}; got none", known()))?;
    let pattern = Pattern::named(pre).ok_or_else(|| format!("{}; got `{pre}`", known()))?;
    let mut vocab = Vocab::with_capacity(file.tokens.len());
    for (id, token) in file.tokens.iter().enumerate() {
        match kind(file, id)? {
            Kind::Normal => vocab.push(&spelled_bytes(token)?, Kind::Normal)?,
            kind => vocab.push(token.as_bytes(), kind)?,
        };
    }
    let mut merges = Merges::default();
    for pair in &file.merges {
        let (left, right) = pair_of(pair)?;
        merges.push(&vocab, &spelled_bytes(left)?, &spelled_bytes(right)?)?;
    }
    let encoder = Encoder::ByteLevel(ByteLevel::new(&vocab, merges, pattern)?);
    // Llama 3 alone of these opens its texts with a token where the file does not say.
    let begins = file.add_bos.unwrap_or(pattern.traits.whole_words);
    let borders = borders(file, &vocab, begins)?;
    Parts::assemble(vocab, &[], encoder, borders)
}

fn read_sentence(file: &GgufVocab<'_>) -> Result<Tokenizer, String> {
    for (key, empty) in [("scores", file.scores.is_empty()), ("token_type", file.types.is_empty())]
    {
        if empty {
            return Err(format!("`tokenizer.ggml.{key}`: expected an array, got none"));
        }
    }
    let mut vocab = Vocab::with_capacity(file.tokens.len());
    for (id, token) in file.tokens.iter().enumerate() {
        vocab.push(without_marks(token).as_bytes(), kind(file, id)?)?;
    }
    let lead = if file.add_space_prefix.unwrap_or(true) { Lead::First } else { Lead::Never };
    let unknown = file.unknown.or_else(|| Some(file.types.iter().position(|&t| t == 2)? as u32));
    let sentence = Sentence::new(&vocab, Order::Scores(file.scores.clone()), lead, unknown)?;
    let borders = borders(file, &vocab, file.add_bos.unwrap_or(true))?;
    Parts::assemble(vocab, &[], Encoder::Sentence(sentence), borders)
}

fn kind(file: &GgufVocab<'_>, id: usize) -> Result<Kind, String> {
    Ok(match file.types.get(id).copied().unwrap_or(1) {
        1 => Kind::Normal,
        2 | 3 | 5 => Kind::Control,
        4 => Kind::UserDefined,
        6 => Kind::Byte,
        other => return Err(format!("`tokenizer.ggml.token_type`: token {id} has type {other}")),
    })
}

fn borders(file: &GgufVocab<'_>, vocab: &Vocab, begins: bool) -> Result<Borders, String> {
    let bos = file.bos.filter(|_| begins);
    let prefix = bos.or_else(|| vocab.control(END_OF_TEXT)).or(file.bos);
    let prefix = prefix.or_else(|| file.ends.first().copied());
    let prefix = prefix.ok_or("expected a token that begins or ends a text, got neither")?;
    Ok(Borders { prefix, begins: bos.is_some(), ends: file.ends.clone() })
}

/// The bytes of a token in the byte-level alphabet.
pub(super) fn spelled_bytes(token: &str) -> Result<Vec<u8>, String> {
    plain_bytes(token).ok_or_else(|| format!("expected byte-level tokens, got `{token}`"))
}

/// Left and right of `left right`.
pub(super) fn pair_of(pair: &str) -> Result<(&str, &str), String> {
    let mut parts = pair.split(' ');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(left), Some(right), None) => Ok((left, right)),
        _ => Err(format!("merges: expected two tokens with a blank between, got `{pair}`")),
    }
}

/// Fails where the format cannot say how a text becomes ids.
pub(super) fn write(parts: &Parts) -> Result<GgufVocab<'static>, &'static str> {
    let Parts { vocab, encoder, borders, .. } = parts;
    let ids = 0..vocab.len() as u32;
    let mut file = GgufVocab {
        bos: Some(borders.prefix),
        ends: borders.ends.clone(),
        add_bos: Some(borders.begins),
        tokens: ids.clone().map(|id| parts.spelled(id).into()).collect(),
        types: ids.map(|id| type_of(parts, id)).collect(),
        ..GgufVocab::default()
    };
    match encoder {
        Encoder::ByteLevel(by) => {
            let pair = |pair: [u32; 2]| pair.map(|id| parts.spelled(id)).join(" ").into();
            file.model = "gpt2".into();
            file.pre = Some(by.pattern.names[0].into());
            file.merges = by.merges.pairs().map(pair).collect();
        }
        Encoder::Sentence(by) => {
            if by.trims {
                return Err("llama.cpp does not make several blanks one, as this tokenizer does");
            }
            if vocab.byte_tokens().contains(&None) {
                return Err("llama.cpp needs a token for every byte, this vocabulary has not");
            }
            file.model = "llama".into();
            file.pre = Some("default".into());
            file.scores = by.scores(vocab);
            file.unknown = by.unknown;
            file.add_space_prefix = Some(by.lead != Lead::Never);
        }
    }
    Ok(file)
}

fn type_of(parts: &Parts, id: u32) -> i32 {
    let unknown = matches!(&parts.encoder, Encoder::Sentence(by) if by.unknown == Some(id));
    match parts.vocab.kind(id) {
        Kind::Normal => 1,
        Kind::Control if unknown => 2,
        Kind::Control => 3,
        Kind::UserDefined => 4,
        Kind::Byte => 6,
    }
}

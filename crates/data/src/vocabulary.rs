//! A vocabulary as a GGUF file holds it: plain arrays under `tokenizer.ggml.*`.

use std::borrow::Cow;

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

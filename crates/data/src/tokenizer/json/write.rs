//! Writes `tokenizer.json`: for other programs as near as the format allows, for this one exactly.

use std::borrow::Cow;

use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::tokenizer::merges::Merges;
use crate::tokenizer::pattern::Pattern;
use crate::tokenizer::sentence::{Cut, Lead, Order, Sentence};
use crate::tokenizer::vocab::{Kind, Vocab};
use crate::tokenizer::{Encoder, Parts};

#[derive(serde::Serialize)]
struct File<'a> {
    version: &'static str,
    truncation: (),
    padding: (),
    added_tokens: Vec<Value>,
    normalizer: Value,
    pre_tokenizer: Value,
    post_processor: Value,
    decoder: Value,
    model: Model<'a>,
}

#[derive(serde::Serialize)]
struct Model<'a> {
    r#type: &'static str,
    dropout: (),
    unk_token: Option<String>,
    continuing_subword_prefix: (),
    end_of_word_suffix: (),
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Spelled<'a>,
    merges: Pairs<'a>,
    smidgen: Value,
}

pub(in crate::tokenizer) fn write(parts: &Parts) -> String {
    let (normalizer, pre_tokenizer, decoder) = match &parts.encoder {
        Encoder::ByteLevel(by) => {
            let normalizer = if by.composed { json!({"type": "NFC"}) } else { Value::Null };
            (normalizer, cut_by(by.pattern), byte_level(true))
        }
        Encoder::Sentence(by) => {
            let (normalizer, pre_tokenizer) = blanks(by);
            (normalizer, pre_tokenizer, sentence_decoder(by))
        }
    };
    let file = File {
        version: "1.0",
        truncation: (),
        padding: (),
        added_tokens: added(parts),
        normalizer,
        pre_tokenizer,
        post_processor: template(parts),
        decoder,
        model: model(parts),
    };
    serde_json::to_string_pretty(&file).expect("strings and numbers can be written")
}

fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": false,
        "trim_offsets": true,
        "use_regex": use_regex,
    })
}

fn cut_by(pattern: &Pattern) -> Value {
    let first = if pattern.traits.digits {
        json!({"type": "Digits", "individual_digits": true})
    } else if std::ptr::eq(pattern, Pattern::gpt2()) {
        return byte_level(true);
    } else {
        let pattern = json!({"Regex": pattern.regex()});
        json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
    };
    json!({"type": "Sequence", "pretokenizers": [first, byte_level(pattern.traits.digits)]})
}

fn blanks(by: &Sentence) -> (Value, Value) {
    if by.spares {
        let scheme = match by.lead {
            Lead::Never => "never",
            Lead::First => "first",
            Lead::Always => "always",
        };
        let split = by.cut == Cut::Blanks;
        let cut = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
        return (Value::Null, cut);
    }
    let replace =
        |pattern, content| json!({"type": "Replace", "pattern": pattern, "content": content});
    let mut steps = Vec::new();
    if by.trims {
        steps.push(replace(json!({"Regex": "^ +| +$"}), ""));
        steps.push(replace(json!({"Regex": " {2,}"}), " "));
    }
    if by.lead != Lead::Never {
        steps.push(json!({"type": "Prepend", "prepend": "▁"}));
    }
    steps.push(replace(json!({"String": " "}), "▁"));
    (json!({"type": "Sequence", "normalizers": steps}), Value::Null)
}

fn sentence_decoder(by: &Sentence) -> Value {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if by.lead != Lead::Never {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// What only this program reads.
fn ours(Parts { borders, encoder, .. }: &Parts) -> Value {
    let sentence = match encoder {
        Encoder::Sentence(Sentence { order: Order::Scores(scores), lead, trims, .. }) => {
            json!({"scores": scores, "leads": *lead != Lead::Never, "trims": trims})
        }
        _ => Value::Null,
    };
    json!({
        "prefix": borders.prefix,
        "begins": borders.begins,
        "ends": borders.ends,
        "sentence": sentence,
    })
}

/// Puts the prefix before a text, where that is the custom of this tokenizer.
fn template(Parts { vocab, borders, encoder, .. }: &Parts) -> Value {
    if !borders.begins {
        let is_byte_level = matches!(encoder, Encoder::ByteLevel(_));
        return if is_byte_level { byte_level(true) } else { Value::Null };
    }
    let name = name(vocab, borders.prefix);
    let special = json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = |id, type_id| json!({"Sequence": {"id": id, "type_id": type_id}});
    json!({
        "type": "TemplateProcessing",
        "single": [special, text("A", 0)],
        "pair": [special, text("A", 0), text("B", 1)],
        "special_tokens": {&name: {"id": name, "ids": [borders.prefix], "tokens": [name]}},
    })
}

fn name(vocab: &Vocab, id: u32) -> String {
    String::from_utf8_lossy(vocab.name(id)).into_owned()
}

fn added(parts: &Parts) -> Vec<Value> {
    let tokens = parts.vocab.iter();
    let tokens = tokens.filter(|(_, kind)| matches!(kind, Kind::Control | Kind::UserDefined));
    let entry = |(id, kind)| {
        json!({
            "id": id,
            "content": name(&parts.vocab, id),
            "single_word": false,
            "lstrip": false,
            "rstrip": parts.added.is_greedy(id),
            "normalized": false,
            "special": kind == Kind::Control,
        })
    };
    tokens.map(entry).collect()
}

fn model(parts: &Parts) -> Model<'_> {
    let Parts { vocab, encoder, .. } = parts;
    let (unknown, whole_words, merges) = match encoder {
        Encoder::ByteLevel(by) => (None, by.whole_words, Cow::Borrowed(&by.merges)),
        Encoder::Sentence(by) => (by.unknown, false, by.merges(vocab)),
    };
    Model {
        r#type: "BPE",
        dropout: (),
        unk_token: unknown.map(|id| name(vocab, id)),
        continuing_subword_prefix: (),
        end_of_word_suffix: (),
        fuse_unk: unknown.is_some(),
        byte_fallback: vocab.iter().any(|(_, kind)| kind == Kind::Byte),
        ignore_merges: whole_words,
        vocab: Spelled(parts),
        merges: Pairs { parts, merges },
        smidgen: ours(parts),
    }
}

/// The vocabulary, by id.
struct Spelled<'a>(&'a Parts);

impl Serialize for Spelled<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tokens = self.0.vocab.iter();
        serializer.collect_map(tokens.map(|(id, _)| (self.0.spelled(id), id)))
    }
}

struct Pairs<'a> {
    parts: &'a Parts,
    merges: Cow<'a, Merges>,
}

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer
            .collect_seq(self.merges.pairs().map(|pair| pair.map(|id| self.parts.spelled(id))))
    }
}

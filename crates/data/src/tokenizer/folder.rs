//! The tokenizer of a Hugging Face folder, out of the files that may lie there.

use std::borrow::Cow;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::byte_level::ByteLevel;
use super::gguf::{pair_of, spelled_bytes};
use super::json::{self, AddedToken, read_vocab};
use super::merges::Merges;
use super::pattern::Pattern;
use super::vocab::Vocab;
use super::{Borders, END_OF_TEXT, Encoder, Parts, Tokenizer, read, unusable};
use crate::Error;

/// What files beside a vocabulary say of the borders of texts.
#[derive(Default)]
pub(super) struct Hints {
    /// The begin token, and whether it is put before a text.
    begin: Option<String>,
    adds_begin: bool,
    /// Names and ids of tokens that end a text.
    end: Option<String>,
    end_ids: Vec<u32>,
}

impl Hints {
    /// Texts begin with this token.
    pub(super) fn begins_with(token: &str) -> Self {
        Self { begin: Some(token.to_owned()), adds_begin: true, ..Self::default() }
    }

    /// What opens and ends a text; `template` is the token that the tokenizer itself puts first.
    ///
    /// Fails where nothing is known to open or to end one.
    pub(super) fn borders(&self, vocab: &Vocab, template: Option<u32>) -> Result<Borders, String> {
        let named = |name: &Option<String>| vocab.named(name.as_deref()?);
        let begin = named(&self.begin);
        let added = template.or(begin.filter(|_| self.adds_begin));
        let mut ends = self.end_ids.clone();
        ends.extend(named(&self.end));
        let prefix = added.or_else(|| vocab.control(END_OF_TEXT)).or(begin);
        let prefix = prefix.or(ends.first().copied()).ok_or_else(|| {
            format!("expected `{END_OF_TEXT}` or another token that opens a text, got none")
        })?;
        Ok(Borders { prefix, begins: added.is_some(), ends })
    }
}

/// `tokenizer_config.json`, as far as it matters.
#[derive(Default, Deserialize)]
struct Config<'a> {
    #[serde(borrow)]
    bos_token: Option<Named<'a>>,
    #[serde(borrow)]
    eos_token: Option<Named<'a>>,
    #[serde(default)]
    add_bos_token: Option<bool>,
    #[serde(borrow)]
    tokenizer_class: Option<Cow<'a, str>>,
    #[serde(borrow)]
    added_tokens_decoder: Option<&'a RawValue>,
}

/// A token by its text, written alone or with its properties.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named<'a> {
    Text(Cow<'a, str>),
    Object { content: Cow<'a, str> },
}

/// `generation_config.json`, as far as it matters.
#[derive(Default, Deserialize)]
struct Generation {
    #[serde(default)]
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

pub(super) fn read_folder(folder: &Path) -> Result<Tokenizer, Error> {
    let config_path = folder.join("tokenizer_config.json");
    let config_text = read_if_there(&config_path)?;
    let config: Config<'_> = parse(&config_path, &config_text)?;
    let hints = hints(folder, &config)?;
    let [whole, vocab, merges, pieces] =
        ["tokenizer.json", "vocab.json", "merges.txt", "tokenizer.model"]
            .map(|name| folder.join(name));
    if whole.exists() {
        json::read(&read(&whole)?, &hints).map_err(unusable(&whole))
    } else if vocab.exists() && merges.exists() {
        let (tokens, pairs) = (read(&vocab)?, read(&merges)?);
        from_two_files(&tokens, &pairs, &config, &hints).map_err(unusable(&vocab))
    } else if pieces.exists() {
        Tokenizer::from_sentencepiece(&read(&pieces)?, &pieces)
    } else {
        let what = "expected `tokenizer.json`, `vocab.json` with `merges.txt`, or \
                    `tokenizer.model`, got none of them";
        Err(unusable(folder)(what.to_owned()))
    }
}

fn hints(folder: &Path, config: &Config<'_>) -> Result<Hints, Error> {
    let path = folder.join("generation_config.json");
    let text = read_if_there(&path)?;
    let generation: Generation = parse(&path, &text)?;
    let name = |token: &Option<Named<'_>>| match token {
        Some(Named::Text(content) | Named::Object { content }) => Some(content.to_string()),
        None => None,
    };
    Ok(Hints {
        begin: name(&config.bos_token),
        adds_begin: config.add_bos_token.unwrap_or(false),
        end: name(&config.eos_token),
        end_ids: match generation.eos_token_id {
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Many(ids)) => ids,
            None => Vec::new(),
        },
    })
}

/// `vocab.json` and `merges.txt`: the pattern is known by the class of the tokenizer alone.
fn from_two_files(
    tokens: &[u8],
    pairs: &[u8],
    config: &Config<'_>,
    hints: &Hints,
) -> Result<Tokenizer, String> {
    let class = config.tokenizer_class.as_deref().unwrap_or("none");
    let pattern = match class.trim_end_matches("Fast") {
        "GPT2Tokenizer" => Pattern::gpt2(),
        "Qwen2Tokenizer" => Pattern::named("qwen2").expect("it is in the table"),
        _ => {
            return Err(format!(
                "`tokenizer_class` in tokenizer_config.json: expected `GPT2Tokenizer` or \
                 `Qwen2Tokenizer`, got `{class}`"
            ));
        }
    };
    let utf8 = |text| std::str::from_utf8(text).map_err(|_| "expected UTF-8".to_owned());
    let added = added_tokens(config)?;
    let vocab =
        read_vocab(utf8(tokens)?, &added, false, |token| spelled_bytes(token).map(Cow::Owned))?;
    let mut merges = Merges::default();
    for line in utf8(pairs)?.lines().filter(|line| !line.is_empty()) {
        if line.starts_with("#version") {
            continue;
        }
        let (left, right) = pair_of(line)?;
        merges.push(&vocab, &spelled_bytes(left)?, &spelled_bytes(right)?)?;
    }
    let encoder = Encoder::ByteLevel(ByteLevel::new(&vocab, merges, pattern)?);
    let borders = hints.borders(&vocab, None)?;
    Parts::assemble(vocab, &[], encoder, borders)
}

/// `{"id": {"content": .., "special": ..}, ..}`, ascending by id.
fn added_tokens<'a>(config: &Config<'a>) -> Result<Vec<AddedToken<'a>>, String> {
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        content: Cow<'a, str>,
        #[serde(default)]
        special: bool,
    }
    let Some(table) = config.added_tokens_decoder else { return Ok(Vec::new()) };
    let table: std::collections::BTreeMap<u32, Entry<'a>> = serde_json::from_str(table.get())
        .map_err(|error| format!("`added_tokens_decoder`: {error}"))?;
    let tokens = table.into_iter().map(|(id, Entry { content, special })| AddedToken {
        id,
        content,
        special,
        lstrip: false,
        rstrip: false,
        single_word: false,
    });
    Ok(tokens.collect())
}

fn read_if_there(path: &Path) -> Result<Vec<u8>, Error> {
    if path.exists() { read(path) } else { Ok(b"{}".to_vec()) }
}

fn parse<'a, T: Deserialize<'a>>(path: &Path, text: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(text).map_err(|error| unusable(path)(error.to_string()))
}

//! Any model, by its path: a run of ours, a Hugging Face folder, a GGUF file, a llama2.c file.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use smidgen_data::{GgufVocab, Tokenizer};
use smidgen_model::exchange::{ModelKind, ModelSource};
use smidgen_store::{GgufFile, GgufValue, RUN_TOML, RunView, Which};
use smidgen_tensor::Device;

use crate::model::{Found, find_in_run};
use crate::{Error, TrainedModel, Weights};

/// How a model is opened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Opening {
    /// Which checkpoint of a run; best where none is named. Other models have none.
    pub which: Option<Which>,
    /// Which weights of a checkpoint.
    pub weights: Weights,
    /// A tokenizer in place of the model's own: `tokenizer.json`, a folder, a SentencePiece `.model`,
    /// a llama2.c `.bin`. A run has its own and no other.
    pub tokenizer: Option<PathBuf>,
}

/// Opens a model with its tokenizer; the weights are held in f32, under the device's ledger.
///
/// # Errors
/// [`Error::Store`], [`Error::Model`] and [`Error::Data`] naming the file, and the key of a model that
/// is not computed exactly here; [`Error::NotAModel`], [`Error::NoTokenizer`], and [`Error::Value`] for
/// options that such a model has no use for.
pub fn open(path: &Path, opening: &Opening, device: &Device) -> Result<TrainedModel, Error> {
    find(path, opening)?.open(device)
}

/// The tokenizer of a model that is opened later; its weights are not read.
///
/// # Errors
/// As for [`open`].
pub fn open_tokenizer(path: &Path, opening: &Opening) -> Result<Tokenizer, Error> {
    Ok(find(path, opening)?.tokenizer)
}

/// Finds and checks a model; its weights are not read.
pub(crate) fn find(path: &Path, opening: &Opening) -> Result<Found, Error> {
    if is_run(path) {
        if let Some(tokenizer) = &opening.tokenizer {
            let expected = "none for a run, which has its own";
            return Err(Error::value("--tokenizer", expected, tokenizer.display()));
        }
        let which = opening.which.unwrap_or(Which::Best);
        return find_in_run(&RunView::open(path)?, which, opening.weights);
    }
    refuse_run_options(path, opening)?;
    let source = open_source(path)?;
    let tokenizer = tokenizer_of(&source, opening.tokenizer.as_deref())?;
    Ok(Found::other(source, tokenizer))
}

/// Whether a path is a run directory of ours.
pub fn is_run(path: &Path) -> bool {
    path.join(RUN_TOML).is_file()
}

fn refuse_run_options(path: &Path, opening: &Opening) -> Result<(), Error> {
    let got = format!("{}, which is no run", path.display());
    if opening.which.is_some() {
        return Err(Error::value("--ckpt", "a run, which has checkpoints", got));
    }
    if opening.weights == Weights::Ema {
        return Err(Error::value("--ema", "a run with averaged weights", got));
    }
    Ok(())
}

/// Opens the weights of a model that is no run.
fn open_source(path: &Path) -> Result<ModelSource, Error> {
    let not = |got: &'static str| Err(Error::NotAModel { path: path.into(), got });
    match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => not("nothing"),
        Ok(metadata) if metadata.is_dir() && !path.join("config.json").is_file() => {
            not("a folder without `run.toml` and `config.json`")
        }
        _ => Ok(ModelSource::open(path)?),
    }
}

/// The tokenizer of a model: the one that is named, else its own, else one that lies beside it.
fn tokenizer_of(source: &ModelSource, named: Option<&Path>) -> Result<Tokenizer, Error> {
    let (path, vocab) = (source.path(), source.spec().vocab);
    let tokenizer = match (named, source.kind()) {
        (Some(named), _) => read_tokenizer(named, vocab)?,
        (None, ModelKind::HuggingFace) => Tokenizer::from_folder(path)?,
        (None, ModelKind::Gguf) => {
            let gguf = source.gguf().expect("a model of this kind lies in such a file");
            from_gguf(gguf)?
        }
        (None, ModelKind::Llama2c) => read_tokenizer(&beside(path, vocab)?, vocab)?,
    };
    let known = tokenizer.vocab_size();
    if known > vocab {
        let what = format!("expected at most the {vocab} tokens of the model, got {known}");
        let path = named.unwrap_or(path).to_path_buf();
        return Err(smidgen_data::Error::Tokenizer { path, what }.into());
    }
    Ok(tokenizer)
}

/// Reads a tokenizer by what its name says it is.
fn read_tokenizer(path: &Path, vocab: usize) -> Result<Tokenizer, Error> {
    if path.is_dir() {
        return Ok(Tokenizer::from_folder(path)?);
    }
    let bytes = std::fs::read(path)
        .map_err(|source| smidgen_data::Error::Read { path: path.into(), source })?;
    let extension = path.extension().and_then(|extension| extension.to_str());
    Ok(match extension {
        Some("model") => Tokenizer::from_sentencepiece(&bytes, path)?,
        Some("bin") => Tokenizer::from_llama2c(&bytes, vocab, path)?,
        _ => Tokenizer::from_json(&bytes, path)?,
    })
}

/// The tokenizer beside a file that has none, under one of its usual names.
fn beside(path: &Path, vocab: usize) -> Result<PathBuf, Error> {
    let names = [
        format!("tok{vocab}.bin"),
        format!("tok{vocab}.model"),
        "tokenizer.bin".into(),
        "tokenizer.model".into(),
        "tokenizer.json".into(),
    ];
    let found = names.iter().map(|name| path.with_file_name(name)).find(|path| path.is_file());
    found.ok_or_else(|| Error::NoTokenizer { path: path.into(), names: names.join(", ") })
}

/// The tokenizer inside a GGUF file.
fn from_gguf(file: &GgufFile) -> Result<Tokenizer, Error> {
    let value = |key: &str| file.get(&format!("tokenizer.ggml.{key}"));
    let arrays = ["tokens", "merges", "scores", "token_type"].map(value);
    let [tokens, merges, scores, types] = &arrays;
    let id = |key: &str| value(key).and_then(|value| value.as_u64()?.try_into().ok());
    let text = |key: &str| value(key).and_then(|value| Some(value.as_str()?.to_string().into()));
    let flag = |key: &str| value(key).and_then(|value| value.as_bool());
    let ends = ["eos_token_id", "eot_token_id", "eom_token_id"];
    let vocab = GgufVocab {
        model: text("model").unwrap_or_default(),
        pre: text("pre"),
        tokens: texts(file, "tokens", tokens)?,
        scores: numbers(scores).map(|value| value.as_f64().unwrap_or(0.0) as f32).collect(),
        types: numbers(types).map(|value| value.as_u64().unwrap_or(0) as i32).collect(),
        merges: texts(file, "merges", merges)?,
        bos: id("bos_token_id"),
        ends: ends.iter().filter_map(|key| id(key)).collect(),
        unknown: id("unknown_token_id"),
        add_bos: flag("add_bos_token"),
        add_space_prefix: flag("add_space_prefix"),
    };
    Ok(Tokenizer::from_gguf(&vocab, file.path())?)
}

fn texts<'a>(
    file: &GgufFile,
    key: &str,
    value: &'a Option<GgufValue<'_>>,
) -> Result<Vec<Cow<'a, str>>, Error> {
    let texts = value.as_ref().and_then(GgufValue::as_array).and_then(|array| array.byte_strings());
    let read = texts.into_iter().flatten().map(|text| std::str::from_utf8(text).map(Cow::from));
    read.collect::<Result<_, _>>().map_err(|_| {
        let what = format!("`tokenizer.ggml.{key}`: expected UTF-8 texts, got other bytes");
        smidgen_data::Error::Tokenizer { path: file.path().into(), what }.into()
    })
}

fn numbers<'a>(
    value: &'a Option<GgufValue<'_>>,
) -> impl Iterator<Item = GgufValue<'static>> + use<'a> {
    let array = value.as_ref().and_then(GgufValue::as_array);
    array.and_then(|array| array.numbers()).into_iter().flatten()
}

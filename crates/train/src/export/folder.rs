//! A folder that the matching class of `transformers` loads.

use std::path::Path;

use serde_json::{Value, json};
use smidgen_data::Tokenizer;
use smidgen_model::exchange::{Family, config_of, write_safetensors};
use smidgen_store::{check_new, write_folder, write_json, write_text, write_whole};

use super::{Export, Exported, Told, card, ends};
use crate::{Error, is_run};

/// Writes `config.json`, `model.safetensors`, `tokenizer.json`, `tokenizer_config.json`,
/// `generation_config.json` and `README.md` into the new or empty folder `out`.
///
/// # Errors
/// [`Error::Model`] for a model that no class computes and for formats other than f32, f16 and bf16;
/// [`Error::Store`] where something is there already or cannot be written.
pub fn export_folder(export: Export<'_>, out: &Path) -> Result<Exported, Error> {
    let (model, files) = (export.model, export.files);
    let spec = model.decoder.spec();
    let family = Family::of(spec)?;
    check_new(out)?;
    let tokenizer = export.tokenizer();
    let dtype = match export.format.name() {
        "f16" => "float16",
        "bf16" => "bfloat16",
        _ => "float32",
    };
    let ends = ends(&tokenizer);
    let config = config_of(spec, tokenizer.prefix(), &ends, dtype)?;
    let card = card::text(&export, family)?;
    let Export { from, format, progress, .. } = export;
    write_folder(files, out, |folder| -> Result<(), Error> {
        let file = |name: &str| folder.join(name);
        let weights = file("model.safetensors");
        write_whole(files, &weights, |to| -> Result<(), Error> {
            let mut told = Told::new(to, progress);
            Ok(write_safetensors(&mut told, &weights, spec, &model.params, &format)?)
        })?;
        write_json(files, &file("config.json"), &config)?;
        write_text(files, &file("tokenizer.json"), &tokenizer.to_json())?;
        let tokens = tokenizer_config(&tokenizer, &ends, spec.context, is_run(from));
        write_json(files, &file("tokenizer_config.json"), &tokens)?;
        let generation = generation_config(tokenizer.prefix(), &ends);
        write_json(files, &file("generation_config.json"), &generation)?;
        Ok(write_text(files, &file("README.md"), &card)?)
    })?;
    Ok(Exported { path: out.into(), bytes: bytes(out), kind: family.class, coarser: Vec::new() })
}

/// Bytes of the files in a folder.
fn bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// `is_plain`: text that spells a special token is text, as it was in training.
fn tokenizer_config(tokenizer: &Tokenizer, ends: &[u32], context: usize, is_plain: bool) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.token_name(tokenizer.prefix()),
        "eos_token": tokenizer.token_name(ends[0]),
        "add_bos_token": tokenizer.adds_prefix(),
        "split_special_tokens": is_plain,
        "clean_up_tokenization_spaces": false,
        "model_max_length": context,
    })
}

/// How text is drawn where a person says nothing: as this program does.
fn generation_config(bos: u32, ends: &[u32]) -> Value {
    let sampling = smidgen_model::Sampling::default();
    json!({
        "bos_token_id": bos,
        "eos_token_id": if let [end] = ends { json!(end) } else { json!(ends) },
        "do_sample": true,
        "temperature": f64::from((sampling.temperature * 1000.0).round()) / 1000.0,
        "top_k": sampling.top_k,
        "top_p": f64::from((sampling.top_p * 1000.0).round()) / 1000.0,
        "max_new_tokens": 200,
    })
}

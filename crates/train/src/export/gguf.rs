//! A GGUF file that llama.cpp loads, tokenizer included.

use std::borrow::Cow;
use std::path::Path;

use smidgen_data::GgufVocab;
use smidgen_model::exchange::{Family, metadata_of, write_gguf};
use smidgen_store::{Error as Store, GgufArray, GgufValue, write_whole};

use super::{Export, Exported, Told, ends};
use crate::Error;

/// A token that a vocabulary has a number for and no use.
const UNUSED: i32 = 5;

/// Writes the new file `out`.
///
/// # Errors
/// [`Error::Model`] for a model that no architecture computes and for formats other than f32, f16,
/// bf16 and `q8_0`; [`Error::Store`] where something is there already or the file cannot be written.
pub fn export_gguf(export: Export<'_>, out: &Path) -> Result<Exported, Error> {
    let model = export.model;
    let spec = model.decoder.spec();
    let family = Family::of(spec)?;
    if out.exists() {
        return Err(Store::Exists { path: out.into() }.into());
    }
    // The format's own numbers for "mostly of this type".
    let file_type = match export.format.name() {
        "f16" => 1,
        "q8_0" => 7,
        "bf16" => 32,
        _ => 0,
    };
    let mut keys = metadata_of(spec, &export.name(), file_type)?;
    let tokenizer = export.tokenizer();
    keys.extend(vocab_keys(tokenizer.to_gguf()?, ends(&tokenizer)[0], spec.vocab));
    let Export { files, format, progress, .. } = export;
    let mut coarser = Vec::new();
    write_whole(files, out, |to| -> Result<(), Error> {
        let mut told = Told::new(to, progress);
        coarser = write_gguf(&mut told, out, spec, &model.params, &format, &keys)?;
        Ok(())
    })?;
    let bytes = out.metadata().map_or(0, |metadata| metadata.len());
    Ok(Exported { path: out.into(), bytes, kind: family.arch, coarser })
}

/// The keys of a tokenizer, for a table of `rows` tokens.
fn vocab_keys(vocab: GgufVocab<'_>, end: u32, rows: usize) -> Vec<(String, GgufValue<'static>)> {
    let GgufVocab { mut tokens, mut scores, mut types, merges, .. } = vocab;
    let missing = tokens.len()..rows;
    if !scores.is_empty() {
        scores.resize(rows.max(scores.len()), 0.0);
    }
    types.resize(rows.max(types.len()), UNUSED);
    // Readers take the length of this list for the rows of the table.
    tokens.extend(missing.map(|id| Cow::from(format!("[PAD{id}]"))));
    let texts = |texts: &[Cow<'_, str>]| {
        GgufValue::Array(GgufArray::of_strings(texts.iter().map(|text| text.as_bytes())))
    };
    let list = [
        ("model", Some(GgufValue::from(&*vocab.model))),
        ("pre", vocab.pre.as_deref().map(GgufValue::from)),
        ("tokens", Some(texts(&tokens))),
        ("scores", (!scores.is_empty()).then(|| GgufValue::Array(GgufArray::of_f32s(&scores)))),
        ("token_type", Some(GgufValue::Array(GgufArray::of_i32s(&types)))),
        ("merges", (!merges.is_empty()).then(|| texts(&merges))),
        ("bos_token_id", vocab.bos.map(GgufValue::U32)),
        ("eos_token_id", Some(GgufValue::U32(end))),
        ("unknown_token_id", vocab.unknown.map(GgufValue::U32)),
        ("add_bos_token", vocab.add_bos.map(GgufValue::Bool)),
        ("add_eos_token", Some(GgufValue::Bool(false))),
        ("add_space_prefix", vocab.add_space_prefix.map(GgufValue::Bool)),
    ];
    let named = list.into_iter().filter_map(|(key, value)| Some((key, value?)));
    named.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_more_rows_gets_tokens_without_use() {
        let vocab = GgufVocab {
            model: "gpt2".into(),
            tokens: vec!["a".into(), "b".into()],
            types: vec![1, 3],
            ..GgufVocab::default()
        };
        let keys = vocab_keys(vocab, 1, 4);
        let get = |key: &str| {
            let key = format!("tokenizer.ggml.{key}");
            keys.iter().find(|(known, _)| *known == key).map(|(_, value)| value.clone())
        };
        let tokens = get("tokens").unwrap();
        let tokens: Vec<&[u8]> = tokens.as_array().unwrap().byte_strings().unwrap().collect();
        assert_eq!(tokens, [&b"a"[..], b"b", b"[PAD2]", b"[PAD3]"]);
        let types = get("token_type").unwrap();
        let types = types.as_array().unwrap().numbers().unwrap().map(|value| value.as_u64());
        assert_eq!(types.flatten().collect::<Vec<_>>(), [1, 3, 5, 5]);
        assert_eq!(get("eos_token_id"), Some(GgufValue::U32(1)));
        assert_eq!((get("scores"), get("merges"), get("bos_token_id")), (None, None, None));
    }
}

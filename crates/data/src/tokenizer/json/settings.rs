//! The small parts of a `tokenizer.json`: how text is prepared, cut and decoded.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::tokenizer::pattern::Pattern;
use crate::tokenizer::sentence::{Cut, Lead};

/// Longer than this no setting is, and a parsed value takes many times its text.
const MOST_SETTING_BYTES: usize = 8 << 10;

/// Parses a part; one that is absent is null.
pub(super) fn parse(name: &str, part: Option<&RawValue>) -> Result<Value, String> {
    let text = part.map_or("null", RawValue::get);
    if text.len() > MOST_SETTING_BYTES {
        let got = text.len();
        return Err(format!("`{name}`: expected at most {MOST_SETTING_BYTES} bytes, got {got}"));
    }
    serde_json::from_str(text).map_err(|error| format!("`{name}`: {error}"))
}

/// The `type` of a part; empty for null.
pub(super) fn kind(part: &Value) -> &str {
    part.get("type").and_then(Value::as_str).unwrap_or_default()
}

/// Where words end, for a byte-level tokenizer.
pub(super) fn pattern(pre_tokenizer: &Value) -> Result<&'static Pattern, String> {
    let steps = steps(pre_tokenizer, "pretokenizers");
    let last = steps.last().filter(|last| kind(last) == "ByteLevel");
    let last = last.ok_or_else(|| unsupported("pre_tokenizer", pre_tokenizer))?;
    if flag(last, "add_prefix_space", true) {
        return Err("`pre_tokenizer.add_prefix_space`: only `false` is supported".into());
    }
    match (&steps[..steps.len() - 1], flag(last, "use_regex", true)) {
        ([], true) => Ok(Pattern::gpt2()),
        ([digits], true)
            if kind(digits) == "Digits" && flag(digits, "individual_digits", false) =>
        {
            Ok(Pattern::gpt2_digits())
        }
        ([split], false) if kind(split) == "Split" => split_pattern(split),
        _ => Err(unsupported("pre_tokenizer", pre_tokenizer)),
    }
}

fn split_pattern(split: &Value) -> Result<&'static Pattern, String> {
    let isolated = split.get("behavior").and_then(Value::as_str) == Some("Isolated");
    if !isolated || flag(split, "invert", false) {
        return Err("`pre_tokenizer`: only an isolating split is supported".into());
    }
    let regex = split.pointer("/pattern/Regex").and_then(Value::as_str).unwrap_or_default();
    Pattern::of_regex(regex).ok_or_else(|| {
        format!("`pre_tokenizer`: expected the pattern of {}; got `{regex}`", Pattern::known())
    })
}

/// Whether text is composed (NFC) first; anything else is refused.
pub(super) fn is_composed(normalizer: &Value) -> Result<bool, String> {
    match &*steps(normalizer, "normalizers") {
        [] => Ok(false),
        [only] if kind(only) == "NFC" => Ok(true),
        _ => Err(unsupported("normalizer", normalizer)),
    }
}

/// Blanks of a SentencePiece tokenizer: where one is put, whether that spares a text that begins
/// with one, and where words end if that is said.
pub(super) fn blanks(
    normalizer: &Value,
    pre_tokenizer: &Value,
) -> Result<(Lead, bool, Option<Cut>), String> {
    let normal = steps(normalizer, "normalizers");
    let marks = |step: &Value| {
        kind(step) == "Replace"
            && step.pointer("/pattern/String").and_then(Value::as_str) == Some(" ")
            && text(step, "content") == "▁"
    };
    let prepends = |step: &Value| kind(step) == "Prepend" && text(step, "prepend") == "▁";
    match (&*normal, kind(pre_tokenizer)) {
        ([first, second], "") if prepends(first) && marks(second) => {
            Ok((Lead::Always, false, None))
        }
        ([only], "") if marks(only) => Ok((Lead::Never, false, None)),
        ([], "Metaspace") if text(pre_tokenizer, "replacement") == "▁" => {
            metaspace(pre_tokenizer)
        }
        ([], _) => Err(unsupported("pre_tokenizer", pre_tokenizer)),
        _ => Err(unsupported("normalizer", normalizer)),
    }
}

fn metaspace(part: &Value) -> Result<(Lead, bool, Option<Cut>), String> {
    let old = if flag(part, "add_prefix_space", true) { "always" } else { "never" };
    let lead = match part.get("prepend_scheme").and_then(Value::as_str).unwrap_or(old) {
        "always" => Lead::Always,
        "first" => Lead::First,
        "never" => Lead::Never,
        other => return Err(format!("`pre_tokenizer.prepend_scheme`: unknown `{other}`")),
    };
    Ok((lead, true, flag(part, "split", true).then_some(Cut::Blanks)))
}

/// Whether tokens are spelled in the byte-level alphabet; a decoder of a third kind is refused.
pub(super) fn is_byte_level(decoder: &Value) -> Result<bool, String> {
    match kind(decoder) {
        "ByteLevel" => Ok(true),
        "Metaspace" => Ok(false),
        "Sequence" if steps(decoder, "decoders").iter().any(|step| kind(step) == "Fuse") => {
            Ok(false)
        }
        other => Err(format!(
            "`decoder.type`: expected `ByteLevel`, `Metaspace` or SentencePiece's sequence, got `{other}`"
        )),
    }
}

/// The token that a template puts before a text.
pub(super) fn begin_token(post_processor: &Value) -> Option<u32> {
    let steps = steps(post_processor, "processors");
    let template = steps.iter().find(|step| kind(step) == "TemplateProcessing")?;
    let name = template.pointer("/single/0/SpecialToken/id")?.as_str()?;
    let id = template.get("special_tokens")?.get(name)?.get("ids")?.get(0)?.as_u64()?;
    u32::try_from(id).ok()
}

/// The steps of a sequence, the part itself where it is none, nothing for null.
fn steps<'a>(part: &'a Value, key: &str) -> Vec<&'a Value> {
    match part.get(key).and_then(Value::as_array) {
        Some(steps) if kind(part) == "Sequence" => steps.iter().collect(),
        _ if part.is_null() => Vec::new(),
        _ => vec![part],
    }
}

fn flag(part: &Value, key: &str, default: bool) -> bool {
    part.get(key).and_then(Value::as_bool).unwrap_or(default)
}

fn text<'a>(part: &'a Value, key: &str) -> &'a str {
    part.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn unsupported(name: &str, part: &Value) -> String {
    format!("`{name}` is not supported: {part}")
}

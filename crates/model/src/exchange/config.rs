//! Hugging Face `config.json`: to a [`Spec`] and back.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Family;
use super::fields::{Field, Fields};
use crate::{Error, Spec};

/// Several times the longest description of a model that is computed here. As a tree it takes up to
/// fifty times its bytes, which a damaged file must not decide on.
const MOST_BYTES: usize = 20 << 10;

/// The spec of a `config.json`, and its family; `file` is only named in errors.
///
/// # Errors
/// [`Error::Foreign`] naming the first key that asks for what a decoder here does not compute, and
/// [`Error::Spec`] for sizes that do not fit.
pub fn spec_of_config(text: &[u8], file: &Path) -> Result<(Spec, &'static Family), Error> {
    let bad = |expected: String, got| Error::Foreign {
        file: file.into(),
        key: "config.json".into(),
        expected,
        got,
    };
    if text.len() > MOST_BYTES {
        return Err(bad(format!("at most {MOST_BYTES} bytes"), format!("{} bytes", text.len())));
    }
    let config: Map<String, Value> = serde_json::from_slice(text)
        .map_err(|error| bad("a JSON object".into(), error.to_string()))?;
    let get = |key: &str| field(lookup(&config, key));
    let fields = Fields { file, prefix: "", get: &get };
    let known: Vec<&str> = super::FAMILIES.iter().map(|family| family.model_type).collect();
    let model_type = fields.one_of("model_type", &known)?;
    let family = Family::by_model_type(&model_type).expect("one of the known");
    refuse_what_differs(&fields, family, &config)?;
    let (width, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
    let theta = fields.number_or("rope_theta", 10_000.0)?;
    let spec = Spec {
        vocab: fields.size("vocab_size")?,
        width,
        layers: fields.size("num_hidden_layers")?,
        heads,
        kv_heads: fields.size_or("num_key_value_heads", heads)?,
        head_dim: fields.size_or("head_dim", width / heads.max(1))?,
        ffn: fields.size("intermediate_size")?,
        context: fields.size("max_position_embeddings")?,
        // Newer files keep it here.
        rope_theta: fields.number_or("rope_parameters.rope_theta", theta)?,
        norm_eps: fields.number_or("rms_norm_eps", 1e-6)? as f32,
        qk_norm: family.qk_norm,
        qkv_bias: family.qkv_bias,
        tied: fields.bool_or("tie_word_embeddings", false)?,
    };
    spec.validate()?;
    Ok((spec, family))
}

/// The value of a dotted key.
fn lookup<'a>(config: &'a Map<String, Value>, key: &str) -> &'a Value {
    let mut parts = key.split('.');
    let first = parts.next().and_then(|part| config.get(part));
    let value = parts.try_fold(first.unwrap_or(&Value::Null), |value, part| value.get(part));
    value.unwrap_or(&Value::Null)
}

fn field(value: &Value) -> Field {
    match value {
        Value::Null => Field::None,
        Value::Bool(value) => Field::Bool(*value),
        Value::String(text) => Field::Text(text.clone()),
        Value::Number(number) => match (number.as_u64(), number.as_f64()) {
            (Some(whole), _) => Field::Whole(whole),
            (None, Some(fraction)) => Field::Fraction(fraction),
            (None, None) => Field::Other(number.to_string()),
        },
        other => Field::Other(other.to_string()),
    }
}

/// Keys that multiply or cap something in other families; none of ours has them.
const SCALES: [&str; 7] = [
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "attention_multiplier",
    "embedding_multiplier",
    "residual_multiplier",
];

fn refuse_what_differs(
    fields: &Fields<'_>,
    family: &Family,
    config: &Map<String, Value>,
) -> Result<(), Error> {
    if let Some(Value::Array(classes)) = config.get("architectures")
        && !classes.iter().any(|class| class == family.class)
    {
        let got = Field::Other(Value::from(classes.clone()).to_string());
        return Err(fields.wrong("architectures", format!("`{}`", family.class), &got));
    }
    let is = |wanted: Field| move |got: &Field| *got == wanted;
    let is_one = |got: &Field| matches!(got, Field::Whole(1) | Field::Fraction(1.0));
    fields.refuse("hidden_act", "`silu`", is(Field::Text("silu".into())))?;
    fields.refuse("attention_bias", "false", is(Field::Bool(false)))?;
    fields.refuse("mlp_bias", "false", is(Field::Bool(false)))?;
    for rope in ["rope_scaling", "rope_parameters"] {
        let kinds = ["rope_type", "type"].map(|key| format!("{rope}.{key}"));
        let default = |got: &Field| *got == Field::Text("default".into());
        for kind in &kinds {
            fields.refuse(kind, "`default`, no scaled positions", default)?;
        }
        let named = kinds.iter().any(|kind| *lookup(config, kind) != Value::Null);
        fields.refuse(rope, "none, or one of a `rope_type`", |_| named)?;
        fields.refuse(
            &format!("{rope}.partial_rotary_factor"),
            "1: all of a head turns",
            is_one,
        )?;
    }
    fields.refuse("partial_rotary_factor", "1: all of a head turns", is_one)?;
    refuse_windows(fields, config)?;
    for key in ["num_local_experts", "num_experts", "n_routed_experts"] {
        fields.refuse(key, "no experts", |got| matches!(got, Field::Whole(0)))?;
    }
    for key in SCALES {
        fields.refuse(key, "none", is_one)?;
    }
    fields.refuse("quantization_config", "weights that are not quantised", |_| false)
}

/// A window over all positions is none; a narrower one is not computed here.
fn refuse_windows(fields: &Fields<'_>, config: &Map<String, Value>) -> Result<(), Error> {
    // Where the switch is missing, the window alone decides, as in the Mistral family.
    if !fields.bool_or("use_sliding_window", true)? {
        return Ok(());
    }
    let context = fields.size("max_position_embeddings")? as u64;
    let expected = format!("none, or one of at least {context} positions");
    let wide = |got: &Field| matches!(got, Field::Whole(window) if *window >= context);
    fields.refuse("sliding_window", &expected, wide)?;
    let layers = config.get("layer_types").and_then(Value::as_array);
    let is_other =
        |kind: &&Value| !["full_attention", "sliding_attention"].map(Value::from).contains(*kind);
    match layers.into_iter().flatten().find(is_other) {
        Some(kind) => Err(fields.wrong("layer_types", "`full_attention`", &field(kind))),
        None => Ok(()),
    }
}

/// The `config.json` of a spec, for the class of its family. `bos` and `eos` are token ids; `dtype`
/// is the format of the weights: `float32`, `float16`, `bfloat16`.
///
/// # Errors
/// [`Error::NoFamily`].
pub fn config_of(spec: &Spec, bos: u32, eos: &[u32], dtype: &str) -> Result<Value, Error> {
    let family = Family::of(spec)?;
    let mut config = json!({
        "architectures": [family.class],
        "model_type": family.model_type,
        "vocab_size": spec.vocab,
        "hidden_size": spec.width,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "intermediate_size": spec.ffn,
        "max_position_embeddings": spec.context,
        "rope_theta": spec.rope_theta,
        "rope_scaling": null,
        "rms_norm_eps": shortest(spec.norm_eps),
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": spec.tied,
        "use_cache": true,
        "bos_token_id": bos,
        "eos_token_id": one_or_all(eos),
        "torch_dtype": dtype,
    });
    let more = match family.model_type {
        "llama" => json!({ "attention_bias": false, "mlp_bias": false }),
        "qwen3" => json!({ "attention_bias": false, "use_sliding_window": false }),
        _ => json!({ "use_sliding_window": false }),
    };
    let (config_map, more) = (config.as_object_mut(), more.as_object().cloned());
    config_map.expect("an object").extend(more.expect("an object"));
    Ok(config)
}

/// An f32 as a person wrote it: 0.00001 and not 0.000009999999747378752.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().expect("a number in digits is a number")
}

/// How ids are written where one is usual and several are legal.
pub(crate) fn one_or_all(ids: &[u32]) -> Value {
    if let [id] = ids { Value::from(*id) } else { Value::from(ids) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(config: &Value) -> Result<Spec, Error> {
        let text = config.to_string();
        spec_of_config(text.as_bytes(), Path::new("config.json")).map(|(spec, _)| spec)
    }

    #[test]
    fn every_spec_comes_back() {
        let plain = Spec { kv_heads: 2, norm_eps: 1e-6, ..Spec::new(100, 64, 2, 4, 128, 32) };
        let wide = Spec { head_dim: 32, tied: true, rope_theta: 1e6, ..plain.clone() };
        let bias = Spec { qkv_bias: true, ..plain.clone() };
        let norm = Spec { qk_norm: true, ..plain.clone() };
        for spec in [plain, wide, bias, norm] {
            let config = config_of(&spec, 1, &[2], "float32").unwrap();
            assert_eq!(read(&config).unwrap(), spec);
        }
    }

    #[test]
    fn what_differs_is_refused_by_name() {
        let spec = Spec::new(100, 64, 2, 4, 128, 32);
        let good = config_of(&spec, 1, &[2], "float32").unwrap();
        let cases = [
            ("model_type", json!("gemma")),
            ("architectures", json!(["LlamaForSequenceClassification"])),
            ("hidden_act", json!("gelu")),
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("rope_scaling", json!({ "factor": 2.0 })),
            ("rope_scaling.rope_type", json!({ "rope_type": "llama3" })),
            ("rope_scaling.type", json!({ "type": "linear", "factor": 2.0 })),
            ("rope_parameters.rope_type", json!({ "rope_type": "yarn" })),
            ("partial_rotary_factor", json!(0.4)),
            ("sliding_window", json!(16)),
            ("layer_types", json!(["linear_attention"])),
            ("num_local_experts", json!(8)),
            ("logit_scale", json!(0.0625)),
            ("quantization_config", json!({ "quant_method": "gptq" })),
            ("hidden_size", json!("wide")),
            ("vocab_size", json!(-1)),
            ("rms_norm_eps", json!([1e-6])),
            ("num_hidden_layers", json!(1u64 << 40)),
        ];
        for (key, value) in cases {
            let mut config = good.clone();
            config[key.split('.').next().unwrap()] = value;
            let message = read(&config).unwrap_err().to_string();
            assert!(
                message.starts_with(&format!("`{key}` in config.json: expected ")),
                "{message}"
            );
        }
        let mut missing = good.clone();
        missing.as_object_mut().unwrap().remove("vocab_size");
        assert!(read(&missing).unwrap_err().to_string().contains("got none"));
        assert!(matches!(read(&json!([])), Err(Error::Foreign { .. })));
        missing["note"] = json!("x".repeat(MOST_BYTES));
        assert!(read(&missing).unwrap_err().to_string().contains("expected at most"));
    }

    #[test]
    fn what_changes_nothing_is_accepted() {
        let spec = Spec::new(100, 64, 2, 4, 128, 32);
        let good = config_of(&spec, 1, &[2], "float32").unwrap();
        for (key, value) in [
            ("sliding_window", json!(32)),
            ("layer_types", json!(["full_attention", "full_attention"])),
            ("rope_scaling", json!({ "rope_type": "default" })),
            ("rope_parameters", json!({ "rope_type": "default", "rope_theta": 10000 })),
            ("num_experts", json!(0)),
        ] {
            let mut config = good.clone();
            config[key] = value;
            assert_eq!(read(&config).unwrap(), spec, "{key}");
        }
    }
}

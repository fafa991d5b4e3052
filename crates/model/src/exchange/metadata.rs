//! Keys of a GGUF file: to a [`Spec`] and back.

use smidgen_store::{GgufFile, GgufValue};

use super::Family;
use super::fields::{Field, Fields};
use crate::{Error, Spec};

/// The spec of a GGUF file, and its family.
///
/// # Errors
/// [`Error::Foreign`] naming the first key that asks for what a decoder here does not compute, and
/// [`Error::Spec`] for sizes that do not fit.
pub fn spec_of_gguf(gguf: &GgufFile) -> Result<(Spec, &'static Family), Error> {
    let get = |key: &str| gguf.get(key).map_or(Field::None, field);
    let general = Fields { file: gguf.path(), prefix: "", get: &get };
    let known: Vec<&str> = ["llama", "qwen2", "qwen3"].into();
    let arch = general.one_of("general.architecture", &known)?;
    let family = Family::by_arch(&arch).expect("one of the known");
    let prefix = format!("{arch}.");
    let fields = Fields { prefix: &prefix, ..general };
    refuse_what_differs(&fields)?;
    let (width, heads) = (fields.size("embedding_length")?, fields.size("attention.head_count")?);
    let head_dim = fields.size_or("attention.key_length", width / heads.max(1))?;
    let same = |got: &Field| *got == Field::Whole(head_dim as u64);
    let expected = format!("{head_dim}, as for keys");
    fields.refuse("attention.value_length", &expected, same)?;
    let expected = format!("{head_dim}: all of a head turns");
    fields.refuse("rope.dimension_count", &expected, same)?;
    let has = |name: &str| gguf.tensor(name).is_ok();
    let spec = Spec {
        vocab: vocab(gguf)?,
        width,
        layers: fields.size("block_count")?,
        heads,
        kv_heads: fields.size_or("attention.head_count_kv", heads)?,
        head_dim,
        ffn: fields.size("feed_forward_length")?,
        context: fields.size("context_length")?,
        rope_theta: fields.number_or("rope.freq_base", 10_000.0)?,
        norm_eps: fields.number_or("attention.layer_norm_rms_epsilon", 1e-5)? as f32,
        qk_norm: family.qk_norm,
        // Files of the `llama` kind may have biases, too.
        qkv_bias: family.qkv_bias || has("blk.0.attn_q.bias"),
        tied: !has("output.weight"),
    };
    spec.validate()?;
    Ok((spec, family))
}

fn field(value: GgufValue<'_>) -> Field {
    match &value {
        GgufValue::Bool(value) => Field::Bool(*value),
        GgufValue::Str(text) => Field::Text(text.to_string()),
        other => match (other.as_u64(), other.as_f64()) {
            (Some(whole), _) => Field::Whole(whole),
            // As it was written: an eps of 1e-5 is one in 32 bits.
            (None, Some(fraction)) => Field::Fraction(fraction),
            (None, None) => Field::Other("an array".into()),
        },
    }
}

fn refuse_what_differs(fields: &Fields<'_>) -> Result<(), Error> {
    let is_one = |got: &Field| matches!(got, Field::Whole(1) | Field::Fraction(1.0));
    let is_zero = |got: &Field| *got == Field::Whole(0);
    fields.refuse("expert_count", "no experts", is_zero)?;
    let none = |got: &Field| *got == Field::Text("none".into());
    fields.refuse("rope.scaling.type", "`none`, no scaled positions", none)?;
    fields.refuse("rope.scale_linear", "1, no scaled positions", is_one)?;
    fields.refuse("attention.causal", "true", |got| *got == Field::Bool(true))?;
    for key in ["logit_scale", "attention.scale", "residual_scale", "embedding_scale"] {
        fields.refuse(key, "none", is_one)?;
    }
    let context = fields.size("context_length")? as u64;
    let expected = format!("none, or one of at least {context} positions");
    let wide =
        |got: &Field| matches!(got, Field::Whole(window) if *window == 0 || *window >= context);
    fields.refuse("attention.sliding_window", &expected, wide)
}

/// Rows of the embedding: the vocabulary that the weights are made for.
fn vocab(gguf: &GgufFile) -> Result<usize, Error> {
    let rows = gguf.tensor("token_embd.weight")?.dims.get(1).copied().unwrap_or(1);
    Ok(usize::try_from(rows).unwrap_or(usize::MAX))
}

/// The keys of a spec, those of the tokenizer left out. `file_type` is the format's number for the
/// type of most weights.
///
/// # Errors
/// [`Error::NoFamily`].
pub fn metadata_of(
    spec: &Spec,
    name: &str,
    file_type: u32,
) -> Result<Vec<(String, GgufValue<'static>)>, Error> {
    let arch = Family::of(spec)?.arch;
    let count = |value: usize| GgufValue::U32(value as u32);
    let general = [
        ("general.architecture", GgufValue::from(arch)),
        ("general.type", GgufValue::from("model")),
        ("general.name", GgufValue::from(name)),
        ("general.file_type", GgufValue::U32(file_type)),
        ("general.quantization_version", GgufValue::U32(2)),
    ];
    let own = [
        ("vocab_size", count(spec.vocab)),
        ("context_length", count(spec.context)),
        ("embedding_length", count(spec.width)),
        ("block_count", count(spec.layers)),
        ("feed_forward_length", count(spec.ffn)),
        ("attention.head_count", count(spec.heads)),
        ("attention.head_count_kv", count(spec.kv_heads)),
        ("attention.key_length", count(spec.head_dim)),
        ("attention.value_length", count(spec.head_dim)),
        ("attention.layer_norm_rms_epsilon", GgufValue::F32(spec.norm_eps)),
        ("rope.dimension_count", count(spec.head_dim)),
        ("rope.freq_base", GgufValue::F32(spec.rope_theta as f32)),
    ];
    let general = general.into_iter().map(|(key, value)| (key.to_string(), value));
    let own = own.into_iter().map(|(key, value)| (format!("{arch}.{key}"), value));
    Ok(general.chain(own).collect())
}

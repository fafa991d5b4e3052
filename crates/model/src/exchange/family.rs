//! The families of decoders that other programs know.

use crate::{Error, Spec};

/// One family: its names elsewhere, and what its attention adds.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// `model_type` of a Hugging Face `config.json`.
    pub model_type: &'static str,
    /// The class of `transformers` that loads it.
    pub class: &'static str,
    /// `general.architecture` of a GGUF file.
    pub arch: &'static str,
    /// Whether the query, key and value maps have biases.
    pub qkv_bias: bool,
    /// Whether queries and keys are normalised per head.
    pub qk_norm: bool,
    /// Whether GGUF holds the rows of queries and keys in the order of pairs that turn together.
    pub paired_rows: bool,
}

/// Every family. For an export the first one that fits is taken.
pub static FAMILIES: &[Family] = &[
    Family {
        model_type: "llama",
        class: "LlamaForCausalLM",
        arch: "llama",
        qkv_bias: false,
        qk_norm: false,
        paired_rows: true,
    },
    Family {
        model_type: "mistral",
        class: "MistralForCausalLM",
        arch: "llama",
        qkv_bias: false,
        qk_norm: false,
        paired_rows: true,
    },
    Family {
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        arch: "qwen2",
        qkv_bias: true,
        qk_norm: false,
        paired_rows: false,
    },
    Family {
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        arch: "qwen3",
        qkv_bias: false,
        qk_norm: true,
        paired_rows: false,
    },
];

impl Family {
    /// The family that computes what a spec says.
    ///
    /// # Errors
    /// [`Error::NoFamily`] for biases and norms of queries and keys at once, which none has.
    pub fn of(spec: &Spec) -> Result<&'static Family, Error> {
        let fits =
            |family: &&Family| (family.qkv_bias, family.qk_norm) == (spec.qkv_bias, spec.qk_norm);
        FAMILIES.iter().find(fits).ok_or(Error::NoFamily)
    }

    pub(crate) fn by_model_type(name: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|family| family.model_type == name)
    }

    pub(crate) fn by_arch(name: &str) -> Option<&'static Family> {
        FAMILIES.iter().find(|family| family.arch == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_family_that_fits_is_taken() {
        let plain = Spec::new(100, 64, 2, 4, 128, 32);
        let class = |spec: Spec| Family::of(&spec).map(|family| family.class);
        assert_eq!(class(plain.clone()).unwrap(), "LlamaForCausalLM");
        let bias = Spec { qkv_bias: true, ..plain.clone() };
        assert_eq!(class(bias.clone()).unwrap(), "Qwen2ForCausalLM");
        assert_eq!(class(Spec { qk_norm: true, ..plain }).unwrap(), "Qwen3ForCausalLM");
        let error = class(Spec { qk_norm: true, ..bias }).unwrap_err().to_string();
        assert!(error.contains("`qkv_bias`") && error.contains("`qk_norm`"), "{error}");
    }
}

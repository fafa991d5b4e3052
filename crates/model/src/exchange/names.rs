//! What parameters are called elsewhere.

/// Ours, Hugging Face's, GGUF's; outside blocks.
const WHOLE: [[&str; 3]; 3] = [
    ["embed.weight", "model.embed_tokens.weight", "token_embd.weight"],
    ["norm.weight", "model.norm.weight", "output_norm.weight"],
    ["head.weight", "lm_head.weight", "output.weight"],
];

/// The same inside a block, behind `layers.N.`, `model.layers.N.` and `blk.N.`.
const BLOCK: [[&str; 3]; 14] = [
    ["attn.norm.weight", "input_layernorm.weight", "attn_norm.weight"],
    ["attn.q.weight", "self_attn.q_proj.weight", "attn_q.weight"],
    ["attn.q.bias", "self_attn.q_proj.bias", "attn_q.bias"],
    ["attn.k.weight", "self_attn.k_proj.weight", "attn_k.weight"],
    ["attn.k.bias", "self_attn.k_proj.bias", "attn_k.bias"],
    ["attn.v.weight", "self_attn.v_proj.weight", "attn_v.weight"],
    ["attn.v.bias", "self_attn.v_proj.bias", "attn_v.bias"],
    ["attn.q_norm.weight", "self_attn.q_norm.weight", "attn_q_norm.weight"],
    ["attn.k_norm.weight", "self_attn.k_norm.weight", "attn_k_norm.weight"],
    ["attn.o.weight", "self_attn.o_proj.weight", "attn_output.weight"],
    ["mlp.norm.weight", "post_attention_layernorm.weight", "ffn_norm.weight"],
    ["mlp.gate.weight", "mlp.gate_proj.weight", "ffn_gate.weight"],
    ["mlp.up.weight", "mlp.up_proj.weight", "ffn_up.weight"],
    ["mlp.down.weight", "mlp.down_proj.weight", "ffn_down.weight"],
];

/// A scheme of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    HuggingFace = 1,
    Gguf = 2,
}

impl Scheme {
    /// The name of one of our parameters in this scheme.
    pub(super) fn name(self, ours: &str) -> String {
        let column = self as usize;
        let known = "every parameter of a decoder is in the tables";
        let Some((layer, rest)) = layer_of(ours) else {
            let row = WHOLE.iter().find(|row| row[0] == ours).expect(known);
            return row[column].to_string();
        };
        let row = BLOCK.iter().find(|row| row[0] == rest).expect(known);
        match self {
            Scheme::HuggingFace => format!("model.layers.{layer}.{}", row[column]),
            Scheme::Gguf => format!("blk.{layer}.{}", row[column]),
        }
    }
}

/// The layer of a parameter of a block, and the rest of its name.
pub(super) fn layer_of(ours: &str) -> Option<(&str, &str)> {
    ours.strip_prefix("layers.")?.split_once('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Spec;

    #[test]
    fn every_parameter_has_a_name_of_its_own_elsewhere() {
        let spec = Spec { qk_norm: true, qkv_bias: true, ..Spec::new(10, 8, 11, 2, 8, 4) };
        for scheme in [Scheme::HuggingFace, Scheme::Gguf] {
            let names: std::collections::HashSet<String> =
                spec.params().iter().map(|param| scheme.name(&param.name)).collect();
            assert_eq!(names.len(), spec.params().len());
        }
        let names = [Scheme::HuggingFace, Scheme::Gguf].map(|s| s.name("layers.10.attn.o.weight"));
        assert_eq!(names, ["model.layers.10.self_attn.o_proj.weight", "blk.10.attn_output.weight"]);
    }
}

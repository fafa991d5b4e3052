//! The parameters of a decoder by name, without allocating them: what plans count.

use smidgen_model::Spec;
use smidgen_optim::{ParamSpec, Role};

/// Names, shapes and roles in the order of [`smidgen_model::Decoder::new`].
pub(crate) fn param_specs(spec: &Spec) -> Vec<ParamSpec> {
    let (d, e) = (spec.width, spec.head_dim);
    let (q, kv) = (spec.heads * e, spec.kv_heads * e);
    let mut list = vec![ParamSpec::new("embed.weight", [spec.vocab, d], Role::Embedding)];
    for layer in 0..spec.layers {
        let mut add = |name: &str, role, shape| {
            list.push(ParamSpec::new(format!("layers.{layer}.{name}"), shape, role));
        };
        add("attn.norm.weight", Role::Norm, [1, d]);
        for (name, out) in [("q", q), ("k", kv), ("v", kv)] {
            add(&format!("attn.{name}.weight"), Role::MatrixHidden, [out, d]);
            if spec.qkv_bias {
                add(&format!("attn.{name}.bias"), Role::Bias, [1, out]);
            }
        }
        if spec.qk_norm {
            add("attn.q_norm.weight", Role::Norm, [1, e]);
            add("attn.k_norm.weight", Role::Norm, [1, e]);
        }
        add("attn.o.weight", Role::MatrixHidden, [d, q]);
        add("mlp.norm.weight", Role::Norm, [1, d]);
        add("mlp.gate.weight", Role::MatrixHidden, [spec.ffn, d]);
        add("mlp.up.weight", Role::MatrixHidden, [spec.ffn, d]);
        add("mlp.down.weight", Role::MatrixHidden, [d, spec.ffn]);
    }
    list.push(ParamSpec::new("norm.weight", [1, d], Role::Norm));
    if !spec.tied {
        list.push(ParamSpec::new("head.weight", [spec.vocab, d], Role::Head));
    }
    list
}

/// The optimizer's word for the engine's role.
pub(crate) fn role(role: smidgen_tensor::Role) -> Role {
    use smidgen_tensor::Role as From;
    match role {
        From::MatrixHidden => Role::MatrixHidden,
        From::Embedding => Role::Embedding,
        From::Head => Role::Head,
        From::Norm => Role::Norm,
        From::Bias => Role::Bias,
        From::Scalar => Role::Scalar,
        From::LoraA => Role::LoraA,
        From::LoraB => Role::LoraB,
        From::Gate => Role::Gate,
        From::Mhc => Role::Mhc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smidgen_codec::Ledger;
    use smidgen_model::Decoder;
    use smidgen_tensor::{Device, Params};

    #[test]
    fn the_list_is_that_of_the_decoder() {
        let tiny = Spec::preset("tiny").unwrap();
        let other =
            Spec { tied: false, qk_norm: true, qkv_bias: true, kv_heads: 2, ..tiny.clone() };
        for spec in [tiny, other] {
            let mut params = Params::new();
            Decoder::new(&Device::cpu(Ledger::new(), 1), spec.clone(), &mut params).unwrap();
            let real = params.iter().map(|(_, param)| {
                ParamSpec::new(param.name.clone(), param.value.shape(), role(param.role))
            });
            assert_eq!(param_specs(&spec), real.collect::<Vec<_>>());
        }
    }
}

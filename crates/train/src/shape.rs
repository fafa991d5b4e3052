//! The parameters of a decoder by name, without allocating them: what plans count.

use smidgen_model::{ParamShape, Spec};
use smidgen_optim::{ParamSpec, Role, Weights};
use smidgen_tensor::Format;

/// Names, shapes and roles in the order of [`smidgen_model::Decoder::new`], with matrices and tables
/// kept as `weights` says.
pub(crate) fn param_specs(spec: &Spec, weights: Weights) -> Vec<ParamSpec> {
    let one = |param: ParamShape| {
        let narrow = param.role.kept_in(Format::Bf16) == Format::Bf16;
        let weights = if narrow { weights } else { Weights::F32 };
        ParamSpec { weights, ..ParamSpec::new(param.name, param.shape, role(param.role)) }
    };
    spec.params().into_iter().map(one).collect()
}

/// The format of a parameter's values, without what updates keep beside them.
pub(crate) fn format(weights: Weights) -> Format {
    match weights {
        Weights::F32 => Format::F32,
        Weights::Bf16 | Weights::Kahan => Format::Bf16,
    }
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
            assert_eq!(param_specs(&spec, Weights::F32), real.collect::<Vec<_>>());
        }
    }
}

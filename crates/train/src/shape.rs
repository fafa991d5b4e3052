//! The parameters of a decoder by name, without allocating them: what plans count.

use smidgen_model::Spec;
use smidgen_optim::{ParamSpec, Role};

/// Names, shapes and roles in the order of [`smidgen_model::Decoder::new`].
pub(crate) fn param_specs(spec: &Spec) -> Vec<ParamSpec> {
    let params = spec.params().into_iter();
    params.map(|param| ParamSpec::new(param.name, param.shape, role(param.role))).collect()
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

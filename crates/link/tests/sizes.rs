//! What planners count with is what the encoder makes, to the byte.

use proptest::prelude::*;
use smidgen_codec::Rng;
use smidgen_link::plan::{self, ByteModel, ContainerModel, Layout, Recipe, Tokens};
use smidgen_link::{KvShape, KvView, wire};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]
    #[test]
    fn sizes_equal_the_encoder(
        layers in 1usize..7, heads in 1usize..4, kd in 1usize..20, vd in 1usize..20,
        tokens in 1usize..400, seed in 0u64..1_000_000, g in 0u16..6, size in 1u16..9,
        align8 in any::<bool>(), wide in any::<bool>(), per_layer in any::<bool>(), groups in 1usize..4,
    ) {
        let shape = KvShape { layers, kv_heads: heads, key_dim: kd, value_dim: vd };
        let rng = Rng::named(seed, "join");
        let all: Vec<plan::Precision> = plan::Precision::all().collect();
        let halves: Vec<[bool; 2]> = (0..layers as u64).map(|l| {
            match rng.below(0, 7, l, 8) { 0 => [false, false], 1 => [true, false], 2 => [false, true], _ => [true, true] }
        }).collect();
        prop_assume!(halves.iter().any(|h| h[0] || h[1]));
        let recipes: Vec<Recipe> = (0..groups as u64).map(|m| Recipe { layers: (0..layers as u64).map(|l| {
            let layer = if rng.below(0, 8, m, 2) == 0 { 0 } else { l };
            let pick = |half: u64| all[rng.below(m, 9 + half, layer, 10) as usize];
            let h = halves[l as usize];
            plan::LayerPrecision { key: h[0].then(|| pick(0)), value: h[1].then(|| pick(1)) }
        }).collect() }).collect();
        let granularity = [plan::Granularity::Tensor, plan::Granularity::Layer, plan::Granularity::Head, plan::Granularity::Block, plan::Granularity::Group(size), plan::Granularity::Channel(size)][g as usize];
        let layout = Layout { granularity, scale_bytes: if wide { 4 } else { 2 }, align8, block_layers: None, per_layer_index: per_layer, compact: false };
        let model = ContainerModel::new(shape, tokens, layout, recipes.clone()).unwrap();
        let sent = recipes[0].sent();
        let density = 1 + rng.below(0, 3, 0, 6);
        let lists: Vec<Vec<Vec<u32>>> = (0..groups as u64).map(|m| (0..sent.len() as u64).map(|l| {
            let l = if per_layer { l } else { 0 };
            (0..tokens as u32).filter(|t| {
                let d = rng.below(1, 4 + l, u64::from(*t) / (1 + rng.below(0,5,0,9)), groups as u64 * density);
                d == m
            }).collect()
        }).collect()).collect();
        prop_assume!(lists.iter().flatten().all(|l: &Vec<u32>| !l.is_empty()));
        let mine: Vec<plan::Group<'_>> = lists.iter().enumerate().map(|(recipe, lists)| plan::Group {
            recipe, tokens: if per_layer { Tokens::PerLayer(lists) } else { Tokens::Shared(&lists[0]) },
        }).collect();
        let b = model.block_layers();
        let theirs = lists.iter().zip(&recipes).map(|(lists, recipe)| {
            let pairs: Vec<wire::Pair> = sent.chunks(b).map(|c| { let p = recipe.layers[c[0]]; wire::Pair { keys: p.key, values: p.value } }).collect();
            wire::Group {
                tokens: if per_layer { wire::PerBlock::Each(lists.clone()) } else { wire::PerBlock::Same(lists[0].clone()) },
                precision: wire::PerBlock::Each(pairs),
            }
        }).collect();
        let mut plan = wire::Plan::new(layers, theirs);
        plan.layers = sent.iter().map(|l| *l as u16).collect();
        plan.granularity = granularity;
        plan.scale = if wide { wire::ScaleType::F32 } else { wire::ScaleType::F16 };
        plan.align8 = align8;
        plan.layers_per_block = b;
        let exact = model.wire_bytes(&mine).unwrap();
        prop_assert_eq!(exact, wire::wire_bytes(shape, tokens, &plan).unwrap());
        let model = ContainerModel::new(shape, tokens, Layout { compact: true, ..layout }, recipes.clone());
        let is_even = !per_layer && recipes.iter().all(|r| sent.iter().all(|l| r.layers[*l] == r.layers[sent[0]]));
        prop_assert_eq!(model.is_ok(), is_even);
        if let Ok(model) = model {
            prop_assert_eq!(model.wire_bytes(&mine).unwrap(), wire::compact_bytes(shape, tokens, &plan).unwrap());
        }
        if tokens < 60 {
            let mut keys = vec![0.0; layers * tokens * heads * kd];
            let mut values = vec![0.0; layers * tokens * heads * vd];
            rng.fill_normal(1, 0, 1.0, &mut keys);
            rng.fill_normal(2, 0, 1.0, &mut values);
            let view = KvView::new(shape, tokens, &keys, &values).unwrap();
            prop_assert_eq!(wire::encode(&smidgen_tensor::Device::cpu(smidgen_codec::Ledger::new(), 1), view, &plan).unwrap().len() as u64, exact);
        }
    }
}

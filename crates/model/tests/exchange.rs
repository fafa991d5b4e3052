//! Models of other programs, in and out: the same weights, the same logits.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use smidgen_codec::{Format, Ledger, Packed, Rng, Rounding, Stream};
use smidgen_model::exchange::{
    FAMILIES, ModelKind, ModelSource, config_of, metadata_of, spec_of_config, write_gguf,
    write_safetensors,
};
use smidgen_model::{Decoder, Session, Spec};
use smidgen_tensor::{Compute, Device, Params, Role};

fn device() -> Device {
    Device::cpu(Ledger::new(), 1)
}

/// A decoder with values in every parameter, norms and biases included.
fn model(spec: Spec) -> (Decoder, Params) {
    let mut params = Params::new();
    let decoder = Decoder::new(&device(), spec, &mut params).unwrap();
    let rng = Rng::new(3, Stream::Init);
    for (id, param) in params.iter_mut() {
        let (mean, std) = if param.role == Role::Norm { (1.0, 0.1) } else { (0.0, 0.08) };
        rng.fill_normal(id.index() as u64, 0, std, param.value.slice_mut());
        param.value.slice_mut::<f32>().iter_mut().for_each(|value| *value += mean);
    }
    (decoder, params)
}

/// One of each family, tied and not, with heads of another size than the width gives.
fn specs() -> Vec<Spec> {
    let plain = Spec { kv_heads: 2, ..Spec::new(70, 64, 2, 4, 96, 32) };
    vec![
        Spec { tied: true, ..plain.clone() },
        Spec { qkv_bias: true, rope_theta: 1e6, ..plain.clone() },
        Spec { qk_norm: true, head_dim: 32, ..plain.clone() },
        plain,
    ]
}

fn save_folder(dir: &Path, decoder: &Decoder, params: &Params, format: &Format) {
    let config = config_of(decoder.spec(), 1, &[2], "float32").unwrap();
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let path = dir.join("model.safetensors");
    let mut file = fs::File::create(&path).unwrap();
    write_safetensors(&mut file, &path, decoder.spec(), params, format).unwrap();
}

fn save_gguf(path: &Path, decoder: &Decoder, params: &Params, format: &Format) -> Vec<String> {
    let keys = metadata_of(decoder.spec(), "test", 0).unwrap();
    let mut file = fs::File::create(path).unwrap();
    write_gguf(&mut file, path, decoder.spec(), params, format, &keys).unwrap()
}

fn load(source: &ModelSource) -> (Decoder, Params) {
    let mut params = Params::new();
    let decoder = Decoder::new(&device(), source.spec().clone(), &mut params).unwrap();
    source.load(&device(), &mut params).unwrap();
    (decoder, params)
}

fn logits(decoder: &Decoder, params: &Params) -> Vec<f32> {
    let mut session = Session::new(&device(), Compute::F32, decoder, params, 8).unwrap();
    session.feed(&[1, 5, 9, 2, 33]).unwrap()
}

/// The parameters after a trip through a format, as an exporter should leave them.
fn rounded(params: &mut Params, format: &Format, vectors: bool) {
    for (_, param) in params.iter_mut() {
        let is_vector = matches!(param.role, Role::Norm | Role::Bias);
        if is_vector && !vectors {
            continue;
        }
        let (shape, values) = (param.value.shape(), param.value.slice_mut::<f32>());
        let packed = Packed::encode(format.clone(), shape, values, Rounding::Nearest).unwrap();
        packed.decode_into(values).unwrap();
    }
}

#[test]
fn folders_come_back_with_equal_logits() {
    for spec in specs() {
        for format in [Format::F32, Format::F16, Format::BF16] {
            let dir = tempfile::tempdir().unwrap();
            let (decoder, mut params) = model(spec.clone());
            save_folder(dir.path(), &decoder, &params, &format);
            let source = ModelSource::open(dir.path()).unwrap();
            assert_eq!((source.kind(), source.spec()), (ModelKind::HuggingFace, &spec));
            rounded(&mut params, &format, true);
            let (theirs, loaded) = load(&source);
            assert_eq!(logits(&theirs, &loaded), logits(&decoder, &params), "{format} {spec:?}");
        }
    }
}

#[test]
fn gguf_comes_back_with_equal_logits() {
    for spec in specs() {
        for format in [Format::F32, Format::F16, Format::BF16, Format::Q8_0] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("m.gguf");
            let (decoder, mut params) = model(spec.clone());
            assert!(save_gguf(&path, &decoder, &params, &format).is_empty());
            let source = ModelSource::open(&path).unwrap();
            assert_eq!((source.kind(), source.spec()), (ModelKind::Gguf, &spec));
            rounded(&mut params, &format, false);
            let (theirs, loaded) = load(&source);
            assert_eq!(logits(&theirs, &loaded), logits(&decoder, &params), "{format} {spec:?}");
        }
    }
}

#[test]
fn rows_that_are_no_blocks_are_f16_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let (decoder, params) = model(Spec::new(70, 64, 1, 4, 100, 32));
    let named = save_gguf(&path, &decoder, &params, &Format::Q8_0);
    assert_eq!(named, ["blk.0.ffn_down.weight"]);
    let file = ModelSource::open(&path).unwrap();
    let kind = |name: &str| file.gguf().unwrap().tensor(name).unwrap().kind.name;
    assert_eq!([kind("blk.0.ffn_down.weight"), kind("blk.0.ffn_up.weight")], ["f16", "q8_0"]);
    assert_eq!(kind("blk.0.ffn_norm.weight"), "f32");
}

#[test]
fn shards_are_one_model() {
    let dir = tempfile::tempdir().unwrap();
    let (decoder, params) = model(specs().remove(0));
    save_folder(dir.path(), &decoder, &params, &Format::F32);
    let whole = dir.path().join("model.safetensors");
    let tensors = smidgen_store::TensorFile::open(&whole).unwrap();
    fs::remove_file(&whole).unwrap();
    let names = tensors.names();
    let mut map = serde_json::Map::new();
    for (i, part) in names.chunks(names.len() / 2 + 1).enumerate() {
        let file = format!("part-{i}.safetensors");
        let infos: Vec<_> = part
            .iter()
            .map(|name| {
                let view = tensors.tensor(name).unwrap();
                smidgen_store::TensorInfo::new(name.clone(), view.dtype, view.shape)
            })
            .collect();
        let mut out = fs::File::create(dir.path().join(&file)).unwrap();
        let path = dir.path().join(&file);
        smidgen_store::write_tensors(&mut out, &path, &infos, &[], |i, out| {
            out.write_all(tensors.tensor(&part[i]).unwrap().data)
        })
        .unwrap();
        map.extend(part.iter().map(|name| (name.clone(), file.clone().into())));
    }
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    let (theirs, loaded) = load(&ModelSource::open(dir.path()).unwrap());
    assert_eq!(logits(&theirs, &loaded), logits(&decoder, &params));
    // A name that leaves the folder is no name of a shard.
    let escape = serde_json::json!({ "weight_map": { "a": "../part-0.safetensors" } });
    fs::write(&index, escape.to_string()).unwrap();
    let error = ModelSource::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("names of files in this folder"), "{error}");
}

#[test]
fn a_tensor_too_many_or_too_few_or_of_another_shape_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (decoder, params) = model(Spec::new(70, 64, 1, 4, 96, 32));
    save_folder(dir.path(), &decoder, &params, &Format::F32);
    let config = |spec: &Spec| {
        let config = config_of(spec, 1, &[2], "float32").unwrap();
        fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        ModelSource::open(dir.path()).unwrap_err().to_string()
    };
    let spec = decoder.spec().clone();
    let message = config(&Spec { vocab: 71, ..spec.clone() });
    assert!(message.contains("`model.embed_tokens.weight`"), "{message}");
    assert!(message.contains("expected shape [71, 64], got [70, 64]"), "{message}");
    let message = config(&Spec { qk_norm: true, ..spec.clone() });
    assert!(message.contains("q_norm.weight") && message.contains("got none"), "{message}");
    let message = config(&Spec { layers: 1 << 28, ..spec });
    assert!(message.contains("the tensors of 268435456 layers"), "{message}");
}

/// A file of the test data, which lies beside the repository; says where it is not.
#[allow(clippy::print_stderr)] // A skipped test says so.
fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: no test data `{name}`");
        return None;
    }
    Some(path)
}

/// Greedy ids and the five best logits of `reference_outputs.json`.
#[test]
fn real_models_give_the_reference_outputs() {
    let Some(reference) = data("models/reference_outputs.json") else { return };
    let reference: serde_json::Value =
        serde_json::from_slice(&fs::read(reference).unwrap()).unwrap();
    for (name, path, kind) in [
        ("stories260K", "models/stories260k/stories260K.bin", ModelKind::Llama2c),
        ("stories260K", "models/stories260k/tinyllamas-stories-260k-f32.gguf", ModelKind::Gguf),
        ("babyllama_tok105", "models/babyllama_tok105/model5000.bin", ModelKind::Llama2c),
    ] {
        let source = ModelSource::open(&data(path).unwrap()).unwrap();
        assert_eq!(source.kind(), kind);
        let (decoder, params) = load(&source);
        let expected = &reference[name];
        let ids = |key: &str| -> Option<Vec<u32>> {
            Some(expected[key].as_array()?.iter().map(|id| id.as_u64().unwrap() as u32).collect())
        };
        let greedy = ids("greedy_from_bos_token_ids").unwrap();
        let mut session =
            Session::new(&device(), Compute::F32, &decoder, &params, greedy.len()).unwrap();
        for pair in greedy.windows(2) {
            let logits = session.feed(&[pair[0]]).unwrap();
            let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
            assert_eq!(best as u32, pair[1], "{path}");
        }
        if let Some(prompt) = ids("prompt_token_ids") {
            session.truncate(0);
            let logits = session.feed(&prompt).unwrap();
            for pair in expected["last_position_top5"].as_array().unwrap() {
                let (id, value) = (pair[0].as_u64().unwrap(), pair[1].as_f64().unwrap());
                assert!((f64::from(logits[id as usize]) - value).abs() < 1e-4, "{path} {pair}");
            }
        }
    }
}

#[test]
fn both_forms_of_a_real_model_hold_the_same_parameters() {
    let Some(folder) = data("models/stories260k") else { return };
    let open = |name: &str| load(&ModelSource::open(&folder.join(name)).unwrap());
    let (tied, a) = open("stories260K.bin");
    let (untied, b) = open("tinyllamas-stories-260k-f32.gguf");
    assert_eq!((tied.spec().tied, untied.spec().tied), (true, false));
    for (_, param) in a.iter() {
        let other = b.get(b.find(&param.name).unwrap());
        assert_eq!(param.value.slice::<f32>(), other.value.slice::<f32>(), "{}", param.name);
    }
}

/// Each real configuration is a spec, or is refused for a reason that is named.
#[test]
fn real_configurations_are_read_or_refused_by_name() {
    let Some(folder) = data("configs") else { return };
    let read = |name: &str| {
        let path = folder.join(format!("{name}.config.json"));
        spec_of_config(&fs::read(&path).unwrap(), &path)
    };
    let accepted = [
        ("mistral-7b-instruct-v0.3", "mistral", 7_248_023_552, 128),
        ("qwen2.5-0.5b-instruct", "qwen2", 494_032_768, 64),
        ("qwen2.5-7b-instruct", "qwen2", 7_615_616_512, 128),
        ("qwen3-0.6b-base-think-sft", "qwen3", 596_049_920, 128),
        ("qwen3-embedding-0.6b", "qwen3", 595_776_512, 128),
        ("tinyllama-1.1b-chat-v1.0", "llama", 1_100_048_384, 64),
    ];
    for (name, family, params, head_dim) in accepted {
        let (spec, found) = read(name).unwrap();
        assert_eq!(found.model_type, family, "{name}");
        assert_eq!((spec.param_count(), spec.head_dim), (params, head_dim), "{name}");
    }
    let refused = [
        ("gpt2", "`model_type`", "got `gpt2`"),
        ("phi-2", "`model_type`", "got `phi`"),
        ("llama-3.1-8b-instruct", "`rope_scaling.rope_type`", "got `llama3`"),
        ("llama-3.2-1b", "`rope_scaling.rope_type`", "got `llama3`"),
    ];
    for (name, key, got) in refused {
        let message = read(name).unwrap_err().to_string();
        assert!(message.starts_with(key) && message.contains(got), "{name}: {message}");
    }
    let files = fs::read_dir(&folder).unwrap().count();
    assert_eq!(files, accepted.len() + refused.len(), "every configuration has its line");
}

#[test]
fn every_family_is_written_and_read() {
    let classes: Vec<&str> = FAMILIES.iter().map(|family| family.class).collect();
    assert!(classes.contains(&"Qwen3ForCausalLM"));
    let both = Spec { qk_norm: true, qkv_bias: true, ..Spec::new(70, 64, 1, 4, 96, 32) };
    assert!(config_of(&both, 1, &[2], "float32").is_err());
    assert!(metadata_of(&both, "test", 0).is_err());
}

#[test]
fn damaged_llama2c_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.bin");
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        ModelSource::open(&path).unwrap_err().to_string()
    };
    assert!(open(b"").contains("a header of 28 bytes"));
    let header = |numbers: [i32; 7]| numbers.map(i32::to_le_bytes).concat();
    assert!(open(&header([64, 96, 1, 4, 4, 70, 32])).contains("as its header says, got 28 bytes"));
    assert!(open(&header([-64, 96, 1, 4, 4, 70, 32])).contains("`width`"));
    assert!(open(&header([i32::MAX; 7])).contains("expected 1 to"));
    let huge = [1 << 28, 1 << 28, 1 << 28, 2, 1, 1 << 28, 1 << 20];
    assert!(open(&header(huge)).contains("as its header says"));
    assert!(open(&[b"24ka", &[0u8; 252][..]].concat()).contains("a later version"));
}

/// Opens what is there, and fills a decoder with it where it is accepted.
fn try_all(path: &Path) {
    if let Ok(source) = ModelSource::open(path)
        && source.spec().context < 1 << 16
    {
        let mut params = Params::new();
        Decoder::new(&device(), source.spec().clone(), &mut params).unwrap();
        source.load(&device(), &mut params).unwrap();
    }
}

proptest! {
    /// Damage anywhere in a folder, a GGUF file or a llama2.c file is an error or another model,
    /// never a panic.
    #[test]
    fn no_damage_panics(
        which in 0usize..4,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..4),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (decoder, params) = model(Spec::new(9, 8, 1, 2, 4, 4));
        save_folder(dir.path(), &decoder, &params, &Format::F32);
        save_gguf(&dir.path().join("m.gguf"), &decoder, &params, &Format::F16);
        let header: [i32; 7] = [8, 4, 1, 2, 2, 9, 4];
        let mut bin = header.map(i32::to_le_bytes).concat();
        bin.resize(28 + 4 * (9 * 8 + 8 * 2 + 4 * 64 + 3 * 32 + 8 + 16), 0);
        fs::write(dir.path().join("m.bin"), bin).unwrap();
        let name = ["config.json", "model.safetensors", "m.gguf", "m.bin"][which];
        let path = dir.path().join(name);
        let mut bytes = fs::read(&path).unwrap();
        for (at, value, how) in changes {
            // Most of what matters is at the beginning.
            let at = at.index(bytes.len().min(if how == 2 { 40 } else { bytes.len() }));
            bytes[at] = if how == 0 { bytes[at] ^ 1 << (value % 8) } else { value };
        }
        fs::write(&path, bytes).unwrap();
        try_all(if which < 2 { dir.path() } else { &path });
    }
}

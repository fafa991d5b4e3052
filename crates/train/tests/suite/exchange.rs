//! A run into the files of other programs and back: the same logits, whatever the path.

use std::path::{Path, PathBuf};

use smidgen_codec::{Format, Ledger, Packed, Rounding};
use smidgen_model::Session;
use smidgen_store::{Disk, Fault, Faulty, Files, GgufFile};
use smidgen_tensor::{Compute, Device, Role};
use smidgen_train::{
    Error, Export, Exported, Opening, TrainedModel, Weights, export_folder, export_gguf, open,
};

use crate::common::{Place, prose};

fn device() -> Device {
    Device::cpu(Ledger::new(), 1)
}

fn model(path: &Path) -> TrainedModel {
    open(path, &Opening::default(), &device()).unwrap()
}

fn save(from: &Path, out: &Path, format: Format, files: &dyn Files) -> Result<Exported, Error> {
    let model = model(from);
    let progress = &mut |_| {};
    let export = Export { model: &model, from, format, files, progress };
    let is_gguf = out.extension().is_some_and(|extension| extension == "gguf");
    if is_gguf { export_gguf(export, out) } else { export_folder(export, out) }
}

/// Logits after a text, in f32.
fn logits(model: &TrainedModel) -> Vec<f32> {
    let mut ids = vec![model.tokenizer.prefix()];
    ids.extend(model.tokenizer.encode("the river turns slowly").unwrap());
    let device = device();
    let (decoder, params) = (&model.decoder, &model.params);
    let mut session = Session::new(&device, Compute::F32, decoder, params, ids.len()).unwrap();
    session.feed(&ids).unwrap()
}

/// The model with its weights as a format leaves them.
fn rounded(mut model: TrainedModel, format: &Format, vectors: bool) -> TrainedModel {
    for (_, param) in model.params.iter_mut() {
        let is_vector = matches!(param.role, Role::Norm | Role::Bias);
        let (shape, values) = (param.value.shape(), param.value.slice_mut::<f32>());
        if vectors || !is_vector {
            let packed = Packed::encode(format.clone(), shape, values, Rounding::Nearest).unwrap();
            packed.decode_into(values).unwrap();
        }
    }
    model
}

/// Runs of every family, each a few steps.
const FAMILIES: [(&str, &[&str]); 3] = [
    ("LlamaForCausalLM", &["model.kv_heads=1", "model.tied=false"]),
    ("Qwen2ForCausalLM", &["model.qkv_bias=true"]),
    ("Qwen3ForCausalLM", &["model.qk_norm=true", "model.head_dim=32"]),
];

#[test]
fn exported_runs_come_back_with_equal_logits() {
    for (class, sets) in FAMILIES {
        let place = Place::new();
        let run = place.run("run");
        place.until("run", sets, 2);
        for name in ["f32", "f16", "bf16", "q8_0"] {
            let format = Format::by_name(name).unwrap();
            let gguf = place.run(&format!("{name}.gguf"));
            let exported = save(&run, &gguf, format.clone(), &Disk).unwrap();
            assert_eq!(exported.bytes, gguf.metadata().unwrap().len());
            assert!(exported.coarser.is_empty() && class.to_lowercase().starts_with(exported.kind));
            let expected = logits(&rounded(model(&run), &format, false));
            assert_eq!(logits(&model(&gguf)), expected, "{class} {name} GGUF");
            if name == "q8_0" {
                continue;
            }
            let folder = place.run(name);
            assert_eq!(save(&run, &folder, format.clone(), &Disk).unwrap().kind, class);
            let expected = logits(&rounded(model(&run), &format, true));
            assert_eq!(logits(&model(&folder)), expected, "{class} {name} folder");
        }
        // And on from there: neither path loses anything.
        let (folder, again) = (place.run("again"), place.run("again.gguf"));
        save(&place.run("f32.gguf"), &folder, Format::F32, &Disk).unwrap();
        save(&folder, &again, Format::F32, &Disk).unwrap();
        assert_eq!(logits(&model(&again)), logits(&model(&run)), "{class} there and back");
    }
}

#[test]
fn tokens_and_borders_go_with_the_weights() {
    let place = Place::new();
    let run = place.run("run");
    place.until("run", &[], 1);
    let (folder, gguf) = (place.run("folder"), place.run("m.gguf"));
    save(&run, &folder, Format::F32, &Disk).unwrap();
    save(&run, &gguf, Format::F32, &Disk).unwrap();
    let ours = model(&run).tokenizer;
    for path in [&folder, &gguf] {
        let theirs = model(path).tokenizer;
        let text = prose(99) + "<|endoftext|> größer\n\n  x";
        assert_eq!(theirs.encode(&text).unwrap(), ours.encode(&text).unwrap());
        assert_eq!((theirs.prefix(), theirs.end_ids()), (ours.prefix(), ours.end_ids()));
        assert!(theirs.adds_prefix(), "a run saw no text without it");
    }
    let file = GgufFile::open(&gguf).unwrap();
    let get = |key: &str| file.get(key).unwrap();
    assert_eq!(get("general.architecture").as_str(), Some("llama"));
    assert_eq!(get("general.name").as_str(), Some("run"));
    assert_eq!(get("tokenizer.ggml.pre").as_str(), Some("gpt-2"));
    assert_eq!(get("tokenizer.ggml.add_bos_token").as_bool(), Some(true));
    assert_eq!(get("llama.rope.dimension_count").as_u64(), Some(16));
}

#[test]
fn the_card_has_the_figures_of_the_run_and_no_paths() {
    let place = Place::new();
    let outcome = place.train("run", &[]);
    let folder = place.run("folder");
    save(&place.run("run"), &folder, Format::BF16, &Disk).unwrap();
    let card = std::fs::read_to_string(folder.join("README.md")).unwrap();
    let bpb = format!(
        "| validation bits per byte of these weights | {:.3} |",
        outcome.best_val_bpb.unwrap()
    );
    assert!(card.contains(&bpb), "{card}");
    assert!(card.contains("| steps | 8 |") && card.contains("width = 32"), "{card}");
    assert!(card.contains("| format | bf16 |"), "{card}");
    assert!(!card.contains(&*place.dir.path().to_string_lossy()), "{card}");
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["torch_dtype"], "bfloat16");
}

#[test]
fn nothing_is_replaced_and_nothing_is_left_half() {
    let place = Place::new();
    let run = place.run("run");
    place.until("run", &[], 1);
    let entries = || std::fs::read_dir(place.dir.path()).unwrap().count();
    let outs: [PathBuf; 2] = [place.run("folder"), place.run("m.gguf")];
    for out in &outs {
        let counting = Faulty::counting();
        save(&run, out, Format::F32, &counting).unwrap();
        let before = entries();
        let message = save(&run, out, Format::F32, &Disk).unwrap_err().to_string();
        assert!(message.contains("expected a new"), "{message}");
        remove(out);
        for n in 0..counting.operations() {
            let files = Faulty::once(n, Fault::NoSpace);
            let message = save(&run, out, Format::F32, &files).unwrap_err().to_string();
            assert!(message.contains("free some space"), "{message}");
            // Only the very last step, the folder's own sync, fails with everything in place.
            let is_last = n + 1 == counting.operations();
            assert!(entries() == before - 1 || is_last, "operation {n}");
            remove(out);
        }
        save(&run, out, Format::F32, &Disk).unwrap();
    }
}

fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else if path.exists() {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn what_no_family_computes_is_refused_with_the_reason() {
    let place = Place::new();
    place.until("run", &["model.qk_norm=true", "model.qkv_bias=true"], 1);
    for out in ["folder", "m.gguf"] {
        let message = save(&place.run("run"), &place.run(out), Format::F32, &Disk);
        let message = message.map(drop).unwrap_err().to_string();
        assert!(message.contains("`qkv_bias` and `qk_norm` at once"), "{message}");
        assert!(!place.run(out).exists());
    }
}

#[test]
fn options_without_use_are_refused() {
    let place = Place::new();
    let run = place.run("run");
    place.until("run", &[], 1);
    let folder = place.run("folder");
    save(&run, &folder, Format::F32, &Disk).unwrap();
    let fails = |path: &Path, opening: Opening| {
        open(path, &opening, &device()).map(drop).unwrap_err().to_string()
    };
    let which = Opening { which: Some(smidgen_store::Which::Last), ..Opening::default() };
    assert!(fails(&folder, which).starts_with("`--ckpt`: expected a run"));
    let averaged = Opening { weights: Weights::Ema, ..Opening::default() };
    assert!(fails(&folder, averaged).starts_with("`--ema`: expected a run"));
    let other = Opening { tokenizer: Some(folder.clone()), ..Opening::default() };
    assert!(fails(&run, other).starts_with("`--tokenizer`: expected none for a run"));
    assert!(fails(place.dir.path(), Opening::default()).contains("got a folder without"));
    assert!(fails(&place.run("nowhere"), Opening::default()).contains("got nothing at"));
}

#[test]
fn a_tokenizer_that_is_too_large_or_missing_is_named() {
    let place = Place::new();
    place.until("small", &[], 1);
    place.until("large", &["data.vocab=320"], 1);
    let [small, large] = ["small-hf", "large-hf"].map(|name| place.run(name));
    save(&place.run("small"), &small, Format::F32, &Disk).unwrap();
    save(&place.run("large"), &large, Format::F32, &Disk).unwrap();
    let opening = Opening { tokenizer: Some(large), ..Opening::default() };
    let message = open(&small, &opening, &device()).map(drop).unwrap_err().to_string();
    assert!(message.contains("expected at most the 300 tokens of the model, got 320"), "{message}");
    std::fs::remove_file(small.join("tokenizer.json")).unwrap();
    let message = open(&small, &Opening::default(), &device()).map(drop).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json"), "{message}");
}

/// Real models of another program, by all the ways that lead to them.
#[test]
fn real_models_open_with_their_tokenizers() {
    let Some(data) = crate::reference::data("models") else { return };
    let story = data.join("stories260k/stories260K.bin");
    for (path, prefix) in [(story.clone(), 1), (data.join("babyllama_tok105/model5000.bin"), 1)] {
        assert_eq!(model(&path).tokenizer.prefix(), prefix);
    }
    let opened = model(&story);
    assert_eq!(opened.tokenizer.encode("Once upon a time").unwrap(), [403, 407, 261, 378]);
    let place = Place::new();
    let (folder, gguf) = (place.run("folder"), place.run("m.gguf"));
    save(&story, &folder, Format::F32, &Disk).unwrap();
    save(&story, &gguf, Format::F32, &Disk).unwrap();
    for path in [folder, gguf] {
        let again = model(&path);
        assert_eq!(logits(&again), logits(&opened));
        assert_eq!(again.tokenizer.encode("Once upon a time").unwrap(), [403, 407, 261, 378]);
    }
    let alone = place.run("alone.bin");
    std::fs::copy(&story, &alone).unwrap();
    let message = open(&alone, &Opening::default(), &device()).map(drop).unwrap_err().to_string();
    assert!(message.contains("tok512.bin") && message.contains("--tokenizer"), "{message}");
}

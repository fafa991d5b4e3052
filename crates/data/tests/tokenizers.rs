//! Tokenizers of other models against the vectors and the programs they come from.

mod common;

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use smidgen_data::{GgufVocab, Tokenizer};
use smidgen_store::{GgufFile, GgufValue};

/// A file of the test data, which lies beside the repository; says where it is not.
#[allow(clippy::print_stderr)]
fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: no test data `{name}`");
        return None;
    }
    Some(path)
}

/// Texts of `NAME.inp` with their ids of `NAME.out`.
fn vectors(name: &str) -> Option<Vec<(String, Vec<u32>)>> {
    let base = format!("tokenizers/llamacpp_vocab/ggml-vocab-{name}.gguf");
    let read = |end| Some(std::fs::read_to_string(data(&format!("{base}.{end}"))?).unwrap());
    let (texts, ids) = (read("inp")?, read("out")?);
    let texts = texts.strip_suffix("\n__ggml_vocab_test__\n").unwrap();
    let texts = texts.split("\n__ggml_vocab_test__\n").map(str::to_owned);
    let numbers = |line: &str| line.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let pairs: Vec<_> = texts.zip(ids.lines().map(numbers)).collect();
    assert!(pairs.len() >= 40, "{} vectors", pairs.len());
    Some(pairs)
}

fn wrong<'a>(tokenizer: &Tokenizer, vectors: &'a [(String, Vec<u32>)]) -> Vec<&'a str> {
    let is_wrong = |(text, ids): &&(String, Vec<u32>)| tokenizer.encode(text).unwrap() != *ids;
    vectors.iter().filter(is_wrong).map(|(text, _)| text.as_str()).collect()
}

/// The arrays of a GGUF file, taken over one by one.
fn gguf_vocab(file: &GgufFile) -> GgufVocab<'static> {
    let value = |key: &str| file.get(&format!("tokenizer.ggml.{key}"));
    let texts = |key: &str| -> Vec<Cow<'static, str>> {
        let Some(GgufValue::Array(array)) = value(key) else { return Vec::new() };
        let texts = array.byte_strings().unwrap();
        texts.map(|text| String::from_utf8(text.to_vec()).unwrap().into()).collect()
    };
    let numbers = |key: &str| match value(key) {
        Some(GgufValue::Array(array)) => array.numbers().unwrap().collect(),
        _ => Vec::new(),
    };
    let id = |key: &str| Some(value(key)?.as_u64()? as u32);
    let text = |key: &str| Some(value(key)?.as_str()?.to_owned().into());
    GgufVocab {
        model: text("model").unwrap(),
        pre: text("pre"),
        tokens: texts("tokens"),
        scores: numbers("scores").iter().map(|score| score.as_f64().unwrap() as f32).collect(),
        types: numbers("token_type").iter().map(|kind| kind.as_u64().unwrap() as i32).collect(),
        merges: texts("merges"),
        bos: id("bos_token_id"),
        ends: id("eos_token_id").into_iter().collect(),
        unknown: id("unknown_token_id"),
        add_bos: value("add_bos_token").and_then(|value| value.as_bool()),
        add_space_prefix: value("add_space_prefix").and_then(|value| value.as_bool()),
    }
}

fn from_gguf(name: &str) -> Option<Tokenizer> {
    let path = data(&format!("tokenizers/llamacpp_vocab/ggml-vocab-{name}.gguf"))?;
    let file = GgufFile::open(&path).unwrap();
    Some(Tokenizer::from_gguf(&gguf_vocab(&file), &path).unwrap())
}

fn from_folder(name: &str) -> Option<Tokenizer> {
    Some(Tokenizer::from_folder(&data(&format!("tokenizers/{name}"))?).unwrap())
}

/// A tokenizer that went through each format that we write.
fn rewritten(tokenizer: &Tokenizer) -> [Tokenizer; 2] {
    let path = Path::new("written");
    let json = Tokenizer::from_json(tokenizer.to_json().as_bytes(), path).unwrap();
    assert_eq!(json.to_json(), tokenizer.to_json());
    let vocab = tokenizer.to_gguf().unwrap();
    let gguf = Tokenizer::from_gguf(&vocab, path).unwrap();
    assert_eq!(gguf.to_gguf().unwrap(), vocab);
    for again in [&json, &gguf] {
        assert_eq!(again.prefix(), tokenizer.prefix());
        assert_eq!(again.end_ids(), tokenizer.end_ids());
        assert_eq!(again.adds_prefix(), tokenizer.adds_prefix());
        assert_eq!(again.vocab_size(), tokenizer.vocab_size());
    }
    [json, gguf]
}

/// What the `tokenizers` library makes of the JSON that we write.
fn librarys(tokenizer: &Tokenizer) -> impl Fn(&str) -> Vec<u32> {
    let mut library = tokenizers::Tokenizer::from_bytes(tokenizer.to_json()).unwrap();
    library.set_encode_special_tokens(true);
    move |text| library.encode_fast(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn vectors_of_gpt2_qwen2_mpt_and_phi3_come_out() {
    let cases = [
        ("gpt-2", from_folder("gpt2")),
        ("gpt-2", from_gguf("gpt-2")),
        ("mpt", from_gguf("mpt")),
        ("qwen2", from_folder("qwen2.5")),
        ("phi-3", from_folder("phi-3-mini")),
        ("phi-3", from_gguf("phi-3")),
        ("llama-spm", from_gguf("phi-3")),
    ];
    for (name, tokenizer) in cases {
        let (Some(vectors), Some(tokenizer)) = (vectors(name), tokenizer) else { continue };
        assert_eq!(wrong(&tokenizer, &vectors), Vec::<&str>::new(), "{name} {tokenizer:?}");
        for again in rewritten(&tokenizer) {
            assert_eq!(wrong(&again, &vectors), Vec::<&str>::new(), "{name} {tokenizer:?}");
        }
        let library = librarys(&tokenizer);
        for (text, ids) in &vectors {
            assert_eq!(&library(text), ids, "{name}: {text:?}");
        }
    }
}

#[test]
fn phi2_differs_by_its_runs_of_white_space() {
    let (Some(vectors), Some(tokenizer)) = (vectors("gpt-2"), from_folder("phi-2")) else {
        return;
    };
    let differ = wrong(&tokenizer, &vectors);
    assert_eq!(differ.len(), 7);
    let runs = |text: &&str| text.contains("  ") || text.contains("\t\t");
    assert!(differ.iter().all(|text| runs(text) || *text == "\t"), "{differ:?}");
    let library = librarys(&tokenizer);
    for (text, _) in &vectors {
        assert_eq!(library(text), tokenizer.encode(text).unwrap(), "{text:?}");
    }
}

#[test]
fn borders_of_texts_are_the_models() {
    let borders = |tokenizer: Tokenizer| {
        (tokenizer.prefix(), tokenizer.adds_prefix(), tokenizer.end_ids().to_vec())
    };
    for (tokenizer, expected) in [
        (from_folder("gpt2"), (50256, false, vec![50256])),
        (from_folder("qwen2.5"), (151643, false, vec![151643, 151645])),
        (from_folder("phi-3-mini"), (32000, false, vec![32000])),
        (from_gguf("phi-3"), (1, true, vec![1, 32000])),
        (from_gguf("gpt-2"), (50256, false, vec![50256])),
    ] {
        if let Some(tokenizer) = tokenizer {
            assert_eq!(borders(tokenizer), expected);
        }
    }
}

#[test]
fn other_kinds_are_refused_by_name() {
    if let Some(path) = data("tokenizers/llamacpp_vocab/ggml-vocab-falcon.gguf") {
        let file = GgufFile::open(&path).unwrap();
        let refused = Tokenizer::from_gguf(&gguf_vocab(&file), &path).unwrap_err().to_string();
        assert!(refused.contains("`tokenizer.ggml.pre`") && refused.contains("got `falcon`"));
    }
    let path = Path::new("x.gguf");
    let message = |vocab| Tokenizer::from_gguf(&vocab, path).unwrap_err().to_string();
    let bert = GgufVocab { model: "bert".into(), ..GgufVocab::default() };
    assert!(message(bert).contains("expected `gpt2` or `llama`, got `bert`"));
    let odd = GgufVocab {
        model: "llama".into(),
        tokens: vec!["a".into()],
        scores: vec![0.0, 1.0],
        ..GgufVocab::default()
    };
    assert!(message(odd).contains("`tokenizer.ggml.scores`: expected 1 entries, got 2"));
    let unigram = [0x12, 2, 0x18, 1, 0x0a, 3, 0x0a, 1, b'a'];
    let refused = Tokenizer::from_sentencepiece(&unigram, path).unwrap_err().to_string();
    assert!(refused.contains("expected `BPE`, got `UNIGRAM`"), "{refused}");
}

#[test]
fn sentencepiece_models_agree_with_the_package() {
    let golden = include_str!("../../../testdata/golden/sentencepiece.json");
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    let texts: Vec<String> = serde_json::from_value(golden["texts"].clone()).unwrap();
    for (name, path) in [
        ("babyllama", "models/babyllama_tok105/tok105.model"),
        ("mistral-v1", "tokenizers/mistral/tokenizer.model.v1"),
        ("mistral-v3", "tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3"),
    ] {
        let Some(path) = data(path) else { continue };
        let model = std::fs::read(&path).unwrap();
        let tokenizer = Tokenizer::from_sentencepiece(&model, &path).unwrap();
        let ids: Vec<Vec<u32>> = serde_json::from_value(golden[name].clone()).unwrap();
        let others = match name {
            "babyllama" => Vec::new(),
            _ => rewritten(&tokenizer).to_vec(),
        };
        for (text, ids) in texts.iter().zip(&ids) {
            assert_eq!(&tokenizer.encode(text).unwrap(), ids, "{name}: {text:?}");
            for other in &others {
                assert_eq!(&other.encode(text).unwrap(), ids, "{name}: {text:?}");
                // A mark of the text itself comes back as what it marks.
                assert_eq!(tokenizer.decode(ids), text.replace('▁', " "), "{name}");
            }
        }
    }
}

#[test]
fn what_gguf_has_no_word_for_is_refused() {
    let Some(path) = data("models/babyllama_tok105/tok105.model") else { return };
    let model = std::fs::read(&path).unwrap();
    let tokenizer = Tokenizer::from_sentencepiece(&model, &path).unwrap();
    let refused = tokenizer.to_gguf().unwrap_err().to_string();
    assert!(refused.contains("be written as GGUF: llama.cpp does not make several blanks one"));
    // In JSON it is said to the library as well.
    let again = Tokenizer::from_json(tokenizer.to_json().as_bytes(), &path).unwrap();
    let library = librarys(&tokenizer);
    for text in ["  Once  upon a\n\ntime  ", "a", "", " ", "x\u{2581}y z"] {
        let ids = tokenizer.encode(text).unwrap();
        assert_eq!(again.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(library(text), ids, "{text:?}");
    }
}

#[test]
fn the_vocabulary_of_stories260k_is_the_same_from_both_its_files() {
    let folder = "models/stories260k";
    let (Some(bin), Some(gguf), Some(corpus)) = (
        data(&format!("{folder}/tok512.bin")),
        data(&format!("{folder}/tinyllamas-stories-260k-f32.gguf")),
        data("corpus/tinystories_sample.txt"),
    ) else {
        return;
    };
    let bytes = std::fs::read(&bin).unwrap();
    let bin = Tokenizer::from_llama2c(&bytes, 512, &bin).unwrap();
    let file = GgufFile::open(&gguf).unwrap();
    let gguf = Tokenizer::from_gguf(&gguf_vocab(&file), &gguf).unwrap();
    let text = std::fs::read_to_string(corpus).unwrap();
    assert_eq!(bin.encode(&text).unwrap(), gguf.encode(&text).unwrap());
    assert_eq!(bin.decode(&bin.encode(&text).unwrap()), text);
    assert_eq!((bin.prefix(), bin.end_ids()), (1, &[1, 2][..]));
    assert_eq!((gguf.prefix(), gguf.end_ids()), (1, &[1, 2][..]));
    assert_eq!(bin.encode("Once upon a time").unwrap(), [403, 407, 261, 378]);
    let library = librarys(&bin);
    let differ = text.lines().filter(|line| library(line) != bin.encode(line).unwrap()).count();
    assert_eq!(differ, 0, "lines that a list of pairs joins otherwise");
    assert!(Tokenizer::from_llama2c(&bytes, 511, Path::new("x")).is_err());
    assert!(Tokenizer::from_llama2c(&bytes[..bytes.len() - 1], 512, Path::new("x")).is_err());
}

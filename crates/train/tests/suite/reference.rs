//! The two small real models against `reference_outputs.json`: ids, text and likelihood.

use std::path::{Path, PathBuf};

use serde_json::Value;
use smidgen_codec::Ledger;
use smidgen_eval::{Scoring, TextScore, Windows};
use smidgen_model::{Scorer, Session};
use smidgen_tensor::{Compute, Device};
use smidgen_train::{Opening, TrainedModel, open};

/// A file of the test data, which lies beside the repository; says where it is not.
#[allow(clippy::print_stderr)] // A skipped test says so.
pub(crate) fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        eprintln!("skipped: no test data `{name}`");
        return None;
    }
    Some(path)
}

struct Case {
    device: Device,
    model: TrainedModel,
    expected: Value,
    story: String,
}

fn case(model: &str, name: &str) -> Option<Case> {
    let (model, reference) = (data(model)?, data("models/reference_outputs.json")?);
    let story = std::fs::read_to_string(data("corpus/tinystories_sample.txt")?).unwrap();
    let device = Device::cpu(Ledger::new(), 2);
    let model = open(&model, &Opening::default(), &device).unwrap();
    assert_eq!(model.compute, Compute::F32);
    let reference: Value = serde_json::from_slice(&std::fs::read(reference).unwrap()).unwrap();
    let story = story.chars().take(600).collect();
    Some(Case { device, model, expected: reference[name].clone(), story })
}

impl Case {
    fn ids(&self, key: &str) -> Vec<u32> {
        serde_json::from_value(self.expected[key].clone()).unwrap()
    }

    /// The most likely tokens after the prefix, which stands first.
    fn greedy(&self, count: usize) -> Vec<u32> {
        let TrainedModel { decoder, params, compute, .. } = &self.model;
        let mut session = Session::new(&self.device, *compute, decoder, params, count).unwrap();
        let mut ids = vec![self.model.tokenizer.prefix()];
        while ids.len() < count {
            let logits = session.feed(&ids[ids.len() - 1..]).unwrap();
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
            ids.push(best.unwrap() as u32);
        }
        ids
    }

    fn score(&self, text: &str) -> TextScore {
        let TrainedModel { decoder, params, compute, tokenizer, .. } = &self.model;
        let context = decoder.spec().context;
        let windows = Windows { context, stride: context, rows: 1 };
        let scorer = Scorer::new(&self.device, *compute, decoder, params).unwrap();
        let scoring = Scoring::new(tokenizer, &[text], windows).unwrap();
        scoring.run(&scorer, &mut |_| {}).unwrap()
    }

    /// Scores `text`, which is what the reference scored.
    fn likelihood(&self, text: &str) {
        let score = self.score(text);
        let expected = |key: &str| self.expected[key].as_f64().unwrap();
        assert_eq!(score.tokens as f64, expected("story_prefix_tokens_scored"));
        let nll = expected("story_prefix_mean_nll_nats");
        assert!((score.mean_nll() - nll).abs() < 1e-4, "{} {nll}", score.mean_nll());
        // The reference counts bytes in a way of its own for the second model.
        let bytes = expected("story_prefix_bytes") as u64;
        let bpb = TextScore { bytes, ..score }.bpb();
        assert!((bpb - expected("story_prefix_bits_per_byte")).abs() < 1e-4, "{bpb}");
    }
}

#[test]
fn stories260k_writes_and_scores_as_the_reference_from_either_file() {
    for file in ["stories260K.bin", "tinyllamas-stories-260k-f32.gguf"] {
        let Some(case) = case(&format!("models/stories260k/{file}"), "stories260K") else { return };
        let ids = case.ids("greedy_from_bos_token_ids");
        assert_eq!(case.greedy(ids.len()), ids);
        let text = case.model.tokenizer.decode(&ids);
        assert_eq!(text, case.expected["greedy_from_bos_text"].as_str().unwrap());
        let prompt = case.expected["prompt"].as_str().unwrap();
        let with_prefix = [&[1][..], &case.model.tokenizer.encode(prompt).unwrap()].concat();
        assert_eq!(with_prefix, case.ids("prompt_token_ids"));
        case.likelihood(&case.story);
    }
}

#[test]
fn babyllama_writes_and_scores_as_the_reference() {
    let Some(case) = case("models/babyllama_tok105/model5000.bin", "babyllama_tok105") else {
        return;
    };
    let ids = case.ids("greedy_from_bos_token_ids");
    assert_eq!(case.greedy(ids.len()), ids);
    // The reference cut the text to the context, this much of it.
    case.likelihood(&case.story[..254]);
}

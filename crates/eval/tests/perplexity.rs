//! Scores of a text: against the decoder itself, and the same for every batch and packing.

use smidgen_codec::Ledger;
use smidgen_data::Tokenizer;
use smidgen_eval::{Error, ScoredToken, Scoring, TextScore, Windows};
use smidgen_model::{Decoder, Scorer, Session, Spec};
use smidgen_tensor::{Compute, Device, Params};

const CONTEXT: usize = 24;

struct Model {
    device: Device,
    decoder: Decoder,
    params: Params,
    tokenizer: Tokenizer,
}

fn model() -> Model {
    let device = Device::cpu(Ledger::new(), 2);
    let tokenizer = Tokenizer::train(&[&text(40)], 300, 1).unwrap();
    let mut params = Params::new();
    let spec = Spec { kv_heads: 2, ..Spec::new(tokenizer.vocab_size(), 32, 2, 4, 64, CONTEXT) };
    let decoder = Decoder::new(&device, spec, &mut params).unwrap();
    decoder.init(&mut params, 3);
    // First values give every token nearly the same chance; larger ones make mistakes visible.
    for (_, param) in params.iter_mut() {
        param.value.slice_mut::<f32>().iter_mut().for_each(|value| *value *= 4.0);
    }
    Model { device, decoder, params, tokenizer }
}

fn text(lines: usize) -> String {
    (0..lines)
        .map(|i| format!("{i} little löwen sat in a row, {} of them slept\n", i % 7))
        .collect()
}

impl Model {
    fn score(&self, texts: &[&str], windows: Windows) -> (TextScore, Vec<ScoredToken>) {
        let scorer = Scorer::new(&self.device, Compute::F32, &self.decoder, &self.params).unwrap();
        let mut all = Vec::new();
        let scoring = Scoring::new(&self.tokenizer, texts, windows).unwrap();
        let score = scoring.run(&scorer, &mut |scored| all.extend_from_slice(scored)).unwrap();
        assert_eq!(score.tokens, scoring.tokens());
        (score, all)
    }
}

fn windows(stride: usize, rows: usize) -> Windows {
    Windows { context: CONTEXT, stride, rows }
}

#[test]
fn a_short_text_scores_what_cached_decoding_says() {
    let model = model();
    let text = "3 little dogs slept";
    let (score, scored) = model.score(&[text], windows(CONTEXT, 1));
    let mut session =
        Session::new(&model.device, Compute::F32, &model.decoder, &model.params, CONTEXT).unwrap();
    let mut logits = session.feed(&[model.tokenizer.prefix()]).unwrap();
    let mut nll = 0.0;
    for (&id, scored) in model.tokenizer.encode(text).unwrap().iter().zip(&scored) {
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        let expected = sum.ln() - f64::from(logits[id as usize]);
        assert_eq!(id, scored.id);
        assert!((expected - scored.nll).abs() < 1e-4, "{expected} {}", scored.nll);
        nll += expected;
        logits = session.feed(&[id]).unwrap();
    }
    assert_eq!((score.tokens, score.bytes), (scored.len() as u64, text.len() as u64));
    assert!((score.nll - nll).abs() < 1e-3);
    assert!((score.ppl() - (nll / scored.len() as f64).exp()).abs() < 1e-2);
    assert!((score.bpb() - nll / (2f64.ln() * text.len() as f64)).abs() < 1e-5);
}

#[test]
fn neither_rows_nor_packing_change_a_score() {
    let model = model();
    let long = text(12);
    let texts = [&long[..], "one", "two and three", &long[7..90], "", "four"];
    for stride in [CONTEXT, 10] {
        let (one, tokens) = model.score(&texts, windows(stride, 1));
        for rows in [2, 3, 64] {
            let (many, others) = model.score(&texts, windows(stride, rows));
            assert!((one.nll / many.nll - 1.0).abs() < 1e-6, "{one:?} {many:?}");
            assert_eq!((one.tokens, one.bytes), (many.tokens, many.bytes));
            assert_eq!(tokens.len(), others.len());
        }
        let apart: Vec<TextScore> = texts
            .iter()
            .filter(|text| !text.is_empty())
            .map(|text| model.score(&[text], windows(stride, 4)).0)
            .collect();
        let nll: f64 = apart.iter().map(|score| score.nll).sum();
        assert!((one.nll / nll - 1.0).abs() < 1e-6, "{one:?} {nll}");
    }
}

#[test]
fn a_smaller_stride_shows_every_token_more() {
    let model = model();
    let text = text(6);
    let (_, side_by_side) = model.score(&[&text], windows(CONTEXT, 4));
    let (_, overlapping) = model.score(&[&text], windows(1, 4));
    assert_eq!(side_by_side.len(), overlapping.len());
    let same = |at: usize| (side_by_side[at].nll - overlapping[at].nll).abs() < 1e-5;
    assert!((0..CONTEXT).all(same), "the first window is the same one");
    assert!((CONTEXT..2 * CONTEXT - 1).any(|at| !same(at)));
}

#[test]
fn wrong_windows_are_named() {
    let model = model();
    let message = |texts: &[&str], windows| {
        Scoring::new(&model.tokenizer, texts, windows).err().map(|error| error.to_string())
    };
    let range = message(&["a"], windows(CONTEXT + 1, 1)).unwrap();
    assert_eq!(range, "`stride`: expected 1 to 24, the context, got 25");
    assert!(message(&["a"], windows(1, 0)).unwrap().starts_with("`rows`: expected at least 1"));
    assert!(matches!(Scoring::new(&model.tokenizer, &[""], windows(1, 1)), Err(Error::NoText)));
    let too_long = Windows { context: 2 * CONTEXT, stride: 1, rows: 1 };
    let scorer = Scorer::new(&model.device, Compute::F32, &model.decoder, &model.params).unwrap();
    let scoring = Scoring::new(&model.tokenizer, &[&text(20)], too_long).unwrap();
    assert!(scoring.run(&scorer, &mut |_| {}).unwrap_err().to_string().starts_with("`context`"));
}

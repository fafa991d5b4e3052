//! The model card: what the files of a run say about it, and nothing else.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;
use smidgen_data::Manifest;
use smidgen_model::exchange::Family;
use smidgen_store::{RUN_TOML, RunView};

use super::Export;
use crate::outcome::OUTCOME_JSON;
use crate::{Error, Outcome, is_run};

/// The text of `README.md`.
pub(super) fn text(export: &Export<'_>, family: &Family) -> Result<String, Error> {
    let name = export.name();
    let mut text = format!(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- smidgen\n- {}\n---\n\n# {name}\n\n",
        family.model_type
    );
    if is_run(export.from) {
        run(&mut text, export, &RunView::open(export.from)?)?;
    } else {
        let format = export.format.name();
        line(&mut text, format_args!("Weights of `{name}` in {format}, converted with smidgen.\n"));
    }
    shape(&mut text, export);
    line(&mut text, USE);
    Ok(text)
}

/// `AutoTokenizer` goes by the kind of model, and gives some kinds a split pattern of its own.
const USE: &str = "## Use\n\n```python\n\
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast\n\n\
    tokenizer = PreTrainedTokenizerFast.from_pretrained(\".\")\n\
    model = AutoModelForCausalLM.from_pretrained(\".\")\n\
    inputs = tokenizer(\"Once upon a time\", return_tensors=\"pt\", return_token_type_ids=False)\n\
    print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))\n```";

fn line(text: &mut String, what: impl std::fmt::Display) {
    writeln!(text, "{what}").expect("a string takes any text");
}

fn row(text: &mut String, what: &str, value: impl std::fmt::Display) {
    line(text, format_args!("| {what} | {value} |"));
}

/// The figures of a run: of its whole course, and of the checkpoint at hand.
fn run(text: &mut String, export: &Export<'_>, run: &RunView) -> Result<(), Error> {
    let step = export.model.step.expect("a model of a run has a step");
    let config = run.read_text(RUN_TOML)?;
    let start = start(&config);
    line(text, format_args!("Trained {start} with smidgen; weights of step {step}.\n"));
    line(text, "| figure | value |\n|---|---|");
    // A run that still goes on has no outcome yet, and this page says less.
    let outcome: Option<Outcome> = run.read_json(OUTCOME_JSON).ok();
    if let Some(outcome) = &outcome {
        row(text, "steps", outcome.steps);
        row(text, "training tokens", outcome.tokens);
        row(text, "training loss, nats per token, running mean", three(outcome.train_loss));
        row(text, "time", format_args!("{:.0} s", outcome.seconds));
        row(text, "speed", format_args!("{:.0} tokens/s", outcome.tokens_per_s));
        row(text, "peak resident memory", format_args!("{:.0} MiB", outcome.peak_rss_mib));
    }
    for (key, what) in [
        ("val_loss", "validation loss of these weights, nats per token"),
        ("val_ppl", "validation perplexity of these weights, per token"),
        ("val_bpb", "validation bits per byte of these weights"),
    ] {
        if let Some(value) = validation(run, step)?.and_then(|record| record.get(key)?.as_f64()) {
            row(text, what, three(value));
        }
    }
    let manifest: Manifest = run.read_json("data/dataset.json")?;
    for (side, what) in [(&manifest.train, "text learnt from"), (&manifest.val, "text held out")] {
        let (documents, bytes, tokens) = (side.documents, side.source_bytes, side.tokens);
        let value = format!("{documents} documents, {bytes} bytes, {tokens} tokens");
        row(text, what, value);
    }
    line(
        text,
        "\nThe text held out was never learnt from; the split keeps documents of one group together.",
    );
    line(text, format_args!("\n## Configuration\n\n```toml\n{}\n```\n", without_paths(&config)));
    Ok(())
}

/// Where the first values came from, without the path to them.
fn start(config: &str) -> String {
    let table: toml::Table = config.parse().unwrap_or_default();
    let init = table.get("model").and_then(|model| model.get("init")?.as_str());
    let name = init.and_then(|path| Path::new(path).file_name());
    match name {
        Some(name) => format!("on from the weights of `{}`", name.to_string_lossy()),
        None => "from random first values on".into(),
    }
}

/// The last validation of a step.
fn validation(run: &RunView, step: u64) -> Result<Option<Value>, Error> {
    let of_step = |record: &Value| {
        record.get("step").and_then(Value::as_u64) == Some(step) && record.get("val_loss").is_some()
    };
    Ok(run.metrics()?.into_iter().rev().find(of_step))
}

/// The configuration as it may be published: paths name people and machines.
fn without_paths(config: &str) -> String {
    let is_path = |line: &&str| {
        ["path = ", "init = ", "contamination = "].iter().any(|key| line.starts_with(key))
    };
    config.trim_end().lines().filter(|line| !is_path(line)).collect::<Vec<_>>().join("\n")
}

fn shape(text: &mut String, export: &Export<'_>) {
    let spec = export.model.decoder.spec();
    line(text, "## Shape\n\n| size | value |\n|---|---|");
    row(text, "parameters", spec.param_count());
    row(text, "vocabulary", spec.vocab);
    row(text, "context, tokens", spec.context);
    row(text, "width", spec.width);
    row(text, "layers", spec.layers);
    row(text, "heads", format_args!("{}, {} of keys and values", spec.heads, spec.kv_heads));
    row(text, "feed-forward width", spec.ffn);
    row(text, "format", export.format.name());
    line(text, "");
}

fn three(value: f64) -> String {
    format!("{value:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_named_without_its_path() {
        assert_eq!(start("seed = 1\n"), "from random first values on");
        let config = "[model]\ninit = \"/home/me/m.gguf\"\n";
        assert_eq!(start(config), "on from the weights of `m.gguf`");
    }

    #[test]
    fn paths_stay_at_home() {
        let config = "seed = 1\n\n[data]\npath = \"/home/me/x\"\nval_ratio = 0.1\n";
        assert_eq!(without_paths(config), "seed = 1\n\n[data]\nval_ratio = 0.1");
    }
}

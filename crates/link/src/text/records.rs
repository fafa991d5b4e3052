//! What each line leaves behind besides its place in the table: a run directory with the record of the
//! link, `evals/text/LINE-HASH` under that of the fuser.

use serde_json::json;
use smidgen_data::Tokenizer;
use smidgen_store::sha256_bytes;
use smidgen_train::Context;

use super::measure::Scores;
use super::{Model, TextItem, TextJob, TextRecord};
use crate::Error;
use crate::record::{LinkRecord, ModelFacts, Setting, Worth, config_hash};

/// The name of the task, and of how its prompts are worded: they are the text itself.
const TASK: &str = "text";
/// Digits of each fingerprint in the name of a pair.
const HASH_DIGITS: usize = 12;

/// Writes a record for each line of a table; `scores` are those that its lines sum up.
///
/// # Errors
/// [`Error::Record`] for figures that contradict each other, [`Error::Store`].
pub(super) fn write(
    job: &TextJob,
    (sharer, receiver): (&Model, &Model),
    items: &[TextItem],
    scores: &[Scores<'_>],
    record: &TextRecord,
    cx: &mut Context<'_>,
) -> Result<(), Error> {
    let parent = job.out.join("evals").join(TASK);
    let about = |(path, _): &(std::path::PathBuf, _), model: &Model| {
        ModelFacts::of(path.display().to_string(), &model.side, &model.tokenizer)
    };
    let (sharing, answering) = (about(&job.sharer, sharer), about(&job.receiver, receiver));
    let pair_id = [&sharing, &answering].map(|model| &model.fingerprint[..HASH_DIGITS]).join("-");
    let tokens: Vec<f64> = items.iter().map(|it| it.item.receiver.len() as f64).collect();
    let example_ids_hash = config_hash(&ids(items, &receiver.tokenizer))?;
    for (scores, line) in scores.iter().zip(&record.lines) {
        let setting = Setting {
            template: TASK,
            pair_id: pair_id.clone(),
            receiver: answering.clone(),
            sharer: sharing.clone(),
            fuser: scores.fuser,
            max_new_tokens: 0,
            choice: "likelihood",
            task: TASK,
            example_ids_hash: example_ids_hash.clone(),
            prompt_tokens: &tokens,
            corpus_version: &record.text_sha256,
            one_to_one: record.alignment.one_to_one,
            unmapped: record.alignment.unmapped,
            selection: scores.selection.clone(),
            allocator: None,
            decided_by: json!({ "text": record.text_sha256, "config": job.config }),
            seed: ("fuse", job.config.seed),
            worth: Worth::Bpb(line.bpb),
        };
        let config = json!({
            "task": TASK,
            "line": line.name,
            "text_sha256": record.text_sha256,
            "context_bytes": job.config.context_bytes,
            "continuation_bytes": job.config.continuation_bytes,
            "seed": job.config.seed,
        });
        LinkRecord::of(&scores.column, setting, &cx.machine)?.keep(
            &parent,
            &line.name,
            &config,
            &receiver.side,
            cx,
        )?;
    }
    Ok(())
}

/// A name for each item: its text, and how much of it is the continuation.
fn ids(items: &[TextItem], receiver: &Tokenizer) -> Vec<String> {
    let id = |it: &TextItem| {
        let tokens = it.item.receiver[1..].iter().chain(&it.item.response);
        let text: Vec<u8> = tokens.flat_map(|id| receiver.token_bytes(*id)).copied().collect();
        format!("{}-{}", sha256_bytes(&text), it.item.response_bytes)
    };
    items.iter().map(id).collect()
}

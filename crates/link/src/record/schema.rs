//! Which fields a record must have, of which type, and which may be `null`: one table, against
//! which a record is checked before it is written.

use serde_json::Value;

use crate::Error;

/// What a JSON value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The names say it.
pub enum Kind {
    Integer,
    Number,
    Text,
    Flag,
    Object,
}

/// A field that must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Keys from the outside in, with dots.
    pub path: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Whether it may be `null`; the fields below it are then not there.
    pub may_be_null: bool,
}

const fn field(path: &'static str, kind: Kind) -> Field {
    Field { path, kind, may_be_null: false }
}

const fn maybe(path: &'static str, kind: Kind) -> Field {
    Field { path, kind, may_be_null: true }
}

/// Every required field of `link.json`.
pub static SCHEMA: &[Field] = {
    use Kind::{Flag, Integer, Number, Object, Text};
    &[
        field("schema_version", Integer),
        field("status", Text),
        maybe("reason", Text),
        field("key", Text),
        field("config_hash", Text),
        field("finished_unix_s", Integer),
        field("pair_id", Text),
        field("receiver.id", Text),
        field("receiver.fingerprint", Text),
        field("receiver.kv.layers", Integer),
        field("receiver.kv.kv_heads", Integer),
        field("receiver.kv.key_dim", Integer),
        field("receiver.kv.value_dim", Integer),
        field("receiver.shape_from", Text),
        field("receiver.tokenizer_sha256", Text),
        field("sharer.id", Text),
        field("sharer.fingerprint", Text),
        field("sharer.kv.layers", Integer),
        field("sharer.kv.kv_heads", Integer),
        field("sharer.kv.key_dim", Integer),
        field("sharer.kv.value_dim", Integer),
        field("sharer.shape_from", Text),
        field("sharer.tokenizer_sha256", Text),
        maybe("fuser", Object),
        field("fuser.fingerprint", Text),
        field("fuser.layers_loaded", Integer),
        field("fuser.parameters", Integer),
        field("prompt_template_id", Text),
        field("decoding.settings_hash", Text),
        field("decoding.temperature", Number),
        field("decoding.max_new_tokens", Integer),
        field("task", Text),
        field("n", Integer),
        field("example_ids_hash", Text),
        field("context_len_bucket", Text),
        field("prompt_tokens.mean", Number),
        field("prompt_tokens.p50", Number),
        field("prompt_tokens.p95", Number),
        field("prompt_tokens.max", Number),
        field("corpus_version", Text),
        maybe("longctx_seed", Integer),
        field("alignment.on", Flag),
        maybe("alignment.strategy", Text),
        maybe("alignment.one_to_one_rate", Number),
        maybe("alignment.unmapped_rate", Number),
        field("method", Text),
        field("payload", Text),
        field("is_upper_bound", Flag),
        maybe("selection", Object),
        field("selection.config.mode", Text),
        field("selection.config.proportion", Number),
        field("selection.config.scope", Text),
        field("selection.config.index_scope", Text),
        field("selection.config.min_tokens", Integer),
        maybe("selection.config.kv_cache", Object),
        field("selection.scope_tokens.mean", Number),
        field("selection.selected_tokens.mean", Number),
        field("selection.fraction.mean", Number),
        field("selection.min_tokens_bound_items", Integer),
        maybe("selection.score", Object),
        field("selection.score.mean", Number),
        field("selection.score.min", Number),
        field("selection.score.max", Number),
        maybe("precision", Object),
        field("precision.tokens", Object),
        field("precision.effective_bits", Number),
        maybe("precision.allocator", Text),
        field("budget.budget", Text),
        maybe("budget.cap_bytes", Object),
        field("budget.cap_bytes.p50", Number),
        field("budget.actual_bytes.mean", Number),
        field("budget.actual_bytes.p50", Number),
        field("budget.actual_bytes.p95", Number),
        field("budget.actual_bytes.max", Number),
        maybe("budget.slack_bytes", Object),
        field("budget.slack_bytes.mean", Number),
        field("budget.slack_bytes.p50", Number),
        field("budget.slack_bytes.p95", Number),
        field("budget.slack_bytes.max", Number),
        field("budget.empty_items", Integer),
        field("bytes_estimated_total", Integer),
        field("bytes_estimate", Integer),
        field("bytes_measured_total", Integer),
        field("bytes_measured_breakdown.header", Integer),
        field("bytes_measured_breakdown.table", Integer),
        field("bytes_measured_breakdown.indices", Integer),
        field("bytes_measured_breakdown.payload_k", Integer),
        field("bytes_measured_breakdown.payload_v", Integer),
        field("bytes_measured_breakdown.scales", Integer),
        field("bytes_measured_breakdown.text", Integer),
        field("bytes_measured_breakdown.request", Integer),
        maybe("wire", Object),
        field("wire.format", Text),
        field("wire.version", Text),
        field("wire.profile", Text),
        field("wire.index", Text),
        field("wire.scale_dtype", Text),
        field("wire.scale_granularity", Text),
        field("wire.compression", Text),
        field("wire.layers_per_block", Integer),
        maybe("timings_ms.prefill_sharer", Object),
        maybe("timings_ms.prefill_receiver", Object),
        maybe("timings_ms.projection_score", Object),
        maybe("timings_ms.select", Object),
        maybe("timings_ms.encode", Object),
        maybe("timings_ms.send", Object),
        maybe("timings_ms.decode", Object),
        maybe("timings_ms.project", Object),
        maybe("timings_ms.fuse", Object),
        maybe("timings_ms.end_to_end", Object),
        maybe("text", Object),
        field("text.style", Text),
        field("text.max_new_tokens", Integer),
        field("text.truncation_rate", Number),
        field("answer_histogram", Object),
        field("mean_output_tokens", Number),
        maybe("accuracy", Object),
        field("accuracy.mean", Number),
        field("accuracy.low", Number),
        field("accuracy.high", Number),
        maybe("bpb", Object),
        field("bpb.mean", Number),
        field("bpb.low", Number),
        field("bpb.high", Number),
        field("seeds", Object),
        field("code_version", Text),
        field("host.cpu", Text),
        field("host.os", Text),
        field("host.threads", Integer),
        field("host.kernels", Text),
    ]
};

/// Checks that every required field is there with its type.
///
/// # Errors
/// [`Error::Record`] names the first that is not.
pub fn check_schema(record: &Value) -> Result<(), Error> {
    SCHEMA.iter().try_for_each(|field| field.check(record))
}

impl Field {
    fn check(&self, record: &Value) -> Result<(), Error> {
        let mut value = record;
        let mut keys = self.path.split('.').peekable();
        while let Some(key) = keys.next() {
            let wrong = |got: &str| {
                Err(Error::record(format!("link.json, `{}`", self.path), self.expected(), got))
            };
            match value.get(key) {
                // A part that is not there at all has a line of its own that says so.
                Some(Value::Null) if keys.peek().is_some() => return Ok(()),
                Some(found) => value = found,
                None => return wrong("nothing"),
            }
        }
        let fits = match (self.kind, value) {
            (_, Value::Null) => self.may_be_null,
            (Kind::Integer, Value::Number(number)) => number.is_u64(),
            (Kind::Number, Value::Number(_)) => true,
            (Kind::Text, Value::String(_)) => true,
            (Kind::Flag, Value::Bool(_)) => true,
            (Kind::Object, Value::Object(_)) => true,
            _ => false,
        };
        match fits {
            true => Ok(()),
            false => {
                let what = format!("link.json, `{}`", self.path);
                Err(Error::record(what, self.expected(), value))
            }
        }
    }

    fn expected(&self) -> String {
        let kind = match self.kind {
            Kind::Integer => "a whole number",
            Kind::Number => "a number",
            Kind::Text => "a text",
            Kind::Flag => "true or false",
            Kind::Object => "an object",
        };
        format!("{kind}{}", if self.may_be_null { " or null" } else { "" })
    }
}

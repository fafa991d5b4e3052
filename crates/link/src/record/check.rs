//! What a record may not say: figures that contradict each other were wrong before, unnoticed.

use super::{LinkRecord, SCHEMA_VERSION, Status, check_schema};
use crate::Error;
use crate::methods::{PayloadKind, Stage};
use crate::stats::Interval;

impl LinkRecord {
    /// Whether the record can be believed.
    ///
    /// # Errors
    /// [`Error::Record`] names the field: a cache that was measured at nothing while tokens were
    /// selected, a fuser without layers, parts that are not the total, caps that were not kept.
    pub fn check(&self) -> Result<(), Error> {
        let value = serde_json::to_value(self)
            .map_err(|e| wrong("link.json", "a value with a JSON form", e))?;
        check_schema(&value)?;
        if self.schema_version != SCHEMA_VERSION {
            return Err(wrong("schema_version", SCHEMA_VERSION, self.schema_version));
        }
        if matches!(self.status, Status::Failed | Status::Incomplete) && self.reason.is_none() {
            return Err(wrong("reason", "why it did not end", "null"));
        }
        self.check_parts()?;
        self.check_bytes()?;
        self.check_figures()
    }

    fn check_parts(&self) -> Result<(), Error> {
        if self.fuser.as_ref().is_some_and(|fuser| fuser.layers_loaded == 0) {
            return Err(wrong("fuser.layers_loaded", "at least 1", 0));
        }
        for (name, model) in [("receiver", &self.receiver), ("sharer", &self.sharer)] {
            let kv = model.kv;
            if [kv.layers, kv.kv_heads, kv.key_dim, kv.value_dim].contains(&0) {
                return Err(wrong(name, "a shape without zeros", format!("{kv:?}")));
            }
        }
        // What belongs to one kind of payload is there with it, and with no other.
        let is_kv = self.payload == PayloadKind::Kv;
        for (name, there, expected) in [
            ("wire", self.wire.is_some(), is_kv),
            ("precision", self.precision.is_some(), is_kv),
            ("text", self.text.is_some(), self.payload == PayloadKind::Text),
        ] {
            if there != expected {
                let words = |there| if there { "an object" } else { "null" };
                return Err(wrong(name, words(expected), words(there)));
            }
        }
        match Stage::ALL.iter().find(|stage| !self.timings_ms.contains_key(stage)) {
            Some(stage) => Err(wrong("timings_ms", format!("{stage:?}"), "nothing")),
            None => Ok(()),
        }
    }

    fn check_bytes(&self) -> Result<(), Error> {
        let (total, parts) = (self.bytes_measured_total, self.bytes_measured_breakdown.total());
        if parts != total {
            return Err(wrong("bytes_measured_breakdown", format!("parts of {total}"), parts));
        }
        if self.bytes_estimate != self.bytes_estimated_total {
            return Err(wrong("bytes_estimate", self.bytes_estimated_total, self.bytes_estimate));
        }
        let selected = self.precision.as_ref().map_or(0, |precision| {
            precision.tokens.iter().filter(|(name, _)| *name != "drop").map(|(_, n)| n).sum()
        });
        let by_proportion =
            self.selection.as_ref().is_some_and(|selection| selection.selected_tokens.max > 0.0);
        if self.payload == PayloadKind::Kv && total == 0 && (selected > 0 || by_proportion) {
            let expected = format!("the bytes of {selected} selected tokens");
            return Err(wrong("bytes_measured_total", expected, 0));
        }
        if let Some(cap) =
            self.budget.cap_bytes.filter(|cap| self.budget.actual_bytes.max > cap.max)
        {
            let expected = format!("at most {}", cap.max);
            return Err(wrong("budget.actual_bytes", expected, self.budget.actual_bytes.max));
        }
        Ok(())
    }

    fn check_figures(&self) -> Result<(), Error> {
        let answered = self.answer_histogram.values().sum::<u64>();
        let expected = if self.accuracy.is_some() { self.n } else { 0 };
        if answered != expected {
            return Err(wrong("answer_histogram", format!("{expected} answers"), answered));
        }
        if let Some(accuracy) = self.accuracy
            && (!is_ordered(&accuracy) || !(0.0..=1.0).contains(&accuracy.mean))
        {
            return Err(wrong("accuracy", "a share within its interval", format!("{accuracy:?}")));
        }
        if let Some(bpb) = self.bpb
            && (!is_ordered(&bpb) || bpb.mean < 0.0)
        {
            return Err(wrong("bpb", "bits within their interval", format!("{bpb:?}")));
        }
        // What has ended has measured something: answers, or how likely texts are.
        let has_ended = matches!(self.status, Status::Complete | Status::Smoke);
        if has_ended && self.accuracy.is_some() == self.bpb.is_some() {
            let got = if self.bpb.is_some() { "both" } else { "neither" };
            return Err(wrong("accuracy", "either it or `bpb`", got));
        }
        Ok(())
    }
}

fn is_ordered(interval: &Interval) -> bool {
    interval.low <= interval.mean && interval.mean <= interval.high
}

fn wrong(field: &str, expected: impl ToString, got: impl ToString) -> Error {
    Error::record(format!("link.json, `{field}`"), expected.to_string(), got)
}

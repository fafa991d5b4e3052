//! The most bytes by ledger tag: of each step, and of the run.

use std::collections::BTreeMap;

use smidgen_codec::{Ledger, Tag};

use crate::bytes::PAGED;

use crate::anonymous_bytes;

/// The name of the sum of all tags at one moment.
const TOTAL: &str = "total";

/// The peaks of a run; the ledger's own are those since the last step began.
#[derive(Default)]
pub(super) struct Peaks {
    run: BTreeMap<&'static str, u64>,
    /// Private memory that is no file's: sampled, because the system keeps no peak of it.
    anonymous: u64,
}

impl Peaks {
    /// Before a step: what came between the steps counts for the run alone.
    pub(super) fn begin_step(&mut self, ledger: &Ledger) {
        self.take(ledger);
        ledger.reset_peaks();
    }

    /// The peaks since the step began; tags that hold nothing are left out.
    pub(super) fn take(&mut self, ledger: &Ledger) -> BTreeMap<&'static str, u64> {
        self.anonymous = self.anonymous.max(anonymous_bytes());
        let tags = Tag::ALL.map(|tag| (tag.name(), ledger.peak_bytes(tag) as u64));
        let all = tags.into_iter().chain([(TOTAL, ledger.total_peak_bytes() as u64)]);
        let step: BTreeMap<_, _> = all.filter(|(_, bytes)| *bytes > 0).collect();
        for (name, bytes) in &step {
            let most = self.run.entry(name).or_default();
            *most = (*most).max(*bytes);
        }
        step
    }

    /// The most private memory that was seen, in bytes.
    pub(super) fn anonymous(&self) -> u64 {
        self.anonymous
    }

    /// The most bytes of all tags together, so far.
    pub(super) fn total(&self) -> u64 {
        self.run.get(TOTAL).copied().unwrap_or(0)
    }

    /// What `ledger.json` holds: live bytes, and the peaks of the run in this process.
    pub(super) fn summary(&mut self, ledger: &Ledger) -> serde_json::Value {
        self.take(ledger);
        let live = |tag| ledger.live_bytes(tag) as u64;
        let tags = Tag::ALL.map(|tag| (tag.name(), live(tag)));
        let all = tags.into_iter().chain([(TOTAL, ledger.total_live_bytes() as u64)]);
        let paged = ledger.peak_paged_bytes();
        let paged = (paged > 0).then(|| {
            let figures = serde_json::json!({ "live": ledger.paged_bytes(), "peak": paged });
            (PAGED.to_string(), figures)
        });
        let figures = all.map(|(name, live)| {
            let peak = self.run.get(name).copied().unwrap_or(0);
            (name.to_string(), serde_json::json!({ "live": live, "peak": peak }))
        });
        serde_json::Value::Object(figures.chain(paged).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_their_own_peaks_and_the_run_keeps_the_largest() {
        let (ledger, mut peaks) = (Ledger::new(), Peaks::default());
        let held = ledger.try_book(Tag::Weights, 100).unwrap();
        drop(ledger.try_book(Tag::Kv, 70).unwrap());
        peaks.begin_step(&ledger);
        drop(ledger.try_book(Tag::Grads, 30).unwrap());
        let step = peaks.take(&ledger);
        assert_eq!(step, BTreeMap::from([("weights", 100), ("grads", 30), ("total", 130)]));
        peaks.begin_step(&ledger);
        assert_eq!(peaks.take(&ledger)["total"], 100);
        let json = peaks.summary(&ledger);
        assert_eq!(json["kv"], serde_json::json!({ "live": 0, "peak": 70 }));
        assert_eq!(json["total"], serde_json::json!({ "live": 100, "peak": 170 }));
        assert_eq!(peaks.total(), 170);
        drop(held);
    }
}

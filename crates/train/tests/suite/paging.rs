//! State in a file of the run: the same bits as in memory, less memory, and nothing left behind.

use std::sync::Arc;

use smidgen_store::{Disk, RunView};
use smidgen_train::{Error, Status};

use crate::common::{Place, Watch, tensors};

/// Wide enough for state that is worth a file, and of both kinds: small slots stay in memory.
const WIDE: [&str; 3] = ["model.width=128", "model.ffn=256", "train.grad=streamed"];

fn groups(rule: &str, paged: bool) -> String {
    format!("optim=[{{name='all', rule='{rule}', lr=1e-3, state_paged={paged}}}]")
}

fn ledger(place: &Place, run: &str) -> serde_json::Value {
    RunView::open(&place.run(run)).unwrap().read_json("ledger.json").unwrap()
}

#[test]
fn paged_state_has_the_bits_of_resident_state_and_fits_where_that_does_not() {
    let place = Place::new();
    let (resident, paged) = (groups("adamw", false), groups("adamw", true));
    place.train("resident", &[&WIDE[..], &[&resident]].concat());
    place.train("absent", &[&WIDE[..], &["optim=[{name='all', rule='adamw', lr=1e-3}]"]].concat());
    place.train("paged", &[&WIDE[..], &[&paged]].concat());
    let bits = tensors(&place.run("resident"), 8);
    assert!(bits == tensors(&place.run("absent"), 8));
    assert!(bits == tensors(&place.run("paged"), 8), "bits differ in a file");
    let (all, rest) = (ledger(&place, "resident"), ledger(&place, "paged"));
    let peak = |ledger: &serde_json::Value, tag: &str| ledger[tag]["peak"].as_u64().unwrap();
    assert!(all.get("paged").is_none());
    assert_eq!(peak(&rest, "state") + peak(&rest, "paged"), peak(&all, "state"));
    assert!(peak(&rest, "state") * 10 < peak(&all, "state"));
    // The plan counts the same, and a limit between the two takes the one and refuses the other.
    let plan: serde_json::Value =
        RunView::open(&place.run("paged")).unwrap().read_json("plan.json").unwrap();
    assert_eq!(plan["by_tag"]["paged"].as_u64().unwrap(), peak(&rest, "paged"));
    let needed = plan["needed_bytes"].as_u64().unwrap();
    let tight = format!("memory={}", needed + peak(&rest, "paged") / 2);
    let fixed = ["train.recompute=false", "train.loss_chunk=8MiB", &tight];
    place.train("tight", &[&WIDE[..], &fixed, &[&paged]].concat());
    assert!(bits == tensors(&place.run("tight"), 8), "bits differ under a tight limit");
    let config = place.config(&[&WIDE[..], &fixed, &[&resident]].concat());
    let error = Watch::new().train(&config, &place.run("refused"), Arc::new(Disk)).unwrap_err();
    assert!(matches!(error, Error::OverBudget { .. }), "{error}");
    for run in ["paged", "tight"] {
        assert!(!place.run(run).join("state.pages").exists());
    }
}

#[test]
fn paged_state_goes_on_from_a_checkpoint() {
    let place = Place::new();
    let paged = groups("adamw", true);
    let sets = [&WIDE[..], &[&paged]].concat();
    place.train("whole", &sets);
    place.until("halves", &sets, 3);
    assert_eq!(place.resume("halves").status, Status::Finished);
    assert!(tensors(&place.run("whole"), 8) == tensors(&place.run("halves"), 8));
}

//! A disk that fails at any moment: what is there afterwards resumes to the undisturbed result.

use std::sync::Arc;

use smidgen_store::{Disk, Fault, Faulty};
use smidgen_train::Changes;

use crate::common::{Place, Watch, tensors};

#[test]
fn whatever_write_fails_the_run_resumes_to_the_same_bits() {
    let place = Place::new();
    place.train("whole", &[]);
    let expected = tensors(&place.run("whole"), 8);
    let counting = Faulty::counting();
    // Events are written besides, and change nothing.
    let config = place.config(&["track.tensorboard=true"]);
    Watch::new().train(&config, &place.run("counted"), Arc::new(counting.clone())).unwrap();
    let operations = counting.operations();
    assert!(operations > 100, "{operations}");
    // Every fifth operation, each time with another kind of fault; data preparation included.
    for (turn, n) in (0..operations).step_by(5).enumerate() {
        let run = place.run("faulty");
        let fault = Fault::ALL[turn % Fault::ALL.len()];
        let files = Arc::new(Faulty::from(n, fault));
        let error = Watch::new().train(&config, &run, files).unwrap_err();
        assert!(!error.to_string().is_empty());
        let watch = Watch::new();
        let outcome = if run.join("run.toml").exists() {
            watch.resume(&run, &Changes::default(), Arc::new(Disk))
        } else {
            watch.train(&config, &run, Arc::new(Disk))
        };
        let outcome = outcome.unwrap_or_else(|e| panic!("operation {n}, {fault:?}: {e}"));
        assert_eq!(outcome.steps, 8);
        assert!(tensors(&run, 8) == expected, "operation {n}, {fault:?}: other bits");
        assert_eq!(place.losses("faulty"), place.losses("whole"), "operation {n}, {fault:?}");
        std::fs::remove_dir_all(&run).unwrap();
    }
}

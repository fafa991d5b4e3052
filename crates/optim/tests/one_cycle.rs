//! One-cycle against PyTorch's, rate and momentum, in two and three phases.

use serde::Deserialize;
use smidgen_optim::{OneCycle, Schedule};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    total: u64,
    three_phase: bool,
    /// Step, rate, first beta.
    rows: Vec<(u64, f64, f64)>,
}

#[test]
fn rates_and_momenta_are_those_of_pytorch() {
    let golden = include_str!("../../../testdata/golden/one_cycle.json");
    let golden: Golden = serde_json::from_str(golden).unwrap();
    assert_eq!(golden.cases.len(), 6);
    for Case { total, three_phase, rows } in golden.cases {
        let schedule = Schedule::OneCycle(OneCycle { three_phase, ..OneCycle::default() });
        for (step, rate, beta) in rows {
            let got = schedule.multiplier(step, total);
            assert!((got - rate).abs() < 1e-9, "{got} for {rate} at {step} of {total}");
            let got = schedule.beta1(step, total).unwrap();
            assert!((got - beta).abs() < 1e-9, "{got} for {beta} at {step} of {total}");
        }
    }
}

//! Time: how long the run went, how long a step takes, what the electricity meter says.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// Steps at the start whose time says nothing yet.
const UNTIMED_STEPS: u64 = 3;

/// Seconds of the run, those of earlier processes included.
pub(super) struct Clock {
    before: f64,
    since: Instant,
    /// Seconds per step, smoothed, for people and for the horizon.
    pub(super) per_step: Option<f64>,
    timed: u64,
}

impl Clock {
    pub(super) fn new(before: f64) -> Clock {
        Clock { before, since: Instant::now(), per_step: None, timed: 0 }
    }

    pub(super) fn seconds(&self) -> f64 {
        self.before + self.here()
    }

    /// Seconds of this process's loop.
    pub(super) fn here(&self) -> f64 {
        self.since.elapsed().as_secs_f64()
    }

    pub(super) fn timed_step(&mut self, seconds: f64) {
        self.timed += 1;
        if self.timed > UNTIMED_STEPS {
            self.per_step = Some(self.per_step.map_or(seconds, |old| 0.9 * old + 0.1 * seconds));
        }
    }
}

/// The energy counters of the processor's packages, where the system lets them be read.
pub(super) struct Meter {
    counters: Vec<PathBuf>,
    last: Option<(f64, Instant)>,
}

impl Meter {
    /// Under `/sys/class/powercap`: one counter in microjoules for each package.
    pub(super) fn find() -> Meter {
        let package = |n| PathBuf::from(format!("/sys/class/powercap/intel-rapl:{n}/energy_uj"));
        let counters = (0..8).map(package).take_while(|path| fs::read(path).is_ok()).collect();
        Meter { counters, last: None }
    }

    /// Mean watts since the last call; none where nothing is known.
    pub(super) fn watts(&mut self) -> Option<f64> {
        let read = |path: &PathBuf| fs::read_to_string(path).ok()?.trim().parse::<f64>().ok();
        let now = Instant::now();
        let energy: f64 = self.counters.iter().map(read).sum::<Option<f64>>()?;
        let (before, then) = self.last.replace((energy, now))?;
        let (joules, seconds) = ((energy - before) / 1e6, (now - then).as_secs_f64());
        // A counter that ran over says nothing once.
        (!self.counters.is_empty() && joules >= 0.0 && seconds > 0.0).then(|| joules / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_gives_watts_from_its_second_reading_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("energy_uj");
        let mut meter = Meter { counters: vec![path.clone()], last: None };
        for (energy, known) in [("1000000", false), ("6000000\n", true), ("0", false), ("x", false)]
        {
            fs::write(&path, energy).unwrap();
            let watts = meter.watts();
            assert_eq!(watts.is_some(), known, "{energy:?}: {watts:?}");
            assert!(watts.is_none_or(|watts| watts > 0.0));
        }
        assert_eq!(Meter { counters: Vec::new(), last: None }.watts(), None);
    }

    #[test]
    fn the_first_steps_are_not_timed() {
        let mut clock = Clock::new(10.0);
        (0..3).for_each(|_| clock.timed_step(9.0));
        assert_eq!(clock.per_step, None);
        clock.timed_step(1.0);
        clock.timed_step(2.0);
        assert!((clock.per_step.unwrap() - 1.1).abs() < 1e-12 && clock.seconds() >= 10.0);
    }
}

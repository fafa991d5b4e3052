//! When bytes pass a line of a given rate and round-trip time; arithmetic without a clock.
//!
//! Token bucket of `burst` bytes filled at `rate`: a piece has left when the line has carried all
//! before it, `depart = max(now, previous) + bytes / rate`, up to `burst / rate` earlier after a
//! pause; it arrives half a round trip later. Integers only: pieces of any size add up to the same
//! time.

use std::str::FromStr;
use std::time::Duration;

use super::error::NetError;

/// What a line is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LineProfile {
    /// Bytes per second in each direction; at least 1.
    pub bytes_per_s: u64,
    /// There and back, without the time that bytes take.
    pub rtt: Duration,
    /// Bytes that may pass at once after a pause.
    pub burst_bytes: u64,
}

impl LineProfile {
    /// When a message of `bytes` has arrived whole, from when its first byte was written.
    pub fn transfer(&self, bytes: u64) -> Duration {
        Schedule::new(*self).admit(Duration::ZERO, bytes).arrive
    }
}

/// When a piece leaves and when it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The writer may go on.
    pub depart: Duration,
    /// The reader has it.
    pub arrive: Duration,
}

/// The times of one direction; pure arithmetic.
#[derive(Clone, Debug)]
pub struct Schedule {
    profile: LineProfile,
    /// When the line is free, in nanoseconds times the rate: no rounding adds up.
    free: u128,
}

impl Schedule {
    /// An idle line. A rate of 0 counts as 1.
    pub fn new(profile: LineProfile) -> Schedule {
        let bytes_per_s = profile.bytes_per_s.max(1);
        Schedule { profile: LineProfile { bytes_per_s, ..profile }, free: 0 }
    }

    /// Takes `bytes` that are written at `now`.
    pub fn admit(&mut self, now: Duration, bytes: u64) -> Passage {
        const NANOS: u128 = 1_000_000_000;
        let rate = u128::from(self.profile.bytes_per_s);
        let burst = u128::from(self.profile.burst_bytes) * NANOS;
        let now_scaled = now.as_nanos() * rate;
        self.free = self.free.max(now_scaled) + u128::from(bytes) * NANOS;
        let depart = self.free.saturating_sub(burst).max(now_scaled).div_ceil(rate);
        let depart = Duration::from_nanos(u64::try_from(depart).unwrap_or(u64::MAX));
        Passage { depart, arrive: depart.saturating_add(self.profile.rtt / 2) }
    }
}

impl FromStr for LineProfile {
    type Err = NetError;

    /// `RATE` or `RATE,RTT` without a burst: `10Mbit,30ms`. Rates are `kbit`, `Mbit` and `Gbit` per
    /// second, powers of 1000.
    fn from_str(text: &str) -> Result<LineProfile, NetError> {
        let (rate, rtt) = text.split_once(',').unwrap_or((text, "0ms"));
        let units = [("kbit", 1e3), ("Mbit", 1e6), ("Gbit", 1e9)];
        let bits = units.iter().find_map(|(unit, size)| {
            rate.strip_suffix(unit)?.parse().ok().map(|number: f64| number * size)
        });
        let ms = rtt.strip_suffix("ms").and_then(|number| number.parse().ok());
        match (bits, ms.and_then(|ms: f64| Duration::try_from_secs_f64(ms / 1e3).ok())) {
            (Some(bits), Some(rtt)) if bits.is_finite() && bits >= 8.0 => {
                Ok(LineProfile { bytes_per_s: (bits / 8.0) as u64, rtt, burst_bytes: 0 })
            }
            _ => Err(NetError::Line { got: text.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(bytes_per_s: u64, rtt_ms: u64, burst_bytes: u64) -> LineProfile {
        LineProfile { bytes_per_s, rtt: Duration::from_millis(rtt_ms), burst_bytes }
    }

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_piece_leaves_after_those_before_it_and_arrives_half_a_round_trip_later() {
        let mut line = Schedule::new(profile(1000, 30, 0));
        assert_eq!(line.admit(MS(0), 100), Passage { depart: MS(100), arrive: MS(115) });
        assert_eq!(line.admit(MS(0), 50), Passage { depart: MS(150), arrive: MS(165) });
        // After a pause the line is free; time does not gather.
        assert_eq!(line.admit(MS(1000), 10).depart, MS(1010));
        assert_eq!(profile(1000, 30, 0).transfer(2000), MS(2015));
    }

    #[test]
    fn a_burst_passes_at_once_and_fills_again_at_the_rate() {
        let mut line = Schedule::new(profile(1000, 0, 100));
        assert_eq!(line.admit(MS(0), 100).depart, MS(0));
        assert_eq!(line.admit(MS(0), 100).depart, MS(100));
        // 50 ms later half of the bucket is there again.
        assert_eq!(line.admit(MS(150), 100).depart, MS(200));
        assert_eq!(line.admit(MS(1000), 150).depart, MS(1050));
    }

    #[test]
    fn pieces_of_any_size_take_the_same_time_together() {
        for rate in [3, 7, 125_000, 1_000_003, 12_500_000_000] {
            let whole = Schedule::new(profile(rate, 1, 0)).admit(MS(0), 30_000).depart;
            for size in [1, 7, 1000] {
                let mut line = Schedule::new(profile(rate, 1, 0));
                let pieces = (30_000 / size) as usize;
                let rest = 30_000 % size;
                let mut last = Duration::ZERO;
                for piece in std::iter::repeat_n(size, pieces).chain([rest]) {
                    last = line.admit(MS(0), piece).depart;
                }
                assert_eq!(last, whole, "{rate} bytes/s in pieces of {size}");
            }
        }
    }

    #[test]
    fn profiles_read_as_they_are_spoken_of() {
        let read = |text: &str| text.parse::<LineProfile>();
        assert_eq!(read("10Mbit,30ms").unwrap(), profile(1_250_000, 30, 0));
        assert_eq!(read("0.5Gbit").unwrap(), profile(62_500_000, 0, 0));
        assert_eq!(read("8kbit,0.5ms").unwrap().rtt, Duration::from_micros(500));
        for text in ["", "10", "10MB", "Mbit", "-1Mbit", "0kbit", "NaNkbit", "1Mbit,", "1Mbit,-1ms"]
        {
            let error = read(text).unwrap_err().to_string();
            assert!(error.ends_with(&format!("got `{text}`")), "{error}");
        }
    }
}

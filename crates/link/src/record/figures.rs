//! Figures of a distribution, as records and tables hold them.

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::stats::quantile;

/// Mean and quantiles of some values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)] // The names say it.
pub struct Spread {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub max: f64,
}

impl Spread {
    /// Of values that are finite; quantiles lie on the line between two values.
    ///
    /// # Errors
    /// [`Error::Length`] for none.
    pub fn of(values: &[f64]) -> Result<Spread, Error> {
        let at = |q| quantile(values, q);
        let (Some(p50), Some(p95), Some(max)) = (at(0.5), at(0.95), at(1.0)) else {
            return Err(Error::Length { what: "values to describe", expected: 1, got: 0 });
        };
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Ok(Spread { mean, p50, p95, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        let spread = Spread::of(&[4.0, 1.0, 2.0, 3.0, 5.0]).unwrap();
        assert_eq!(spread, Spread { mean: 3.0, p50: 3.0, p95: 4.8, max: 5.0 });
        assert_eq!(Spread::of(&[7.0]).unwrap().p95, 7.0);
        assert!(Spread::of(&[]).is_err());
    }
}

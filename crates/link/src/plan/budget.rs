//! Caps of one sample: bytes, or a share of what all of that sample's cache would weigh.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use smidgen_store::Bytes;

use crate::Error;

/// What a message may weigh, written `none`, `full`, `1/32`, `4 KiB` or `1234`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Budget {
    /// As much as it needs.
    #[default]
    Unlimited,
    /// So many bytes, the whole message.
    Bytes(u64),
    /// A share of [`full_bytes`](super::full_bytes) of the same sample, rounded down.
    Share {
        /// Above 0.
        numerator: u32,
        /// Above 0.
        denominator: u32,
    },
}

impl Budget {
    /// The cap of a sample whose whole cache weighs `full_bytes`; none without a limit.
    pub fn cap_bytes(self, full_bytes: u64) -> Option<u64> {
        match self {
            Budget::Unlimited => None,
            Budget::Bytes(bytes) => Some(bytes),
            Budget::Share { numerator, denominator } => {
                let scaled = u128::from(full_bytes) * u128::from(numerator);
                // A share above 1 of a huge cache is no limit.
                Some(u64::try_from(scaled / u128::from(denominator)).unwrap_or(u64::MAX))
            }
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Budget::Unlimited => f.write_str("none"),
            Budget::Bytes(bytes) => write!(f, "{bytes}"),
            Budget::Share { numerator: 1, denominator: 1 } => f.write_str("full"),
            Budget::Share { numerator, denominator } => write!(f, "{numerator}/{denominator}"),
        }
    }
}

impl FromStr for Budget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Budget, Error> {
        let wrong =
            || Error::value("budget", "`none`, `full`, a share such as `1/32`, or bytes", text);
        match (text, text.split_once('/')) {
            ("none", _) => Ok(Budget::Unlimited),
            ("full", _) => Ok(Budget::Share { numerator: 1, denominator: 1 }),
            (_, Some((numerator, denominator))) => {
                match (numerator.trim().parse(), denominator.trim().parse()) {
                    (Ok(numerator), Ok(denominator)) if numerator > 0 && denominator > 0 => {
                        Ok(Budget::Share { numerator, denominator })
                    }
                    _ => Err(wrong()),
                }
            }
            _ => text.parse().map(|Bytes(bytes)| Budget::Bytes(bytes)).map_err(|_| wrong()),
        }
    }
}

impl TryFrom<String> for Budget {
    type Error = Error;

    fn try_from(text: String) -> Result<Budget, Error> {
        text.parse()
    }
}

impl From<Budget> for String {
    fn from(budget: Budget) -> String {
        budget.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caps_are_rounded_down_and_read_back() {
        for (text, cap) in
            [("none", None), ("full", Some(100)), ("1/32", Some(3)), ("4 KiB", Some(4096))]
        {
            let budget: Budget = text.parse().unwrap();
            assert_eq!(budget.cap_bytes(100), cap, "{text}");
            assert_eq!(budget.to_string().parse::<Budget>().unwrap(), budget);
        }
        let huge = Budget::Share { numerator: 3, denominator: 2 };
        assert_eq!(huge.cap_bytes(u64::MAX), Some(u64::MAX));
        for text in ["", "0/3", "3/0", "1/", "-1", "4 K"] {
            let error = text.parse::<Budget>().unwrap_err().to_string();
            assert!(error.starts_with("`budget`: expected `none`"), "{error}");
        }
    }
}

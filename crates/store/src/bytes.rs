//! Sizes as people write them: `64 KiB`, `2GiB`, `1234`.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

use crate::Error;

/// A number of bytes; in TOML, JSON and arguments a number or a text with a unit.
///
/// Units are `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) and `KB`, `MB`, `GB`, `TB` (powers
/// of 1000), in any case. A bare `2G` is refused: it means different things to different people.
///
/// ```
/// use smidgen_store::Bytes;
/// assert_eq!("1.5 GiB".parse::<Bytes>()?, Bytes(1_610_612_736));
/// assert_eq!(Bytes(65_536).to_string(), "64 KiB");
/// # Ok::<(), smidgen_store::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

const BINARY: [(&str, u64); 4] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
const DECIMAL: [(&str, u64); 4] =
    [("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000)];

impl Bytes {
    /// The largest binary unit that divides the number, so that a written size reads back exactly.
    fn exact(self) -> Option<(u64, &'static str)> {
        let whole = |(_, size): &&(&str, u64)| self.0 >= *size && self.0.is_multiple_of(*size);
        BINARY.iter().find(whole).map(|(unit, size)| (self.0 / size, *unit))
    }
}

impl fmt::Display for Bytes {
    /// For people: exact where a unit divides, else one decimal of the largest unit that fits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fitting = BINARY.iter().find(|(_, size)| self.0 >= *size);
        match (self.exact(), fitting) {
            (Some((count, unit)), Some((fit, _))) if unit == *fit => write!(f, "{count} {unit}"),
            (_, Some((unit, size))) => write!(f, "{:.1} {unit}", self.0 as f64 / *size as f64),
            (_, None) => write!(f, "{} B", self.0),
        }
    }
}

impl FromStr for Bytes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text.trim()).map(Bytes).ok_or_else(|| Error::Bytes { got: text.to_string() })
    }
}

fn parse(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_');
    let (number, unit) = text.split_at(split.unwrap_or(text.len()));
    let (number, size) = (number.replace('_', ""), unit_size(unit.trim())?);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(size);
    }
    // A fraction is rounded to a whole byte; `u64::MAX as f64` is 2^64, which does not fit.
    let bytes = (number.parse::<f64>().ok()? * size as f64).round();
    (size > 1 && (0.0..u64::MAX as f64).contains(&bytes)).then_some(bytes as u64)
}

fn unit_size(unit: &str) -> Option<u64> {
    if unit.is_empty() || unit.eq_ignore_ascii_case("b") {
        return Some(1);
    }
    let mut units = BINARY.iter().chain(&DECIMAL);
    units.find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, size)| *size)
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.exact() {
            Some((count, unit)) => serializer.collect_str(&format_args!("{count} {unit}")),
            None => serializer.serialize_u64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Size;
        impl Visitor<'_> for Size {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes such as `64 KiB`, `1.5GiB` or `1234`")
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Bytes, E> {
                Ok(Bytes(value))
            }
            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Bytes, E> {
                let negative = || E::invalid_value(serde::de::Unexpected::Signed(value), &self);
                u64::try_from(value).map(Bytes).map_err(|_| negative())
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Bytes, E> {
                let wrong = |_| E::invalid_value(serde::de::Unexpected::Str(text), &self);
                text.parse().map_err(wrong)
            }
        }
        deserializer.deserialize_any(Size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("1234", 1234),
            ("1_000", 1000),
            ("64 KiB", 65_536),
            ("64kib", 65_536),
            ("2GiB", 2 << 30),
            (" 1.5 MiB ", 3 << 19),
            ("10 MB", 10_000_000),
            ("7 B", 7),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
    }

    #[test]
    fn refuses_the_rest() {
        for text in ["", "KiB", "2G", "-1", "1.5", "1e3", "99999999 TiB", "1 KiB x", "1..5 KiB"] {
            let error = text.parse::<Bytes>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("got `{text}`")), "{error}");
        }
    }

    #[test]
    fn shows_sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (5 << 19, "2.5 MiB"),
            (3 << 30, "3 GiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn serialised_sizes_read_back(bytes in any::<u64>(), shift in 0u32..50) {
            let size = Bytes(bytes >> shift << (shift / 2));
            let text = serde_json::to_string(&size).unwrap();
            prop_assert_eq!(serde_json::from_str::<Bytes>(&text).unwrap(), size);
        }

        #[test]
        fn any_text_is_handled(text in "\\PC*") {
            let _ = text.parse::<Bytes>();
        }
    }
}

//! Which precision each layer of the sharer travels with, and which layers do not travel.
//!
//! A default, then overrides in their order; the last one that names a layer wins. Halves that no
//! open gate of the receiver reads are never sent, whatever the schedule says.
//! In words an override is `LAYERS=SCHEME`: `2=drop`, `0-3=int4`, `first 1=int8/int4` for keys and
//! values, `last 2=f16`.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{LayerPrecision, Precision, Recipe};
use crate::Error;

/// How a half of a layer travels where it does not travel.
const DROP: &str = "drop";

/// A schedule as it is configured. Schemes are names of precisions, or `drop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerSchedule {
    /// The scheme of every layer that no override names.
    pub default: String,
    /// That of keys, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k_scheme: Option<String>,
    /// That of values, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v_scheme: Option<String>,
    /// In their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrides: Vec<LayerOverride>,
}

/// Another scheme for some layers of the sharer: exactly one of the first four keys says which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LayerOverride {
    /// These.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<usize>>,
    /// From the first to the last, both included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<[usize; 2]>,
    /// The first so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_n: Option<usize>,
    /// The last so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_n: Option<usize>,
    /// Of keys and values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// Of keys; wins over `scheme`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k_scheme: Option<String>,
    /// Of values; wins over `scheme`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v_scheme: Option<String>,
}

impl LayerSchedule {
    /// One scheme for all.
    pub fn uniform(scheme: &str) -> LayerSchedule {
        let default = scheme.into();
        LayerSchedule { default, k_scheme: None, v_scheme: None, overrides: Vec::new() }
    }

    /// The precision of each of the sharer's layers; `needed` are those of their keys and values that
    /// are read.
    ///
    /// # Errors
    /// [`Error::Value`] for an override that names no layers, or in two ways, or one that is not
    /// there; [`Error::Precision`] for a scheme.
    pub fn resolve(&self, needed: &[[bool; 2]]) -> Result<Recipe, Error> {
        let layers = needed.len();
        let default = Some(self.default.as_str());
        let first = [scheme(&self.k_scheme, default)?, scheme(&self.v_scheme, default)?];
        let halves = |[key, value]: [Option<Half>; 2]| LayerPrecision {
            key: key.and_then(|half| half.0),
            value: value.and_then(|half| half.0),
        };
        let mut recipe = Recipe { layers: vec![halves(first); layers] };
        for (number, change) in self.overrides.iter().enumerate() {
            let general = change.scheme.as_deref();
            let [key, value] =
                [scheme(&change.k_scheme, general)?, scheme(&change.v_scheme, general)?];
            if key.is_none() && value.is_none() {
                return Err(wrong(number, "a scheme", "none"));
            }
            for layer in change.layers(number, layers)? {
                let to = &mut recipe.layers[layer];
                to.key = key.map_or(to.key, |half| half.0);
                to.value = value.map_or(to.value, |half| half.0);
            }
        }
        for (layer, [key, value]) in recipe.layers.iter_mut().zip(needed) {
            layer.key = layer.key.filter(|_| *key);
            layer.value = layer.value.filter(|_| *value);
        }
        Ok(recipe)
    }
}

/// A precision, or none for what is dropped.
#[derive(Clone, Copy)]
struct Half(Option<Precision>);

/// The scheme of a half: its own, or the general one.
fn scheme(own: &Option<String>, general: Option<&str>) -> Result<Option<Half>, Error> {
    match own.as_deref().or(general) {
        None => Ok(None),
        Some(DROP) => Ok(Some(Half(None))),
        Some(name) => Ok(Some(Half(Some(name.parse()?)))),
    }
}

impl FromStr for LayerOverride {
    type Err = Error;

    fn from_str(text: &str) -> Result<LayerOverride, Error> {
        let wrong = || {
            let expected = "such as `2=drop`, `0-3=int4`, `first 1=int8/int4` or `last 2=f16`";
            Error::value("layers", expected, format!("`{text}`"))
        };
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| wrong());
        let (layers, schemes) = text.split_once('=').ok_or_else(wrong)?;
        let (layers, mut change) = (layers.trim(), LayerOverride::default());
        if let Some(count) = layers.strip_prefix("first") {
            change.first_n = Some(number(count)?);
        } else if let Some(count) = layers.strip_prefix("last") {
            change.last_n = Some(number(count)?);
        } else if let Some((first, last)) = layers.split_once('-') {
            change.range = Some([number(first)?, number(last)?]);
        } else {
            change.layers = Some(vec![number(layers)?]);
        }
        let name = |text: &str| Some(text.trim().to_owned());
        match schemes.split_once('/') {
            None => change.scheme = name(schemes),
            Some((keys, values)) => (change.k_scheme, change.v_scheme) = (name(keys), name(values)),
        }
        for own in [&change.scheme, &change.k_scheme, &change.v_scheme] {
            scheme(own, None)?;
        }
        Ok(change)
    }
}

impl LayerOverride {
    /// The layers it is about.
    fn layers(&self, number: usize, count: usize) -> Result<Vec<usize>, Error> {
        let named = match (&self.layers, self.range, self.first_n, self.last_n) {
            (Some(layers), None, None, None) => layers.clone(),
            (None, Some([first, last]), None, None) if first > last => {
                return Err(wrong(number, "a range that ascends", format!("{first}-{last}")));
            }
            (None, Some([_, last]), None, None) if last >= count => {
                return Err(wrong(number, &format!("layers below {count}"), last));
            }
            (None, Some([first, last]), None, None) => (first..=last).collect(),
            (None, None, Some(n), None) | (None, None, None, Some(n)) if n > count => {
                return Err(wrong(number, &format!("at most {count}"), n));
            }
            (None, None, Some(n), None) => (0..n).collect(),
            (None, None, None, Some(n)) => (count - n..count).collect(),
            _ => {
                return Err(wrong(
                    number,
                    "one of layers, range, first_n, last_n",
                    "none or several",
                ));
            }
        };
        match named.iter().find(|layer| **layer >= count) {
            Some(layer) => Err(wrong(number, &format!("layers below {count}"), layer)),
            None => Ok(named),
        }
    }
}

fn wrong(number: usize, expected: &str, got: impl ToString) -> Error {
    Error::value("layers", format!("{expected} in override {number}"), got)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvShape;

    fn schedule(text: &str) -> LayerSchedule {
        serde_json::from_str(text).unwrap()
    }

    fn names(recipe: &Recipe) -> Vec<String> {
        let name = |half: Option<Precision>| half.map_or("-", Precision::name);
        recipe.layers.iter().map(|l| format!("{}/{}", name(l.key), name(l.value))).collect()
    }

    #[test]
    fn later_overrides_win() {
        let schedule = schedule(
            r#"{"default": "int4", "overrides": [
                {"last_n": 2, "scheme": "f16"},
                {"range": [1, 2], "k_scheme": "int8"},
                {"layers": [3], "scheme": "drop"},
                {"first_n": 1, "scheme": "int2", "v_scheme": "nf4"}]}"#,
        );
        let recipe = schedule.resolve(&[[true; 2]; 4]).unwrap();
        assert_eq!(names(&recipe), ["int2/nf4", "int8/int4", "int8/f16", "-/-"]);
        assert_eq!(recipe.sent(), [0, 1, 2]);
        let shape = KvShape { layers: 4, kv_heads: 2, key_dim: 8, value_dim: 8 };
        assert_eq!(recipe.effective_bits(&shape), (2 + 4 + 8 + 4 + 8 + 16) as f64 / 8.0);
        let k8v4 =
            LayerSchedule { k_scheme: Some("int8".into()), ..LayerSchedule::uniform("int4") };
        assert_eq!(k8v4.resolve(&[[true; 2]; 3]).unwrap().name(), "int8/int4");
    }

    #[test]
    fn closed_gates_are_not_sent() {
        let needed = [[true, false], [false; 2], [false, true], [true; 2]];
        let recipe = LayerSchedule::uniform("int8").resolve(&needed).unwrap();
        assert_eq!(names(&recipe), ["int8/-", "-/-", "-/int8", "int8/int8"]);
    }

    #[test]
    fn overrides_are_read_as_words() {
        let words = ["last 2=f16", "1-2 = int8/drop", "3=drop", "first1=int2 / nf4"];
        let overrides = words.map(|text| text.parse().unwrap()).to_vec();
        let schedule = LayerSchedule { overrides, ..LayerSchedule::uniform("int4") };
        let recipe = schedule.resolve(&[[true; 2]; 4]).unwrap();
        assert_eq!(names(&recipe), ["int2/nf4", "int8/-", "int8/-", "-/-"]);
        for wrong in ["", "int8", "x=int8", "=int8", "1-=int8", "last=int8", "first -1=int8"] {
            let error = wrong.parse::<LayerOverride>().unwrap_err().to_string();
            assert!(error.ends_with(&format!("got `{wrong}`")), "{error}");
        }
        for wrong in ["1=int9", "1=", "1=int8/", "1=int8/int4/int4"] {
            let error = wrong.parse::<LayerOverride>().unwrap_err().to_string();
            assert!(error.starts_with("unknown precision"), "{error}");
        }
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (text, words) in [
            (r#"{"layers": [9], "scheme": "int8"}"#, "layers below 4 in override 0, got 9"),
            (r#"{"last_n": 5, "scheme": "int8"}"#, "at most 4"),
            (r#"{"first_n": 99999999999999, "scheme": "int8"}"#, "at most 4"),
            (r#"{"range": [3, 99999999999999], "scheme": "int8"}"#, "layers below 4"),
            (r#"{"range": [3, 2], "scheme": "int8"}"#, "a range that ascends"),
            (r#"{"last_n": 1}"#, "a scheme"),
            (r#"{"scheme": "int8"}"#, "one of layers"),
            (r#"{"first_n": 1, "last_n": 1, "scheme": "int8"}"#, "one of layers"),
            (r#"{"first_n": 1, "scheme": "int9"}"#, "unknown precision `int9`"),
        ] {
            let change: LayerOverride = serde_json::from_str(text).unwrap();
            let schedule =
                LayerSchedule { overrides: vec![change], ..LayerSchedule::uniform("int4") };
            let error = schedule.resolve(&[[true; 2]; 4]).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}

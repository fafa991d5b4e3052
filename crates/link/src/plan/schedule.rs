//! Which precision each layer of the sharer travels with, and which layers do not travel.
//!
//! A default, then overrides in their order; the last one that names a layer wins. Layers whose
//! gates are both closed at every receiver layer that reads them are never sent, and of a layer with
//! one gate open only that half is.

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

/// Whether what travels of a layer is used at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gates {
    /// Of keys.
    pub key: bool,
    /// Of values.
    pub value: bool,
}

impl LayerSchedule {
    /// One scheme for all.
    pub fn uniform(scheme: &str) -> LayerSchedule {
        let default = scheme.into();
        LayerSchedule { default, k_scheme: None, v_scheme: None, overrides: Vec::new() }
    }

    /// The precision of each of the sharer's `layers`; `gates` are theirs, none where all are open.
    ///
    /// # Errors
    /// [`Error::Value`] for an override that names no layers, or in two ways, or one that is not
    /// there; [`Error::UnknownName`] for a scheme; [`Error::Length`] where gates are not one per
    /// layer.
    pub fn resolve(&self, layers: usize, gates: Option<&[Gates]>) -> Result<Recipe, Error> {
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
        close(&mut recipe, gates)?;
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

/// Takes out what no open gate reads.
fn close(recipe: &mut Recipe, gates: Option<&[Gates]>) -> Result<(), Error> {
    let Some(gates) = gates else { return Ok(()) };
    let (expected, got) = (recipe.layers.len(), gates.len());
    if expected != got {
        return Err(Error::Length { what: "gates of the sharer's layers", expected, got });
    }
    for (layer, gates) in recipe.layers.iter_mut().zip(gates) {
        layer.key = layer.key.filter(|_| gates.key);
        layer.value = layer.value.filter(|_| gates.value);
    }
    Ok(())
}

impl LayerOverride {
    /// The layers it is about. No list is longer than the layers there are.
    fn layers(&self, number: usize, count: usize) -> Result<Vec<usize>, Error> {
        let below = |layer: usize| match layer < count {
            true => Ok(layer),
            false => Err(wrong(number, &format!("layers below {count}"), layer)),
        };
        let at_most = |n: usize| match n <= count {
            true => Ok(n),
            false => Err(wrong(number, &format!("at most {count}"), n)),
        };
        match (&self.layers, self.range, self.first_n, self.last_n) {
            (Some(layers), None, None, None) => layers.iter().map(|layer| below(*layer)).collect(),
            (None, Some([first, last]), None, None) => Ok((first..=below(last)?).collect()),
            (None, None, Some(n), None) => Ok((0..at_most(n)?).collect()),
            (None, None, None, Some(n)) => Ok((count - at_most(n)?..count).collect()),
            _ => {
                let expected = "one of layers, range, first_n, last_n";
                Err(wrong(number, expected, "none or several"))
            }
        }
    }
}

fn wrong(number: usize, expected: &str, got: impl ToString) -> Error {
    Error::value("layer_schedule.overrides", format!("{expected} in override {number}"), got)
}

/// For each of the sharer's `layers`, whether a receiver layer that reads it has the gate open.
/// `gates` and `source_of` are one per receiver layer.
///
/// # Errors
/// [`Error::Length`] where they are not, [`Error::Value`] for a source that is not there.
pub fn gates_by_source(
    gates: &[Gates],
    source_of: &[Option<usize>],
    layers: usize,
) -> Result<Vec<Gates>, Error> {
    let (expected, got) = (gates.len(), source_of.len());
    if expected != got {
        return Err(Error::Length { what: "the layer mapping", expected, got });
    }
    let mut open = vec![Gates::default(); layers];
    for (gates, source) in gates.iter().zip(source_of) {
        let Some(source) = source else { continue };
        let Some(to) = open.get_mut(*source) else {
            let expected = format!("layers of the sharer below {layers}");
            return Err(Error::value("mapping", expected, source));
        };
        to.key |= gates.key;
        to.value |= gates.value;
    }
    Ok(open)
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
        let recipe = schedule.resolve(4, None).unwrap();
        assert_eq!(names(&recipe), ["int2/nf4", "int8/int4", "int8/f16", "-/-"]);
        assert_eq!(recipe.sent(), [0, 1, 2]);
        let shape = KvShape { layers: 4, kv_heads: 2, key_dim: 8, value_dim: 8 };
        assert_eq!(recipe.effective_bits(&shape), (2 + 4 + 8 + 4 + 8 + 16) as f64 / 8.0);
        let k8v4 =
            LayerSchedule { k_scheme: Some("int8".into()), ..LayerSchedule::uniform("int4") };
        assert_eq!(k8v4.resolve(3, None).unwrap().name(), "int8/int4");
    }

    #[test]
    fn closed_gates_are_not_sent() {
        let open = |key, value| Gates { key, value };
        let gates = [open(true, false), open(false, false), open(false, true), open(true, true)];
        let sources = [Some(0), Some(1), Some(0), None];
        let by_source = gates_by_source(&gates, &sources, 3).unwrap();
        assert_eq!(by_source, [open(true, true), open(false, false), open(false, false)]);
        let recipe = LayerSchedule::uniform("int8").resolve(4, Some(&gates)).unwrap();
        assert_eq!(names(&recipe), ["int8/-", "-/-", "-/int8", "int8/int8"]);
        assert!(gates_by_source(&gates, &[Some(7); 4], 3).is_err());
    }

    #[test]
    fn what_cannot_be_is_named() {
        for (text, words) in [
            (r#"{"layers": [9], "scheme": "int8"}"#, "layers below 4 in override 0, got 9"),
            (r#"{"last_n": 5, "scheme": "int8"}"#, "at most 4"),
            // More than any memory holds.
            (
                r#"{"first_n": 1152921504606846976, "scheme": "int8"}"#,
                "at most 4 in override 0, got 1152921504606846976",
            ),
            (
                r#"{"range": [0, 1152921504606846976], "scheme": "int8"}"#,
                "layers below 4 in override 0, got 1152921504606846976",
            ),
            (r#"{"last_n": 1}"#, "a scheme"),
            (r#"{"scheme": "int8"}"#, "one of layers"),
            (r#"{"first_n": 1, "last_n": 1, "scheme": "int8"}"#, "one of layers"),
            (r#"{"first_n": 1, "scheme": "int9"}"#, "unknown precision `int9`"),
        ] {
            let change: LayerOverride = serde_json::from_str(text).unwrap();
            let schedule =
                LayerSchedule { overrides: vec![change], ..LayerSchedule::uniform("int4") };
            let error = schedule.resolve(4, None).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}

//! Canonical JSON: one text for one value, so that a hash of it means the value.
//!
//! Keys sorted by their bytes, no spaces, numbers without exponent, whole floats as integers.

use serde::Serialize;
use serde_json::Value;
use smidgen_store::sha256_bytes;

use crate::Error;

/// The canonical text of a value.
///
/// # Errors
/// [`Error::Record`] where the value has no JSON form.
pub fn canonical_json(value: &impl Serialize) -> Result<String, Error> {
    let value = serde_json::to_value(value)
        .map_err(|e| Error::record("canonical JSON", "a value with a JSON form", e))?;
    let mut text = String::new();
    write(&value, &mut text);
    Ok(text)
}

/// SHA-256 of the canonical text, 64 lower-case hex digits.
///
/// # Errors
/// As [`canonical_json`].
pub fn config_hash(value: &impl Serialize) -> Result<String, Error> {
    Ok(sha256_bytes(canonical_json(value)?.as_bytes()))
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                write(item, text);
            }
            text.push(']');
        }
        Value::Object(map) => {
            // Sorted here, whatever map the library was built with.
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            text.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                text.push_str(if i > 0 { "," } else { "" });
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write(&map[key], text);
            }
            text.push('}');
        }
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().expect("a number that is f64");
            // Display never writes an exponent; adding 0 turns the negative zero into zero.
            text.push_str(&(number + 0.0).to_string());
        }
        plain => text.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_text_for_one_value() {
        let value = json!({"b": [1.0, 1e-7, 1e21, -0.0, 0.25], "a": {"z": null, "é\"": true}});
        let text = canonical_json(&value).unwrap();
        assert_eq!(
            text,
            r#"{"a":{"z":null,"é\"":true},"b":[1,0.0000001,1000000000000000000000,0,0.25]}"#
        );
        let again: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(canonical_json(&again).unwrap(), text);
        assert_eq!(config_hash(&value).unwrap(), config_hash(&again).unwrap());
        assert_ne!(config_hash(&value).unwrap(), config_hash(&json!({})).unwrap());
    }
}

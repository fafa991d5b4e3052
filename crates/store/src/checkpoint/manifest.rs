//! `manifest.json`: what a checkpoint holds, with a hash over itself.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Error, sha256_bytes};

/// The manifest's file name.
pub(crate) const MANIFEST: &str = "manifest.json";

/// The version written; any other is refused.
const FORMAT: u32 = 1;

/// Size and hash of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileFacts {
    /// Length of the file.
    pub bytes: u64,
    /// SHA-256 of its content, lower-case hex.
    pub sha256: String,
}

/// What a checkpoint holds. No time and no path: the same state gives the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// Optimizer steps done.
    pub step: u64,
    /// Whether it was the best checkpoint of its run when it was written.
    pub best: bool,
    /// Every other file of the folder.
    pub files: BTreeMap<String, FileFacts>,
    /// What the writer wants to find again: hashes of the configuration, tokenizer, data ...
    pub facts: serde_json::Value,
}

/// The file: a manifest and the SHA-256 of its exact text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed<'a> {
    sha256: String,
    #[serde(borrow)]
    manifest: &'a RawValue,
}

impl Manifest {
    pub(crate) fn new(step: u64, files: BTreeMap<String, FileFacts>, best: bool) -> Self {
        Manifest { format: FORMAT, step, best, files, facts: serde_json::Value::Null }
    }

    /// The text of the file.
    pub(crate) fn seal(&self) -> String {
        let body = serde_json::to_string_pretty(self).expect("a manifest has a JSON form");
        let sha256 = sha256_bytes(body.as_bytes());
        format!("{{\n\"sha256\": \"{sha256}\",\n\"manifest\": {body}\n}}\n")
    }

    /// Reads the text of the file at `path`, which is named in errors.
    /// Fails with [`Error::Corrupt`] unless it is exactly what [`Manifest::seal`] made.
    pub(crate) fn unseal(path: &Path, text: &[u8]) -> Result<Self, Error> {
        let foreign = |got: String| Error::corrupt(path, "a checkpoint manifest", got);
        let sealed: Sealed<'_> =
            serde_json::from_slice(text).map_err(|e| foreign(format!("JSON with {e}")))?;
        let sha256 = sha256_bytes(sealed.manifest.get().as_bytes());
        if sha256 != sealed.sha256 {
            let expected = format!("a manifest with SHA-256 `{}`", shown(&sealed.sha256));
            return Err(Error::corrupt(path, expected, format!("`{sha256}`")));
        }
        let manifest: Manifest = serde_json::from_str(sealed.manifest.get())
            .map_err(|e| foreign(format!("JSON with {e}")))?;
        if manifest.format != FORMAT {
            let expected = format!("manifest format {FORMAT}");
            return Err(Error::corrupt(path, expected, manifest.format.to_string()));
        }
        match manifest.files.keys().find(|name| !is_plain(name)) {
            Some(name) => Err(foreign(format!("the file name `{name}`"))),
            None => Ok(manifest),
        }
    }
}

/// At most the length of a hash, whatever a damaged file holds.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A name inside the folder: no separators, no way out of it.
pub(crate) fn is_plain(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    let first = parts.next();
    matches!(first, Some(Component::Normal(part)) if part == name) && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Manifest {
        let facts = FileFacts { bytes: 3, sha256: sha256_bytes(b"abc") };
        let mut manifest = Manifest::new(7, [("a.json".to_string(), facts)].into(), true);
        manifest.facts = serde_json::json!({ "config": "0f", "lr": 0.1 });
        manifest
    }

    fn unseal(text: &[u8]) -> Result<Manifest, Error> {
        Manifest::unseal(Path::new("x/manifest.json"), text)
    }

    #[test]
    fn sealed_manifests_read_back() {
        assert_eq!(unseal(sample().seal().as_bytes()).unwrap(), sample());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let text = sample().seal().into_bytes();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[at] ^= 1 << bit;
                let error = unseal(&damaged).expect_err("damage");
                assert!(matches!(error, Error::Corrupt { .. }), "{error}");
            }
        }
    }

    #[test]
    fn every_cut_is_found() {
        // The last byte is the final newline; without it the text says the same.
        let text = sample().seal().into_bytes();
        for len in 0..text.len() - 1 {
            assert!(unseal(&text[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn other_versions_and_ways_out_are_refused() {
        let later = Manifest { format: 2, ..sample() };
        let error = unseal(later.seal().as_bytes()).unwrap_err().to_string();
        assert_eq!(error, "expected manifest format 1, got 2 in x/manifest.json");
        for name in ["../a", "/a", "a/b", "..", ".", "", "a/"] {
            let mut manifest = sample();
            let facts = manifest.files.remove("a.json").unwrap();
            manifest.files.insert(name.to_string(), facts);
            assert!(unseal(manifest.seal().as_bytes()).is_err(), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(unseal(&bytes).is_err());
        }

        #[test]
        fn no_sealed_text_panics(body in "[\\[\\]{}\",:0-9a-z]{0,60}") {
            let sha256 = sha256_bytes(body.as_bytes());
            let text = format!("{{\"sha256\":\"{sha256}\",\"manifest\":{body}}}");
            prop_assert!(unseal(text.as_bytes()).is_err());
        }
    }
}

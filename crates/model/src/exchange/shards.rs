//! The weights of a folder: one file, or several that an index names.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use smidgen_store::{Error as Store, TensorFile};

const WHOLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Opens the files of a folder, each once.
pub(super) fn open_shards(folder: &Path) -> Result<Vec<TensorFile>, Store> {
    let index = folder.join(INDEX);
    if !index.is_file() {
        let whole = TensorFile::open(&folder.join(WHOLE));
        return Ok(vec![whole.map_err(|error| absent(folder, error))?]);
    }
    let bad = |expected: &str, got: String| Store::Corrupt {
        file: index.clone(),
        expected: expected.into(),
        got,
    };
    let text = read(&index, "an index of weights")?;
    let Index { weight_map } = serde_json::from_slice(&text)
        .map_err(|error| bad("a `weight_map` of file names", error.to_string()))?;
    let mut files = Vec::with_capacity(weight_map.0.len());
    for name in &weight_map.0 {
        if Path::new(&**name).file_name().is_none_or(|plain| plain != &**name) {
            let got = format!("`{}`", name.chars().take(80).collect::<String>());
            return Err(bad("names of files in this folder", got));
        }
        files.push(TensorFile::open(&folder.join(&**name))?);
    }
    // A tensor in two files would be one of them by chance.
    let mut seen = HashSet::new();
    for name in files.iter().flat_map(TensorFile::names) {
        if let Some(name) = seen.replace(name) {
            return Err(bad("each tensor once", format!("`{name}` in two files")));
        }
    }
    Ok(files)
}

/// The bytes of a small file.
pub(super) fn read(path: &Path, what: &'static str) -> Result<Vec<u8>, Store> {
    std::fs::read(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => Store::Missing { what, path: path.into() },
        _ => Store::Io { action: "read", path: path.into(), source },
    })
}

/// A folder with weights in another form says which.
fn absent(folder: &Path, error: Store) -> Store {
    let pickled = folder.join("pytorch_model.bin");
    if pickled.exists() && !folder.join(WHOLE).exists() {
        let (expected, got) = (format!("`{WHOLE}`"), "pickled weights, which are programs".into());
        return Store::Corrupt { file: pickled, expected, got };
    }
    error
}

#[derive(Deserialize)]
struct Index {
    weight_map: FileNames,
}

/// The files alone: which tensor lies where, they say themselves.
struct FileNames(BTreeSet<Box<str>>);

impl<'de> Deserialize<'de> for FileNames {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<FileNames, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = FileNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of file names")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FileNames, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((IgnoredAny, name)) = map.next_entry()? {
                    names.insert(name);
                }
                Ok(FileNames(names))
            }
        }
        from.deserialize_map(Names)
    }
}

//! Every crate uses only what stands left of it in the layer order of the architecture.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

/// Folders, from the lowest layer to the highest; crates of one layer do not use each other.
const LAYERS: &[&[&str]] = &[
    &["codec"],
    &["store", "comm", "tensor"],
    &["data", "optim", "model"],
    &["eval"],
    &["train"],
    &["link"],
    &["cli", "python"],
];

fn layer(folder: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&folder))
}

/// The workspace crates that a manifest depends on, in any way: also for tests, also for one
/// platform.
fn used(manifest: &Table) -> Vec<String> {
    let platforms = manifest.get("target").and_then(Value::as_table).into_iter().flatten();
    let tables = platforms.filter_map(|(_, table)| table.as_table()).chain([manifest]);
    let kinds = ["dependencies", "dev-dependencies", "build-dependencies"];
    let lists = tables.flat_map(|table| kinds.iter().filter_map(move |kind| table.get(*kind)));
    lists
        .filter_map(Value::as_table)
        .flatten()
        .map(|(key, value)| value.get("package").and_then(Value::as_str).unwrap_or(key))
        .filter_map(|package| package.strip_prefix("smidgen-").map(str::to_string))
        .collect()
}

/// What a crate's manifest does against the layers, in sentences.
fn violations(folder: &str, manifest: &Table) -> Vec<String> {
    let Some(own) = layer(folder) else {
        return vec![format!("crate `{folder}` has no layer: add it to `LAYERS` and to the docs")];
    };
    let mut found = Vec::new();
    let name = manifest["package"]["name"].as_str().unwrap_or_default();
    if name != format!("smidgen-{folder}") {
        found.push(format!("crate `{folder}`: expected package `smidgen-{folder}`, got `{name}`"));
    }
    for other in used(manifest) {
        match layer(&other) {
            Some(theirs) if theirs < own => {}
            Some(_) => found.push(format!("crate `{folder}` may not use `{other}`")),
            None => found.push(format!("crate `{folder}` uses `{other}`, which has no layer")),
        }
    }
    found
}

fn manifests() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in a workspace");
    let folders = [root.join("crates"), root.join("bindings")];
    let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten();
    entries
        .map(|entry| entry.expect("a readable folder").path())
        .map(|path| (path.file_name().expect("a name").to_string_lossy().into_owned(), path))
        .map(|(name, path)| (name, path.join("Cargo.toml")))
        .filter(|(_, manifest)| manifest.exists())
        .collect()
}

#[test]
fn manifests_respect_the_layers() {
    let manifests = manifests();
    assert!(manifests.len() >= 8, "the workspace has its crates");
    let found: Vec<String> = manifests
        .iter()
        .flat_map(|(folder, path)| {
            let text = std::fs::read_to_string(path).expect("a readable manifest");
            violations(folder, &text.parse().expect("a manifest is TOML"))
        })
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_upward_or_sideways_edge_is_found() {
    let check = |folder: &str, text: &str| {
        let text = format!("[package]\nname = 'smidgen-{folder}'\n{text}");
        violations(folder, &text.parse().unwrap())
    };
    assert!(check("tensor", "[dependencies]\nsmidgen-codec.workspace = true").is_empty());
    for (folder, text) in [
        ("tensor", "[dependencies]\nsmidgen-store.workspace = true"),
        ("codec", "[dev-dependencies]\nsmidgen-tensor = { path = '../tensor' }"),
        ("data", "[target.'cfg(unix)'.dependencies]\nsmidgen-train.workspace = true"),
        ("optim", "[dependencies]\nshort = { package = 'smidgen-model', path = '../model' }"),
        ("model", "[build-dependencies]\nsmidgen-new.workspace = true"),
        ("new", ""),
    ] {
        assert_eq!(check(folder, text).len(), 1, "{folder}: {text}");
    }
    let misnamed = "[package]\nname = 'other'".parse().unwrap();
    assert_eq!(violations("codec", &misnamed).len(), 1);
}

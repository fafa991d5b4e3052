//! What the documentation promises is what the program does.

mod common;

use std::fs;
use std::path::Path;

use common::Place;

fn page(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The known keys of a table, as the program itself lists them when it meets an unknown one.
fn keys(place: &Place, table: &str) -> Vec<String> {
    let text = format!("{table}\nqqqqqqqqqqqq = 1\n");
    fs::write(place.path("config.toml"), text).unwrap();
    let output = place.smidgen(&["train", "config.toml", "--dry-run"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let (_, list) = said.split_once("expected one of: ").unwrap_or_else(|| panic!("{said}"));
    list.trim().split(", ").map(str::to_string).collect()
}

/// The keys in the first column of a section's table.
fn documented(page: &str, section: &str) -> Vec<String> {
    let heading = format!("\n## {section}\n");
    let (_, rest) = page.split_once(&heading).unwrap_or_else(|| panic!("no section {section}"));
    let section = rest.split("\n## ").next().expect("the first part");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    rows.map(str::to_string).collect()
}

#[test]
fn every_key_of_the_configuration_is_documented_and_no_other() {
    let place = Place::new();
    let page = page("docs/configuration.md");
    let plain = ["data", "model", "train", "stop", "alarm", "validate", "track"];
    let tables = [&plain[..], &["schedule", "optim"]].concat();
    let top = keys(&place, "");
    let alone = top.iter().filter(|key| !tables.contains(&key.as_str()));
    assert_eq!(documented(&page, "At the top"), alone.cloned().collect::<Vec<_>>());
    for table in plain {
        let heading = format!("[{table}]");
        assert_eq!(documented(&page, &format!("`{heading}`")), keys(&place, &heading), "{table}");
    }
    assert_eq!(documented(&page, "`[[optim]]`"), keys(&place, "[[optim]]"));
    let schedule = keys(&place, "[schedule]\nkind = \"cosine\"");
    for key in schedule.iter().filter(|key| *key != "kind") {
        assert!(documented(&page, "`[schedule]`").contains(key), "{key}");
    }
}

#[test]
fn presets_and_formats_are_named() {
    let page = page("docs/configuration.md");
    for preset in smidgen_model::PRESETS {
        assert!(page.contains(&format!("`{}`", preset.name)), "{}", preset.name);
    }
    let page = self::page("docs/formats.md");
    for format in smidgen_codec::CODECS {
        let format = smidgen_codec::Format::by_name(format.name()).expect("a name of the registry");
        assert!(page.contains(&format!("| `{format}` |")), "{format}");
    }
}

#[test]
fn the_names_of_objects_are_documented() {
    let place = Place::new();
    let page = page("docs/scripts.md");
    let outcome = common::object(place.train("run", 3, &["--json"]));
    let row = common::object(place.smidgen(&["runs", "list", ".", "--json"]));
    for object in [&outcome, &row["runs"][0]] {
        for name in object.as_object().expect("an object").keys() {
            assert!(page.contains(&format!("`{name}`")), "`{name}`");
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let pages = [
        "README.md",
        "benches/README.md",
        "docs/train.md",
        "docs/resume.md",
        "docs/tracking.md",
        "docs/generate.md",
        "docs/report.md",
        "docs/exchange.md",
        "docs/scripts.md",
        "docs/configuration.md",
    ];
    for name in pages {
        let text = page(name);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = root.join(name).parent().expect("a folder").join(link);
            assert!(link.starts_with("http") || target.exists(), "{name} links to {link}");
        }
    }
}

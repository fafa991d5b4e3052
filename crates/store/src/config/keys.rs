//! Dotted keys: the flat form of a configuration, in which two can be compared.

use std::collections::{BTreeMap, BTreeSet};

use toml::{Table, Value};

/// The keys whose values differ, one line each: `` `train.steps`: 100 -> 200 ``.
///
/// Entries of an array of tables are compared under their `name`, or their index.
pub fn diff(before: &Table, after: &Table) -> Vec<String> {
    let (before, after) = (flat(before), flat(after));
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let shown = |value: Option<&String>| value.map_or("(none)", String::as_str).to_string();
    keys.into_iter()
        .map(|key| (key, before.get(key), after.get(key)))
        .filter(|(_, before, after)| before != after)
        .map(|(key, before, after)| format!("`{key}`: {} -> {}", shown(before), shown(after)))
        .collect()
}

/// Every value that is no table, under its dotted key, as TOML text.
pub fn flat(table: &Table) -> BTreeMap<String, String> {
    let mut leaves = BTreeMap::new();
    for (key, value) in table {
        collect(key, value, &mut leaves);
    }
    leaves
}

fn collect(key: &str, value: &Value, leaves: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => {
            for (name, value) in table {
                collect(&format!("{key}.{name}"), value, leaves);
            }
        }
        Value::Array(array) if array.iter().any(Value::is_table) => {
            let names = entry_names(array);
            // The order of the entries is a value too: the first match wins.
            leaves.insert(key.to_string(), format!("[{}]", names.join(", ")));
            for (name, value) in names.iter().zip(array) {
                collect(&format!("{key}.{name}"), value, leaves);
            }
        }
        value => {
            leaves.insert(key.to_string(), value.to_string());
        }
    }
}

/// What the entries of an array are called in a dotted key: by their `name` where each has one
/// of its own, otherwise by index.
pub(super) fn entry_names(array: &[Value]) -> Vec<String> {
    let name = |value: &Value| value.get("name")?.as_str().map(str::to_string);
    let names: Option<Vec<String>> = array.iter().map(name).collect();
    let unique = |names: &Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    names
        .filter(unique)
        .unwrap_or_else(|| (0..array.len()).map(|index| index.to_string()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    #[test]
    fn differences_name_key_and_both_values() {
        let before = table("seed = 1\n[train]\nsteps = 100\nlr = 1e-3\nmode = \"a\"");
        let after = table("seed = 1\nnew = [1, 2]\n[train]\nsteps = 200\nlr = 1e-3");
        assert_eq!(
            diff(&before, &after),
            [
                "`new`: (none) -> [1, 2]",
                "`train.mode`: \"a\" -> (none)",
                "`train.steps`: 100 -> 200"
            ]
        );
        assert!(diff(&before, &before).is_empty());
    }

    #[test]
    fn entries_are_compared_by_name_and_their_order_counts() {
        let a = table("[[optim]]\nname='x'\nlr=1.0\n[[optim]]\nname='y'\nlr=2.0");
        let b = table("[[optim]]\nname='y'\nlr=2.0\n[[optim]]\nname='x'\nlr=3.0");
        assert_eq!(diff(&a, &b), ["`optim`: [x, y] -> [y, x]", "`optim.x.lr`: 1.0 -> 3.0"]);
    }

    #[test]
    fn entries_without_names_of_their_own_go_by_index() {
        let same = table("[[a]]\nname='x'\n[[a]]\nname='x'");
        assert_eq!(entry_names(same["a"].as_array().unwrap()), ["0", "1"]);
    }
}

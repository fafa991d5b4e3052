//! `--filter 'val_bpb<2.2'`: conditions over the figures and the configuration of runs.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::str::FromStr;

use smidgen_store::Bytes;

/// Longer signs first: `<=` is no `<`.
const SIGNS: [(&str, &[Ordering], bool); 6] = [
    ("<=", &[Ordering::Less, Ordering::Equal], true),
    (">=", &[Ordering::Greater, Ordering::Equal], true),
    ("!=", &[Ordering::Less, Ordering::Greater], false),
    ("=", &[Ordering::Equal], false),
    ("<", &[Ordering::Less], true),
    (">", &[Ordering::Greater], true),
];

/// The figures of a run by name; `None` where it has no such figure.
pub(super) type Figures = BTreeMap<String, Option<String>>;

/// One condition.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) key: String,
    /// Orders of figure and value that pass.
    passing: &'static [Ordering],
    value: String,
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        let expected = || "expected a condition such as `status=finished` or `val_bpb<2.2`";
        let at = text.find(['<', '>', '!', '=']).ok_or_else(expected)?;
        let (key, rest) = text.split_at(at);
        let sign = SIGNS.iter().find(|(sign, ..)| rest.starts_with(sign)).ok_or_else(expected)?;
        let (sign, passing, ordered) = *sign;
        let (key, value) = (key.trim().to_string(), rest[sign.len()..].trim().to_string());
        if key.is_empty() || value.is_empty() {
            return Err(expected().into());
        }
        if ordered && number(&value).is_none() {
            return Err(format!("expected a number after `{sign}`, got `{value}`"));
        }
        Ok(Filter { key, passing, value })
    }
}

impl Filter {
    /// Whether a run passes; one without the figure passes no condition.
    pub(super) fn passes(&self, figures: &Figures) -> bool {
        let Some(found) = look_up(figures, &self.key).flatten() else { return false };
        order(found, &self.value).is_some_and(|order| self.passing.contains(&order))
    }
}

/// A figure by its name, which may leave out `val_`; `None` for a name that is no figure's.
pub(super) fn look_up<'a>(figures: &'a Figures, key: &str) -> Option<Option<&'a str>> {
    let found = figures.get(key).or_else(|| figures.get(&format!("val_{key}")));
    found.map(Option::as_deref)
}

/// Numbers by their size, texts by their letters; a number and a text differ.
pub(super) fn order(a: &str, b: &str) -> Option<Ordering> {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a.partial_cmp(&b),
        _ => Some(a.cmp(b)),
    }
}

/// A number, or a size such as `2 GiB`.
fn number(text: &str) -> Option<f64> {
    text.parse().ok().or_else(|| text.parse().ok().map(|Bytes(bytes)| bytes as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        let known = [("status", "finished"), ("val_bpb", "2.25"), ("size_bytes", "2097152")];
        let known = known.map(|(key, value)| (key.to_string(), Some(value.to_string())));
        known.into_iter().chain([("train_loss".to_string(), None)]).collect()
    }

    #[test]
    fn conditions_compare_numbers_sizes_and_texts() {
        for (text, passes) in [
            ("status=finished", true),
            ("status!=finished", false),
            ("status = running", false),
            ("val_bpb<2.3", true),
            ("bpb<2.3", true),
            ("bpb<=2.25", true),
            ("bpb<2.25", false),
            ("bpb=2.250", true),
            ("bpb>10", false),
            ("size_bytes>=2 MiB", true),
            ("size_bytes>1GiB", false),
            ("train_loss<9", false),
            ("train_loss!=9", false),
            ("nothing=1", false),
        ] {
            let filter: Filter = text.parse().unwrap();
            assert_eq!(filter.passes(&figures()), passes, "{text}");
        }
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in ["", "status", "=finished", "val_bpb<", "val_bpb<low", "a!b"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }
}

//! Which layer of the sharer each layer of the receiver listens to.

use serde::{Deserialize, Serialize};

use crate::Error;

/// The rule that gives every receiver layer t a sharer layer, out of T and S.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Rule {
    /// The last layers stand beside each other: `clamp(S - T + t, 0, S - 1)`.
    #[default]
    LastAligned,
    /// Layers lie evenly on [0, 1], the first and the last at its ends; the nearest one, of two the lower.
    Nearest,
    /// The layer in whose share of the depth the middle of t lies: `floor((t + 1/2) S / T)`.
    DepthNormalised,
    /// As listed, one entry for each layer of the receiver; none for a layer that is not fused.
    Table(Vec<Option<usize>>),
}

/// A rule, and layers of the receiver that are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mapping {
    /// The rule.
    pub rule: Rule,
    /// Receiver layers that are not fused, whatever the rule says.
    pub drop: Vec<usize>,
}

impl Mapping {
    /// The sharer layer of each receiver layer; none where it is not fused.
    ///
    /// # Errors
    /// [`Error::Value`] for a table of another length, for layers that are not there, and where nothing
    /// is left to fuse.
    pub fn resolve(&self, sharer: usize, receiver: usize) -> Result<Vec<Option<usize>>, Error> {
        if let Rule::Table(table) = &self.rule {
            if table.len() != receiver {
                let expected = format!("{receiver} entries, one for each receiver layer");
                return Err(Error::value("mapping.table", expected, table.len()));
            }
            if let Some(bad) = table.iter().flatten().find(|source| **source >= sharer) {
                let expected = format!("sharer layers below {sharer}");
                return Err(Error::value("mapping.table", expected, bad));
            }
        }
        if let Some(bad) = self.drop.iter().find(|layer| **layer >= receiver) {
            return Err(Error::value("mapping.drop", format!("layers below {receiver}"), bad));
        }
        let of =
            |t: usize| if self.drop.contains(&t) { None } else { self.of(t, sharer, receiver) };
        let sources: Vec<Option<usize>> = (0..receiver).map(of).collect();
        if sources.iter().all(Option::is_none) {
            return Err(Error::value("mapping", "at least one layer that is fused", "none"));
        }
        Ok(sources)
    }

    fn of(&self, t: usize, sharer: usize, receiver: usize) -> Option<usize> {
        match &self.rule {
            Rule::LastAligned => Some((sharer + t).saturating_sub(receiver).min(sharer - 1)),
            Rule::Nearest => {
                // Distances on a common grid of (T - 1)(S - 1) steps, so that ties are exact.
                let (target, source) = ((receiver - 1).max(1), (sharer - 1).max(1));
                (0..sharer).min_by_key(|s| (s * target).abs_diff(t * source))
            }
            Rule::DepthNormalised => Some((2 * t + 1) * sharer / (2 * receiver)),
            Rule::Table(table) => table[t],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(rule: Rule, sharer: usize, receiver: usize) -> Vec<usize> {
        let mapping = Mapping { rule, drop: vec![] };
        mapping.resolve(sharer, receiver).unwrap().into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn rules_by_hand() {
        assert_eq!(sources(Rule::LastAligned, 6, 4), [2, 3, 4, 5]);
        assert_eq!(sources(Rule::LastAligned, 4, 6), [0, 0, 0, 1, 2, 3]);
        assert_eq!(sources(Rule::LastAligned, 3, 3), [0, 1, 2]);
        // 5/3 lies nearer to 2; 10/3 nearer to 3.
        assert_eq!(sources(Rule::Nearest, 6, 4), [0, 2, 3, 5]);
        // The middle of three lies between both of two: the lower one.
        assert_eq!(sources(Rule::Nearest, 2, 3), [0, 0, 1]);
        assert_eq!(sources(Rule::Nearest, 1, 3), [0, 0, 0]);
        assert_eq!(sources(Rule::Nearest, 3, 1), [0]);
        assert_eq!(sources(Rule::DepthNormalised, 6, 4), [0, 2, 3, 5]);
        assert_eq!(sources(Rule::DepthNormalised, 2, 4), [0, 0, 1, 1]);
        assert_eq!(sources(Rule::DepthNormalised, 3, 1), [1]);
        let table = Rule::Table(vec![Some(1), None, Some(0)]);
        let mapping = Mapping { rule: table, drop: vec![2] };
        assert_eq!(mapping.resolve(2, 3).unwrap(), [Some(1), None, None]);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let wrong = |rule, drop: &[usize]| {
            Mapping { rule, drop: drop.to_vec() }.resolve(2, 2).unwrap_err().to_string()
        };
        assert!(
            wrong(Rule::Table(vec![None]), &[]).contains("`mapping.table`: expected 2 entries")
        );
        assert!(wrong(Rule::Table(vec![Some(2), None]), &[]).contains("below 2, got 2"));
        assert!(wrong(Rule::default(), &[2]).contains("`mapping.drop`"));
        assert!(wrong(Rule::default(), &[0, 1]).contains("at least one layer"));
    }

    /// Every rule stays among the layers there are, for any two depths.
    #[test]
    fn every_rule_is_total() {
        for sharer in 1..9 {
            for receiver in 1..9 {
                for rule in [Rule::LastAligned, Rule::Nearest, Rule::DepthNormalised] {
                    let sources = sources(rule, sharer, receiver);
                    assert!(sources.iter().all(|source| *source < sharer));
                    assert!(sources.is_sorted());
                }
            }
        }
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let mapping = Mapping { rule: Rule::Table(vec![None, Some(3)]), drop: vec![0] };
        let text = serde_json::to_string(&mapping).unwrap();
        assert_eq!(text, r#"{"rule":{"table":[null,3]},"drop":[0]}"#);
        assert_eq!(serde_json::from_str::<Mapping>(&text).unwrap(), mapping);
        let short: Mapping = serde_json::from_str(r#"{"rule":"nearest"}"#).unwrap();
        assert_eq!(short, Mapping { rule: Rule::Nearest, drop: vec![] });
    }
}

//! The update rules, one file each.

mod adamw;

pub use adamw::AdamW;

use serde::{Deserialize, Serialize};

use crate::{Error, GroupConfig, Optimizer};

/// How a matrix is made orthogonal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Polar {
    /// The triples of Polar Express, one for each iteration.
    #[default]
    PolarExpress,
    /// The same quintic polynomial at each iteration.
    NewtonSchulz,
}

/// What an orthogonal update of shape `[m, n]` is multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MatrixScale {
    /// 0.2 sqrt(max(m, n)): the size of an update of AdamW, so that its rates can be used.
    #[default]
    Rms,
    /// sqrt(max(1, m / n)).
    Spectral,
}

/// How a rule is made for a group.
#[derive(Clone, Copy, Debug)]
pub struct RuleEntry {
    /// The name in configs.
    pub name: &'static str,
    /// The keys of a group that it reads.
    pub keys: &'static [&'static str],
    /// Makes the rule, and writes into the group the hyper-parameters that it leaves open.
    pub build: fn(&mut GroupConfig) -> Result<Box<dyn Optimizer>, Error>,
}

/// Every rule. Configs, errors and the test matrix read this list.
pub static RULES: &[RuleEntry] =
    &[RuleEntry { name: "adamw", keys: &["weight_decay", "betas", "eps"], build: AdamW::build }];

/// The entry of this name.
///
/// # Errors
/// [`Error::UnknownRule`] lists the registry and the nearest name.
pub fn rule_by_name(name: &str) -> Result<&'static RuleEntry, Error> {
    let known = || RULES.iter().map(|rule| rule.name).collect();
    let unknown = || Error::UnknownRule { name: name.into(), known: known() };
    RULES.iter().find(|rule| rule.name == name).ok_or_else(unknown)
}

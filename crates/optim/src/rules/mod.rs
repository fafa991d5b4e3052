//! The update rules, one file each.

mod adafactor;
mod adamw;
mod lion;
mod muon;
mod sgd;

pub use adafactor::Adafactor;
pub use adamw::AdamW;
pub use lion::Lion;
pub use muon::{MatrixScale, Muon};
pub use sgd::Sgd;

use crate::{Error, GroupConfig, Optimizer};

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
pub static RULES: &[RuleEntry] = &[
    RuleEntry { name: "adamw", keys: &["weight_decay", "betas", "eps"], build: AdamW::build },
    RuleEntry { name: "lion", keys: &["weight_decay", "betas"], build: Lion::build },
    RuleEntry { name: "muon", keys: Muon::KEYS, build: Muon::build },
    RuleEntry { name: "sgd", keys: &["weight_decay", "momentum", "nesterov"], build: Sgd::build },
    RuleEntry { name: "adafactor", keys: Adafactor::KEYS, build: Adafactor::build },
];

/// The entry of this name.
///
/// # Errors
/// [`Error::UnknownRule`] lists the registry and the nearest name.
pub fn rule_by_name(name: &str) -> Result<&'static RuleEntry, Error> {
    let known = || RULES.iter().map(|rule| rule.name).collect();
    let unknown = || Error::UnknownRule { name: name.into(), known: known() };
    RULES.iter().find(|rule| rule.name == name).ok_or_else(unknown)
}

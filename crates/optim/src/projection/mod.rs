//! Subspaces in which matrices are updated: a wrapper around any rule.

use serde::{Deserialize, Serialize};

use crate::{Error, GroupConfig, Optimizer};

/// The keys of a group that a projection reads.
pub(crate) const KEYS: &[&str] = &["projection"];

/// How the subspace is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProjectionKind {
    /// The leading singular vectors of the gradient.
    Galore,
    /// The same by random projection.
    Galore2,
    /// The smallest rank that holds a share of the energy.
    Adarank,
}

/// A rank, or a share of the smaller side of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Rank {
    /// So many directions.
    Count(usize),
    /// This share of the smaller side.
    Share(f64),
}

/// What becomes of averages when the subspace turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moments {
    /// They stay as they are.
    Keep,
    /// They are turned with it.
    #[default]
    Rotate,
    /// They start from zero.
    Reset,
}

/// `rule` in the subspace that the group asks for; `rule` itself where it asks for none.
pub(crate) fn wrap(
    rule: Box<dyn Optimizer>,
    config: &mut GroupConfig,
) -> Result<Box<dyn Optimizer>, Error> {
    match config.projection {
        None => Ok(rule),
        Some(_) => Err(Error::Unfit {
            group: config.name.clone(),
            rule: rule.name(),
            param: "*".into(),
            why: "projections are not there yet".into(),
            hint: "leave `projection` away",
        }),
    }
}

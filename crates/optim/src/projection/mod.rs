//! Subspaces in which matrices are updated: a wrapper around any rule.
//!
//! `projected.rs` is the wrapper, `refresh.rs` finds the subspace and turns the state with it,
//! `phase.rs` says when.

mod phase;
mod projected;
mod refresh;

use serde::{Deserialize, Serialize};
use smidgen_codec::Format;

use self::projected::Projected;
use crate::group::state_format;
use crate::{Error, GroupConfig, Optimizer};

/// The keys of a group that a projection reads.
pub(crate) const KEYS: &[&str] = &[
    "projection",
    "galore_rank",
    "refresh",
    "adaptive",
    "galore_scale",
    "moments",
    "projector",
    "energy",
];

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

impl ProjectionKind {
    /// The format of the projector, where the group leaves it open.
    fn projector(self) -> &'static str {
        match self {
            Self::Galore | Self::Adarank => "bf16",
            Self::Galore2 => "int4-asym/256",
        }
    }
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

impl Rank {
    /// Directions for a matrix of this smaller side; at least one.
    pub(crate) fn of(self, side: usize) -> usize {
        match self {
            Self::Count(count) => count,
            Self::Share(share) => ((share * side as f64).round() as usize).clamp(1, side.max(1)),
        }
    }
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

/// `rule` in the subspace that the group asks for; `rule` itself where it asks for none. Writes into
/// the group what it leaves open.
pub(crate) fn wrap(
    rule: Box<dyn Optimizer>,
    config: &mut GroupConfig,
) -> Result<Box<dyn Optimizer>, Error> {
    let Some(kind) = config.projection else { return Ok(rule) };
    if kind != ProjectionKind::Adarank && config.energy.is_some() {
        let known = KEYS[..KEYS.len() - 1].join(", ");
        return Err(Error::UnusedKey { group: config.name.clone(), key: "energy", known });
    }
    let energy = (kind == ProjectionKind::Adarank).then(|| *config.energy.get_or_insert(0.9));
    let rank = *config.galore_rank.get_or_insert(Rank::Share(0.25));
    let refresh = *config.refresh.get_or_insert(200);
    let scale = *config.galore_scale.get_or_insert(0.25);
    let adaptive = *config.adaptive.get_or_insert(kind == ProjectionKind::Galore2);
    let moments = *config.moments.get_or_insert_default();
    let projector = config.projector.get_or_insert_with(|| kind.projector().into()).clone();
    match rank {
        Rank::Count(count) => {
            config.check("galore_rank", "a count from 1", count as f64, count > 0)?;
        }
        Rank::Share(share) => {
            let good = share > 0.0 && share <= 1.0;
            config.check("galore_rank", "a count, or a share above 0 and up to 1", share, good)?;
        }
    }
    config.check("refresh", "a number from 1", refresh as f64, refresh > 0)?;
    config.check_not_negative("galore_scale", scale)?;
    if let Some(energy) = energy {
        let good = energy > 0.0 && energy <= 1.0;
        config.check("energy", "a share above 0 and up to 1", energy, good)?;
    }
    if config.relative_step == Some(true) {
        return Err(Error::Unfit {
            group: config.name.clone(),
            rule: rule.name(),
            param: "*".into(),
            why: "its rate is a share of the size of the parameter, which a projection hides"
                .into(),
            hint: "`relative_step = false`, or leave `projection` away",
        });
    }
    let format: Format = state_format(&config.name, &projector)?;
    Ok(Box::new(Projected {
        inner: rule,
        kind,
        rank,
        refresh,
        adaptive,
        scale: scale as f32,
        moments,
        format,
        energy,
        weight_decay: config.weight_decay.unwrap_or(0.0),
        is_cautious: config.cautious == Some(true),
        is_named: config.pattern.as_ref().is_some_and(|pattern| pattern != "*"),
        roles: config.role.clone(),
    }))
}

//! Which tokens are worth their bytes: selectors give each token a score, and nothing else.
//!
//! Ranking, ties and the byte budget live once in [`plan`](crate::plan). A selector is one file and
//! one line of [`SELECTORS`]. Scores are sums in f32 in a fixed order, so they are the same bits for
//! any number of threads.
//!
//! Read first: [`Selector`], [`Scene`] (what a selector may look at).
//!
//! There is no selector by attention mass: the engine's attention runs in tiles and keeps no
//! probabilities, and a second pass that does would cost the sharer another prefill.

mod delta_hat;
mod delta_kv;
mod delta_value_norm;
mod key_norm;
mod norm;
mod oracle;
mod position;
mod proj_value_norm;
mod random;
mod scene;
mod value_norm;

pub use delta_hat::{Agreement, DELTA_HAT_JSON, DeltaHat, DeltaHatSelector};
pub use delta_kv::DeltaKv;
pub use delta_value_norm::DeltaValueNorm;
pub use key_norm::{KeyNormLow, KeyNormTop};
pub use oracle::Oracle;
pub use position::{Back, Front};
pub use proj_value_norm::ProjValueNorm;
pub use random::Random;
pub use scene::{AtReceiver, Scene};
pub use value_norm::ValueNorm;

use crate::Error;

/// Gives each token a score; higher is sent first.
pub trait Selector: Sync {
    /// The name in configs and tables.
    fn name(&self) -> &'static str;

    /// What it reads besides positions and the sharer's own cache.
    fn needs(&self) -> Needs {
        Needs::Sharer
    }

    /// The scores at one layer of the sharer. `out: [T]`; minus infinity masks a token.
    ///
    /// # Errors
    /// [`Error::Needs`] where the scene lacks what [`Selector::needs`] names, [`Error::Length`]
    /// where its parts do not fit together.
    fn score(&self, scene: &Scene<'_>, layer: usize, out: &mut [f32]) -> Result<(), Error>;
}

/// Who can compute a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Either side, from positions alone.
    Nothing,
    /// The sharer, from its cache.
    Sharer,
    /// The sharer, from its cache and a regressor that came with the fuser.
    Regressor,
    /// Somebody who has the receiver's cache and the fuser.
    Receiver,
}

impl Needs {
    /// Whether a table must call the result an upper bound: across a real link the sharer could not
    /// have had these scores without bytes that nobody counted.
    pub fn is_upper_bound(self) -> bool {
        self == Needs::Receiver
    }

    /// For errors.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Needs::Nothing => "nothing",
            Needs::Sharer => "the sharer's cache",
            Needs::Regressor => "a regressor: `--fuser` with a `delta_hat.json` beside it",
            Needs::Receiver => "the receiver's cache before and after fusing",
        }
    }
}

/// Every selector. Configs, errors and the test matrix read this list.
pub static SELECTORS: &[&dyn Selector] = &[
    &Front,
    &Back,
    &Random,
    &KeyNormTop,
    &KeyNormLow,
    &ValueNorm,
    &ProjValueNorm,
    &DeltaValueNorm,
    &DeltaKv,
    &DeltaHatSelector,
    &Oracle,
];

/// The selector of this name.
///
/// # Errors
/// [`Error::UnknownName`] lists the registry and the nearest name.
pub fn selector_by_name(name: &str) -> Result<&'static dyn Selector, Error> {
    let known = SELECTORS.iter().map(|selector| selector.name());
    let found = SELECTORS.iter().find(|selector| selector.name() == name).copied();
    found.ok_or_else(|| Error::unknown("selector", name, known))
}

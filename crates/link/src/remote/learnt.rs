//! What was found out about a fuser and lies in files beside it: what each precision loses, what to
//! weigh tokens by, and a regressor by which the sharer guesses what a token will change.

use crate::Error;
use crate::fuse::LoadedFuser;
use crate::plan::{CALIBRATION_JSON, Calibration, Recipe};
use crate::select::{DELTA_HAT_JSON, DeltaHat};

/// Whatever of it is there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Learnt {
    /// `calibration.json`.
    pub calibration: Option<Calibration>,
    /// `delta_hat.json`.
    pub delta_hat: Option<DeltaHat>,
}

impl Learnt {
    /// Reads the files beside a fuser.
    ///
    /// # Errors
    /// [`Error::OtherFuser`] where one belongs to another, and those of [`Calibration::load`] and
    /// [`DeltaHat::load`].
    pub fn beside(fuser: &LoadedFuser) -> Result<Learnt, Error> {
        let fingerprint = fuser.fingerprint();
        let there = |name| Some(fuser.beside(name)).filter(|path| path.exists());
        let calibration = there(CALIBRATION_JSON).map(|at| Calibration::load(&at, &fingerprint));
        let delta_hat = there(DELTA_HAT_JSON).map(|at| DeltaHat::load(&at, &fingerprint));
        Ok(Learnt { calibration: calibration.transpose()?, delta_hat: delta_hat.transpose()? })
    }

    /// The calibration and the selector that it says to weigh tokens by; none where it does not say
    /// or has not measured every precision of the recipes.
    pub(super) fn weigher(&self, recipes: &[Recipe]) -> Option<(&Calibration, &str)> {
        let calibration = self.calibration.as_ref()?;
        let weigher = calibration.weigher()?;
        recipes.iter().all(|recipe| calibration.knows(recipe)).then_some((calibration, weigher))
    }
}

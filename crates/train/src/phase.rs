//! The boundary of a phase: weights replaced by the nearest isometry, and what is measured of them.

use std::collections::BTreeMap;

use smidgen_optim::{FireOptions, FireReport, Plasticity, fire, fire_targets, plasticity};
use smidgen_tensor::Role;

use crate::{Error, Trainer};

impl Trainer<'_> {
    /// Replaces the matrices that a pattern names, or those inside blocks, by the nearest isometries,
    /// and forgets what the optimizer knew of them. Averaged weights stay as they are.
    ///
    /// # Errors
    /// Those of [`fire_targets`] and [`fire`]; nothing is changed then.
    pub fn fire(&mut self, pattern: Option<&str>) -> Result<Vec<FireReport>, Error> {
        let targets = fire_targets(&self.params, pattern)?;
        let options = FireOptions { seed: self.recipe.seed, ..FireOptions::default() };
        let reports = fire(&self.device, &mut self.params, &targets, &options)?;
        for place in targets.iter().filter_map(|id| self.places[id.index()]) {
            self.optim.forget(place);
        }
        // Losses from here on have nothing to do with those before.
        (self.standing.loss_sum, self.standing.loss_weight) = (0.0, 0.0);
        self.standing.fired.push(self.standing.step);
        Ok(reports)
    }

    /// The ranks of every trained matrix inside a block, by name.
    ///
    /// # Errors
    /// [`Error::Optim`] for weights that are not finite and for want of memory.
    pub fn plasticity(&self) -> Result<BTreeMap<&str, Plasticity>, Error> {
        let params = self.params.iter().map(|(_, param)| param);
        let matrices = params.filter(|param| param.trainable && param.role == Role::MatrixHidden);
        matrices.map(|param| Ok((param.name.as_str(), plasticity(&self.device, param)?))).collect()
    }
}

//! A new subspace: found in a gradient, kept in the projector's format, and the state turned with it.

use smidgen_codec::{Rounding, Sign};
use smidgen_tensor::{Blend, Compute, Operand, Tensor, product};

use super::phase::Phase;
use super::projected::{Plan, Projected};
use super::{Moments, ProjectionKind};
use crate::linalg::{Draws, Leading, exact, randomised, scratch};
use crate::{Error, Slot, StepCx, all_finite};

/// Products with the gradient and its transpose that sharpen a random subspace.
const POWER: usize = 1;
/// Where turned state has its random numbers: beside those of the slots, 0 and up.
const TURNED: usize = 64;

impl Projected {
    /// Finds the subspace in `grad` and turns the state with it.
    ///
    /// # Errors
    /// [`Error::NotFinite`] before anything is changed, [`Error::Tensor`] for want of memory.
    pub(super) fn refresh(
        &self,
        cx: &StepCx<'_>,
        index: usize,
        plan: &Plan,
        grad: &[f32],
        [phase_slot, projector]: [&mut Slot; 2],
        inner: &mut [Slot],
    ) -> Result<(), Error> {
        if !all_finite(cx.device.team(), &[grad]) {
            return Err(Error::NotFinite { param: index });
        }
        let mut phase = Phase::load(phase_slot);
        let before = (phase.refreshes > 0).then(|| basis(cx, projector)).transpose()?;
        let draws = Draws { rng: &cx.rng, refresh: phase.refreshes, param: index };
        let gradient = plan.oriented(grad)?;
        let mut found = match self.kind {
            ProjectionKind::Galore => exact(cx.device, gradient, plan.rank, &draws)?,
            ProjectionKind::Galore2 | ProjectionKind::Adarank => {
                randomised(cx.device, gradient, plan.rank, POWER, &draws)?
            }
        };
        phase.rank = self.used_rank(&phase, plan, &found, grad);
        found.basis.slice_mut::<f32>()[phase.rank * plan.side..].fill(0.0);
        projector.data_mut().encode_from(found.basis.slice(), Rounding::Nearest)?;
        drop(found);
        let after = basis(cx, projector)?;
        let cosine = before.as_ref().map(|before| {
            let pairs = before.slice::<f32>().iter().zip(after.slice::<f32>()).take(plan.side);
            pairs.map(|(a, b)| a * b).sum::<f32>().abs()
        });
        phase.refreshed(self.refresh, self.adaptive, cosine);
        phase.store(phase_slot);
        match (self.moments, before) {
            (Moments::Keep, _) | (_, None) => Ok(()),
            (Moments::Reset, Some(_)) => {
                inner.iter_mut().for_each(Slot::clear);
                Ok(())
            }
            (Moments::Rotate, Some(before)) => turn(cx, index, plan, &before, &after, inner),
        }
    }

    /// As many directions as hold the share of the energy, and never more than before.
    fn used_rank(&self, phase: &Phase, plan: &Plan, found: &Leading, grad: &[f32]) -> usize {
        let most = if phase.refreshes > 0 { phase.rank.min(plan.rank) } else { plan.rank };
        let Some(share) = self.energy else { return most };
        let all: f64 = grad.iter().map(|g| f64::from(*g).powi(2)).sum();
        let mut held = 0.0;
        let enough = found.energies.iter().position(|energy| {
            held += f64::from(*energy);
            held >= share * all
        });
        enough.map_or(most, |last| most.min(last + 1)).max(1)
    }
}

/// The basis as it is kept: `[rank, side]` in f32.
pub(super) fn basis(cx: &StepCx<'_>, projector: &Slot) -> Result<Tensor, Error> {
    let mut basis = scratch(cx.device, projector.data().shape())?;
    projector.data().decode_into(basis.slice_mut())?;
    Ok(basis)
}

/// Turns averages from the old basis into the new one: with `Q = new old^T`, a signed average `M`
/// becomes `Q M`; one of squares is turned by the squares of `Q`, so that it stays positive.
fn turn(
    cx: &StepCx<'_>,
    index: usize,
    plan: &Plan,
    before: &Tensor,
    after: &Tensor,
    inner: &mut [Slot],
) -> Result<(), Error> {
    let times = |a: Operand<'_>, b: Operand<'_>| -> Result<Tensor, Error> {
        let mut out = scratch(cx.device, [a.shape()[0], b.shape()[1]])?;
        product(cx.device, Compute::F32, a, b, Blend::SET, &mut out)?;
        Ok(out)
    };
    let turn = times(Operand::of(after), Operand::of(before).transposed())?;
    let mut squares = scratch(cx.device, turn.shape())?;
    for (square, x) in squares.slice_mut::<f32>().iter_mut().zip(turn.slice::<f32>()) {
        *square = x * x;
    }
    for (number, slot) in inner.iter_mut().enumerate() {
        let shape = slot.data().shape();
        // Averages over the directions, as factored ones, have no side to turn.
        if shape[plan.axis()] != plan.rank {
            continue;
        }
        let mut old = scratch(cx.device, shape)?;
        slot.data().decode_into(old.slice_mut())?;
        let (by, old) = match slot.spec().sign {
            Sign::Signed => (Operand::of(&turn), Operand::of(&old)),
            Sign::Unsigned => (Operand::of(&squares), Operand::of(&old)),
        };
        let new = if plan.is_left { times(by, old)? } else { times(old, by.transposed())? };
        let rounding = slot.rounding(cx, index, TURNED + number);
        slot.data_mut().encode_from(new.slice(), rounding)?;
    }
    Ok(())
}

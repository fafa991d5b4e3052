//! Validations and what is out of the ordinary: scores, samples, alarms, early stopping.

use std::collections::BTreeMap;

use super::Fitting;
use crate::alarms::{Alarm, block};
use crate::track::{PlasticityLine, SamplesLine, ValidationLine};
use crate::{Error, Event, Samples, Scores, StepReport};

impl Fitting<'_, '_, '_> {
    /// Scores the weights, shows what they write, and sets off what has to be; whether they are the
    /// best so far.
    pub(super) fn validate(&mut self) -> Result<bool, Error> {
        let scores = match self.trainer.validate(self.course.metric()) {
            Err(error) if error.is_refusal() => return self.out_of_memory(error).map(|()| false),
            scores => scores?,
        };
        self.tell_relief(false)?;
        let (step, best) = (self.trainer.standing.step, scores.best);
        let gap = scores.score.loss - self.trainer.standing.mean_loss();
        self.record_scores(&scores, gap)?;
        let samples = self.sample()?;
        self.record_plasticity()?;
        let limits = self.course.alarm;
        let watched = &mut self.trainer.standing.watched;
        let mut alarms = vec![watched.gap(&limits, gap)];
        alarms.extend(
            samples.and_then(|samples| samples.entropy).map(|e| watched.entropy(&limits, e)),
        );
        if let Some(norms) = self.block_norms() {
            alarms.push(self.trainer.standing.watched.blocks(&limits, &norms));
        }
        alarms.into_iter().try_for_each(|alarm| self.ring(alarm))?;
        if let Some(stop) = &self.course.stop {
            self.trainer.standing.patience.enter(stop, &scores.score);
        }
        if self.is_stopped() {
            let best = self.trainer.standing.best.map_or(step, |best| best.step);
            let text = format!(
                "stopped at step {step}: {} has not improved for {} validations; the best was at step {best}",
                self.course.metric().described(),
                self.trainer.standing.patience.waits
            );
            self.tell(step, "stop", None, &text)?;
        }
        Ok(best)
    }

    fn record_scores(&mut self, scores: &Scores, gap: f64) -> Result<(), Error> {
        let (step, score, ema) = (self.trainer.standing.step, scores.score, scores.ema);
        let line = ValidationLine {
            val_loss: score.loss,
            val_ppl: score.ppl(),
            val_bpb: score.bpb,
            best: scores.best,
            ema_loss: ema.map(|ema| ema.loss),
            ema_bpb: ema.and_then(|ema| ema.bpb),
            gap,
            compile: score.compile.map(Into::into),
        };
        self.tracker.validation(step, self.clock.seconds(), &line)?;
        let best = scores.best;
        self.around.progress.event(Event::Validation { step, score, ema, best });
        Ok(())
    }

    fn record_plasticity(&mut self) -> Result<(), Error> {
        if !self.course.track.plasticity {
            return Ok(());
        }
        let trainer = &mut *self.trainer;
        let compute = trainer.recipe.compute;
        let shares = trainer.objective.dormant(&trainer.device, compute, &trainer.params)?;
        let layer = |(layer, share)| (format!("layers.{layer}"), share);
        let dormant = shares.into_iter().flatten().enumerate().map(layer).collect();
        let line = PlasticityLine { plasticity: self.trainer.plasticity()?, dormant };
        let step = self.trainer.standing.step;
        self.tracker.plasticity(step, self.clock.seconds(), &line)
    }

    fn sample(&mut self) -> Result<Option<Samples>, Error> {
        let trainer = &mut *self.trainer;
        let step = trainer.standing.step;
        let compute = trainer.recipe.compute;
        let samples = trainer.objective.samples(&trainer.device, compute, &trainer.params);
        if let Err(error) = &samples
            && error.is_refusal()
        {
            // A run is not lost for want of a text that people may read.
            let text = format!("no samples at step {step}: {}", error.first_line());
            self.tell(step, "pressure", None, &text)?;
            return Ok(None);
        }
        let samples = samples?;
        if let Some(Samples { texts, entropy }) = &samples {
            let line = SamplesLine { samples: texts, entropy: *entropy };
            self.tracker.samples(step, self.clock.seconds(), &line)?;
            self.around.progress.event(Event::Samples { step, samples: texts });
        }
        Ok(samples)
    }

    /// Norms of the gradients of the last step by block, where they were noted.
    fn block_norms(&self) -> Option<BTreeMap<String, f64>> {
        let norms = &self.trainer.norms;
        if norms.is_empty() {
            return None;
        }
        let mut blocks = BTreeMap::<String, f64>::new();
        for (id, param) in self.trainer.params.iter().filter(|(_, param)| param.trainable) {
            let norm = norms.get(id.index()).copied().unwrap_or(0.0);
            let sum = blocks.entry(block(&param.name).to_string()).or_default();
            *sum = sum.hypot(norm);
        }
        Some(blocks)
    }

    /// A loss far over the running mean before it.
    pub(super) fn spike(&mut self, report: &StepReport, mean: f64) -> Option<Alarm> {
        if self.is_quiet() {
            return None;
        }
        let (limits, standing) = (&self.course.alarm, &mut self.trainer.standing);
        standing.watched.loss(limits, standing.updates, report.loss, mean)
    }

    pub(super) fn watch_step(&mut self, report: &StepReport) -> Result<(), Error> {
        let limits = &self.course.alarm;
        let watched = &mut self.trainer.standing.watched;
        let alarm = report.grad_norm.and_then(|norm| watched.grad_norm(limits, norm));
        self.ring(alarm)
    }

    pub(super) fn ring(&mut self, alarm: Option<Alarm>) -> Result<(), Error> {
        let Some(Alarm { kind, text }) = alarm else { return Ok(()) };
        let step = self.trainer.standing.step;
        self.tell(step, "alarm", Some(kind.name()), &format!("step {step}: {text}"))
    }
}

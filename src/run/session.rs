//! The state of a training process.

use anyhow::{Context, Result};

use super::checkpoint::{TrainState, remove_outdated};
use super::divergence::Limit;
use super::folder;
use super::job::resume_command;
use super::journal::{Evaluation, Journal};
use super::learning::Watch;
use super::progress::Progress;
use super::results::{About, Memory, Results};
use super::trajectory::{Done, Log, Scored};
use crate::base::memory::peak_rss_bytes;
use crate::base::{Digest, Stop};
use crate::config::RunConfig;
use crate::params::digest::trained_digests;
use crate::params::{ParamSet, Params};
use crate::zo::{Estimate, Optimizer, Score, Split, Workload};

/// The state of a training process.
pub(super) struct Session<'a> {
    pub(super) config: &'a RunConfig,
    workload: &'a dyn Workload,
    pub(super) params: &'a mut Params,
    pub(super) optimizer: &'a mut Optimizer,
    pub(super) log: &'a mut Log,
    pub(super) journal: Journal,
    stop: &'a Stop,
    /// The step that it starts after.
    pub(super) start: u64,
    /// The last step in the log at the start.
    pub(super) known: u64,
    /// The step that it stops after: that of a trial, or the run's last.
    pub(super) last: u64,
    is_trial: bool,
    /// The step with the lowest dev loss so far, and its score.
    pub(super) best: (u64, Scored),
    /// The step whose weights are in the weights file.
    kept: u64,
    watch: Watch,
    /// The largest activation memory of an evaluation, in bytes.
    eval_peak: usize,
}

impl<'a> Session<'a> {
    /// Scores the initial weights unless the log has their scores, then restores the newest usable checkpoint.
    pub(super) fn open(
        config: &'a RunConfig,
        workload: &'a dyn Workload,
        params: &'a mut Params,
        optimizer: &'a mut Optimizer,
        log: &'a mut Log,
        stop: &'a Stop,
        progress: Progress,
    ) -> Result<Self> {
        let known = log.trajectory().steps();
        let (last, is_trial) = (progress.trial.unwrap_or(config.max_steps), progress.trial.is_some());
        let journal = Journal::open(config, known, progress)?;
        let nothing = Scored { loss: f64::INFINITY, accuracy: None, digest: Digest(0) };
        let (start, best, kept, watch, eval_peak) = (0, (0, nothing), 0, Watch::default(), 0);
        let mut run = Session {
            config,
            workload,
            params,
            optimizer,
            log,
            journal,
            stop,
            start,
            known,
            last,
            is_trial,
            best,
            kept,
            watch,
            eval_peak,
        };
        if run.log.trajectory().untrained.is_none() {
            let (scored, _) = run.score(Split::Eval, true).context(DAMAGED)?;
            run.log.untrained(scored)?;
        }
        let dev = match run.log.trajectory().dev.get(&0) {
            Some(scored) => *scored,
            None => {
                let (scored, _) = run.score(Split::Dev, true).context(DAMAGED)?;
                run.log.dev(scored)?
            }
        };
        let evaluation = run.evaluation(dev)?;
        run.journal.untrained(&evaluation)?;
        run.workload.write_companions(&config.output_dir, run.params.dtype())?;
        run.restore(dev)?;
        Ok(run)
    }

    /// The threshold of a high loss.
    pub(super) fn limit(&self) -> Limit {
        let untrained = self.log.trajectory().dev.get(&0).map_or(f64::NAN, |scored| scored.loss);
        Limit::new(untrained, self.workload.num_choices())
    }

    /// Restores weights and state from the newest checkpoint from which the log can be followed.
    fn restore(&mut self, untrained: Scored) -> Result<()> {
        // If the weights file does not hold the best weights that the log knows, the run repeats their step.
        let (best, scored) = self.log.trajectory().best(self.known).unwrap_or((0, untrained));
        let stored = self.workload.stored(self.params, &self.config.output_dir);
        let checked = stored.and_then(|stored| self.log.trajectory().check_stored(&stored, scored.digest));
        let held = checked.is_ok();
        if let Some(other) = checked.err().filter(|_| self.known > 0) {
            tracing::info!(
                "resume  {} does not hold the weights of step {best} and is rebuilt: {other:#}",
                self.workload.weights_file()
            );
        }
        let (last, folder) = (if held { self.known } else { best }, &self.config.output_dir);
        self.start = self.state().restore(folder, last)?;
        // A run that was killed after it wrote this checkpoint may have left older ones.
        remove_outdated(folder, self.start, self.config.save_total_limit)?;
        self.kept = if held { best } else { self.start };
        if !held && self.start == best {
            // The folder is a complete model from the start, so a full disk shows now rather than after the first
            // evaluation.
            self.keep()?;
        }
        self.best = self.log.trajectory().best(self.start).unwrap_or((0, untrained));
        let steps = match (self.start + 1, self.known) {
            (first, known) if first == known => format!("step {known}"),
            (first, known) => format!("steps {first} to {known}"),
        };
        match self.known {
            0 => {}
            known if known == self.start => tracing::info!("resume  continuing after step {known}"),
            _ if self.log.trajectory().header.replays => {
                tracing::info!("resume  replaying {steps} from the log (no forward pass)");
            }
            _ => tracing::info!(
                "resume  computing {steps} again: first-order gradients are not in the log; a smaller `save_steps` shortens this"
            ),
        }
        Ok(())
    }

    /// The logged function values of a step; None if the log lacks them or the run does not replay from them.
    pub(super) fn replayed(&self, step: u64) -> Option<Vec<f32>> {
        let trajectory = self.log.trajectory();
        trajectory.values(step).filter(|_| trajectory.header.replays).map(<[f32]>::to_vec)
    }

    /// Scores the weights on a split. A signal interrupts it only if `interruptible`.
    fn score(&mut self, split: Split, interruptible: bool) -> Result<(Scored, Score)> {
        let stopped = || format!("stopped during evaluation; {}", resume_command(self.config));
        let mut proceed = || if interruptible { self.stop.check(stopped) } else { Ok(()) };
        let weights = self.params.settle()?;
        let score = self.workload.score(weights, split, &mut proceed)?;
        self.eval_peak = self.eval_peak.max(score.activation_peak);
        let digest = Digest::of_digests(&trained_digests(weights)?);
        Ok((Scored { loss: score.loss, accuracy: score.accuracy, digest }, score))
    }

    fn evaluation(&mut self, scored: Scored) -> Result<Evaluation> {
        Ok(Evaluation { scored, gradient_norm: self.workload.gradient_norm(self.params.settle()?)? })
    }

    /// The evaluation after a step: the dev score is the logged one, once the weights match its digest; else a new one if due.
    pub(super) fn evaluate(&mut self, step: u64) -> Result<Option<Evaluation>> {
        let config = self.config;
        if let Some(scored) = self.log.trajectory().dev.get(&step).copied() {
            self.log.trajectory().check(step, self.params)?;
            return self.evaluation(scored).map(Some);
        }
        // A logged step without a dev score, other than the last, was not due.
        let due = step >= self.known && (step.is_multiple_of(config.eval_steps) || step == self.last);
        if !due {
            return Ok(None);
        }
        let (scored, _) = self.score(Split::Dev, false)?;
        self.warn_if_unchanged(step, scored.digest);
        let scored = self.log.dev(scored)?;
        self.evaluation(scored).map(Some)
    }

    /// Warns if no weight has changed since the last score, which a smooth loss curve would not show.
    fn warn_if_unchanged(&self, step: u64, digest: Digest) {
        let before = self.log.trajectory().dev.range(..step).next_back();
        if let Some((before, _)) = before.filter(|(_, scored)| scored.digest == digest && !self.is_trial) {
            tracing::warn!(
                "the weights of step {step} are identical to those of step {before}: either `zo_eps` is so small that both losses are \
                 equal, or `learning_rate` is too small for {}",
                self.params.dtype().as_str()
            );
        }
    }

    /// Warns of signs in the steps so far that the run does not learn.
    pub(super) fn warn_if_it_does_not_learn(&mut self, estimate: &Estimate, gradient_norm: Option<f64>) {
        let said = self.watch.after(estimate, gradient_norm, self.journal.losses());
        if let Some(said) = said.filter(|_| !self.is_trial) {
            tracing::warn!("{said}");
        }
    }

    /// Whether early stopping ends the run after `step`. It went on after every logged step but the last.
    pub(super) fn stopped_early(&self, step: u64) -> bool {
        step >= self.known && self.config.stops_early(self.log.trajectory(), step).is_some()
    }

    fn keep(&mut self) -> Result<()> {
        self.log.check_place()?;
        self.workload.save(self.params.settle()?, &self.config.output_dir)
    }

    pub(super) fn keep_the_best(&mut self, step: u64, evaluation: Option<Evaluation>) -> Result<()> {
        let dev = evaluation.map(|evaluation| evaluation.scored);
        if let Some(dev) = dev.filter(|dev| dev.loss < self.best.1.loss) {
            if step > self.kept {
                self.keep()?;
                self.kept = step;
            }
            self.best = (step, dev);
        }
        Ok(())
    }

    fn state(&mut self) -> TrainState<'_> {
        let Session { workload, params, optimizer, journal, log, kept, .. } = self;
        TrainState { workload: *workload, params, optimizer, journal, log, kept: *kept }
    }

    /// Writes a checkpoint if due, or if a signal asked to stop; then ends the run with an error.
    pub(super) fn checkpoint_if_due(&mut self, step: u64) -> Result<()> {
        let config = self.config;
        let asked = self.stop.asked().is_some();
        let due = step >= self.known && (step.is_multiple_of(config.save_steps.max(1)) || self.is_last(step));
        if config.save_steps > 0 && (due || asked) {
            // A checkpoint is never ahead of the log, nor in another run's folder.
            self.log.sync()?;
            self.log.check_place()?;
            self.state().save(&config.output_dir, step, config.save_total_limit)?;
        }
        if asked {
            self.log.sync()?;
            self.stop.check(|| format!("stopped after step {step} of {}; {}", config.max_steps, resume_command(config)))?;
        }
        Ok(())
    }

    fn is_last(&self, step: u64) -> bool {
        step == self.last || self.stopped_early(step)
    }

    /// Restores the best weights, scores them, and returns the results.
    pub(super) fn end(mut self) -> Result<Results> {
        let config = self.config;
        let (best_step, dev) = self.best;
        let steps = self.log.trajectory().steps();
        if steps < config.max_steps {
            tracing::info!(
                "stopped early, at step {steps} of {}: the dev loss was lowest at step {best_step}",
                config.max_steps
            );
        }
        if best_step != steps {
            self.params.settle()?;
            self.workload.restore(self.params, &config.output_dir)?;
        }
        let (eval, score) = self.score(Split::Eval, true)?;
        if eval.digest != dev.digest {
            return Err(differs!(
                "{} does not hold the weights of step {best_step}",
                config.output_dir.join(self.workload.weights_file()).display()
            ));
        }
        self.log.done(Done { best_step, digests: trained_digests(self.params.settle()?)? })?;
        let untrained = self.log.trajectory().untrained.context("a run without its first score")?;
        let totals = self.journal.end();
        let (state, snapshot) = self.optimizer.bytes()?;
        let activations = totals.peaks.held.max(self.eval_peak);
        let memory = Memory::of(self.params.bytes(), state, snapshot, totals.peaks.aside, activations, peak_rss_bytes());
        Ok(Results {
            about: About::new(config, self.workload.name()),
            steps,
            stopped_early: steps < config.max_steps,
            best_step,
            totals,
            untrained_dev_loss: self.log.trajectory().dev.get(&0).map_or(f64::NAN, |scored| scored.loss),
            dev_loss: dev.loss,
            dev_accuracy: dev.accuracy,
            eval_loss: eval.loss,
            eval_accuracy: eval.accuracy,
            eval_answers: score.answers,
            eval_perplexity: score.perplexity,
            untrained_eval_loss: untrained.loss,
            untrained_eval_accuracy: untrained.accuracy,
            trajectory_bytes: self.log.bytes(),
            replays: self.log.trajectory().header.replays,
            memory,
            trained_weights: self.params.count_over(ParamSet::Trained),
            learning_rate: config.learning_rate.unwrap_or_default(),
            learning_rate_search: folder::tried_rates(&config.output_dir).unwrap_or_default(),
        })
    }
}

/// Context of an error in the first scores.
pub(super) const DAMAGED: &str =
    "before training: the model's weights are damaged, or its config.json does not belong to them";

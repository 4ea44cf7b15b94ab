//! The training loop.

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Context, Result};

use super::journal::Step;
use super::progress::Progress;
use super::results::Results;
use super::session::Session;
use super::trajectory::Log;
use crate::base::{NotFinite, Stop};
use crate::config::RunConfig;
use crate::params::Params;
use crate::zo::{Optimizer, Problem, RecordedProblem, Workload};

/// Trains from the first step missing in `log`; leaves the best-on-dev weights in `params` and in the run's folder.
///
/// `params` hold the weights before the first step. Steps in the log after the newest checkpoint are replayed without a
/// forward pass, or computed again if they need first-order gradients, which no log holds.
pub fn train(
    config: &RunConfig,
    workload: &dyn Workload,
    params: &mut Params,
    optimizer: &mut Optimizer,
    log: &mut Log,
    stop: &Stop,
    progress: Progress,
) -> Result<Results> {
    let mut run = Session::open(config, workload, params, optimizer, log, stop, progress)?;
    if let Err(error) = steps(&mut run, workload.problem().as_mut()) {
        return Err(run.explain(error));
    }
    run.end()
}

/// Runs the steps after `run.start`, up to `run.last`.
pub(super) fn steps(run: &mut Session, problem: &mut dyn Problem) -> Result<()> {
    let (config, limit) = (run.config, run.limit());
    for step in run.start + 1..=run.last {
        if run.stopped_early(step - 1) {
            break;
        }
        let (clock, walked) = (Instant::now(), run.params.pass_time());
        let at = config.step_context(step);
        problem.begin(step);

        let replayed = run.replayed(step);
        let evaluated = RefCell::default();
        let mut recorded = RecordedProblem::new(problem, replayed.as_deref(), &evaluated);
        let (estimate, mut gradients) = run.optimizer.estimator.estimate(&at, run.params, &mut recorded)?;
        if !estimate.is_finite() {
            return Err(NotFinite::at_step(step, at.seed(0), estimate.numbers()).into());
        }
        run.log.step(step, &evaluated.borrow())?;
        // The run already went on after every logged step but the last.
        let stops = config.stop_if_diverged && step >= run.known;
        if stops && limit.is_passed(run.journal.losses(), estimate.loss()) {
            return Err(limit.passed_at(step).into());
        }
        let gradient_norm = run.optimizer.rule.step(&at, run.params, &estimate, gradients.as_deref_mut())?;
        drop(gradients);

        let (time, pass_time) = (clock.elapsed(), run.params.pass_time() - walked);
        let evaluation = run.evaluate(step).with_context(|| format!("after step {step} (direction seed {})", at.seed(0)))?;
        let (learning_rate, cost, replayed) = (config.learning_rate_at(step), problem.cost(), replayed.is_some());
        let done = Step { number: step, estimate: &estimate, gradient_norm, learning_rate, cost, time, pass_time, replayed };
        run.journal.step(done, evaluation.as_ref())?;
        run.warn_if_it_does_not_learn(&estimate, gradient_norm);
        run.keep_the_best(step, evaluation)?;
        run.checkpoint_if_due(step)?;
    }
    Ok(())
}

//! THE LOOP: a training run from the first evaluation to the last, read from top to bottom.

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::ProgressBar;

use super::checkpoint;
use super::divergence::Limit;
use super::journal::Step;
use super::results::Results;
use super::session::Session;
use super::trajectory::Log;
use crate::base::text::shell_quoted;
use crate::base::{Diverged, NotFinite, Stop};
use crate::config::RunConfig;
use crate::params::Params;
use crate::zo::{Optimizer, RecordedProblem, Workload};

/// Trains from the first step missing in `log`. Leaves the best-on-dev weights in `params` and in the run folder.
///
/// `params` come with the weights that the run began from. Steps that the log has and no checkpoint holds are replayed from the log
/// without a forward pass; with first-order gradients, which no log holds, they are computed again.
pub fn train(
    config: &RunConfig,
    workload: &dyn Workload,
    params: &mut Params,
    optimizer: &mut Optimizer,
    log: &mut Log,
    stop: &Stop,
    bar: ProgressBar,
) -> Result<Results> {
    let mut problem = workload.problem();
    let mut run = Session::open(config, workload, params, optimizer, log, stop, bar)?;
    let limit = run.limit();

    for step in run.start + 1..=config.max_steps {
        let (clock, walked) = (Instant::now(), run.params.walk_time());
        let at = config.step_context(step);
        problem.begin(step);

        let replayed = run.replayed(step);
        let evaluated = RefCell::default();
        let mut recorded = RecordedProblem::new(problem.as_mut(), replayed.as_deref(), &evaluated);
        let (estimate, mut gradients) = run.optimizer.estimator.estimate(&at, run.params, &mut recorded)?;
        if !estimate.is_finite() {
            let say = left(config, run.log, limit, run.journal.losses(), run.best.0);
            return Err(NotFinite::at_step(step, at.seed(0), estimate.numbers()).saying(format!("\n  {say}")).into());
        }
        run.log.step(step, &evaluated.borrow())?;
        // Before the last step that the log has, the run has gone past.
        let stops = config.stop_if_diverged && step >= run.known;
        if stops && limit.is_passed(run.journal.losses(), estimate.loss()) {
            return Err(diverged(config, run.log, limit, run.journal.losses(), run.best.0).into());
        }
        let gradient_norm = run.optimizer.rule.step(&at, run.params, &estimate, gradients.as_deref_mut())?;
        drop(gradients);

        let (time, walk_time) = (clock.elapsed(), run.params.walk_time() - walked);
        let dev = run.evaluate(step).map_err(|error| match error.downcast::<NotFinite>() {
            Ok(it) => {
                let say = left(config, run.log, limit, run.journal.losses(), run.best.0);
                it.saying(format!("\n  {say}")).into()
            }
            Err(error) => error,
        });
        let dev = dev.with_context(|| format!("after step {step} (direction seed {})", at.seed(0)))?;
        let (learning_rate, cost, replayed) = (config.learning_rate_at(step), problem.cost(), replayed.is_some());
        let done = Step { number: step, estimate: &estimate, gradient_norm, learning_rate, cost, time, walk_time, replayed };
        run.journal.step(done, dev.as_ref())?;
        run.keep_the_best(step, dev)?;
        run.checkpoint_if_due(step)?;
    }
    run.end()
}

/// The error of a diverged run: since when, what is kept, and what to try.
fn diverged(config: &RunConfig, log: &Log, limit: Limit, losses: &[f64], best: u64) -> Diverged {
    let step = losses.len() + 1;
    Diverged(format!(
        "the run has diverged by step {step}: {}, which is far above guessing and the {:.4} on dev before training\n  {}; \
         --stop-if-diverged=false goes on all the same",
        limit.describe(step),
        log.trajectory().dev.get(&0).map_or(f64::NAN, |scored| scored.loss),
        left(config, log, limit, losses, best),
    ))
}

/// What a run that has come to nothing leaves, and what to try.
fn left(config: &RunConfig, log: &Log, limit: Limit, losses: &[f64], best: u64) -> String {
    let folder = config.output_dir.display();
    let good = limit.last_good(losses);
    let kept = match best {
        0 => "the weights from before training".into(),
        best => format!("the weights of step {best}, which had the least loss on dev"),
    };
    let before = match checkpoint::newest(&config.output_dir, good) {
        Some(step) => format!(", checkpoint-{step} those of step {step}, the last ones kept from before"),
        None if log.trajectory().header.replays && good > best => {
            format!(
                "; zotune replay {} --to-step {good} --output-dir FOLDER makes the last ones from before",
                shell_quoted(&config.output_dir.to_string_lossy())
            )
        }
        None => String::new(),
    };
    let rate = config.learning_rate.unwrap_or_default() / 10.0;
    format!("{folder} has {kept}{before}\n  try --learning-rate {rate:.0e}, a tenth")
}

//! THE LOOP: a training run from the first evaluation to the last, read from top to bottom.

use std::cell::RefCell;
use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::Value;

use crate::checkpoint::Held;
use crate::config::Plan;
use crate::data::Example;
use crate::digest::Digest;
use crate::error::NotFinite;
use crate::estimator::At;
use crate::eval::evaluate;
use crate::files::{self, quoted};
use crate::journal::Totals;
use crate::journal::{Journal, Step};
use crate::memory::peak_rss_bytes;
use crate::model::{self, Model};
use crate::noise;
use crate::optim::Optimizer;
use crate::params::Params;
use crate::report;
use crate::setup::{Bench, problem};
use crate::stop::Stop;
use crate::task::{Splits, Task};
use crate::trajectory::{Done, Log, Scored, Tape, Trajectory};

/// What all_results.json holds. Losses are the task's; times are medians over the steps, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Updates made.
    pub steps: u64,
    /// The step whose weights were kept: the one with the best dev loss, 0 for the untrained ones.
    pub best_step: u64,
    /// Training loss, mean over the last tenth of the steps; with the other totals.
    #[serde(flatten)]
    pub totals: Totals,
    /// Of the weights that were kept, on the dev split.
    pub dev_loss: f64,
    /// The same.
    pub dev_accuracy: f64,
    /// Of the weights that were kept, on the evaluation split.
    pub eval_loss: f64,
    /// The same.
    pub eval_accuracy: f64,
    /// On the evaluation split, before training.
    pub untrained_eval_loss: f64,
    /// The same.
    pub untrained_eval_accuracy: f64,
    /// Bytes of the log that the weights can be made from again.
    pub trajectory_bytes: u64,
    /// Where the memory went.
    #[serde(flatten)]
    pub memory: Memory,
    /// The configured rate, or the default that was taken.
    pub learning_rate: f64,
}

/// Where a run's memory went, in bytes: each part at its largest.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// The weights as they are held.
    pub weights_bytes: usize,
    /// What the rule holds beside them.
    pub optimizer_state_bytes: usize,
    /// What the estimator keeps from step to step.
    pub snapshot_bytes: usize,
    /// First-order gradients alive at once.
    pub gradient_peak_bytes: usize,
    /// What a forward or backward pass held beside all that was there before it.
    pub activation_peak_bytes: usize,
    /// Directions, as they are drawn: all threads together.
    pub noise_scratch_bytes: usize,
    /// Of the process's peak what is none of these: the program, the tokenizer, the data, what the parts' peaks do not
    /// have in common.
    pub rest_bytes: usize,
    /// The process's largest resident set.
    pub peak_rss_bytes: u64,
}

impl Memory {
    /// Of the parts that are counted where they are allocated, and of the process's peak.
    pub fn of(weights: usize, state: usize, snapshot: usize, gradients: usize, activations: usize, peak: u64) -> Self {
        let noise = noise::SCRATCH_BYTES * rayon::current_num_threads();
        let parts = weights + state + snapshot + gradients + activations + noise;
        Memory {
            weights_bytes: weights,
            optimizer_state_bytes: state,
            snapshot_bytes: snapshot,
            gradient_peak_bytes: gradients,
            activation_peak_bytes: activations,
            noise_scratch_bytes: noise,
            rest_bytes: (peak as usize).saturating_sub(parts),
            peak_rss_bytes: peak,
        }
    }
}

/// What is to be done: a plan that was set up, its task, and the task's examples.
pub struct Job {
    /// The config.
    pub plan: Plan,
    /// Where the examples and their loss come from.
    pub task: Task,
    /// The examples.
    pub examples: Splits<Example>,
}

/// Scores weights as the trajectory keeps it.
struct Scorer<'a> {
    job: &'a Job,
    model: &'a Model,
    stop: &'a Stop,
    /// The most bytes that a forward pass held.
    peak: usize,
}

impl Scorer<'_> {
    /// On `examples`. To `hurry` is to heed a signal in the middle.
    fn score(&mut self, params: &mut Params, examples: &[Example], hurry: bool) -> Result<Scored> {
        let Job { plan, task, .. } = self.job;
        let heed = |_| if hurry { self.stop.check(|| format!("stopped while scoring; {}", go_on(plan))) } else { Ok(()) };
        let weights = params.settle()?;
        let found = evaluate(self.model, weights, examples, task.loss, plan.inputs.eval_batch_size, heed)?;
        self.peak = self.peak.max(found.activation_peak);
        let digest = Digest::of_digests(&Digest::of_weights(weights)?);
        Ok(Scored { loss: found.loss, accuracy: found.accuracy, digest })
    }
}

/// Makes the steps of `job` that `log` does not know yet, and leaves the best weights in the run folder and in `bench`, which
/// comes with the weights that the run began from.
///
/// Steps that the log knows and no checkpoint holds are made again on the way: told from the log, without a forward pass; but
/// computed where a first-order gradient is wanted, which no log holds.
pub fn train(
    job: &Job,
    bench: &mut Bench,
    optimizer: &mut Optimizer,
    log: &mut Log,
    stop: &Stop,
    bar: ProgressBar,
) -> Result<Results> {
    let Job { plan, task, examples } = job;
    let Bench { model, params, .. } = bench;
    let weights_file = plan.output_dir.join("model.safetensors");
    let peak_rate = plan.learning_rate.context("a plan that was not set up")?;
    if let Some(decay) = plan.settings.weight_decay.filter(|wd| *wd > 0.0 && 1.0 - (peak_rate * wd) as f32 == 1.0) {
        tracing::warn!("weight decay {decay} at learning rate {peak_rate:e} is too small for f32 and does nothing");
    }
    let mut problem = problem(plan, task, model, &examples.train);
    let mut scorer = Scorer { job, model, stop, peak: 0 };
    let known = log.trajectory().steps();
    let mut journal = Journal::open(plan, known, bar)?;

    let untrained = match log.trajectory().untrained {
        Some(scored) => scored,
        None => log.untrained(scorer.score(params, &examples.eval, true).context(DAMAGED)?)?,
    };
    let untrained_dev = match log.trajectory().dev.get(&0) {
        Some(scored) => *scored,
        None => log.dev(scorer.score(params, &examples.dev, true).context(DAMAGED)?)?,
    };
    journal.untrained(&untrained_dev)?;
    model.write_companions(&plan.output_dir, params.dtype())?;

    // Where the best weights that the log knows of are not in their file, the way goes past them once more.
    let (best_known, scored) = log.trajectory().best(known).unwrap_or((0, untrained_dev));
    let held = model::stored_digests(params, &weights_file).is_ok_and(|found| Digest::of_digests(&found) == scored.digest);
    let start = Held { model, params, optimizer, journal: &mut journal }
        .restore(&plan.output_dir, if held { known } else { best_known })?;
    let mut kept = if held { best_known } else { start };
    if !held && start == best_known {
        // The folder is a model from the start, so a disk too small for it shows now and not after the first evaluation.
        model::save(params.settle()?, &weights_file)?;
    }
    let mut best = log.trajectory().best(start).unwrap_or((0, untrained_dev));
    announce(log.trajectory(), start);

    for step in start + 1..=plan.max_steps {
        let (clock, walked) = (Instant::now(), params.walk_time());
        let at = At::of(plan, step);
        problem.begin(step);

        let values = log.trajectory().values(step).map(<[f32]>::to_vec);
        let told = values.as_deref().filter(|_| log.trajectory().header.replays);
        let heard = RefCell::default();
        let mut tape = Tape::new(&mut problem, told, &heard);
        let (estimate, mut gradients) = optimizer.estimator.estimate(&at, params, &mut tape)?;
        if !estimate.is_finite() {
            return Err(NotFinite::at_step(step, at.seed(0), estimate.numbers()).into());
        }
        log.step(step, &heard.borrow())?;
        let gradient_norm = optimizer.rule.step(&at, params, &estimate, gradients.as_deref_mut())?;
        drop(gradients);

        let (time, walk_time) = (clock.elapsed(), params.walk_time() - walked);
        let dev = match log.trajectory().dev.get(&step).copied() {
            Some(scored) => {
                log.trajectory().check(step, params)?;
                Some(scored)
            }
            // What is not known of a step that is, an earlier process did not come to.
            None if step >= known && (step.is_multiple_of(plan.eval_steps) || step == plan.max_steps) => {
                let scored = scorer.score(params, &examples.dev, false);
                Some(log.dev(scored.with_context(|| format!("after step {step} (direction seed {})", at.seed(0)))?)?)
            }
            None => None,
        };
        let (learning_rate, cost) = (plan.learning_rate_at(step), problem.cost());
        let replayed = told.is_some();
        let done = Step { number: step, estimate: &estimate, gradient_norm, learning_rate, cost, time, walk_time, replayed };
        journal.step(done, dev.as_ref())?;
        if let Some(dev) = dev.filter(|dev| dev.loss < best.1.loss) {
            if step > kept {
                model::save(params.settle()?, &weights_file)?;
                kept = step;
            }
            best = (step, dev);
        }

        let asked = stop.asked().is_some();
        let due = step.is_multiple_of(plan.save_steps.max(1)) || step == plan.max_steps || asked;
        if due && plan.save_steps > 0 && (step >= known || asked) {
            // Never is a checkpoint ahead of the log.
            log.sync()?;
            Held { model, params, optimizer, journal: &mut journal }.save(&plan.output_dir, step, plan.save_total_limit)?;
        }
        if asked {
            log.sync()?;
            stop.check(|| {
                format!("stopped behind step {step} of {}, with all of it saved; {}", plan.max_steps, go_on(plan))
            })?;
        }
    }

    let (best_step, dev) = best;
    if best_step != plan.max_steps {
        params.settle()?;
        model::restore(params, &weights_file)?;
    }
    let eval = scorer.score(params, &examples.eval, true)?;
    if eval.digest != dev.digest {
        return Err(differs!("{} does not hold the weights of step {best_step}", weights_file.display()));
    }
    log.done(Done { best_step, digests: Digest::of_weights(params.settle()?)? })?;
    let totals = journal.end();
    let (state, snapshot) = optimizer.bytes()?;
    let activations = totals.peaks.held.max(scorer.peak);
    let memory = Memory::of(params.bytes(), state, snapshot, totals.peaks.aside, activations, peak_rss_bytes());
    Ok(Results {
        steps: plan.max_steps,
        best_step,
        totals,
        dev_loss: dev.loss,
        dev_accuracy: dev.accuracy,
        eval_loss: eval.loss,
        eval_accuracy: eval.accuracy,
        untrained_eval_loss: untrained.loss,
        untrained_eval_accuracy: untrained.accuracy,
        trajectory_bytes: log.bytes(),
        memory,
        learning_rate: peak_rate,
    })
}

/// Leaves all_results.json (`results`, and what the caller has put beside them) and loss.svg in the run folder.
pub fn conclude(plan: &Plan, task: &Task, results: &Value) -> Result<()> {
    files::write_bytes(&plan.output_dir.join("all_results.json"), &serde_json::to_vec_pretty(results)?)?;
    report::draw_losses(&plan.output_dir, &format!("{}, {}", task.name, plan.optimizer))
}

/// Says how the steps are come by that are known but not held.
fn announce(trajectory: &Trajectory, start: u64) {
    match (trajectory.steps(), trajectory.header.replays) {
        (known, _) if known == start => {}
        (known, true) => tracing::info!("resume  steps {} to {known} are replayed from the trajectory", start + 1),
        (known, false) => tracing::info!(
            "resume  steps {} to {known} are computed again: no log holds first-order gradients; --save-steps makes them fewer",
            start + 1
        ),
    }
}

/// The command that goes on with a run.
pub fn go_on(plan: &Plan) -> String {
    format!("go on with: zotune train --resume {}", quoted(&plan.output_dir.to_string_lossy()))
}

/// What to say when a model gives no numbers before anything was changed.
const DAMAGED: &str = "before training: the model's weights are damaged, or config.json is not theirs";

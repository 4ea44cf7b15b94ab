//! THE LOOP: a training run from the first evaluation to the last, read from top to bottom.

use std::time::Instant;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::Value;

use crate::config::Plan;
use crate::data::Example;
use crate::error::NotFinite;
use crate::estimator::At;
use crate::eval::{Evaluation, evaluate};
use crate::files;
use crate::journal::{Journal, Step, Totals};
use crate::memory::peak_rss_bytes;
use crate::model;
use crate::noise;
use crate::optim::Optimizer;
use crate::params::Params;
use crate::report;
use crate::setup::{Bench, problem};
use crate::task::{Splits, Task};

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

/// Trains `bench` on `examples` as `plan` says, and leaves the best weights in the run folder and in `bench`.
pub fn train(
    plan: &Plan,
    task: &Task,
    bench: &mut Bench,
    optimizer: &mut Optimizer,
    examples: &Splits<Example>,
    bar: ProgressBar,
) -> Result<Results> {
    let Bench { model, params, .. } = bench;
    let folder = &plan.output_dir;
    let weights_file = folder.join("model.safetensors");
    let peak_rate = plan.learning_rate.context("a plan that was not set up")?;
    if let Some(decay) = plan.settings.weight_decay.filter(|wd| *wd > 0.0 && 1.0 - (peak_rate * wd) as f32 == 1.0) {
        tracing::warn!("weight decay {decay} at learning rate {peak_rate:e} is too small for f32 and does nothing");
    }
    let mut problem = problem(plan, task, model, &examples.train);
    let score = |params: &mut Params, examples: &[Example]| -> Result<Evaluation> {
        evaluate(model, params.settle()?, examples, task.loss, plan.inputs.eval_batch_size, |_| ())
    };

    let mut journal = Journal::begin(plan, bar)?;
    let untrained = score(params, &examples.eval).context(DAMAGED)?;
    let untrained_dev = score(params, &examples.dev).context(DAMAGED)?;
    journal.untrained(&untrained_dev)?;
    // The folder is a model from the start, so a disk too small for it shows now and not after the first evaluation.
    model.write_companions(folder, params.dtype())?;
    model::save(params.settle()?, &weights_file)?;
    let untrained_dev_peak = untrained_dev.activation_peak;
    let mut best = (0, untrained_dev);

    for step in 1..=plan.max_steps {
        let (start, walked) = (Instant::now(), params.walk_time());
        let learning_rate = plan.learning_rate_at(step, peak_rate);
        let at = At { step, run_seed: plan.seed, learning_rate: learning_rate as f32 };
        problem.begin(step);

        let (estimate, mut gradients) = optimizer.estimator.estimate(&at, params, &mut problem)?;
        if !estimate.is_finite() {
            return Err(NotFinite::at_step(step, at.seed(0), estimate.numbers()).into());
        }
        let gradient_norm = optimizer.rule.step(&at, params, &estimate, gradients.as_deref_mut())?;
        drop(gradients);

        let (time, walk_time) = (start.elapsed(), params.walk_time() - walked);
        let due = step.is_multiple_of(plan.eval_steps) || step == plan.max_steps;
        let scored = due.then(|| score(params, &examples.dev)).transpose();
        let dev = scored.with_context(|| format!("after step {step} (direction seed {})", at.seed(0)))?;
        let cost = problem.cost();
        let done = Step { number: step, estimate: &estimate, gradient_norm, learning_rate, cost, time, walk_time };
        journal.step(done, dev.as_ref())?;
        if let Some(dev) = dev.filter(|dev| dev.loss < best.1.loss) {
            model::save(params.settle()?, &weights_file)?;
            best = (step, dev);
        }
    }

    let (best_step, dev) = best;
    if best_step != plan.max_steps {
        params.settle()?;
        model::restore(params, &weights_file)?;
    }
    let eval = score(params, &examples.eval)?;
    let totals = journal.end();
    let (state, snapshot) = optimizer.bytes()?;
    let activations = totals.peaks.held.max(untrained.activation_peak).max(untrained_dev_peak);
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
        memory,
        learning_rate: peak_rate,
    })
}

/// Leaves all_results.json (`results`, and what the caller has put beside them) and loss.svg in the run folder.
pub fn conclude(plan: &Plan, task: &Task, results: &Value) -> Result<()> {
    files::write_bytes(&plan.output_dir.join("all_results.json"), &serde_json::to_vec_pretty(results)?)?;
    report::draw_losses(&plan.output_dir, &format!("{}, {}", task.name, plan.optimizer))
}

/// What to say when a model gives no numbers before anything was changed.
const DAMAGED: &str = "before training: the model's weights are damaged, or config.json is not theirs";

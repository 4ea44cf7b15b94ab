//! What a run came to: which one it was, what it reached, where its memory went.

use std::path::PathBuf;

use serde::Serialize;

use super::journal::Totals;
use crate::config::RunConfig;
use crate::device::cpu::update;
use crate::zo::Answers;

/// What all_results.json holds. Losses are the task's; times are medians over the steps, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Which run this was.
    #[serde(flatten)]
    pub about: About,
    /// Updates made.
    pub steps: u64,
    /// The step whose weights were kept: the one with the best dev loss, 0 for the untrained ones.
    pub best_step: u64,
    /// Training loss, mean over the last tenth of the steps; with the other totals.
    #[serde(flatten)]
    pub totals: Totals,
    /// Of the weights that were kept, on the dev split.
    pub dev_loss: f64,
    /// The same; None where there is nothing to choose from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_accuracy: Option<f64>,
    /// Of the weights that were kept, on the evaluation split.
    pub eval_loss: f64,
    /// The same; None where there is nothing to choose from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_accuracy: Option<f64>,
    /// What that accuracy is worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_answers: Option<Answers>,
    /// e to the loss on the evaluation split, where that is a mean over tokens and all there is to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_perplexity: Option<f64>,
    /// On the evaluation split, before training.
    pub untrained_eval_loss: f64,
    /// The same; None where there is nothing to choose from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untrained_eval_accuracy: Option<f64>,
    /// Bytes of the log.
    pub trajectory_bytes: u64,
    /// Whether the weights can be made from it again: there were no first-order gradients.
    pub replays: bool,
    /// How many weights were trained.
    pub trained_weights: usize,
    /// Where the memory went.
    #[serde(flatten)]
    pub memory: Memory,
    /// The configured rate, or the default that was taken.
    pub learning_rate: f64,
}

/// What tells runs apart.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "each is the flag of its name, documented there; the task by its name")]
pub struct About {
    pub output_dir: PathBuf,
    pub task: String,
    pub model: String,
    pub optimizer: String,
    pub seed: u64,
    pub train_set_seed: u32,
}

impl About {
    /// A run of this plan, on the task of this name.
    pub fn new(plan: &RunConfig, task: &str) -> Self {
        About {
            output_dir: plan.output_dir.clone(),
            task: task.into(),
            model: plan.inputs.model.clone(),
            optimizer: plan.optimizer.clone(),
            seed: plan.seed,
            train_set_seed: plan.inputs.train_set_seed,
        }
    }
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
        let noise = update::SCRATCH_BYTES * rayon::current_num_threads();
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

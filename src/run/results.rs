//! The results of a run: its settings, its scores, its memory.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::journal::Totals;
use super::rates::TriedRate;
use crate::config::RunConfig;
use crate::device::cpu::update;
use crate::zo::Answers;

/// The content of all_results.json. Losses are the task's; times are medians over the steps, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// The settings that identify the run.
    #[serde(flatten)]
    pub about: About,
    /// Updates made.
    pub steps: u64,
    /// Whether early stopping ended the run before its last step.
    #[serde(skip_serializing_if = "is_false")]
    pub stopped_early: bool,
    /// The step whose weights are kept: the one with the lowest dev loss; 0: before training.
    pub best_step: u64,
    /// Totals over the steps.
    #[serde(flatten)]
    pub totals: Totals,
    /// The dev loss before training.
    pub untrained_dev_loss: f64,
    /// The dev loss of the kept weights.
    pub dev_loss: f64,
    /// Their dev accuracy; None for a task without candidates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev_accuracy: Option<f64>,
    /// The loss of the kept weights on the evaluation split.
    pub eval_loss: f64,
    /// Their accuracy there; None for a task without candidates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_accuracy: Option<f64>,
    /// Statistics of that accuracy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_answers: Option<Answers>,
    /// exp of the loss on the evaluation split, where that is a mean over tokens and there is no accuracy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eval_perplexity: Option<f64>,
    /// The loss on the evaluation split before training.
    pub untrained_eval_loss: f64,
    /// The accuracy there; None for a task without candidates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untrained_eval_accuracy: Option<f64>,
    /// The size of the trajectory's log, in bytes.
    pub trajectory_bytes: u64,
    /// Whether the trajectory can be replayed: the run used no first-order gradients.
    pub replays: bool,
    /// The number of trained weights.
    pub trained_weights: usize,
    /// The memory by part.
    #[serde(flatten)]
    pub memory: Memory,
    /// The learning rate, given, found or by default.
    pub learning_rate: f64,
    /// The trials of the search that found it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub learning_rate_search: Vec<TriedRate>,
}

fn is_false(what: &bool) -> bool {
    !what
}

/// The settings that identify a run.
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
    /// For a run of this config, on the task of this name.
    pub fn new(config: &RunConfig, task: &str) -> Self {
        About {
            output_dir: config.output_dir.clone(),
            task: task.into(),
            model: config.inputs.model.clone(),
            optimizer: config.optimizer.clone(),
            seed: config.seed,
            train_set_seed: config.inputs.train_set_seed,
        }
    }
}

/// A run's memory in bytes, each part at its peak.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// The weights, in the precision held.
    pub weights_bytes: usize,
    /// The state of the update rule.
    pub optimizer_state_bytes: usize,
    /// What the estimator keeps between steps.
    pub snapshot_bytes: usize,
    /// First-order gradients alive at once.
    pub gradient_peak_bytes: usize,
    /// Activations of a forward or backward pass, beside what was allocated before it.
    pub activation_peak_bytes: usize,
    /// Scratch for drawing directions, over all threads.
    pub noise_scratch_bytes: usize,
    /// The peak resident set less the parts above: the program, the tokenizer, the data. 0 if the parts' peaks, which
    /// need not coincide, exceed it.
    pub rest_bytes: usize,
    /// The peak resident set of the process.
    pub peak_rss_bytes: u64,
}

impl Memory {
    /// The parts: their names for people and in files, and their bytes.
    pub fn parts(&self) -> [(&'static str, &'static str, usize); 7] {
        [
            ("weights", "weights_bytes", self.weights_bytes),
            ("optimizer state", "optimizer_state_bytes", self.optimizer_state_bytes),
            ("snapshot", "snapshot_bytes", self.snapshot_bytes),
            ("gradients", "gradient_peak_bytes", self.gradient_peak_bytes),
            ("activations", "activation_peak_bytes", self.activation_peak_bytes),
            ("random numbers", "noise_scratch_bytes", self.noise_scratch_bytes),
            ("program and data", "rest_bytes", self.rest_bytes),
        ]
    }

    /// From the parts, counted where they are allocated, and the peak resident set `peak`.
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

//! The objective: a function of the weights, and the finite sum it is a mini-batch of.

use std::time::Duration;

use anyhow::Result;

use super::loss_sum::LossSum;
use crate::base::Peaks;
use crate::params::{Gradient, ParamId, Params, Points, Weights};

/// A function of the weights.
pub trait Objective {
    /// The losses at `points`, each as a sum and its weight. The weights do not change.
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<LossSum>>;

    /// Selects the mini-batch of the step's direction `k`, if each direction has its own.
    fn turn_to(&mut self, _k: usize) {}
}

/// A first-order gradient, produced block by block from the loss backwards; the caller drops each block after use.
pub trait Gradients {
    /// Gradients of the next weights; None after the last. Weights still to come must be unchanged since the forward pass.
    fn next(&mut self, weights: Weights) -> Result<Option<Vec<(ParamId, Gradient)>>>;
}

/// A mean over n examples, f = 1/n sum f_i; each step uses a mini-batch I: f_I.
pub trait Problem {
    /// Selects the mini-batch of `step`, counted from 1, and resets the cost.
    fn begin(&mut self, _step: u64) {}

    /// The cost of evaluations since the step began.
    fn cost(&self) -> Cost {
        Cost::default()
    }

    /// f_I as a function of the weights.
    fn objective(&mut self) -> &mut dyn Objective;

    /// n
    fn num_examples(&self) -> usize;

    /// The mini-batch I: indices of examples.
    fn batch(&self) -> &[usize];

    /// f_i of every example at each point of `weights`: [points][n].
    fn example_losses(&mut self, weights: Weights) -> Result<Vec<Vec<f64>>>;

    /// f at each point, as a sum and its weight.
    fn full_losses(&mut self, weights: Weights) -> Result<Vec<LossSum>> {
        let sum = |losses: Vec<f64>| LossSum { sum: losses.iter().sum(), weight: losses.len() };
        Ok(self.example_losses(weights)?.into_iter().map(sum).collect())
    }

    /// Counts an evaluation of f_I that was replayed.
    fn count_replayed(&mut self) {}

    /// Counts an evaluation of f that was replayed.
    fn count_replayed_full(&mut self) {}

    /// f_I, and its gradient for the weights that are differentiated.
    fn backward<'a>(&'a self, weights: Weights) -> Result<(f32, Box<dyn Gradients + 'a>)>;

    /// The gradient of f, passed to `add` in contributions to be summed. Returns n.
    fn full_gradient(&self, weights: Weights, add: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64>;
}

/// Cost of evaluating a problem.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Evaluations of the objective on a mini-batch, including a backward pass's forward.
    pub evaluations: u64,
    /// Evaluations of single examples by snapshots.
    pub example_evaluations: u64,
    /// Forward passes: one per micro-batch of each evaluation.
    pub forwards: u64,
    /// Backward passes, counted likewise.
    pub backwards: u64,
    /// Tokens in the forward passes.
    pub tokens: u64,
    /// Wall time of all passes.
    pub time: Duration,
    /// Peak bytes above those held before: activations, and gradients set aside.
    pub peaks: Peaks,
}

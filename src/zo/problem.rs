//! What is minimised: a function of the weights, and the finite sum behind it.

use std::time::Duration;

use anyhow::Result;

use super::loss_sum::LossSum;
use crate::base::Peaks;
use crate::params::{Gradient, ParamId, Params, Points, Weights};

/// A function of the weights.
pub trait Objective {
    /// The losses at points near the weights, each as a sum and its weight. The weights do not change.
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<LossSum>>;

    /// Turns to the mini-batch of the step's `k`-th direction, where each direction has one of its own.
    fn turn_to(&mut self, _k: usize) {}
}

/// A first-order gradient, handed out block by block from the loss down, and dropped as it is used.
pub trait Gradients {
    /// The next weights' gradients; None when all have been given. The weights that are still to come must stand as they
    /// did at the beginning.
    fn next(&mut self, weights: Weights) -> Result<Option<Vec<(ParamId, Gradient)>>>;
}

/// A mean over n examples, f = 1/n sum f_i, of which each step sees a mini-batch I: f_I.
pub trait Problem {
    /// Turns to the mini-batch of `step`, counted from 1, and forgets what was spent.
    fn begin(&mut self, _step: u64) {}

    /// What evaluating took since the step began.
    fn cost(&self) -> Cost {
        Cost::default()
    }

    /// f_I as a function of the weights.
    fn objective(&mut self) -> &mut dyn Objective;

    /// n
    fn num_examples(&self) -> usize;

    /// The mini-batch I: places among the n examples.
    fn batch(&self) -> &[usize];

    /// f_i of every example at each point that the weights are read at: [points][n].
    fn losses(&mut self, weights: Weights) -> Result<Vec<Vec<f64>>>;

    /// f at each point, as a sum and its weight.
    fn full_losses(&mut self, weights: Weights) -> Result<Vec<LossSum>> {
        let sum = |losses: Vec<f64>| LossSum { sum: losses.iter().sum(), weight: losses.len() };
        Ok(self.losses(weights)?.into_iter().map(sum).collect())
    }

    /// Counts an evaluation of f_I whose value is known already.
    fn count_replayed(&mut self) {}

    /// Counts one of f.
    fn count_replayed_full(&mut self) {}

    /// f_I, and its gradient for the weights that are to be differentiated.
    fn backward<'a>(&'a self, weights: Weights) -> Result<(f32, Box<dyn Gradients + 'a>)>;

    /// The gradient of f: `add` is given the shares of its parts, to be added up. Gives n.
    fn full_gradient(&self, weights: Weights, add: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64>;
}

/// What evaluating a problem took so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Evaluations of the objective on a mini-batch, a backward pass's own forward among them.
    pub evaluations: u64,
    /// Evaluations of single examples beside them: a snapshot's.
    pub example_evaluations: u64,
    /// Forward passes: one for each micro-batch of each evaluation.
    pub forwards: u64,
    /// Backward passes, the same.
    pub backwards: u64,
    /// Tokens fed in the forward passes.
    pub tokens: u64,
    /// Wall time in all of them.
    pub time: Duration,
    /// The most bytes that were held beside what was there before: activations, and gradients set aside.
    pub peaks: Peaks,
}

//! A function as the problem of a run: its mini-batches, and what evaluations cost.

use std::sync::Arc;

use anyhow::Result;

use super::function::Function;
use super::meter::Meter;
use super::numbers::{DenseGradient, read_points};
use crate::params::{ParamId, Params, Points, Weights};
use crate::zo::{Batches, Cost, Gradients, LossSum, Objective, Problem};

/// f = 1/n sum f_i, of which each step uses a mini-batch.
pub(super) struct FunctionProblem<'a, F> {
    function: &'a F,
    batches: Batches,
    batch: Vec<usize>,
    num_examples: usize,
    meter: Meter,
}

impl<'a, F: Function> FunctionProblem<'a, F> {
    /// At its first step.
    pub(super) fn new(function: &'a F) -> Self {
        let (mut batches, num_examples) = (function.batches(), function.data().train);
        let batch = batches.at(0);
        FunctionProblem { function, batches, batch, num_examples, meter: Meter::new() }
    }

    fn all(&self) -> Vec<usize> {
        (0..self.num_examples).collect()
    }

    /// The mean of f_i over the examples `of` at theta, and its gradient.
    fn mean_and_gradient(&self, weights: Weights, of: &[usize]) -> Result<(f64, DenseGradient)> {
        let theta = read_points(weights.at_theta())?.pop().unwrap_or_default();
        Ok(self.meter.timed(|| {
            let (mean, gradient) = self.function.mean_and_gradient(&theta, of);
            (mean, DenseGradient::new(&gradient, weights))
        }))
    }
}

impl<F: Function> Objective for FunctionProblem<'_, F> {
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<LossSum>> {
        self.meter.count_evaluations(points.count());
        let points = Arc::new(points);
        let points = read_points(params.settle()?.at(&points))?;
        let losses = self.meter.timed(|| self.function.losses(&points, &self.batch));
        Ok(losses.iter().map(|losses| LossSum { sum: losses.iter().sum(), weight: losses.len() }).collect())
    }
}

impl<F: Function> Problem for FunctionProblem<'_, F> {
    fn begin(&mut self, step: u64) {
        self.batch = self.batches.at(step.saturating_sub(1));
        self.meter.reset();
    }

    fn cost(&self) -> Cost {
        self.meter.cost()
    }

    fn objective(&mut self) -> &mut dyn Objective {
        self
    }

    fn num_examples(&self) -> usize {
        self.num_examples
    }

    fn batch(&self) -> &[usize] {
        &self.batch
    }

    fn example_losses(&mut self, weights: Weights) -> Result<Vec<Vec<f64>>> {
        let points = read_points(weights)?;
        self.meter.count_full_evaluations(points.len(), self.num_examples, self.batch.len());
        Ok(self.meter.timed(|| self.function.losses(&points, &self.all())))
    }

    fn count_replayed(&mut self) {
        self.meter.count_evaluations(1);
    }

    fn count_replayed_full(&mut self) {
        self.meter.count_full_evaluations(1, self.num_examples, self.batch.len());
    }

    fn backward<'a>(&'a self, weights: Weights) -> Result<(f32, Box<dyn Gradients + 'a>)> {
        self.meter.count_evaluations(1);
        self.meter.count_backwards(1);
        let (mean, gradient) = self.mean_and_gradient(weights, &self.batch)?;
        Ok((mean as f32, Box::new(gradient)))
    }

    fn full_gradient(&self, weights: Weights, add: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64> {
        self.meter.count_full_evaluations(1, self.num_examples, self.batch.len());
        self.meter.count_backwards(self.num_examples.div_ceil(self.batch.len()));
        self.mean_and_gradient(weights, &self.all())?.1.add_to(add);
        Ok(self.num_examples as u64)
    }
}

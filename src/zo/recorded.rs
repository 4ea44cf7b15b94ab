//! A problem whose function values are recorded, or replayed from a log.

use std::cell::RefCell;

use anyhow::{Context, Result, bail};

use super::loss_sum::LossSum;
use super::problem::{Gradients, Objective, Problem};
use crate::params::{ParamId, Params, Points, Weights};

/// A step's problem. Values in the log are replayed without computation; others are computed and recorded. Evaluating moves
/// no weight, so the weights are the same either way.
pub struct RecordedProblem<'a> {
    problem: &'a mut dyn Problem,
    logged: Option<&'a [f32]>,
    evaluated: &'a RefCell<Vec<f32>>,
}

impl<'a> RecordedProblem<'a> {
    /// Wraps `problem`; `logged` are the logged values, if any. All values, replayed or computed, are appended to
    /// `evaluated`.
    pub fn new(problem: &'a mut dyn Problem, logged: Option<&'a [f32]>, evaluated: &'a RefCell<Vec<f32>>) -> Self {
        RecordedProblem { problem, logged, evaluated }
    }

    /// The losses at `points` points: replayed and counted by `count`, or computed. Fails if the log has too few.
    fn values(
        &mut self,
        points: usize,
        count: fn(&mut dyn Problem),
        compute: impl FnOnce(&mut dyn Problem) -> Result<Vec<LossSum>>,
    ) -> Result<Vec<LossSum>> {
        let mut evaluated = self.evaluated.borrow_mut();
        let losses = match self.logged {
            Some(logged) => {
                (0..points).for_each(|_| count(self.problem));
                let values = logged.get(evaluated.len()..evaluated.len() + points);
                let values = values.context("the trajectory has fewer values for this step than its method asks for")?;
                values.iter().copied().map(LossSum::of_mean).collect()
            }
            None => compute(self.problem)?,
        };
        evaluated.extend(losses.iter().map(LossSum::loss));
        Ok(losses)
    }
}

impl Objective for RecordedProblem<'_> {
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<LossSum>> {
        let count = points.count();
        self.values(count, |problem| problem.count_replayed(), |problem| problem.objective().losses_at(params, points))
    }

    fn turn_to(&mut self, k: usize) {
        self.problem.objective().turn_to(k);
    }
}

impl Problem for RecordedProblem<'_> {
    fn objective(&mut self) -> &mut dyn Objective {
        self
    }

    fn num_examples(&self) -> usize {
        self.problem.num_examples()
    }

    fn batch(&self) -> &[usize] {
        self.problem.batch()
    }

    fn full_losses(&mut self, weights: Weights) -> Result<Vec<LossSum>> {
        self.values(weights.points(), |problem| problem.count_replayed_full(), |problem| problem.full_losses(weights))
    }

    fn example_losses(&mut self, weights: Weights) -> Result<Vec<Vec<f64>>> {
        self.problem.example_losses(weights)
    }

    fn backward<'b>(&'b self, weights: Weights) -> Result<(f32, Box<dyn Gradients + 'b>)> {
        let (loss, gradients) = self.problem.backward(weights)?;
        self.evaluated.borrow_mut().push(loss);
        Ok((loss, gradients))
    }

    fn full_gradient(&self, weights: Weights, add: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64> {
        self.problem.full_gradient(weights, add)
    }
}

/// A problem that cannot evaluate: all values come from the log.
pub struct ReplayOnly;

const NO_VALUE: &str = "the trajectory does not have a value that its method asks for";

impl Objective for ReplayOnly {
    fn losses_at(&mut self, _: &mut Params, _: Points) -> Result<Vec<LossSum>> {
        bail!(NO_VALUE)
    }
}

impl Problem for ReplayOnly {
    fn objective(&mut self) -> &mut dyn Objective {
        self
    }

    fn num_examples(&self) -> usize {
        0
    }

    fn batch(&self) -> &[usize] {
        &[]
    }

    fn example_losses(&mut self, _: Weights) -> Result<Vec<Vec<f64>>> {
        bail!(NO_VALUE)
    }

    fn backward<'b>(&'b self, _: Weights) -> Result<(f32, Box<dyn Gradients + 'b>)> {
        bail!(NO_VALUE)
    }

    fn full_gradient(&self, _: Weights, _: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64> {
        bail!(NO_VALUE)
    }
}

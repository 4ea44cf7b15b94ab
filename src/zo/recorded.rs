//! The log as a problem: what a step's functions gave is noted, or told again.

use std::cell::RefCell;

use anyhow::{Context, Result, bail};

use super::problem::{Gradients, Objective, Problem};
use crate::params::{ParamId, Params, Points, Weights};

/// A step's problem on tape. Where the log knows the values it tells them and nothing is computed; else it listens. To look moves
/// no weight, so either way the weights are the same.
pub struct RecordedProblem<'a> {
    problem: &'a mut dyn Problem,
    known: Option<&'a [f32]>,
    heard: &'a RefCell<Vec<f32>>,
}

impl<'a> RecordedProblem<'a> {
    /// Of `problem`, whose values are `known` or are not. All values, told or computed, are `heard`.
    pub fn new(problem: &'a mut dyn Problem, known: Option<&'a [f32]>, heard: &'a RefCell<Vec<f32>>) -> Self {
        RecordedProblem { problem, known, heard }
    }

    /// The values at so many points: `told` of each, or computed.
    fn values(
        &mut self,
        points: usize,
        count: fn(&mut dyn Problem),
        compute: impl FnOnce(&mut dyn Problem) -> Result<Vec<f32>>,
    ) -> Result<Vec<f32>> {
        let mut heard = self.heard.borrow_mut();
        let values = match self.known {
            Some(known) => {
                (0..points).for_each(|_| count(self.problem));
                let values = known.get(heard.len()..heard.len() + points);
                values.context("the trajectory has fewer values for this step than its method asks for")?.to_vec()
            }
            None => compute(self.problem)?,
        };
        heard.extend(&values);
        Ok(values)
    }
}

impl Objective for RecordedProblem<'_> {
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<f32>> {
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

    fn full_losses(&mut self, weights: Weights) -> Result<Vec<f32>> {
        self.values(weights.points(), |problem| problem.count_replayed_full(), |problem| problem.full_losses(weights))
    }

    fn losses(&mut self, weights: Weights) -> Result<Vec<Vec<f64>>> {
        self.problem.losses(weights)
    }

    fn backward<'b>(&'b self, weights: Weights) -> Result<(f32, Box<dyn Gradients + 'b>)> {
        let (loss, gradients) = self.problem.backward(weights)?;
        self.heard.borrow_mut().push(loss);
        Ok((loss, gradients))
    }

    fn full_gradient(&self, weights: Weights, add: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64> {
        self.problem.full_gradient(weights, add)
    }
}

/// No problem: where there is nothing but the log to tell of one.
pub struct ReplayOnly;

const UNTOLD: &str = "the trajectory does not tell what its method asks for";

impl Objective for ReplayOnly {
    fn losses_at(&mut self, _: &mut Params, _: Points) -> Result<Vec<f32>> {
        bail!(UNTOLD)
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

    fn losses(&mut self, _: Weights) -> Result<Vec<Vec<f64>>> {
        bail!(UNTOLD)
    }

    fn backward<'b>(&'b self, _: Weights) -> Result<(f32, Box<dyn Gradients + 'b>)> {
        bail!(UNTOLD)
    }

    fn full_gradient(&self, _: Weights, _: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64> {
        bail!(UNTOLD)
    }
}

//! The interface of gradient estimators.

use anyhow::Result;

use super::estimate::Estimate;
use super::problem::{Gradients, Problem};
use super::step_context::StepContext;
use crate::params::{Params, Visit};

/// A step's gradient: the zeroth-order estimate, and the first-order gradient if there is one.
pub type Estimated<'a> = (Estimate, Option<Box<dyn Gradients + 'a>>);

/// Computes a step's gradient without changing the weights.
pub trait Estimator {
    /// The gradient of `problem`'s mini-batch at the current weights.
    fn estimate<'a>(
        &'a mut self,
        at: &StepContext,
        params: &mut Params,
        problem: &'a mut dyn Problem,
    ) -> Result<Estimated<'a>>;

    /// The equations with their numbers, printed at the start and stored in run.json.
    fn definition(&self) -> String;

    /// Reduces a step's function values, in order of evaluation, to what the estimate depends on.
    fn condense(&self, _values: &mut [f32]) {}

    /// Visits the state between steps.
    fn visit(&mut self, _visit: &mut Visit) -> Result<()> {
        Ok(())
    }
}

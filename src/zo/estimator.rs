//! What an estimator is.

use anyhow::Result;

use super::estimate::Estimate;
use super::problem::{Gradients, Problem};
use super::step_context::StepContext;
use crate::params::{Params, Visit};

/// A step's gradient: what function values tell of it, and what is to come from a backward pass.
pub type Estimated<'a> = (Estimate, Option<Box<dyn Gradients + 'a>>);

/// Finds a step's gradient. It changes no weight.
pub trait Estimator {
    /// The gradient of `problem`'s mini-batch at the weights as they stand.
    fn estimate<'a>(
        &'a mut self,
        at: &StepContext,
        params: &mut Params,
        problem: &'a mut dyn Problem,
    ) -> Result<Estimated<'a>>;

    /// With its numbers filled in: what is printed at the start and kept in run.json.
    fn definition(&self) -> String;

    /// Leaves of a step's function values, in the order in which it asked for them, only what its estimate follows from.
    fn condense(&self, _values: &mut [f32]) {}

    /// Shows what it keeps from step to step.
    fn visit(&mut self, _visit: &mut Visit) -> Result<()> {
        Ok(())
    }
}

//! A method ready to run: estimator and rule.

use anyhow::Result;

use super::estimator::Estimator;
use super::problem::Problem;
use super::rules::Rule;
use super::step_context::StepContext;
use crate::params::{Params, Slot, Visit};

/// A method ready to run.
pub struct Optimizer {
    /// Computes the gradient.
    pub estimator: Box<dyn Estimator>,
    /// Updates the weights from it.
    pub rule: Box<dyn Rule>,
}

impl Optimizer {
    /// Combines an estimator with a rule that consumes its estimates.
    pub fn new(estimator: impl Estimator + 'static, rule: Box<dyn Rule>) -> Self {
        Optimizer { estimator: Box::new(estimator), rule }
    }

    /// One step on the problem's mini-batch: the estimate, then the update.
    pub fn step(&mut self, at: &StepContext, params: &mut Params, problem: &mut dyn Problem) -> Result<()> {
        let (estimate, mut gradients) = self.estimator.estimate(at, params, problem)?;
        self.rule.step(at, params, &estimate, gradients.as_deref_mut())?;
        Ok(())
    }

    /// The method's equations with their numbers, and its source.
    pub fn definition(&self, name: &str, source: &str) -> String {
        format!("{name}: {}; {}  [{source}]", self.rule.definition(), self.estimator.definition())
    }

    /// Bytes of the rule's state, and of the estimator's.
    pub fn bytes(&mut self) -> Result<(usize, usize)> {
        let (mut state, mut snapshot) = (0, 0);
        let add_to = |total: &mut usize, mut slot: Slot| {
            *total += slot.bytes().len();
            Ok(())
        };
        self.rule.visit(&mut |_, slot| add_to(&mut state, slot))?;
        self.estimator.visit(&mut |_, slot| add_to(&mut snapshot, slot))?;
        Ok((state, snapshot))
    }

    /// Visits all state that resuming a run needs besides its weights.
    pub fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.rule.visit(&mut |name, slot| visit(&format!("rule.{name}"), slot))?;
        self.estimator.visit(&mut |name, slot| visit(&format!("estimator.{name}"), slot))
    }
}

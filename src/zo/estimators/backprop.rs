//! The mini-batch's gradient by backpropagation, for some or all weights.

use anyhow::Result;

use super::two_point::{TwoPoint, two_point};
use crate::params::{ParamSet, Params, Role};
use crate::zo::{Estimate, Estimated, Estimator, Problem, Settings, StepContext};

/// The mini-batch's gradient: by backpropagation for differentiated weights, from function values for the others.
pub struct Backprop {
    two_point: TwoPoint,
    fo_params: Option<String>,
}

impl Backprop {
    /// With the two-point estimator of the settings.
    pub fn new(settings: &Settings) -> Self {
        Self::with(two_point(settings), settings)
    }

    /// With this two-point estimator.
    pub fn with(two_point: TwoPoint, settings: &Settings) -> Self {
        Backprop { two_point, fo_params: settings.fo_params.clone().map(String::from) }
    }
}

impl Estimator for Backprop {
    fn estimate<'a>(
        &'a mut self,
        at: &StepContext,
        params: &mut Params,
        problem: &'a mut dyn Problem,
    ) -> Result<Estimated<'a>> {
        let mut estimate = Estimate::default();
        if params.count_over(ParamSet::Estimated) > 0 {
            let seeds = at.seeds(self.two_point.num_directions);
            estimate = self.two_point.along(&seeds, params, problem.objective())?;
        }
        let differentiates = params.ids().any(|(id, _)| params.role(id) == Role::Differentiated);
        if !differentiates {
            return Ok((estimate, None));
        }
        let problem: &'a dyn Problem = problem;
        let (loss, gradients) = problem.backward(params.settle()?)?;
        estimate.loss_base = Some(loss);
        Ok((estimate, Some(gradients)))
    }

    fn definition(&self) -> String {
        match self.fo_params.as_deref() {
            None | Some("all") => "backpropagation".into(),
            Some("none") => self.two_point.definition(),
            Some(some) => format!("backpropagation for {some}, for the rest {}", self.two_point.definition()),
        }
    }
}

//! SGD: theta <- theta - lr (g + weight_decay theta). With `--fo-params` g is a first-order gradient for some weights and a
//! two-point estimate, on the same mini-batch, for the others: from pure first order over a hybrid to pure zeroth order.

use anyhow::Result;

use super::rule::{Equations, fused};
use super::{Optimizer, two_point};
use crate::config::Settings;
use crate::estimator::{At, Estimate, Estimated, Estimator, TwoPoint};
use crate::noise::Kernel;
use crate::objective::Problem;
use crate::params::{Params, Role, Span};

/// The method.
pub fn make(settings: &Settings, params: &Params) -> Optimizer {
    Optimizer { estimator: Box::new(Backprop::new(settings)), rule: fused(Sgd::default(), settings, params) }
}

/// No state.
#[derive(Clone, Copy, Default)]
pub struct Sgd {
    lr: f32,
}

impl Kernel<0> for Sgd {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, []: [f32; 0]) -> (f32, [f32; 0]) {
        (self.lr.mul_add(-g, theta), [])
    }
}

impl Equations<0> for Sgd {
    const STATE: [&'static str; 0] = [];

    fn set(&mut self, at: &At) {
        self.lr = at.learning_rate;
    }

    fn definition(&self) -> String {
        "theta -= lr g".into()
    }
}

/// The mini-batch's gradient: from a backward pass where one is wanted, from function values for the other weights.
pub struct Backprop {
    two_point: TwoPoint,
    fo_params: Option<String>,
}

impl Backprop {
    /// With the two-point estimator that the settings have.
    pub fn new(settings: &Settings) -> Self {
        Self::with(two_point(settings), settings)
    }

    /// With this one.
    pub fn with(two_point: TwoPoint, settings: &Settings) -> Self {
        Backprop { two_point, fo_params: settings.fo_params.clone().map(String::from) }
    }
}

impl Estimator for Backprop {
    fn estimate<'a>(&'a mut self, at: &At, params: &mut Params, problem: &'a mut dyn Problem) -> Result<Estimated<'a>> {
        let mut estimate = Estimate::default();
        if params.count_over(Span::Estimated) > 0 {
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

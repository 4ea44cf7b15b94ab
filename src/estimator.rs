//! The gradient from function values: never a tensor, a short list of (seed, coefficient) pairs.

use anyhow::Result;

use crate::noise::Term;
use crate::objective::Objective;
use crate::params::Params;

/// A whole zeroth-order gradient: the sum of coeff * z(seed), and the losses it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// The gradient.
    pub terms: Vec<Term>,
    /// f(theta + eps z) and f(theta - eps z).
    pub losses: [f32; 2],
    /// How often the objective was evaluated.
    pub function_evaluations: u64,
}

impl Estimate {
    /// The mean of the two losses: what is logged as the training loss.
    pub fn loss(&self) -> f32 {
        0.5 * (self.losses[0] + self.losses[1])
    }

    /// The slope along the direction.
    pub fn projected_grad(&self) -> f32 {
        self.terms.iter().map(|t| t.coeff).sum()
    }

    /// Whether all losses are numbers.
    pub fn is_finite(&self) -> bool {
        self.losses.iter().all(|l| l.is_finite()) && self.projected_grad().is_finite()
    }
}

/// SPSA with a Gaussian direction, two sides: MeZO's estimator (Malladi et al. 2023, arXiv 2305.17333, Definition 1).
#[derive(Clone, Copy, Debug)]
pub struct TwoPoint {
    /// The smoothing radius eps.
    pub zo_eps: f32,
}

impl TwoPoint {
    /// g = [f(theta + eps z) - f(theta - eps z)] / (2 eps) * z for z = z(seed).
    ///
    /// The way back to theta is left pending: it is applied together with whatever moves the weights next.
    pub fn estimate(&self, seed: u64, params: &mut Params, objective: &mut dyn Objective) -> Result<Estimate> {
        let eps = self.zo_eps;
        params.walk(&[Term { seed, coeff: eps }]);
        let loss_plus = objective.loss(params.settle()?)?;
        params.walk(&[Term { seed, coeff: -2.0 * eps }]);
        let loss_minus = objective.loss(params.settle()?)?;
        params.walk(&[Term { seed, coeff: eps }]);
        let projected_grad = (loss_plus - loss_minus) / (2.0 * eps);
        Ok(Estimate {
            terms: vec![Term { seed, coeff: projected_grad }],
            losses: [loss_plus, loss_minus],
            function_evaluations: 2,
        })
    }
}

//! The gradient from function values: never a tensor, a short list of (seed, coefficient) pairs.

use anyhow::Result;

use crate::config::{Distribution, Sides};
use crate::noise::Term;
use crate::objective::Objective;
use crate::params::Params;

/// A whole zeroth-order gradient: the sum of coeff * z(seed), and the losses it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// The gradient.
    pub terms: Vec<Term>,
    /// f(theta + eps z), one for each direction.
    pub losses_plus: Vec<f32>,
    /// f(theta - eps z), one for each direction; one-sided estimates have none.
    pub losses_minus: Vec<f32>,
    /// f(theta), which all directions of a one-sided estimate share.
    pub loss_base: Option<f32>,
}

impl Estimate {
    /// What is logged as the training loss: f(theta) where it was evaluated, else the mean of all losses.
    pub fn loss(&self) -> f64 {
        self.loss_base.map_or_else(|| mean(self.losses_plus.iter().chain(&self.losses_minus)), f64::from)
    }

    /// Mean of f(theta + eps z).
    pub fn loss_plus(&self) -> f64 {
        mean(&self.losses_plus)
    }

    /// Mean of f(theta - eps z); of f(theta) in one-sided estimates.
    pub fn loss_minus(&self) -> f64 {
        mean(self.losses_minus.iter().chain(&self.loss_base))
    }

    /// The slope along the direction; of several, the mean of their slopes.
    pub fn projected_grad(&self) -> f64 {
        self.terms.iter().map(|t| f64::from(t.coeff)).sum()
    }

    /// How often the objective was evaluated.
    pub fn function_evaluations(&self) -> u64 {
        self.losses().count() as u64
    }

    /// All losses, in the order of their evaluation by kind.
    pub fn losses(&self) -> impl Iterator<Item = f32> {
        self.loss_base.iter().chain(&self.losses_plus).chain(&self.losses_minus).copied()
    }

    /// Whether all losses are numbers.
    pub fn is_finite(&self) -> bool {
        self.losses().all(f32::is_finite) && self.projected_grad().is_finite()
    }
}

fn mean<'a>(losses: impl IntoIterator<Item = &'a f32>) -> f64 {
    let (sum, count) = losses.into_iter().fold((0.0, 0), |(sum, count), loss| (sum + f64::from(*loss), count + 1));
    sum / f64::from(count)
}

/// Smoothing by q directions a step, at the memory of one.
#[derive(Clone, Copy, Debug)]
pub struct Estimator {
    /// Which side of theta is looked at.
    pub sides: Sides,
    /// Where directions are drawn from. (The weights must have been told of signs: [`Params::walk_along_signs`].)
    pub distribution: Distribution,
    /// The smoothing radius: eps, or mu on the sphere.
    pub zo_eps: f32,
}

impl Estimator {
    /// g = 1/q sum over the seeds of c z(seed), z ~ N(0, I).
    ///
    /// Two-side: c = [f(theta + eps z) - f(theta - eps z)] / (2 eps), 2q evaluations; with one direction MeZO's estimator
    /// (Malladi et al. 2023, arXiv 2305.17333, Definition 1). One-side: c = [f(theta + eps z) - f(theta)] / eps with
    /// f(theta) shared, q + 1 evaluations, as R-AdaZO and ZO-AdaMM have it.
    ///
    /// On the sphere z is z / ||z||, exactly, and g has the factor d: g = d/q sum c u.
    ///
    /// The way back to theta is left pending: it is applied together with whatever moves the weights next.
    pub fn estimate(&self, seeds: &[u64], params: &mut Params, objective: &mut dyn Objective) -> Result<Estimate> {
        let (radius, q) = (self.zo_eps, seeds.len() as f32);
        let mut estimate =
            Estimate { terms: Vec::new(), losses_plus: Vec::new(), losses_minus: Vec::new(), loss_base: None };
        if self.sides == Sides::One {
            estimate.loss_base = Some(objective.loss(params.settle()?)?);
        }
        for &seed in seeds {
            // How far to go along z, and what a slope is worth along it.
            let (eps, worth) = match self.distribution {
                Distribution::Sphere => {
                    let norm = params.direction_norm(seed);
                    ((f64::from(radius) / norm) as f32, (params.count() as f64 / norm) as f32)
                }
                _ => (radius, 1.0),
            };
            params.walk(&[Term { seed, coeff: eps }]);
            let loss_plus = objective.loss(params.settle()?)?;
            estimate.losses_plus.push(loss_plus);
            let slope = match estimate.loss_base {
                Some(loss_base) => {
                    params.walk(&[Term { seed, coeff: -eps }]);
                    (loss_plus - loss_base) / radius
                }
                None => {
                    params.walk(&[Term { seed, coeff: -2.0 * eps }]);
                    let loss_minus = objective.loss(params.settle()?)?;
                    params.walk(&[Term { seed, coeff: eps }]);
                    estimate.losses_minus.push(loss_minus);
                    (loss_plus - loss_minus) / (2.0 * radius)
                }
            };
            estimate.terms.push(Term { seed, coeff: worth * slope / q });
        }
        Ok(estimate)
    }
}

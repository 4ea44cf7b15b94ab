//! The two-point estimator: finite differences along random directions.

use anyhow::{Context, Result};

use crate::direction::{Direction, Term};
use crate::params::{ParamSet, Params, Points};
use crate::zo::estimate::mean;
use crate::zo::numbers::f32_or;
use crate::zo::{Distribution, Estimate, Estimated, Estimator, Objective, Problem, Settings, Sides, StepContext};

impl From<Distribution> for Direction {
    /// Directions on the sphere are Gaussian ones, divided by their norm.
    fn from(distribution: Distribution) -> Self {
        match distribution {
            Distribution::Gaussian | Distribution::Sphere => Direction::Gaussian,
            Distribution::Rademacher => Direction::Rademacher,
        }
    }
}

/// Scaling of a direction z and of slopes along it.
#[derive(Clone, Copy, Debug)]
pub struct Scaling {
    /// theta moves by eps * z.
    pub eps: f32,
    /// Factor from a difference quotient to the gradient's coefficient of z.
    pub grad_factor: f32,
}

/// The two-point estimator: smoothing over q directions per step, with the memory of one.
#[derive(Clone, Copy, Debug)]
pub struct TwoPoint {
    /// The sides of theta that are evaluated.
    pub sides: Sides,
    /// Distribution of the directions.
    pub distribution: Distribution,
    /// Smoothing radius: eps, or mu on the sphere.
    pub zo_eps: f32,
    /// q
    pub num_directions: usize,
    /// Whether each direction has its own mini-batch.
    pub fresh_batches: bool,
}

impl TwoPoint {
    /// MeZO's: one direction, z ~ N(0, I), two-sided (Malladi et al. 2023, arXiv 2305.17333, Definition 1).
    pub fn mezo(zo_eps: f32) -> Self {
        let distribution = Distribution::Gaussian;
        TwoPoint { sides: Sides::Two, distribution, zo_eps, num_directions: 1, fresh_batches: false }
    }

    /// Distribution of the coordinates.
    pub fn direction(&self) -> Direction {
        self.distribution.into()
    }

    /// On the sphere: u = z / ||z|| with the exact norm over the weights of `set`, and the factor d in g. Otherwise z as
    /// drawn.
    pub fn scaling(&self, seed: u64, set: ParamSet, params: &mut Params) -> Scaling {
        match self.distribution {
            Distribution::Sphere => {
                let norm = params.gram(self.direction(), &[seed], set)[0].sqrt();
                let dimensions = params.count_over(set) as f64;
                Scaling { eps: (f64::from(self.zo_eps) / norm) as f32, grad_factor: (dimensions / norm) as f32 }
            }
            _ => Scaling { eps: self.zo_eps, grad_factor: 1.0 },
        }
    }

    /// g = 1/q sum over the seeds of c z(seed).
    ///
    /// Two-sided: c = [f(theta + eps z) - f(theta - eps z)] / (2 eps), 2q evaluations. One-sided: c = [f(theta + eps z) -
    /// f(theta)] / eps with f(theta) shared, q + 1 evaluations, as in R-AdaZO and ZO-AdaMM; 2q if each direction has its own
    /// mini-batch.
    ///
    /// Both points of a direction are evaluated together; the weights stay at theta.
    pub fn along(&self, seeds: &[u64], params: &mut Params, objective: &mut dyn Objective) -> Result<Estimate> {
        self.along_from(&[], seeds, params, objective)
    }

    /// [`TwoPoint::along`] around theta + `start`.
    pub fn along_from(
        &self,
        start: &[Term],
        seeds: &[u64],
        params: &mut Params,
        objective: &mut dyn Objective,
    ) -> Result<Estimate> {
        let q = seeds.len() as f32;
        let (mut estimate, mut bases) = (Estimate::default(), Vec::new());
        for (k, &seed) in seeds.iter().enumerate() {
            if self.fresh_batches {
                objective.turn_to(k);
            }
            let Scaling { eps, grad_factor } = self.scaling(seed, ParamSet::Estimated, params);
            let point = |coeff: f32| [start, &[self.direction().term(seed, coeff)]].concat();
            let fresh_base = self.sides == Sides::One && (self.fresh_batches || k == 0);
            let points = match self.sides {
                Sides::Two => vec![point(eps), point(-eps)],
                Sides::One if fresh_base => vec![start.to_vec(), point(eps)],
                Sides::One => vec![point(eps)],
            };
            let mut losses = objective.losses_at(params, Points::new(ParamSet::Estimated, &points))?.into_iter();
            let mut loss = || losses.next().map(|loss| loss.loss()).context("fewer losses than points");
            if fresh_base {
                bases.push(loss()?);
            }
            let loss_plus = loss()?;
            estimate.losses_plus.push(loss_plus);
            let slope = match bases.last() {
                Some(loss_base) => (loss_plus - loss_base) / self.zo_eps,
                None => {
                    let loss_minus = loss()?;
                    estimate.losses_minus.push(loss_minus);
                    (loss_plus - loss_minus) / (2.0 * self.zo_eps)
                }
            };
            estimate.terms.push(self.direction().term(seed, grad_factor * slope / q));
        }
        estimate.loss_base = (!bases.is_empty()).then(|| mean(&bases) as f32);
        Ok(estimate)
    }
}

impl TwoPoint {
    /// Number of function values that [`TwoPoint::along`] evaluates.
    pub fn evaluations(&self) -> usize {
        match (self.sides, self.fresh_batches) {
            (Sides::One, false) => self.num_directions + 1,
            _ => 2 * self.num_directions,
        }
    }
}

impl Estimator for TwoPoint {
    fn estimate<'a>(
        &'a mut self,
        at: &StepContext,
        params: &mut Params,
        problem: &'a mut dyn Problem,
    ) -> Result<Estimated<'a>> {
        Ok((self.along(&at.seeds(self.num_directions), params, problem.objective())?, None))
    }

    /// A slope depends on a difference only: stores it, and 0 for the subtracted value.
    fn condense(&self, values: &mut [f32]) {
        if self.sides == Sides::One && !self.fresh_batches {
            let base = std::mem::take(&mut values[0]);
            values[1..].iter_mut().for_each(|plus| *plus -= base);
            return;
        }
        for pair in values.chunks_exact_mut(2) {
            // One-sided estimates evaluate f(theta) first.
            let (plus, other) = if self.sides == Sides::One { (1, 0) } else { (0, 1) };
            pair[plus] -= std::mem::take(&mut pair[other]);
        }
    }

    fn definition(&self) -> String {
        let fresh = if self.fresh_batches { " with a batch each" } else { "" };
        let TwoPoint { sides, distribution, zo_eps, num_directions, .. } = self;
        format!("{}, q = {num_directions}{fresh}, {}, eps {zo_eps:e}", sides.name(), distribution.name())
    }
}

/// The two-point estimator of the settings.
pub(crate) fn two_point(settings: &Settings) -> TwoPoint {
    TwoPoint {
        sides: settings.perturbation_mode.unwrap_or_default(),
        distribution: settings.distribution.unwrap_or_default(),
        zo_eps: f32_or(settings.zo_eps, 1e-3),
        num_directions: settings.num_directions.unwrap_or(1),
        fresh_batches: settings.fresh_batch_per_direction.unwrap_or(false),
    }
}

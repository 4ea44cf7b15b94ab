//! Where a step's gradient comes from: function values, which make a short list of (seed, coefficient) pairs and never a
//! tensor; and, where it is asked for, a backward pass, handed out block by block.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::config::{Distribution, Plan, Sides};
use crate::noise::{Direction, Term, direction_seed};
use crate::objective::{Gradients, Objective, Problem};
use crate::params::{Params, Points, Span, Visit};

/// Which step of a run this is.
#[derive(Clone, Copy, Debug)]
pub struct At {
    /// Counted from 1.
    pub step: u64,
    /// The run's.
    pub run_seed: u64,
    /// The step's.
    pub learning_rate: f32,
}

impl At {
    /// A step of a plan that was set up.
    pub fn of(plan: &Plan, step: u64) -> Self {
        At { step, run_seed: plan.seed, learning_rate: plan.learning_rate_at(step) as f32 }
    }

    /// The seed of direction `k` of this step.
    pub fn seed(&self, k: u64) -> u64 {
        direction_seed(self.run_seed, self.step, k)
    }

    /// The seeds of `q` directions.
    pub fn seeds(&self, q: usize) -> Vec<u64> {
        (0..q as u64).map(|k| self.seed(k)).collect()
    }
}

/// What function values tell of a gradient: the sum of coeff * z(seed), and the losses it came from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The gradient over the weights whose gradient is estimated: all that are trained, in a zeroth-order run.
    pub terms: Vec<Term>,
    /// What is added to the gradient over all that are trained (VAMO's correction).
    pub correction: Vec<Term>,
    /// The correction's length.
    pub correction_norm: Option<f64>,
    /// f(theta + eps z), one for each direction.
    pub losses_plus: Vec<f32>,
    /// f(theta - eps z), one for each direction; one-sided estimates have none.
    pub losses_minus: Vec<f32>,
    /// f(theta), which all directions of a one-sided estimate share and which a backward pass begins with.
    pub loss_base: Option<f32>,
    /// What a snapshot found, in the step that took one.
    pub snapshot: Option<SnapshotReport>,
}

/// What a snapshot of the whole training set found, and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// Directions that were looked along.
    pub num_directions: usize,
    /// Evaluations of one example's loss.
    pub example_evaluations: u64,
    /// The standard error of the slopes over the examples, relative to the slopes (root mean squares over the directions).
    /// None where it was not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
}

impl Estimate {
    /// What is logged as the training loss: f(theta) where it was evaluated, else the mean of all losses.
    pub fn loss(&self) -> f64 {
        self.loss_base.map_or_else(|| mean(self.losses_plus.iter().chain(&self.losses_minus)), f64::from)
    }

    /// Mean of f(theta + eps z).
    pub fn loss_plus(&self) -> Option<f64> {
        (!self.losses_plus.is_empty()).then(|| mean(&self.losses_plus))
    }

    /// Mean of f(theta - eps z); of f(theta) in one-sided estimates.
    pub fn loss_minus(&self) -> Option<f64> {
        match self.losses_minus.is_empty() {
            true => self.loss_base.filter(|_| !self.losses_plus.is_empty()).map(f64::from),
            false => Some(mean(&self.losses_minus)),
        }
    }

    /// The sum of the terms' coefficients: for one direction the slope along it, for several the mean of their slopes.
    pub fn projected_grad(&self) -> Option<f64> {
        (!self.terms.is_empty()).then(|| self.terms.iter().map(|t| f64::from(t.coeff)).sum())
    }

    /// All losses, in the order of their evaluation by kind.
    pub fn losses(&self) -> impl Iterator<Item = f32> {
        self.loss_base.iter().chain(&self.losses_plus).chain(&self.losses_minus).copied()
    }

    /// For an error: the losses or, where they are all finite, the coefficients.
    pub fn numbers(&self) -> Vec<f64> {
        let coefficients = self.terms.iter().chain(&self.correction).map(|t| f64::from(t.coeff));
        match self.losses().all(f32::is_finite) {
            true => coefficients.collect(),
            false => self.losses().map(f64::from).collect(),
        }
    }

    /// Whether all losses and coefficients are numbers.
    pub fn is_finite(&self) -> bool {
        self.losses().all(f32::is_finite) && self.terms.iter().chain(&self.correction).all(|t| t.coeff.is_finite())
    }
}

fn mean<'a>(losses: impl IntoIterator<Item = &'a f32>) -> f64 {
    let (sum, count) = losses.into_iter().fold((0.0, 0), |(sum, count), loss| (sum + f64::from(*loss), count + 1));
    sum / f64::from(count)
}

/// A step's gradient: what function values tell of it, and what is to come from a backward pass.
pub type Estimated<'a> = (Estimate, Option<Box<dyn Gradients + 'a>>);

/// Finds a step's gradient. It changes no weight.
pub trait Estimator {
    /// The gradient of `problem`'s mini-batch at the weights as they stand.
    fn estimate<'a>(&'a mut self, at: &At, params: &mut Params, problem: &'a mut dyn Problem) -> Result<Estimated<'a>>;

    /// With its numbers filled in: what is printed at the start and kept in run.json.
    fn definition(&self) -> String;

    /// Leaves of a step's function values, in the order in which it asked for them, only what its estimate follows from.
    fn condense(&self, _values: &mut [f32]) {}

    /// Shows what it keeps from step to step.
    fn visit(&mut self, _visit: &mut Visit) -> Result<()> {
        Ok(())
    }
}

impl From<Distribution> for Direction {
    /// On the sphere too they are drawn as normals, and divided by their length.
    fn from(distribution: Distribution) -> Self {
        match distribution {
            Distribution::Gaussian | Distribution::Sphere => Direction::Gaussian,
            Distribution::Rademacher => Direction::Rademacher,
        }
    }
}

/// How far along a direction, and what a slope is worth along it.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// theta moves by this multiple of z.
    pub eps: f32,
    /// A difference quotient, times this, is a coefficient of z in the gradient.
    pub worth: f32,
}

/// The two-point estimator: smoothing by q directions a step, at the memory of one.
#[derive(Clone, Copy, Debug)]
pub struct TwoPoint {
    /// Which side of theta is looked at.
    pub sides: Sides,
    /// Where directions are drawn from.
    pub distribution: Distribution,
    /// The smoothing radius: eps, or mu on the sphere.
    pub zo_eps: f32,
    /// q
    pub num_directions: usize,
    /// Whether each direction has a mini-batch of its own.
    pub fresh_batches: bool,
}

impl TwoPoint {
    /// MeZO's: one direction, z ~ N(0, I), two-sided (Malladi et al. 2023, arXiv 2305.17333, Definition 1).
    pub fn mezo(zo_eps: f32) -> Self {
        let distribution = Distribution::Gaussian;
        TwoPoint { sides: Sides::Two, distribution, zo_eps, num_directions: 1, fresh_batches: false }
    }

    /// What directions are of.
    pub fn direction(&self) -> Direction {
        self.distribution.into()
    }

    /// On the sphere u = z / ||z|| over the weights of `span`, exactly, and g has the factor d; elsewhere z is walked as it
    /// is drawn.
    pub fn reach(&self, seed: u64, span: Span, params: &mut Params) -> Reach {
        match self.distribution {
            Distribution::Sphere => {
                let norm = params.gram(self.direction(), &[seed], span)[0].sqrt();
                let dimensions = params.count_over(span) as f64;
                Reach { eps: (f64::from(self.zo_eps) / norm) as f32, worth: (dimensions / norm) as f32 }
            }
            _ => Reach { eps: self.zo_eps, worth: 1.0 },
        }
    }

    /// g = 1/q sum over the seeds of c z(seed).
    ///
    /// Two-side: c = [f(theta + eps z) - f(theta - eps z)] / (2 eps), 2q evaluations. One-side: c = [f(theta + eps z) -
    /// f(theta)] / eps with f(theta) shared, q + 1 evaluations, as R-AdaZO and ZO-AdaMM have it; 2q if each direction has
    /// a mini-batch of its own.
    ///
    /// Both points of a direction are looked at together, and the weights stay at theta.
    pub fn along(&self, seeds: &[u64], params: &mut Params, objective: &mut dyn Objective) -> Result<Estimate> {
        self.along_from(&[], seeds, params, objective)
    }

    /// The same about theta + `start` instead of theta.
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
            let Reach { eps, worth } = self.reach(seed, Span::Estimated, params);
            let point = |coeff: f32| [start, &[self.direction().term(seed, coeff)]].concat();
            let fresh_base = self.sides == Sides::One && (self.fresh_batches || k == 0);
            let points = match self.sides {
                Sides::Two => vec![point(eps), point(-eps)],
                Sides::One if fresh_base => vec![start.to_vec(), point(eps)],
                Sides::One => vec![point(eps)],
            };
            let mut losses = objective.losses_at(params, Points::new(Span::Estimated, &points))?.into_iter();
            let mut loss = || losses.next().context("fewer losses than points");
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
            estimate.terms.push(self.direction().term(seed, worth * slope / q));
        }
        estimate.loss_base = (!bases.is_empty()).then(|| mean(&bases) as f32);
        Ok(estimate)
    }
}

impl TwoPoint {
    /// How many function values [`TwoPoint::along`] asks for.
    pub fn evaluations(&self) -> usize {
        match (self.sides, self.fresh_batches) {
            (Sides::One, false) => self.num_directions + 1,
            _ => 2 * self.num_directions,
        }
    }
}

impl Estimator for TwoPoint {
    fn estimate<'a>(&'a mut self, at: &At, params: &mut Params, problem: &'a mut dyn Problem) -> Result<Estimated<'a>> {
        Ok((self.along(&at.seeds(self.num_directions), params, problem.objective())?, None))
    }

    /// A slope follows from a difference: that, and 0 in the place of what was taken away.
    fn condense(&self, values: &mut [f32]) {
        if self.sides == Sides::One && !self.fresh_batches {
            let base = std::mem::take(&mut values[0]);
            values[1..].iter_mut().for_each(|plus| *plus -= base);
            return;
        }
        for pair in values.chunks_exact_mut(2) {
            // One-sided estimates ask for f(theta) first.
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

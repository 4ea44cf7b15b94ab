//! VAMO (Chen and Ma 2025, arXiv 2505.13954): first-order mini-batch gradients with zeroth-order variance reduction.
//!
//! ```text
//! for each epoch s:  x_hat = current weights
//!     ghat = ZO estimate of the full-batch gradient at x_hat
//!     for k in 0..m:  draw mini-batch I
//!         v = grad f_I(x) - alpha ( ZOgrad f_I(x_hat) - ghat );   x -= lr v
//! ```
//!
//! The q directions u_j of an epoch are shared by all examples. The slopes D_ij = [f_i(x_hat + mu u_j) - f_i(x_hat)] / mu
//! are then n q scalars, known after the snapshot's forward passes, and the correction of any mini-batch is q terms with
//! coefficients -alpha (d/q) (mean_I D_ij - mean D_ij). Neither x_hat nor ghat is stored, and a step needs no forward pass
//! besides its mini-batch's. Over the mini-batches the correction has mean zero, so v is unbiased for any alpha.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::backprop::Backprop;
use super::two_point::{TwoPoint, two_point};
use crate::direction::Term;
use crate::params::{ParamSet, Params, Points, Slot, Visit};
use crate::zo::{Estimated, Estimator, Problem, Settings, Sides, SnapshotReport, StepContext};

/// The corrected gradient, for SGD as the rule.
pub struct Vamo {
    backprop: Backprop,
    /// The snapshot's estimator; its number of directions is q, or the minimum of an adaptive q.
    two_point: TwoPoint,
    max_directions: Option<usize>,
    tolerance: f64,
    alpha: f64,
    /// m
    period: u64,
    snapshot: Snapshot,
}

/// The snapshot at the epoch's x_hat: q seeds and n q scalars.
#[derive(Default)]
struct Snapshot {
    seeds: Vec<u64>,
    /// D_ij times the factor to z_j's coefficient: [q, n].
    slopes: Vec<f64>,
    /// Gram matrix of the directions: [q, q], for the norm of the correction.
    gram: Vec<f64>,
}

/// Offset that separates a snapshot's seeds from those of the step's own directions.
const SNAPSHOT_SEEDS: u64 = 1 << 32;

impl Vamo {
    /// Weights without a first-order gradient get MeZO's estimate.
    pub fn new(settings: &Settings, params: &Params) -> Self {
        Vamo {
            backprop: Backprop::with(TwoPoint::mezo(1e-3), settings),
            two_point: two_point(settings),
            max_directions: settings.max_directions,
            tolerance: settings.direction_tolerance.unwrap_or(0.1),
            alpha: settings.alpha.unwrap_or(1.0 / params.count_over(ParamSet::Trained) as f64),
            period: settings.snapshot_steps.unwrap_or(1),
            snapshot: Snapshot::default(),
        }
    }

    fn take_snapshot(&mut self, at: &StepContext, params: &mut Params, problem: &mut dyn Problem) -> Result<SnapshotReport> {
        let (min_directions, max_directions) =
            (self.two_point.num_directions, self.max_directions.unwrap_or(self.two_point.num_directions));
        let (mut squares, mut errors, mut base) = (0.0, 0.0, None);
        self.snapshot = Snapshot::default();
        for j in 0..max_directions {
            let seed = at.seed(SNAPSHOT_SEEDS + j as u64);
            let slopes = self.slopes(seed, params, &mut base, problem)?;
            let n = slopes.len() as f64;
            let mean = slopes.iter().sum::<f64>() / n;
            squares += mean * mean;
            errors += slopes.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n * (n - 1.0).max(1.0));
            self.snapshot.seeds.push(seed);
            self.snapshot.slopes.extend(slopes);
            if j + 1 >= min_directions && errors <= self.tolerance.powi(2) * squares {
                break;
            }
        }
        let evaluations = if base.is_some() { 1 + self.snapshot.seeds.len() } else { 2 * self.snapshot.seeds.len() };
        self.snapshot.gram = params.gram(self.two_point.direction(), &self.snapshot.seeds, ParamSet::Trained);
        Ok(SnapshotReport {
            num_directions: self.snapshot.seeds.len(),
            example_evaluations: (evaluations * problem.num_examples()) as u64,
            standard_error: Some((errors / squares).sqrt()),
        })
    }

    /// The slope of every f_i along one direction, times the factor to z's coefficient: [n]. `base` is f_i at theta, shared
    /// by one-sided slopes and computed by the first.
    fn slopes(
        &self,
        seed: u64,
        params: &mut Params,
        base: &mut Option<Vec<f64>>,
        problem: &mut dyn Problem,
    ) -> Result<Vec<f64>> {
        let scaling = self.two_point.scaling(seed, ParamSet::Trained, params);
        let point = |coeff: f32| vec![self.two_point.direction().term(seed, coeff)];
        let points = match (self.two_point.sides, &base) {
            (Sides::Two, _) => vec![point(scaling.eps), point(-scaling.eps)],
            (Sides::One, None) => vec![point(scaling.eps), Vec::new()],
            (Sides::One, Some(_)) => vec![point(scaling.eps)],
        };
        let points = Arc::new(Points::new(ParamSet::Trained, &points));
        let mut losses = problem.example_losses(params.settle()?.at(&points))?.into_iter();
        let (plus, other) = (losses.next().context("a look at no point")?, losses.next());
        let (minus, distance) = match self.two_point.sides {
            Sides::Two => (&other.context("a look at one side")?, 2.0 * f64::from(self.two_point.zo_eps)),
            Sides::One => (&*base.get_or_insert_with(|| other.unwrap_or_default()), f64::from(self.two_point.zo_eps)),
        };
        Ok(plus.iter().zip(minus).map(|(plus, minus)| (plus - minus) / distance * f64::from(scaling.grad_factor)).collect())
    }

    /// -alpha (ZOgrad f_I(x_hat) - ghat) for the mini-batch I, and its norm.
    fn correction(&self, batch: &[usize]) -> (Vec<Term>, f64) {
        let Snapshot { seeds, slopes, gram } = &self.snapshot;
        let (q, n) = (seeds.len(), slopes.len() / seeds.len().max(1));
        let of_direction = |j: usize| {
            let slopes = &slopes[j * n..(j + 1) * n];
            let of_batch = batch.iter().map(|&i| slopes[i]).sum::<f64>() / batch.len() as f64;
            -self.alpha / q as f64 * (of_batch - slopes.iter().sum::<f64>() / n as f64)
        };
        let coeffs: Vec<f64> = (0..q).map(of_direction).collect();
        let square: f64 = (0..q * q).map(|ab| coeffs[ab / q] * coeffs[ab % q] * gram[ab]).sum();
        let terms =
            seeds.iter().zip(&coeffs).map(|(&seed, &coeff)| self.two_point.direction().term(seed, coeff as f32)).collect();
        (terms, square.max(0.0).sqrt())
    }
}

impl Estimator for Vamo {
    fn estimate<'a>(
        &'a mut self,
        at: &StepContext,
        params: &mut Params,
        problem: &'a mut dyn Problem,
    ) -> Result<Estimated<'a>> {
        let due = (at.step - 1).is_multiple_of(self.period);
        let report = due.then(|| self.take_snapshot(at, params, problem)).transpose()?;
        let (correction, correction_norm) = self.correction(problem.batch());
        let (mut estimate, gradients) = self.backprop.estimate(at, params, problem)?;
        estimate.correction = correction;
        estimate.correction_norm = Some(correction_norm);
        estimate.snapshot = report;
        Ok((estimate, gradients))
    }

    fn definition(&self) -> String {
        let TwoPoint { sides, distribution, zo_eps, num_directions, .. } = self.two_point;
        let q = match self.max_directions {
            Some(most) => format!("{num_directions} to {most} until known to {}", self.tolerance),
            None => num_directions.to_string(),
        };
        format!(
            "{}, corrected by {:e} x ({}, q = {q}, {}, mu {zo_eps:e}) at a snapshot every {} steps",
            self.backprop.definition(),
            self.alpha as f32,
            sides.name(),
            distribution.name(),
            self.period
        )
    }

    fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        visit("seeds", Slot::U64(&mut self.snapshot.seeds))?;
        visit("slopes", Slot::F64(&mut self.snapshot.slopes))?;
        visit("gram", Slot::F64(&mut self.snapshot.gram))
    }
}

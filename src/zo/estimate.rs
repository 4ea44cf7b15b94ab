//! A step's gradient estimate: a short list of (seed, coefficient) pairs from function values, never a tensor, plus what a
//! backward pass adds block by block.

use serde::{Deserialize, Serialize};

use crate::direction::Term;

/// The zeroth-order part of a step's gradient, sum of coeff * z(seed), and the losses it was computed from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Gradient over [`ParamSet::Estimated`](crate::params::ParamSet): all trained weights, in a zeroth-order run.
    pub terms: Vec<Term>,
    /// Added to the gradient over all trained weights (VAMO's correction).
    pub correction: Vec<Term>,
    /// Euclidean norm of the correction.
    pub correction_norm: Option<f64>,
    /// f(theta + eps z), one per direction.
    pub losses_plus: Vec<f32>,
    /// f(theta - eps z), one per direction; empty for one-sided estimates.
    pub losses_minus: Vec<f32>,
    /// f(theta), shared by all directions of a one-sided estimate; also computed by a backward pass.
    pub loss_base: Option<f32>,
    /// Set in a step that took a snapshot.
    pub snapshot: Option<SnapshotReport>,
}

/// Result and cost of a snapshot, a gradient estimate on the whole training set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SnapshotReport {
    /// Number of directions evaluated.
    pub num_directions: usize,
    /// Evaluations of single examples' losses.
    pub example_evaluations: u64,
    /// Standard error of the slopes over the examples, relative to the slopes (root mean squares over the directions); None
    /// if it was not computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
}

impl Estimate {
    /// The logged training loss: f(theta) if it was evaluated, else the mean of all losses.
    pub fn loss(&self) -> f64 {
        self.loss_base.map_or_else(|| mean(self.losses_plus.iter().chain(&self.losses_minus)), f64::from)
    }

    /// Mean of f(theta + eps z) over the directions.
    pub fn loss_plus(&self) -> Option<f64> {
        (!self.losses_plus.is_empty()).then(|| mean(&self.losses_plus))
    }

    /// Mean of f(theta - eps z) over the directions; f(theta) for one-sided estimates.
    pub fn loss_minus(&self) -> Option<f64> {
        match self.losses_minus.is_empty() {
            true => self.loss_base.filter(|_| !self.losses_plus.is_empty()).map(f64::from),
            false => Some(mean(&self.losses_minus)),
        }
    }

    /// The sum of the coefficients: the slope for one direction, the mean of the slopes for several (Gaussian or
    /// Rademacher).
    pub fn projected_grad(&self) -> Option<f64> {
        (!self.terms.is_empty()).then(|| self.terms.iter().map(|t| f64::from(t.coeff)).sum())
    }

    /// All losses: f(theta), then all plus sides, then all minus sides.
    pub fn losses(&self) -> impl Iterator<Item = f32> {
        self.loss_base.iter().chain(&self.losses_plus).chain(&self.losses_minus).copied()
    }

    /// Numbers for an error message: the losses, or the coefficients if all losses are finite.
    pub fn numbers(&self) -> Vec<f64> {
        let coefficients = self.terms.iter().chain(&self.correction).map(|t| f64::from(t.coeff));
        match self.losses().all(f32::is_finite) {
            true => coefficients.collect(),
            false => self.losses().map(f64::from).collect(),
        }
    }

    /// Whether all losses and coefficients are finite.
    pub fn is_finite(&self) -> bool {
        self.losses().all(f32::is_finite) && self.terms.iter().chain(&self.correction).all(|t| t.coeff.is_finite())
    }
}

pub(crate) fn mean<'a>(losses: impl IntoIterator<Item = &'a f32>) -> f64 {
    let (sum, count) = losses.into_iter().fold((0.0, 0), |(sum, count), loss| (sum + f64::from(*loss), count + 1));
    sum / f64::from(count)
}

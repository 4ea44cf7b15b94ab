//! Where a step's gradient comes from: function values, which make a short list of (seed, coefficient) pairs and never a
//! tensor; and, where it is asked for, a backward pass, handed out block by block.

use serde::{Deserialize, Serialize};

use crate::direction::Term;

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

pub(crate) fn mean<'a>(losses: impl IntoIterator<Item = &'a f32>) -> f64 {
    let (sum, count) = losses.into_iter().fold((0.0, 0), |(sum, count), loss| (sum + f64::from(*loss), count + 1));
    sum / f64::from(count)
}

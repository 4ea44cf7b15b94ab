//! Multinomial logistic regression with an L2 penalty, fitted by Newton's method.
//!
//! The minimum of
//!
//! f(W, b) = 1/n sum_i [ ln sum_k e^(w_k . z_i + b_k) - (w_y . z_i + b_y) ] + l2 / 2 sum_k |w_k|^2
//!
//! over standardised features z with labels y. The intercepts b are not penalised. f is convex, and its minimum is one point up to a
//! constant in b, which stays at a mean of 0. Each Newton direction comes from conjugate gradients (Nocedal and Wright, Numerical
//! Optimization, 2nd edition, algorithm 7.1), so no Hessian is stored.

use anyhow::{Result, bail};
use rayon::prelude::*;

pub use super::products::Standard;

use super::features::Features;
use super::products::{dot, mean_of, products};
use crate::base::numbers::log_sum_exp;

/// Converged: no element of the gradient is larger.
pub const TOLERANCE: f64 = 1e-10;

/// Far more than any fit takes.
const MOST_STEPS: usize = 500;

const MOST_DIRECTIONS: usize = 10_000;

/// A fitted classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct LogisticRegression {
    /// The number of classes.
    pub classes: usize,
    /// Weights of the standardised features, and the intercept last: [classes, width + 1].
    pub weights: Vec<f64>,
    /// The standardisation, of the rows that it was fitted on.
    pub standard: Standard,
}

/// The objective at some weights.
struct Point {
    weights: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
    /// [rows, classes]
    probabilities: Vec<f64>,
}

/// The objective of a fit.
struct Objective<'a> {
    rows: &'a Features,
    standard: &'a Standard,
    classes: usize,
    l2: f64,
}

impl LogisticRegression {
    /// Of `classes` classes with all weights 0, for features that are standardised as these rows.
    pub fn new(rows: &Features, classes: usize) -> Self {
        LogisticRegression { classes, weights: vec![0.0; classes * (rows.width + 1)], standard: Standard::of(rows) }
    }

    /// Fits the weights to the rows with the penalty `l2`, beginning from the present weights. The minimum does not depend on them.
    /// Fails if the penalty is not positive, a label has no row, or the gradient does not vanish.
    pub fn fit(&mut self, rows: &Features, l2: f64) -> Result<()> {
        if !(l2 > 0.0 && l2.is_finite()) {
            bail!("an L2 penalty of {l2}: it must be greater than 0");
        }
        if let Some(class) = (0..self.classes).find(|class| !rows.labels.contains(class)) {
            bail!("no row has the class {class}, so its probability has no minimum");
        }
        let objective = Objective { rows, standard: &self.standard, classes: self.classes, l2 };
        let mut here = objective.at(self.weights.clone());
        for _ in 0..MOST_STEPS {
            if largest(&here.gradient) <= TOLERANCE {
                self.weights = here.weights;
                return Ok(());
            }
            here = objective.step(here)?;
        }
        bail!("the fit with an L2 penalty of {l2} has not converged after {MOST_STEPS} steps")
    }

    /// ln p of each class, for each row: [rows, classes].
    pub fn log_probabilities(&self, rows: &Features) -> Vec<f64> {
        let mut logits = products(rows, &self.standard, &self.weights);
        logits.par_chunks_mut(self.classes).for_each(|logits| {
            let normaliser = log_sum_exp(logits.iter().copied());
            logits.iter_mut().for_each(|logit| *logit -= normaliser);
        });
        logits
    }
}

impl Objective<'_> {
    fn at(&self, weights: Vec<f64>) -> Point {
        let mut logits = products(self.rows, self.standard, &weights);
        let mut losses = vec![0.0; self.rows.rows()];
        let rows = logits.par_chunks_mut(self.classes).zip(&mut losses).zip(&self.rows.labels);
        rows.for_each(|((logits, loss), label)| {
            let normaliser = log_sum_exp(logits.iter().copied());
            *loss = normaliser - logits[*label];
            logits.iter_mut().for_each(|logit| *logit = libm::exp(*logit - normaliser));
        });
        let probabilities = logits;
        let mut residuals = probabilities.clone();
        residuals.chunks_mut(self.classes).zip(&self.rows.labels).for_each(|(residuals, label)| residuals[*label] -= 1.0);
        let mut gradient = mean_of(self.rows, self.standard, &residuals);
        self.add_penalty(&weights, &mut gradient);
        let penalty: f64 = weights.chunks(self.rows.width + 1).map(|w| dot(&w[..w.len() - 1], &w[..w.len() - 1])).sum();
        let value = losses.iter().sum::<f64>() / losses.len() as f64 + self.l2 / 2.0 * penalty;
        Point { weights, value, gradient, probabilities }
    }

    /// Adds l2 w, without the intercepts.
    fn add_penalty(&self, weights: &[f64], to: &mut [f64]) {
        let width = self.rows.width;
        for (weights, to) in weights.chunks(width + 1).zip(to.chunks_mut(width + 1)) {
            to[..width].iter_mut().zip(weights).for_each(|(to, weight)| *to += self.l2 * weight);
        }
    }

    /// The product of the Hessian with `v`.
    fn hessian_times(&self, here: &Point, v: &[f64]) -> Vec<f64> {
        let mut factors = products(self.rows, self.standard, v);
        factors.par_chunks_mut(self.classes).zip(here.probabilities.par_chunks(self.classes)).for_each(|(factors, p)| {
            let mean: f64 = factors.iter().zip(p).map(|(factor, p)| factor * p).sum();
            factors.iter_mut().zip(p).for_each(|(factor, p)| *factor = p * (*factor - mean));
        });
        let mut product = mean_of(self.rows, self.standard, &factors);
        self.add_penalty(v, &mut product);
        product
    }

    /// The point after a Newton step, shortened until the objective or the gradient falls enough.
    fn step(&self, here: Point) -> Result<Point> {
        let direction = self.newton_direction(&here);
        let slope = dot(&direction, &here.gradient);
        let mut length = 1.0;
        while length > 1e-12 {
            let moved = here.weights.iter().zip(&direction).map(|(w, d)| w + length * d).collect();
            let there = self.at(moved);
            let enough = here.value + 1e-4 * length * slope;
            // Where rounding hides that the objective falls, the gradient still shows it, because the objective is convex.
            let nears = largest(&there.gradient) <= 0.5 * largest(&here.gradient);
            if there.value < here.value && there.value <= enough || nears {
                return Ok(there);
            }
            length /= 2.0;
        }
        bail!("the fit with an L2 penalty of {} stands still at a gradient of {:e}", self.l2, largest(&here.gradient))
    }

    /// p with H p = -gradient, by conjugate gradients up to a residual that makes Newton's method converge superlinearly.
    fn newton_direction(&self, here: &Point) -> Vec<f64> {
        let norm = dot(&here.gradient, &here.gradient).sqrt();
        let enough = norm * norm.sqrt().min(0.1);
        let mut found = vec![0.0; here.gradient.len()];
        let mut residual = here.gradient.clone();
        let mut direction: Vec<f64> = residual.iter().map(|r| -r).collect();
        let mut squared = norm * norm;
        for _ in 0..MOST_DIRECTIONS {
            let image = self.hessian_times(here, &direction);
            let curvature = dot(&direction, &image);
            if curvature <= 0.0 {
                // Only by rounding: the objective is convex.
                break;
            }
            let length = squared / curvature;
            found.iter_mut().zip(&direction).for_each(|(found, d)| *found += length * d);
            residual.iter_mut().zip(&image).for_each(|(residual, image)| *residual += length * image);
            let before = std::mem::replace(&mut squared, dot(&residual, &residual));
            if squared.sqrt() <= enough {
                break;
            }
            let share = squared / before;
            direction.iter_mut().zip(&residual).for_each(|(d, residual)| *d = share * *d - residual);
        }
        found
    }
}

/// The largest absolute value.
fn largest(numbers: &[f64]) -> f64 {
    numbers.iter().fold(0.0, |most, number| most.max(number.abs()))
}

//! Points near theta at which a function is evaluated without moving the weights.

use std::sync::Arc;

use super::role::ParamSet;
use crate::device::cpu::Displaced;
use crate::direction::{Direction, Key, Term};

/// theta displaced by a list of terms per point, over the weights of a set. An operation draws the directions as it reads a
/// weight, strip by strip in cache, once for all points: no weight is written, so none needs restoring.
#[derive(Clone, Debug)]
pub struct Points {
    set: ParamSet,
    /// Each direction once.
    directions: Vec<(Direction, u64)>,
    /// Coefficient of each direction at each point: [directions, points].
    coeffs: Arc<[f32]>,
    count: usize,
}

impl Points {
    /// theta + sum of coeff * z(seed) over the terms, for each of `points`. A point without terms is theta.
    pub fn new(set: ParamSet, points: &[Vec<Term>]) -> Self {
        let mut directions: Vec<(Direction, u64)> = Vec::new();
        let of = |term: &Term| (term.direction, term.seed);
        for term in points.iter().flatten() {
            if !directions.contains(&of(term)) {
                directions.push(of(term));
            }
        }
        let along = |direction, terms: &[Term]| terms.iter().filter(|t| of(t) == direction).map(|t| t.coeff).sum();
        let coeffs =
            directions.iter().flat_map(|&direction| points.iter().map(move |terms| along(direction, terms))).collect();
        Points { set, directions, coeffs, count: points.len() }
    }

    /// Number of points.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The weights that are displaced.
    pub fn set(&self) -> ParamSet {
        self.set
    }

    /// The terms of each point, without those of coefficient 0.
    pub fn each(&self) -> impl Iterator<Item = Vec<Term>> {
        (0..self.count).map(|point| {
            let terms = self.directions.iter().zip(self.coeffs.iter().skip(point).step_by(self.count));
            terms
                .filter(|(_, coeff)| **coeff != 0.0)
                .map(|((direction, seed), &coeff)| direction.term(*seed, coeff))
                .collect()
        })
    }

    /// One weight at these points, given its key for each direction.
    pub(super) fn of_weight(&self, keys: Vec<Key>) -> Displaced {
        Displaced::new(keys, self.coeffs.clone(), self.count)
    }

    pub(super) fn directions(&self) -> &[(Direction, u64)] {
        &self.directions
    }
}

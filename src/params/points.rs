//! Places near the weights where a function is looked at, without going there.

use std::sync::Arc;

use super::Span;
use crate::element::Element;
use crate::noise::{self, Key, Term};

/// theta, displaced by a list of terms for each point, over the weights of a span. Whoever multiplies by a weight draws the
/// directions as it reads, strip by strip in cache, once for all points: no weight is written, and none has a way back.
#[derive(Clone, Debug)]
pub struct Points {
    span: Span,
    /// Each direction once.
    seeds: Vec<u64>,
    /// How far each point lies along each direction: [seeds, points].
    coeffs: Vec<f32>,
    count: usize,
}

impl Points {
    /// theta + the sum of coeff * z(seed) over the terms, for each of `points`. A point without terms is theta.
    pub fn new(span: Span, points: &[Vec<Term>]) -> Self {
        let mut seeds: Vec<u64> = Vec::new();
        for term in points.iter().flatten() {
            if !seeds.contains(&term.seed) {
                seeds.push(term.seed);
            }
        }
        let along = |seed, terms: &[Term]| terms.iter().filter(|t| t.seed == seed).map(|t| t.coeff).sum();
        let coeffs = seeds.iter().flat_map(|&seed| points.iter().map(move |terms| along(seed, terms))).collect();
        Points { span, seeds, coeffs, count: points.len() }
    }

    /// How many points there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The weights that are displaced.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The terms of each point, those of 0 left out.
    pub fn each(&self) -> impl Iterator<Item = Vec<Term>> {
        (0..self.count).map(|point| {
            let terms = self.seeds.iter().zip(self.coeffs.iter().skip(point).step_by(self.count));
            terms.filter(|(_, coeff)| **coeff != 0.0).map(|(&seed, &coeff)| Term { seed, coeff }).collect()
        })
    }

    pub(super) fn seeds(&self) -> &[u64] {
        &self.seeds
    }
}

/// One weight at all points.
#[derive(Clone)]
pub struct Displaced {
    points: Arc<Points>,
    /// The seeds' on this weight.
    keys: Vec<Key>,
}

impl Displaced {
    pub(super) fn new(points: &Arc<Points>, keys: Vec<Key>) -> Self {
        Displaced { points: points.clone(), keys }
    }

    /// How many points there are.
    pub fn points(&self) -> usize {
        self.points.count
    }

    /// What the weight's numbers from `first` on are at each point, rounded to what they are held in: [points, numbers].
    pub fn read<T: Element>(&self, numbers: &[T], first: usize, to: &mut Vec<T>) {
        to.resize(self.points.count * numbers.len(), T::zeroed());
        noise::displace(numbers, first, &self.keys, &self.points.coeffs, self.points.count, to);
    }
}

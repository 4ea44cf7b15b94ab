//! Places near the weights where a function is looked at, without going there.

use std::sync::Arc;

use anyhow::Result;
use candle_core::DType;
use half::{bf16, f16};

use super::{Params, Span, with_bytes};
use crate::element::Element;
use crate::noise::{self, Direction, Key, Term};

/// theta, displaced by a list of terms for each point, over the weights of a span. Whoever multiplies by a weight draws the
/// directions as it reads, strip by strip in cache, once for all points: no weight is written, and none has a way back.
#[derive(Clone, Debug)]
pub struct Points {
    span: Span,
    /// Each direction once.
    directions: Vec<(Direction, u64)>,
    /// How far each point lies along each direction: [directions, points].
    coeffs: Vec<f32>,
    count: usize,
}

impl Points {
    /// theta + the sum of coeff * z(seed) over the terms, for each of `points`. A point without terms is theta.
    pub fn new(span: Span, points: &[Vec<Term>]) -> Self {
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
        Points { span, directions, coeffs, count: points.len() }
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
            let terms = self.directions.iter().zip(self.coeffs.iter().skip(point).step_by(self.count));
            terms
                .filter(|(_, coeff)| **coeff != 0.0)
                .map(|((direction, seed), &coeff)| direction.term(*seed, coeff))
                .collect()
        })
    }

    pub(super) fn directions(&self) -> &[(Direction, u64)] {
        &self.directions
    }
}

impl Params {
    /// The share of the way from theta to theta + coeff z, for a `term`, that the weights of `span` make when they are rounded to what they are
    /// held in: 1 in f32, less where coeff is small beside the spacing of half precision's numbers. Of each weight the first numbers
    /// are looked at.
    pub fn displaced_share(&mut self, term: Term, span: Span) -> Result<f64> {
        let points = Arc::new(Points::new(span, &[vec![term]]));
        let weights = self.settle()?.at(&points);
        let (mut made, mut whole) = (0.0, 0.0);
        for (id, _) in weights.ids() {
            let (leaf, tensor) = (weights.leaf(id), weights.get(id));
            let Some(displaced) = leaf.displaced() else { continue };
            let (a, b) = with_bytes(tensor, |bytes| match tensor.dtype() {
                DType::BF16 => displaced.way_made::<bf16>(bytes),
                DType::F16 => displaced.way_made::<f16>(bytes),
                _ => displaced.way_made::<f32>(bytes),
            })?;
            (made, whole) = (made + a, whole + b);
        }
        Ok(if whole > 0.0 { made / whole } else { 1.0 })
    }
}

/// One weight at all points.
#[derive(Clone)]
pub struct Displaced {
    points: Arc<Points>,
    /// The directions' on this weight.
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

    /// The inner product of the ways to the first point with and without rounding to what the weight is held in, and the square of
    /// the one without, over the first of its numbers.
    fn way_made<T: Element>(&self, bytes: &[u8]) -> (f64, f64) {
        const LOOKED_AT: usize = 1 << 16;
        let numbers: &[T] = bytemuck::cast_slice(&bytes[..bytes.len().min(LOOKED_AT * size_of::<T>())]);
        let here: Vec<f32> = numbers.iter().map(|w| w.widen()).collect();
        let (mut rounded, mut there) = (Vec::new(), Vec::new());
        self.read(numbers, 0, &mut rounded);
        self.read(&here, 0, &mut there);
        let ways = here.iter().zip(&rounded).zip(&there).map(|((h, r), t)| (f64::from(r.widen() - h), f64::from(t - h)));
        ways.fold((0.0, 0.0), |(made, whole), (r, t)| (made + r * t, whole + t * t))
    }
}

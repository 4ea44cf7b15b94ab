//! Small weights (biases, norms) in f32, at every point.

use super::convert::convert;
use super::displaced::Displaced;
use crate::device::{Array, Element, View};

/// A small weight (a bias, a norm's) in f32, at all its points.
pub struct SmallWeight {
    /// [points, len]
    pub values: Vec<f32>,
    /// Elements of the weight.
    pub len: usize,
}

impl SmallWeight {
    /// Reads `weight` at the points of `displaced`, or at theta.
    pub fn of(weight: &Array, displaced: Option<&Displaced>) -> Self {
        fn values<T: Element>(numbers: &[T], displaced: Option<&Displaced>) -> Vec<f32> {
            let mut at_points = Vec::new();
            if let Some(displaced) = displaced {
                displaced.read(numbers, 0, &mut at_points);
            }
            let numbers = if displaced.is_some() { &at_points } else { numbers };
            let mut wide = vec![0f32; numbers.len()];
            convert(numbers, &mut wide);
            wide
        }
        let values = each_precision!(View, weight.view(), numbers => values(numbers, displaced));
        SmallWeight { values, len: weight.len() }
    }

    /// Number of points; 1 at theta.
    pub fn points(&self) -> usize {
        self.values.len() / self.len
    }

    /// The weight at a point; at theta the same for every point.
    pub fn at(&self, point: usize) -> &[f32] {
        let first = if self.points() == 1 { 0 } else { point * self.len };
        &self.values[first..first + self.len]
    }
}

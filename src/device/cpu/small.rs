//! A small weight in f32, at every point.

use super::convert::convert;
use super::displaced::Displaced;
use crate::device::{Array, Element, View};

/// A small weight (a bias, a norm's) in f32, whatever it is held in, at all points that it is read at.
pub struct Small {
    /// [points, numbers]
    pub all: Vec<f32>,
    /// Numbers of the weight.
    pub len: usize,
}

impl Small {
    /// Reads `weight`, which is `displaced` to the points or stands as it is.
    pub fn of(weight: &Array, displaced: Option<&Displaced>) -> Self {
        fn all<T: Element>(numbers: &[T], displaced: Option<&Displaced>) -> Vec<f32> {
            let mut at_points = Vec::new();
            if let Some(displaced) = displaced {
                displaced.read(numbers, 0, &mut at_points);
            }
            let numbers = if displaced.is_some() { &at_points } else { numbers };
            let mut wide = vec![0f32; numbers.len()];
            convert(numbers, &mut wide);
            wide
        }
        let all = each_precision!(View, weight.view(), numbers => all(numbers, displaced));
        Small { all, len: weight.len() }
    }

    /// How many points there are.
    pub fn points(&self) -> usize {
        self.all.len() / self.len
    }

    /// The numbers at a point: one and the same where the weight is read as it stands.
    pub fn at(&self, point: usize) -> &[f32] {
        let first = if self.points() == 1 { 0 } else { point * self.len };
        &self.all[first..first + self.len]
    }
}

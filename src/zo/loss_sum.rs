//! A loss as a sum and its weight, so that parts of a batch are added exactly before the division.

use std::ops::AddAssign;

/// A mean before the division.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// Sum over the examples, or over their tokens.
    pub sum: f64,
    /// Number of summands.
    pub weight: usize,
}

impl LossSum {
    /// A loss of which only the mean is known: weight 1.
    pub fn of_mean(loss: f32) -> Self {
        LossSum { sum: f64::from(loss), weight: 1 }
    }

    /// sum / weight
    pub fn mean(&self) -> f64 {
        self.sum / self.weight as f64
    }

    /// The mean in f32, as estimators and logs use it.
    pub fn loss(&self) -> f32 {
        self.mean() as f32
    }
}

impl AddAssign for LossSum {
    fn add_assign(&mut self, other: Self) {
        self.sum += other.sum;
        self.weight += other.weight;
    }
}

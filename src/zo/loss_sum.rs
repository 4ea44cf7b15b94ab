//! A loss as a sum and its weight: parts of a batch, on whatever machine, are added up before anybody divides.

use std::ops::AddAssign;

/// A mean before its division.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossSum {
    /// The sum over the examples, or over their tokens.
    pub sum: f64,
    /// How many they are.
    pub weight: usize,
}

impl LossSum {
    /// A loss whose mean is known already.
    pub fn of_mean(loss: f32) -> Self {
        LossSum { sum: f64::from(loss), weight: 1 }
    }

    /// sum / weight
    pub fn mean(&self) -> f64 {
        self.sum / self.weight as f64
    }

    /// The mean as estimators use it and logs have it.
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

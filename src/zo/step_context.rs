//! The step that an estimator and a rule work on.

use crate::direction::seed::direction_seed;

/// A step of a run.
#[derive(Clone, Copy, Debug)]
pub struct StepContext {
    /// Counted from 1.
    pub step: u64,
    /// The run's seed.
    pub run_seed: u64,
    /// The step's learning rate.
    pub learning_rate: f32,
}

impl StepContext {
    /// The seed of direction `k` of this step.
    pub fn seed(&self, k: u64) -> u64 {
        direction_seed(self.run_seed, self.step, k)
    }

    /// The seeds of directions 0 to q - 1.
    pub fn seeds(&self, q: usize) -> Vec<u64> {
        (0..q as u64).map(|k| self.seed(k)).collect()
    }
}

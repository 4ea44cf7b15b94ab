//! What an estimator and a rule are told of a step.

use crate::direction::seed::direction_seed;

/// Which step of a run this is.
#[derive(Clone, Copy, Debug)]
pub struct StepContext {
    /// Counted from 1.
    pub step: u64,
    /// The run's.
    pub run_seed: u64,
    /// The step's.
    pub learning_rate: f32,
}

impl StepContext {
    /// The seed of direction `k` of this step.
    pub fn seed(&self, k: u64) -> u64 {
        direction_seed(self.run_seed, self.step, k)
    }

    /// The seeds of `q` directions.
    pub fn seeds(&self, q: usize) -> Vec<u64> {
        (0..q as u64).map(|k| self.seed(k)).collect()
    }
}

//! Mini-batches as a pure function of seed and step.

use crate::base::permutation::permutation;
use crate::direction::seed;

/// The examples of each step, a pure function of the seed and the step. Each epoch is a new permutation.
pub struct Batches {
    num_examples: usize,
    batch_size: usize,
    seed: u64,
    /// The last epoch used, and its permutation.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Batches {
    /// Batches of `batch_size` out of `num_examples`; a batch may span two epochs.
    pub fn new(num_examples: usize, batch_size: usize, seed: u64) -> Self {
        Batches { num_examples, batch_size, seed, epoch: None }
    }

    /// The first example of a run.
    pub fn first(num_examples: usize, seed: u64) -> usize {
        Batches::new(num_examples, 1, seed).example(0)
    }

    /// The examples of `step`, counted from 0.
    pub fn at(&mut self, step: u64) -> Vec<usize> {
        let first = step * self.batch_size as u64;
        (first..first + self.batch_size as u64).map(|k| self.example(k)).collect()
    }

    fn example(&mut self, k: u64) -> usize {
        let (epoch, index) = (k / self.num_examples as u64, (k % self.num_examples as u64) as usize);
        if self.epoch.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let seed = seed::mix(seed::mix(self.seed) ^ epoch) as u32;
            self.epoch = Some((epoch, permutation(seed, self.num_examples)));
        }
        self.epoch.as_ref().map_or(0, |(_, order)| order[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_a_pure_function_of_the_step_and_every_epoch_sees_every_example_once() {
        let mut batches = Batches::new(10, 4, 0);
        let first: Vec<_> = (0..5).flat_map(|s| batches.at(s)).collect();
        let again = Batches::new(10, 4, 0).at(3);
        assert_eq!(first[12..16], again);
        for epoch in first.chunks(10) {
            let mut seen = epoch.to_vec();
            seen.sort();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(first[..10], first[10..]);
        assert_ne!(Batches::new(10, 4, 1).at(0), first[..4]);
    }
}

//! The generator's key of one direction on one tensor.

use super::seed::mix;
use super::term::Direction;

/// The generator's key of one direction on one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub(super) words: [u32; 2],
    pub(crate) direction: Direction,
}

impl Key {
    /// The key of direction `seed` on tensor `tensor_id`. Bijective in the seed: no two seeds share a direction.
    pub fn new(direction: Direction, seed: u64, tensor_id: u64) -> Self {
        match direction {
            Direction::Gaussian => Key::of(seed, tensor_id),
            // A separate key, so that the signs of a seed are independent of its Gaussian direction.
            Direction::Rademacher => Key { direction, ..Key::of(mix(mix(!seed)), tensor_id) },
        }
    }

    pub(super) fn of(seed: u64, tensor_id: u64) -> Self {
        let key = mix(mix(seed) ^ tensor_id);
        Key { words: [key as u32, (key >> 32) as u32], direction: Direction::Gaussian }
    }

    /// The key for stochastic rounding, distinct from every direction's.
    pub fn of_rounding(seed: u64, tensor_id: u64) -> Self {
        Key::of(mix(!seed), tensor_id)
    }

    /// The two words of the Threefry key.
    pub fn words(self) -> [u32; 2] {
        self.words
    }
}

//! One weight.

use candle_core::Tensor;

use super::role::Role;
use crate::direction::{Direction, Key};

pub(super) struct Param {
    pub(super) name: String,
    pub(super) tensor: Tensor,
    /// Whether weight decay applies: matrices and embeddings, not biases and norms.
    pub(super) decays: bool,
    pub(super) noise_id: u64,
    pub(super) role: Role,
}

impl Param {
    pub(super) fn key(&self, direction: Direction, seed: u64) -> Key {
        Key::new(direction, seed, self.noise_id)
    }
}

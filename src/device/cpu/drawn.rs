//! Directions as vectors, for tests and inspection.

use super::moves::{AffineMove, apply_moves};
use crate::direction::seed::tensor_id;
use crate::direction::{Direction, Key};

/// A Gaussian direction as a vector [len]: element `i` is z(seed, name, i).
pub fn direction(seed: u64, name: &str, len: usize) -> Vec<f32> {
    drawn(Direction::Gaussian, seed, name, len)
}

/// A direction as a vector [len].
pub fn drawn(direction: Direction, seed: u64, name: &str, len: usize) -> Vec<f32> {
    let mut z = vec![0f32; len];
    apply_moves(
        &mut z,
        0,
        &[AffineMove { scale: 0.0, terms: vec![(Key::new(direction, seed, tensor_id(name)), 1.0)], rounding: None }],
    );
    z
}

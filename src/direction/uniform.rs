//! Uniform numbers from the same generator.

use super::group::{GROUP, HALF};
use super::key::Key;
use super::seed::{mix, tensor_id};
use super::threefry::draw_element_words;

/// `len` numbers uniform in [-1, 1): element `i` is a function of (seed, name, i), independent of every direction.
pub fn uniform(seed: u64, name: &str, len: usize) -> Vec<f32> {
    let key = Key::of(mix(!mix(seed)), tensor_id(name));
    let word = |i: usize| {
        let words = draw_element_words(key, (i / GROUP) as u64);
        words[i % GROUP / HALF][i % HALF]
    };
    // 24 bits: every number is exact, and none rounds to 1.
    (0..len).map(|i| (word(i) >> 8) as f32 * (1.0 / (1 << 23) as f32) - 1.0).collect()
}

//! Directions drawn group by group.

use crate::device::Element;
use crate::direction::group::{COUNTERS, GROUP, HALF};
use crate::direction::normal::draw_normals;
use crate::direction::sign::{GROUPS_PER_DRAW, flip_sign};
use crate::direction::threefry::draw_words;
use crate::direction::{Direction, Key};

/// A direction drawn group by group.
///
/// A word holds 32 signs, so one call of the generator serves several groups; its words are cached.
pub(super) struct Source {
    key: Key,
    /// Words for the signs of the current block of groups.
    words: [u32; HALF],
    /// Index of the current block of [`GROUPS_PER_DRAW`] groups; the maximum: none yet.
    block: u64,
    /// Left shift that brings the group's sign for element j to the sign bit; one less for element j + HALF.
    shift: u32,
}

impl Source {
    pub(super) fn new(key: Key) -> Self {
        Source { key, words: [0; HALF], block: u64::MAX, shift: 0 }
    }

    /// Moves to group `group`: draws normals into `z`, or prepares the words for signs.
    #[inline(always)]
    pub(super) fn seek(&mut self, group: u64, z: &mut [f32; GROUP]) {
        match self.key.direction {
            Direction::Gaussian => draw_normals(self.key, group, z),
            Direction::Rademacher => {
                let block = group / GROUPS_PER_DRAW;
                if block != self.block {
                    self.block = block;
                    self.words.copy_from_slice(draw_words(self.key, block * COUNTERS as u64).as_flattened());
                }
                self.shift = 31 - 2 * (group % GROUPS_PER_DRAW) as u32;
            }
        }
    }

    /// to += coeff z over the current group; `z` as left by [`Source::seek`].
    #[inline(always)]
    pub(super) fn add<T: Element>(&self, coeff: f32, z: &[f32; GROUP], to: &mut [T; GROUP]) {
        match self.key.direction {
            Direction::Gaussian => {
                for j in 0..GROUP {
                    to[j] = T::narrow(coeff.mul_add(z[j], to[j].widen()));
                }
            }
            Direction::Rademacher => {
                let (first, second) = to.split_at_mut(HALF);
                for (to, word) in first.iter_mut().zip(&self.words) {
                    *to = T::narrow(to.widen() + flip_sign(coeff, word << self.shift));
                }
                for (to, word) in second.iter_mut().zip(&self.words) {
                    *to = T::narrow(to.widen() + flip_sign(coeff, word << (self.shift - 1)));
                }
            }
        }
    }

    /// to = from + coeff z over the current group; `z` as left by [`Source::seek`].
    #[inline(always)]
    pub(super) fn displace<T: Element>(&self, coeff: f32, z: &[f32; GROUP], from: &[T; GROUP], to: &mut [T; GROUP]) {
        match self.key.direction {
            Direction::Gaussian => {
                for j in 0..GROUP {
                    to[j] = T::narrow(coeff.mul_add(z[j], from[j].widen()));
                }
            }
            Direction::Rademacher => {
                for j in 0..HALF {
                    to[j] = T::narrow(from[j].widen() + flip_sign(coeff, self.words[j] << self.shift));
                }
                for j in 0..HALF {
                    let coeff = flip_sign(coeff, self.words[j] << (self.shift - 1));
                    to[HALF + j] = T::narrow(from[HALF + j].widen() + coeff);
                }
            }
        }
    }

    /// Draws group `group` of the direction.
    #[inline(always)]
    pub(super) fn draw(&mut self, group: u64, out: &mut [f32; GROUP]) {
        self.seek(group, out);
        if self.key.direction == Direction::Rademacher {
            out.fill(0.0);
            self.add(1.0, &[0.0; GROUP], out);
        }
    }
}

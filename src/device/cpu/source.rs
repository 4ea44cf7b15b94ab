//! A direction as a pass draws it, group by group.

use crate::device::Element;
use crate::direction::group::{GROUP, HALF, TOGETHER};
use crate::direction::normal::draw_normals;
use crate::direction::sign::{GROUPS_OF_SIGNS, signed};
use crate::direction::threefry::draw_words;
use crate::direction::{Direction, Key};

/// A direction as a pass draws it, group by group.
///
/// Of signs a word has 32, so one call of the generator is enough for several groups: its words are kept until a pass is beyond them.
pub(super) struct Source {
    key: Key,
    /// Those of the counters that the signs of a group are made of.
    words: [u32; HALF],
    /// Which groups the words are for: those from so many times [`GROUPS_OF_SIGNS`] on. As many as there can be: none yet.
    block: u64,
    /// What brings the bit of a word that is the group's first sign to the highest place; its second is one more to the left.
    shift: u32,
}

impl Source {
    pub(super) fn new(key: Key) -> Self {
        Source { key, words: [0; HALF], block: u64::MAX, shift: 0 }
    }

    /// Turns to the `group`-th [`GROUP`] elements: normals are drawn to `z`; of signs the words are seen to.
    #[inline(always)]
    pub(super) fn turn_to(&mut self, group: u64, z: &mut [f32; GROUP]) {
        match self.key.direction {
            Direction::Gaussian => draw_normals(self.key, group, z),
            Direction::Rademacher => {
                let block = group / GROUPS_OF_SIGNS;
                if block != self.block {
                    self.block = block;
                    self.words.copy_from_slice(draw_words(self.key, block * TOGETHER as u64).as_flattened());
                }
                self.shift = 31 - 2 * (group % GROUPS_OF_SIGNS) as u32;
            }
        }
    }

    /// sum += coeff z over the group that it was turned to, `z` as it was left then.
    #[inline(always)]
    pub(super) fn add(&self, coeff: f32, z: &[f32; GROUP], sum: &mut [f32; GROUP]) {
        match self.key.direction {
            Direction::Gaussian => {
                for j in 0..GROUP {
                    sum[j] = coeff.mul_add(z[j], sum[j]);
                }
            }
            Direction::Rademacher => {
                let (first, second) = sum.split_at_mut(HALF);
                for j in 0..HALF {
                    first[j] += signed(coeff, self.words[j] << self.shift);
                    second[j] += signed(coeff, self.words[j] << (self.shift - 1));
                }
            }
        }
    }

    /// to = from + coeff z over the group that it was turned to, `z` as it was left then.
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
                    to[j] = T::narrow(from[j].widen() + signed(coeff, self.words[j] << self.shift));
                }
                for j in 0..HALF {
                    let coeff = signed(coeff, self.words[j] << (self.shift - 1));
                    to[HALF + j] = T::narrow(from[HALF + j].widen() + coeff);
                }
            }
        }
    }

    /// The `group`-th [`GROUP`] elements of the direction.
    #[inline(always)]
    pub(super) fn draw(&mut self, group: u64, out: &mut [f32; GROUP]) {
        self.turn_to(group, out);
        if self.key.direction == Direction::Rademacher {
            out.fill(0.0);
            self.add(1.0, &[0.0; GROUP], out);
        }
    }
}

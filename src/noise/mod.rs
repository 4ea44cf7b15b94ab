//! z(seed, tensor, index): the random direction, a pure function, never stored.
//!
//! Counter-based: Threefry-2x32 with 13 rounds (Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as
//! 1, 2, 3", SC 2011; 13 is the smallest number of rounds that passes BigCrush) gives two 32-bit words for each
//! counter, and Box-Muller turns each word into two normals. The key is a hash of the seed and of the parameter's *name*, so
//! freezing, sharding or reordering parameters changes nobody else's noise, and threads can start anywhere.
//!
//! A word's upper 20 bits are the radius, its lower 12 the angle. So |z| reaches 5.39, beyond which a normal is once in 14 million
//! times; and the mean of a polynomial of cosine and sine over 4,096 angles is that over the circle, up to the 4,095th degree. Its
//! moments are a normal's to a millionth.
//!
//! Elements are drawn in groups of [`GROUP`]: element j and element j + GROUP/2 of a group are the two of one word.
//! Logarithm, sine and cosine are polynomials with every multiply-add fused, so scalar, AVX2 and AVX-512 code give the same bits.

mod passes;
mod term;

use crate::element::Element;

pub use passes::{Held, Kernel, Leg, SCRATCH_BYTES, displace, gram, update, walk};
pub use term::{Direction, Term, gather, scaled};

/// Elements drawn together; a run of elements can start at any multiple of it.
pub const GROUP: usize = 128;
const HALF: usize = GROUP / 2;
const _: () = assert!(HALF == 2 * TOGETHER, "a word for two elements");

/// The generator's key for one direction on one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    words: [u32; 2],
    direction: Direction,
}

/// A tensor's part of the key: FNV-1a of its name.
pub fn tensor_id(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection of 64 bits.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The seed of direction `direction` of step `step` in the run seeded `run_seed`: a pure function of the three.
pub fn direction_seed(run_seed: u64, step: u64, direction: u64) -> u64 {
    mix(mix(mix(run_seed) ^ step) ^ direction)
}

impl Key {
    /// For a fixed tensor and kind this is a bijection of the seed: no two seeds share a direction.
    pub fn new(direction: Direction, seed: u64, tensor_id: u64) -> Self {
        match direction {
            Direction::Gaussian => Key::of(seed, tensor_id),
            // Words of their own, so that the signs of a seed tell nothing of its Gaussian direction.
            Direction::Rademacher => Key { direction, ..Key::of(mix(mix(!seed)), tensor_id) },
        }
    }

    fn of(seed: u64, tensor_id: u64) -> Self {
        let key = mix(mix(seed) ^ tensor_id);
        Key { words: [key as u32, (key >> 32) as u32], direction: Direction::Gaussian }
    }

    /// For rounding at random: words that no direction is made of.
    pub fn of_rounding(seed: u64, tensor_id: u64) -> Self {
        Key::of(mix(!seed), tensor_id)
    }

    /// The key as the generator takes it.
    pub fn words(self) -> [u32; 2] {
        self.words
    }
}

/// Counters that the generator enciphers together: a round is a chain of four dependent operations, and so many chains side by side
/// fill a processor's units with any width of vector.
const TOGETHER: usize = 32;

/// Threefry-2x32-13: `N` counters from `first` on, of which the low word must not carry, enciphered under `key`: each counter's first
/// word, then each one's second.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "counters, not indices")]
pub fn threefry<const N: usize>(key: [u32; 2], first: [u32; 2]) -> [[u32; N]; 2] {
    const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];
    let keys = [key[0], key[1], 0x1bd1_1bda ^ key[0] ^ key[1]];
    let (mut x0, mut x1) = ([0u32; N], [first[1].wrapping_add(keys[1]); N]);
    for j in 0..N {
        x0[j] = first[0].wrapping_add(j as u32).wrapping_add(keys[0]);
    }
    // Unrolled by hand in fours: a key is added after every fourth round.
    macro_rules! round {
        ($r:expr) => {
            for j in 0..N {
                x0[j] = x0[j].wrapping_add(x1[j]);
                x1[j] = x1[j].rotate_left(ROTATIONS[$r % 8]) ^ x0[j];
            }
        };
    }
    macro_rules! four {
        ($n:expr) => {
            round!(4 * $n);
            round!(4 * $n + 1);
            round!(4 * $n + 2);
            round!(4 * $n + 3);
            for j in 0..N {
                x0[j] = x0[j].wrapping_add(keys[($n + 1) % 3]);
                x1[j] = x1[j].wrapping_add(keys[($n + 2) % 3]).wrapping_add($n + 1);
            }
        };
    }
    four!(0);
    four!(1);
    four!(2);
    round!(12);
    [x0, x1]
}

/// -2 ln(u) for a normal u in (0, 1): to a millionth, and relatively so where it is near 0.
#[inline(always)]
fn minus_two_ln(u: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    // u = m * 2^e with m in [sqrt(1/2), sqrt(2)), x = m - 1.
    let bits = u.to_bits().wrapping_sub(SQRT_HALF);
    let e = ((bits as i32) >> 23) as f32;
    let x = f32::from_bits((bits & 0x007f_ffff).wrapping_add(SQRT_HALF)) - 1.0;
    // -2 ln(1 + x) = x p(x), p the minimax polynomial of its degree, in three short chains rather than a long one.
    let xx = x * x;
    let first = (-0.244_219_52f32).mul_add(x, 0.375_654_55);
    let second = (-0.409_095_1f32).mul_add(x, 0.497_935_86);
    let third = (-0.666_320_56f32).mul_add(x, 1.000_028);
    let p = first.mul_add(xx, second).mul_add(xx, third).mul_add(x, -2.000_001_7);
    e.mul_add(-2.0 * std::f32::consts::LN_2, p * x)
}

/// sqrt(-2 ln u), u uniform in (0, 1), of a word's upper 20 bits: the radius of Box and Muller (1958).
#[inline(always)]
fn radius(word: u32) -> f32 {
    const STEP: f32 = 1.0 / (1 << 20) as f32;
    minus_two_ln(((word >> 12) as i32 as f32).mul_add(STEP, 0.5 * STEP)).sqrt()
}

/// (cos a, sin a) of an angle uniform over the circle, of a word's lower 12 bits: nine say where it lies in an eighth of the circle,
/// three which eighth that is, by an exchange and two signs.
#[inline(always)]
fn unit_vector(word: u32) -> (f32, f32) {
    const STEP: f32 = std::f32::consts::FRAC_PI_4 / 512.0;
    let a = ((word & 0x1ff) as i32 as f32).mul_add(STEP, 0.5 * STEP);
    let aa = a * a;
    // Minimax polynomials on [0, pi/4].
    let s = 8.151_636e-3f32.mul_add(aa, -1.666_248e-1).mul_add(aa, 9.999_986e-1);
    let c = (-1.358_590_8e-3f32).mul_add(aa, 4.165_502_5e-2).mul_add(aa, -4.999_985_6e-1);
    let (sin, cos) = (s * a, c.mul_add(aa, 1.0));
    let (first, second) = if word & (1 << 9) == 0 { (cos, sin) } else { (sin, cos) };
    (signed(first, word << 21), signed(second, word << 20))
}

/// The words of [`TOGETHER`] counters from `first` on, a multiple of it: each one's first, then each one's second.
#[inline(always)]
fn draw_words(key: Key, first: u64) -> [[u32; TOGETHER]; 2] {
    threefry(key.words, [first as u32, (first >> 32) as u32])
}

/// A word for each of the `group`-th [`GROUP`] elements, in two halves.
#[inline(always)]
fn draw_a_word_each(key: Key, group: u64) -> [[u32; HALF]; 2] {
    let mut words = [[0u32; HALF]; 2];
    for n in 0..HALF / TOGETHER {
        let drawn = draw_words(key, group * HALF as u64 + (n * TOGETHER) as u64);
        for half in 0..2 {
            words[half][n * TOGETHER..][..TOGETHER].copy_from_slice(&drawn[half]);
        }
    }
    words
}

/// Half a word, 16 bits, for each of the `group`-th [`GROUP`] elements. No counter of [`draw_a_word_each`] is among these.
#[inline(always)]
fn draw_half_words(key: Key, group: u64, out: &mut [u32; GROUP]) {
    let words = draw_words(key, (1 << 63) | (group * TOGETHER as u64));
    let words = words.as_flattened();
    let (first, second) = out.split_at_mut(HALF);
    for j in 0..HALF {
        first[j] = words[j] & 0xffff;
        second[j] = words[j] >> 16;
    }
}

/// A direction as a pass draws it, group by group.
///
/// Of signs a word has 32, so one call of the generator is enough for several groups: its words are kept until a pass is beyond them.
struct Source {
    key: Key,
    /// Those of the counters that the signs of a group are made of.
    words: [u32; HALF],
    /// Which groups the words are for: those from so many times [`GROUPS_OF_SIGNS`] on. As many as there can be: none yet.
    block: u64,
    /// What brings the bit of a word that is the group's first sign to the highest place; its second is one more to the left.
    shift: u32,
}

/// Groups that the signs of [`HALF`] words are enough for.
const GROUPS_OF_SIGNS: u64 = 32 / 2;

/// The bit of an f32 that is its sign.
const SIGN: u32 = 1 << 31;

impl Source {
    fn new(key: Key) -> Self {
        Source { key, words: [0; HALF], block: u64::MAX, shift: 0 }
    }

    /// Turns to the `group`-th [`GROUP`] elements: normals are drawn to `z`; of signs the words are seen to.
    #[inline(always)]
    fn turn_to(&mut self, group: u64, z: &mut [f32; GROUP]) {
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
    fn add(&self, coeff: f32, z: &[f32; GROUP], sum: &mut [f32; GROUP]) {
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
    fn displace<T: Element>(&self, coeff: f32, z: &[f32; GROUP], from: &[T; GROUP], to: &mut [T; GROUP]) {
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
    fn draw(&mut self, group: u64, out: &mut [f32; GROUP]) {
        self.turn_to(group, out);
        if self.key.direction == Direction::Rademacher {
            out.fill(0.0);
            self.add(1.0, &[0.0; GROUP], out);
        }
    }
}

/// x, with its sign turned over where the highest bit is set.
#[inline(always)]
fn signed(x: f32, bits: u32) -> f32 {
    f32::from_bits(x.to_bits() ^ (bits & SIGN))
}

/// The `group`-th [`GROUP`] normals under a key.
///
/// Short loops rather than one long one: each is a chain of dependent operations, and the shorter it is, the more of its turns a
/// processor has in flight at once.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops over one index, as the definition has it")]
fn draw_normals(key: Key, group: u64, out: &mut [f32; GROUP]) {
    let words = draw_words(key, group * TOGETHER as u64);
    let words = words.as_flattened();
    let (first, second) = out.split_at_mut(HALF);
    let mut radii = [0f32; HALF];
    for j in 0..HALF {
        radii[j] = radius(words[j]);
    }
    for j in 0..HALF {
        let (cos, sin) = unit_vector(words[j]);
        first[j] = radii[j] * cos;
        second[j] = radii[j] * sin;
    }
}

/// Numbers uniform in [-1, 1): element `i` is a function of (seed, name, i). No direction is made of the same words.
pub fn uniform(seed: u64, name: &str, len: usize) -> Vec<f32> {
    let key = Key::of(mix(!mix(seed)), tensor_id(name));
    let word = |i: usize| {
        let words = draw_a_word_each(key, (i / GROUP) as u64);
        words[i % GROUP / HALF][i % HALF]
    };
    // 24 bits: every number is exact, and 1 is never rounded to.
    (0..len).map(|i| (word(i) >> 8) as f32 * (1.0 / (1 << 23) as f32) - 1.0).collect()
}

/// A Gaussian direction itself, for tests and for people who want to look at it: element `i` is z(seed, name, i).
pub fn direction(seed: u64, name: &str, len: usize) -> Vec<f32> {
    drawn(Direction::Gaussian, seed, name, len)
}

/// A direction of any kind itself.
pub fn drawn(direction: Direction, seed: u64, name: &str, len: usize) -> Vec<f32> {
    let mut z = vec![0f32; len];
    walk(&mut z, 0, &[Leg { scale: 0.0, terms: vec![(Key::new(direction, seed, tensor_id(name)), 1.0)], rounding: None }]);
    z
}

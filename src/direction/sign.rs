//! Random signs: one bit each.

/// Groups whose signs one call of the generator covers: 64 words of 32 bits, for 128 elements per group.
pub(crate) const GROUPS_PER_DRAW: u64 = 32 / 2;

/// The sign bit of an f32.
const SIGN: u32 = 1 << 31;

/// x, negated if the highest bit of `bits` is set.
#[inline(always)]
pub(crate) fn flip_sign(x: f32, bits: u32) -> f32 {
    f32::from_bits(x.to_bits() ^ (bits & SIGN))
}

//! Signs: one bit each.

/// Groups that the signs of [`HALF`] words are enough for.
pub(crate) const GROUPS_OF_SIGNS: u64 = 32 / 2;

/// The bit of an f32 that is its sign.
const SIGN: u32 = 1 << 31;

/// x, with its sign turned over where the highest bit is set.
#[inline(always)]
pub(crate) fn signed(x: f32, bits: u32) -> f32 {
    f32::from_bits(x.to_bits() ^ (bits & SIGN))
}

//! Seeds: of directions from the run's seed, of tensors from their names.

/// A tensor's part of the key: FNV-1a of its name.
pub fn tensor_id(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection on 64 bits.
pub fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Seed of direction number `direction` of `step`, a pure function of both and the run's seed.
pub fn direction_seed(run_seed: u64, step: u64, direction: u64) -> u64 {
    mix(mix(mix(run_seed) ^ step) ^ direction)
}

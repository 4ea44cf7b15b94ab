//! The unit of drawing: directions are drawn a group of elements at a time.

/// Elements per group; drawing starts at a multiple of it.
pub const GROUP: usize = 128;

pub(crate) const HALF: usize = GROUP / 2;

const _: () = assert!(HALF == 2 * COUNTERS, "a word for two elements");

/// Counters enciphered per call: a round is a chain of four dependent operations, and 32 independent chains fill a
/// processor's units at any vector width.
pub(crate) const COUNTERS: usize = 32;

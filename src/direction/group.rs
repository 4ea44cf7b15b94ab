//! How many numbers are drawn together.

/// Elements drawn together; a run of elements can start at any multiple of it.
pub const GROUP: usize = 128;

pub(crate) const HALF: usize = GROUP / 2;

const _: () = assert!(HALF == 2 * TOGETHER, "a word for two elements");

/// Counters that the generator enciphers together: a round is a chain of four dependent operations, and so many chains side by side
/// fill a processor's units with any width of vector.
pub(crate) const TOGETHER: usize = 32;

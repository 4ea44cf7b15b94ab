//! The ranges of numeric options.

use std::fmt;

use anyhow::Result;

/// Larger than any use, and small enough that counters do not overflow.
pub(super) const MOST_STEPS: u64 = 1 << 40;

pub(super) const MOST_ROWS: usize = 1 << 40;

pub(super) const MOST_BATCH: usize = 1 << 20;

pub(super) const MOST_DIRECTIONS: usize = 1 << 20;

pub(super) const MOST_TOKENS: usize = 1 << 24;

/// Fails unless the number, if given, is between `least` and `most`.
pub(super) fn within<N: PartialOrd + fmt::Display>(name: &str, value: Option<N>, least: N, most: N) -> Result<()> {
    match value {
        Some(n) if n < least => Err(usage!("`{name}` {n}: it must be at least {least}")),
        Some(n) if n > most => Err(usage!("`{name}` {n}: the maximum is {most}")),
        _ => Ok(()),
    }
}

pub(super) fn positive(name: &str, value: Option<usize>) -> Result<()> {
    within(name, value, 1, usize::MAX)
}

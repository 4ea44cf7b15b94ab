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
pub(super) fn within<N: PartialOrd + fmt::Display>(flag: &str, value: Option<N>, least: N, most: N) -> Result<()> {
    match value {
        Some(n) if n < least => Err(usage!("{flag} {n}: it must be at least {least}")),
        Some(n) if n > most => Err(usage!("{flag} {n}: {most} is the most")),
        _ => Ok(()),
    }
}

pub(super) fn positive(flag: &str, value: Option<usize>) -> Result<()> {
    within(flag, value, 1, usize::MAX)
}

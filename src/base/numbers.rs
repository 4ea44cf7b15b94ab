//! Parsing of numbers on the command line.

use anyhow::Result;

/// Parses a finite number; JSON cannot represent NaN and infinities.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| "it must be a finite number".into())
}

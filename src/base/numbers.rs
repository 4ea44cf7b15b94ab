//! Numbers as they are typed.

use anyhow::Result;

/// A number typed in: finite, because what is not would be lost on its way through JSON.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| "it must be a finite number".into())
}

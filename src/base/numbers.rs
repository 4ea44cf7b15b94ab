//! Numbers as they are typed, and as people read them.

use anyhow::Result;

/// Parses a finite number; JSON cannot represent NaN and infinities.
pub(crate) fn number(text: &str) -> Result<f64, String> {
    text.parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(|| "it must be a finite number".into())
}

/// A number with three significant digits: 1e-4, 1.38e-5, 0.
pub(crate) fn short(x: f64) -> String {
    let text = format!("{x:.2e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    if exponent == "0" { digits.to_string() } else { format!("{digits}e{exponent}") }
}

/// ln sum e^score
pub fn log_sum_exp(scores: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    // The C library's exp and log differ between machines.
    max + libm::log(scores.map(|score| libm::exp(score - max)).sum::<f64>())
}

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

/// A number of any size with four significant digits: 4988, 0.09568, 3.210e-7.
pub(crate) fn significant(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        size if (1e-3..1e5).contains(&size) => format!("{x:.*}", (3 - size.log10().floor() as i32).max(0) as usize),
        _ => format!("{x:.3e}"),
    }
}

/// ln sum e^score
pub fn log_sum_exp(scores: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = scores.clone().fold(f64::NEG_INFINITY, f64::max);
    // The C library's exp and log differ between machines.
    max + libm::log(scores.map(|score| libm::exp(score - max)).sum::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_any_size_have_four_digits() {
        for (x, expected) in [
            (0.0, "0"),
            (4987.6, "4988"),
            (0.095678, "0.09568"),
            (1.0, "1.000"),
            (-12.3456, "-12.35"),
            (3.21e-7, "3.210e-7"),
            (2.5e9, "2.500e9"),
            (99999.6, "100000"),
        ] {
            assert_eq!(significant(x), expected);
        }
    }
}

//! Options as f32, the precision of the arithmetic.

/// 1 - beta rounded to 6 decimals, for display.
pub(super) fn one_minus(beta: f32) -> f64 {
    (1e6 * (1.0 - f64::from(beta))).round() / 1e6
}

/// An option in f32, or its default.
pub(super) fn f32_or(given: Option<f64>, default: f32) -> f32 {
    given.map_or(default, |x| x as f32)
}

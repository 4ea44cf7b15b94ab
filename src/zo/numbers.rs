//! RawArgs as numbers of f32, in which the arithmetic is done.

/// 1 - beta, as people write it.
pub(super) fn one_minus(beta: f32) -> f64 {
    (1e6 * (1.0 - f64::from(beta))).round() / 1e6
}

/// A knob in f32.
pub(super) fn f32_or(given: Option<f64>, default: f32) -> f32 {
    given.map_or(default, |x| x as f32)
}

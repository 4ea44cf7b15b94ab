//! TODO

use super::simd;

vectorize! {
    /// x <- cap tanh(factor x / cap)
    pub fn cap(xs: &mut [f32], factor: f32, cap: f32) {
        let factor = factor / cap;
        for x in xs {
            *x = cap * simd::tanh(factor * *x);
        }
    }
}

vectorize! {
    /// What goes into [`cap`] in, its derivatives with respect to factor x out.
    pub fn cap_slopes(xs: &mut [f32], factor: f32, cap: f32) {
        let factor = factor / cap;
        for x in xs {
            *x = simd::tanh_slope(factor * *x);
        }
    }
}

//! Soft caps: cap tanh(x / cap).

use rayon::prelude::*;

use super::activation::CHUNK;

use super::simd;

/// cap tanh(x / cap) of each number, in place, by all threads.
pub fn cap_all(xs: &mut [f32], limit: f32) {
    xs.par_chunks_mut(CHUNK).for_each(|chunk| cap(chunk, 1.0, limit));
}

/// dx: what goes into [`cap_all`] in, its derivative times dy out, by all threads.
pub fn differentiate_cap(dx: &mut [f32], dy: &[f32], limit: f32) {
    dx.par_chunks_mut(CHUNK).zip(dy.par_chunks(CHUNK)).for_each(|(dx, dy)| {
        cap_slopes(dx, 1.0, limit);
        dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx *= dy);
    });
}

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

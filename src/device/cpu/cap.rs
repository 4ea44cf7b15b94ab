//! Soft caps: cap tanh(x / cap).

use rayon::prelude::*;

use super::activation::CHUNK;

use super::math;

/// cap tanh(x / cap) elementwise, in place, on all threads.
pub fn cap_all(xs: &mut [f32], limit: f32) {
    xs.par_chunks_mut(CHUNK).for_each(|chunk| cap(chunk, 1.0, limit));
}

/// dx: on entry the input of [`cap_all`], on return its derivative times dy; on all threads.
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
            *x = cap * math::tanh(factor * *x);
        }
    }
}

vectorize! {
    /// On entry the input of [`cap`], on return the derivatives with respect to factor x.
    pub fn cap_slopes(xs: &mut [f32], factor: f32, cap: f32) {
        let factor = factor / cap;
        for x in xs {
            *x = math::tanh_slope(factor * *x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors are relative to the score, not to the cap, even for scores far below the cap.
    #[test]
    fn capped_scores_keep_their_digits() {
        let xs: Vec<f32> = (0..7000).map(|i| 1e-6 * 10f32.powf(i as f32 / 750.0)).flat_map(|x| [x, -x]).collect();
        for cap in [30f32, 50.0] {
            let (mut ys, mut slopes) = (xs.clone(), xs.clone());
            cap_all(&mut ys, cap);
            differentiate_cap(&mut slopes, &vec![1.0; xs.len()], cap);
            for ((x, y), slope) in xs.iter().zip(ys).zip(slopes) {
                let a = f64::from(*x) / f64::from(cap);
                let (exact, exact_slope) = (f64::from(cap) * a.tanh(), 1.0 / a.cosh().powi(2));
                assert!((f64::from(y) / exact - 1.0).abs() < 1e-6, "cap {cap} of {x} is {y}, not {exact}");
                // Underflow gives 0. Rounding the argument adds a relative error proportional to it.
                let (found, within) = (f64::from(slope), 1e-6 * (1.0 + a.abs()) * exact_slope + 1e-37);
                assert!((found - exact_slope).abs() < within, "the slope of cap {cap} at {x} is {slope}, not {exact_slope}");
            }
        }
    }
}

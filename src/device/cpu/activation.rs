//! Elementwise activation functions and their derivatives.

use super::math;
use rayon::prelude::*;

use crate::device::Activation;

/// Elements per job.
pub const CHUNK: usize = 1 << 14;

/// Applies the activation elementwise, in place, on all threads.
pub fn activate_all(xs: &mut [f32], activation: Activation) {
    xs.par_chunks_mut(CHUNK).for_each(|chunk| activate(chunk, activation));
}

/// dy <- dy times the activation's derivative at x, on all threads.
pub fn multiply_all_by_slope(dy: &mut [f32], x: &[f32], activation: Activation) {
    dy.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(dy, x)| multiply_by_slope(dy, x, activation));
}

vectorize! {
    /// Applies the activation elementwise, in place.
    pub fn activate(xs: &mut [f32], activation: Activation) {
        // Loops, because iterator adaptors would be compiled for the baseline and called.
        match activation {
            Activation::None => {}
            Activation::Relu => {
                for x in xs {
                    *x = if *x < 0.0 { 0.0 } else { *x };
                }
            }
            Activation::Gelu => {
                for x in xs {
                    // In f64: far below 0, 1 + erf cancels.
                    let cdf = 0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(*x) * std::f64::consts::FRAC_1_SQRT_2));
                    *x *= cdf as f32;
                }
            }
            Activation::GeluNew => {
                for x in xs {
                    let inner = 0.797_884_6 * *x * (*x * *x).mul_add(0.044_715, 1.0);
                    // (1 + tanh a) / 2 = 1 / (1 + e^-2a), accurate far below 0 too
                    *x /= 1.0 + math::exp(-2.0 * inner);
                }
            }
            Activation::Silu => {
                for x in xs {
                    *x /= 1.0 + math::exp(-*x);
                }
            }
        }
    }
}

vectorize! {
    /// dy <- dy times the activation's derivative at x.
    pub fn multiply_by_slope(dy: &mut [f32], x: &[f32], activation: Activation) {
        match activation {
            Activation::None => {}
            Activation::Relu => {
                for i in 0..dy.len() {
                    dy[i] = if x[i] > 0.0 { dy[i] } else { 0.0 };
                }
            }
            Activation::Gelu => {
                for i in 0..dy.len() {
                    let cdf = 0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(x[i]) * std::f64::consts::FRAC_1_SQRT_2));
                    let density = 0.398_942_3 * math::exp(-0.5 * x[i] * x[i]);
                    dy[i] *= x[i].mul_add(density, cdf as f32);
                }
            }
            Activation::GeluNew => {
                for i in 0..dy.len() {
                    let (x, xx) = (x[i], x[i] * x[i]);
                    let inner = 0.797_884_6 * x * xx.mul_add(0.044_715, 1.0);
                    let half = 1.0 / (1.0 + math::exp(-2.0 * inner));
                    // d/dx [x h] = h + 2 x h (1 - h) d inner/dx, h = (1 + tanh inner) / 2
                    dy[i] *= half + 2.0 * x * half * (1.0 - half) * 0.797_884_6 * xx.mul_add(0.134_145, 1.0);
                }
            }
            Activation::Silu => {
                for i in 0..dy.len() {
                    let sigmoid = 1.0 / (1.0 + math::exp(-x[i]));
                    dy[i] *= sigmoid * (1.0 + x[i] * (1.0 - sigmoid));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Relative to f64, for values, and for slopes except near their zeros. Far below 0 both are small, so their formulas
    /// must not subtract larger numbers.
    #[test]
    fn activations_keep_their_digits() {
        use std::f64::consts::{FRAC_1_SQRT_2, PI};
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let cdf = |x: f64| 0.5 * libm::erfc(-x * FRAC_1_SQRT_2);
        let inner = |x: f64| (2.0 / PI).sqrt() * (x + 0.044715 * x * x * x);
        type Exact<'a> = &'a dyn Fn(f64) -> (f64, f64);
        let silu: Exact = &|x| (x * sigmoid(x), sigmoid(x) * (1.0 + x * sigmoid(-x)));
        let gelu: Exact = &|x| (x * cdf(x), cdf(x) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt());
        let gelu_new: Exact = &|x| {
            let (half, other) = (sigmoid(2.0 * inner(x)), sigmoid(-2.0 * inner(x)));
            (x * half, half + 2.0 * x * half * other * (2.0 / PI).sqrt() * (1.0 + 0.134145 * x * x))
        };
        // candle's erf in f64 limits the range: 1 + erf cancels below.
        for (activation, exact, lowest) in
            [(Activation::Silu, silu, -40.0), (Activation::Gelu, gelu, -4.5), (Activation::GeluNew, gelu_new, -5.0)]
        {
            let xs: Vec<f32> =
                (0..4000).map(|i| lowest + (10.0 - lowest) * i as f32 / 4000.0).chain([1e-30, -1e-20]).collect();
            let (mut ys, mut slopes) = (xs.clone(), vec![1f32; xs.len()]);
            activate(&mut ys, activation);
            multiply_by_slope(&mut slopes, &xs, activation);
            for ((x, y), slope) in xs.iter().zip(&ys).zip(&slopes) {
                let (exact, exact_slope) = exact(f64::from(*x));
                // Rounding the argument adds an error proportional to the function's steepness.
                let within = 2e-6 * (1.0 + f64::from(x.abs()).powi(2));
                assert!((f64::from(*y) - exact).abs() <= within * exact.abs(), "{activation:?} of {x} is {y}, not {exact}");
                let within = 4.0 * within * exact_slope.abs().max(exact.abs());
                assert!(
                    (f64::from(*slope) - exact_slope).abs() <= within,
                    "the slope of {activation:?} at {x} is {slope}, not {exact_slope}"
                );
            }
        }
    }
}

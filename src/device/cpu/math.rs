//! Elementary functions and sums over rows, with the same bits on every instruction set.

/// e^x, to about 2 ulp on [-87, 88]; 0 below, e^88 above.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer in the low bits
    let small = x < -87.0;
    let x = if x > 88.0 { 88.0 } else { x };
    let x = if small { -87.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-1.428_606_8e-6, n.mul_add(-0.693_145_75, x));
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_6e-1);
    p = p.mul_add(r, 0.5);
    let e = (p * r).mul_add(r, r) + 1.0;
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if small { 0.0 } else { e * scale }
}

/// tanh x, to about 2 ulp everywhere: a polynomial for small x (Cephes' tanhf), where 1 - 2 / (e^2x + 1) cancels.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let a = x.abs();
    let z = x * x;
    let mut p = -5.704_988_7e-3f32;
    p = p.mul_add(z, 2.063_909e-2);
    p = p.mul_add(z, -5.373_971_6e-2);
    p = p.mul_add(z, 1.333_144_2e-1);
    p = p.mul_add(z, -3.333_328e-1);
    let small = (p * z).mul_add(a, a);
    let large = 1.0 - 2.0 / (exp(2.0 * a) + 1.0);
    (if a < 0.625 { small } else { large }).copysign(x)
}

/// The derivative of tanh at x, 1 / cosh^2 x, to a few ulp; 0 beyond 43.
#[inline(always)]
pub fn tanh_slope(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    let half = 1.0 / (1.0 + e);
    4.0 * e * (half * half)
}

/// Sum of `f` over `xs`, in 16 partial sums on every instruction set, which gives the same bits.
#[inline(always)]
pub fn sum(xs: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; 16];
    let chunks = xs.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += f(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(*x);
    }
    fold(lanes)
}

/// Inner product of `xs` and `ys`, of equal length, in 16 partial sums.
#[inline(always)]
pub fn dot(xs: &[f32], ys: &[f32]) -> f32 {
    let mut lanes = [0f32; 16];
    let (xs, ys) = (xs.chunks_exact(16), ys.chunks_exact(16));
    for (lane, (x, y)) in lanes.iter_mut().zip(xs.remainder().iter().zip(ys.remainder())) {
        *lane = x * y;
    }
    for (x, y) in xs.zip(ys) {
        for j in 0..16 {
            lanes[j] = x[j].mul_add(y[j], lanes[j]);
        }
    }
    fold(lanes)
}

#[inline(always)]
fn fold(mut lanes: [f32; 16]) -> f32 {
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// Maximum of `xs`, ignoring NaN like [`f32::max`].
#[inline(always)]
pub fn max(xs: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = xs.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    let mut largest = f32::NEG_INFINITY;
    for x in rest.iter().chain(&lanes) {
        largest = if *x > largest { *x } else { largest };
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::simd::{machines, on};

    vectorize! {
        fn exp_all(xs: &mut [f32]) {
            for x in xs { *x = exp(*x); }
        }
    }

    vectorize! {
        fn tanh_all(xs: &mut [f32], slopes: &mut [f32]) {
            for i in 0..xs.len() {
                slopes[i] = tanh_slope(xs[i]);
                xs[i] = tanh(xs[i]);
            }
        }
    }

    /// Relative error, down to the smallest normal numbers.
    #[test]
    fn tanh_and_its_slope_keep_their_digits() {
        let powers = (0..40_000).map(|i| 1.2e-38 * 10f32.powf(i as f32 / 1000.0)).filter(|x| *x < 41.0);
        let around_1 = (0..40_000).map(|i| i as f32 / 4000.0);
        let xs: Vec<f32> = powers.chain(around_1).flat_map(|x| [x, -x]).collect();
        let (mut fast, mut slopes) = (xs.clone(), xs.clone());
        tanh_all(&mut fast, &mut slopes);
        let (mut worst, mut worst_slope) = (0f64, 0f64);
        for ((x, y), slope) in xs.iter().zip(&fast).zip(&slopes) {
            let exact = f64::from(*x).tanh();
            let exact_slope = 1.0 / f64::from(*x).cosh().powi(2);
            worst = worst.max((f64::from(*y) - exact).abs() / exact.abs().max(1e-300));
            worst_slope = worst_slope.max((f64::from(*slope) - exact_slope).abs() / exact_slope);
            assert_eq!(y.to_bits(), tanh(*x).to_bits(), "tanh({x}) differs between vector and scalar code");
            assert_eq!(slope.to_bits(), tanh_slope(*x).to_bits(), "the slope at {x} differs between vector and scalar code");
        }
        assert!(worst < 2.5e-7 && worst_slope < 6e-7, "tanh is off by {worst:e} of itself, its slope by {worst_slope:e}");
        assert_eq!([tanh(f32::INFINITY), tanh(f32::NEG_INFINITY), tanh_slope(f32::INFINITY)], [1.0, -1.0, 0.0]);
        assert!(tanh(f32::NAN).is_nan() && tanh(-0.0).to_bits() == (-0.0f32).to_bits());
    }

    #[test]
    fn exp_agrees_with_libm_and_has_the_same_bits_on_every_path() {
        let xs: Vec<f32> = (0..200_000).map(|i| -86.9 + 174.8 * i as f32 / 200_000.0).collect();
        for machine in machines() {
            let mut fast = xs.clone();
            on(machine, 1, || exp_all(&mut fast)).unwrap();
            for (x, y) in xs.iter().zip(&fast) {
                let exact = f64::from(*x).exp();
                assert!((f64::from(*y) - exact).abs() <= 3e-7 * exact, "exp({x}) = {y}, not {exact}");
                assert_eq!(y.to_bits(), exp(*x).to_bits(), "exp({x}) differs between {machine:?} and scalar code");
            }
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }
}

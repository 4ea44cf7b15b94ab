//! Storage precisions of weights. Arithmetic is in f32; the conversions are written so that they vectorise.

use bytemuck::Pod;
use half::{bf16, f16};

/// A storage precision of weights.
pub trait Element: Copy + Pod + Send + Sync {
    /// To f32, exactly.
    fn widen(self) -> f32;
    /// From f32 by round to nearest, ties to even.
    fn narrow(x: f32) -> Self;
    /// From f32 by stochastic rounding: to a neighbour, with expectation x; a representable number is unchanged. `random` is
    /// uniform over 16 bits.
    fn narrow_at_random(x: f32, random: u32) -> Self;
    /// Whether every f32 is representable.
    const EXACT: bool;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        x
    }
    #[inline(always)]
    fn narrow_at_random(x: f32, _random: u32) -> Self {
        x
    }
    const EXACT: bool = true;
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    /// NaN stays NaN.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        let result = if x.is_nan() { bits | 0x0040_0000 } else { rounded };
        bf16::from_bits((result >> 16) as u16)
    }
    /// Adds 16 random bits below the last bit kept and truncates. NaN stays NaN.
    #[inline(always)]
    fn narrow_at_random(x: f32, random: u32) -> Self {
        let bits = x.to_bits();
        let result = if x.is_nan() { bits | 0x0040_0000 } else { bits.wrapping_add(random) };
        bf16::from_bits((result >> 16) as u16)
    }
    const EXACT: bool = false;
}

/// Difference of the exponent biases of f32 and f16, at f32's exponent position.
const REBIAS: u32 = (127 - 15) << 23;

impl Element for f16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        const LARGEST_EXPONENT: u32 = 0x0f80_0000;
        let bits = u32::from(self.to_bits());
        let (sign, magnitude) = ((bits & 0x8000) << 16, (bits & 0x7fff) << 13);
        let normal = magnitude + REBIAS;
        // Subnormal: raise the exponent by one, which adds an implicit bit, and subtract that bit's value.
        let small = (f32::from_bits(normal + (1 << 23)) - f32::from_bits(REBIAS + (1 << 23))).to_bits();
        let wide = if magnitude < 1 << 23 { small } else { normal };
        // Infinity and NaN: the exponent is all ones in both formats.
        let wide = if magnitude >= LARGEST_EXPONENT { wide + REBIAS } else { wide };
        f32::from_bits(wide | sign)
    }
    /// NaN stays NaN; overflow gives infinity.
    #[inline(always)]
    fn narrow(x: f32) -> Self {
        const TOO_LARGE: u32 = (127 + 16) << 23;
        const SMALLEST_NORMAL: u32 = (127 - 14) << 23;
        // Adding it rounds to a subnormal f16, whose bits are then the lowest of the sum.
        const MAGIC: u32 = (127 - 15 + 23 - 10 + 1) << 23;
        let bits = x.to_bits();
        let (sign, magnitude) = (bits & 0x8000_0000, bits & 0x7fff_ffff);
        let small = (f32::from_bits(magnitude) + f32::from_bits(MAGIC)).to_bits().wrapping_sub(MAGIC);
        let normal = magnitude.wrapping_sub(REBIAS).wrapping_add(0xfff + ((magnitude >> 13) & 1)) >> 13;
        let narrow = if magnitude < SMALLEST_NORMAL { small } else { normal };
        let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
        let narrow = if magnitude >= TOO_LARGE { special } else { narrow };
        f16::from_bits((narrow | sign >> 16) as u16)
    }
    /// As for bf16; subnormal results, whose spacing is 2^-24, in fixed point. NaN stays NaN.
    #[inline(always)]
    fn narrow_at_random(x: f32, random: u32) -> Self {
        const TOO_LARGE: u32 = (127 + 16) << 23;
        const SMALLEST_NORMAL: u32 = (127 - 14) << 23;
        let bits = x.to_bits();
        let (sign, magnitude) = (bits & 0x8000_0000, bits & 0x7fff_ffff);
        let fixed = f32::from_bits(magnitude.min(SMALLEST_NORMAL)) * (1u64 << 40) as f32;
        // SAFETY: `fixed` is in [0, 2^26] for every x. (`as` would add checks for NaN and overflow.)
        let small = (unsafe { fixed.to_int_unchecked::<i32>() } as u32 + random) >> 16;
        let normal = (magnitude.wrapping_sub(REBIAS).wrapping_add(random >> 3)) >> 13;
        let narrow = if magnitude < SMALLEST_NORMAL { small } else { normal };
        let special = if magnitude > 0x7f80_0000 { 0x7e00 } else { 0x7c00 };
        let narrow = if magnitude >= TOO_LARGE { special } else { narrow };
        f16::from_bits((narrow | sign >> 16) as u16)
    }
    const EXACT: bool = false;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::convert::convert;

    #[test]
    fn every_half_widens_as_the_half_crate_says() {
        for bits in 0..=u16::MAX {
            let (a, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            assert!(a.widen().to_bits() == a.to_f32().to_bits() || a.is_nan() && a.widen().is_nan(), "f16 {bits:04x}");
            assert!(b.widen().to_bits() == b.to_f32().to_bits() || b.is_nan() && b.widen().is_nan(), "bf16 {bits:04x}");
            // A round trip gives the same number, in slices and alone.
            let mut back = [f16::ZERO; 3];
            convert(&[a.widen(); 3], &mut back);
            assert!(back == [a; 3] && back[0].to_bits() == bits || a.is_nan() && back[2].is_nan(), "f16 {bits:04x}");
        }
    }

    /// Round to nearest, ties to even, as the half crate does.
    #[test]
    fn f32_narrows_as_the_half_crate_says() {
        let halfway = (0..=u16::MAX).map(|h| f16::from_bits(h).to_f32().to_bits().wrapping_add(1 << 12));
        for bits in (0..u32::MAX - 9973).step_by(9973).chain(halfway) {
            let x = f32::from_bits(bits);
            let (ours, theirs) = (<bf16 as Element>::narrow(x), bf16::from_f32(x));
            assert!(ours == theirs || x.is_nan() && ours.is_nan(), "{x:e}: {ours:?}, not {theirs:?}");
            let (ours, theirs) = (<f16 as Element>::narrow(x), f16::from_f32(x));
            assert!(ours.to_bits() == theirs.to_bits() || x.is_nan() && ours.is_nan(), "{x:e}: {ours:?}, not {theirs:?}");
        }
    }

    /// Over all 65,536 random numbers the mean is x, and each result is a neighbour of x.
    fn stochastic_rounding_is_unbiased<T: Element>(numbers: &[f32], precision: f64) {
        for &x in numbers {
            let results: Vec<f32> = (0..1 << 16).map(|random| T::narrow_at_random(x, random).widen()).collect();
            let mean = results.iter().map(|r| f64::from(*r)).sum::<f64>() / 65_536.0;
            let (low, high) = results.iter().fold((f32::MAX, f32::MIN), |(a, b), r| (a.min(*r), b.max(*r)));
            let spacing = f64::from(high) - f64::from(low);
            assert!((mean - f64::from(x)).abs() <= precision * spacing, "{x:e}: mean {mean:e}, spacing {spacing:e}");
            assert!(low <= x && x <= high && results.iter().all(|r| *r == low || *r == high), "{x:e}");
            let nearest = T::narrow(x).widen();
            assert!(nearest == low || nearest == high, "{x:e}");
            let itself = T::narrow(x);
            assert!(itself.widen() != x || spacing == 0.0, "{x:e} can be held");
        }
        for x in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (a, b) = (T::narrow_at_random(x, 0).widen(), T::narrow_at_random(x, 0xffff).widen());
            assert!(a.to_bits() == b.to_bits() && (a == x || a.is_nan() && x.is_nan()), "{x}: {a} and {b}");
        }
    }

    #[test]
    fn rounding_at_random_keeps_the_mean() {
        let numbers = [1.0f32, 1.001, -3.1, 0.02, -0.0199, 1e-8, 7.7e3, 0.0, -0.0, 6.1e-5, 6.097e-5, -3.3e-6, 5.9e-8];
        stochastic_rounding_is_unbiased::<bf16>(&numbers, 1e-4);
        // f16 truncates 13 bits, so 13 random bits matter; subnormal results are truncated at 2^-40.
        stochastic_rounding_is_unbiased::<f16>(&numbers, 1e-4);
        stochastic_rounding_is_unbiased::<f32>(&numbers, 0.0);
    }
}

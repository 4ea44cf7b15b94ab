//! Fused multiply-adds on processors without a unit for them: the bits of `f32::mul_add`, which would call a library there
//! for every number, from operations on f64 that are vectorised.
//!
//! A product of two f32 is exact in f64. Its sum with a third is rounded there, and again to f32. The two roundings differ
//! from one only if the first ends halfway between two f32.

/// Whether the target has fused multiply-adds wherever it runs.
pub const HAS_UNIT: bool = cfg!(target_feature = "fma") || !cfg!(target_arch = "x86_64");

/// Products added between two checks.
const DEPTH: usize = 16;

/// a b + c, rounded once.
///
/// The sum in f64 is rounded to odd, which makes a second rounding harmless: Boldo and Melquiond, "Emulation of a FMA and
/// Correctly Rounded Sums: Proved Algorithms Using Rounding to Odd", IEEE Transactions on Computers, 2008.
#[inline(always)]
pub fn mul_add(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    // The sum's error, exactly (Knuth's TwoSum); its sign, relative to the sum's, says where the exact sum lies. NaN if the
    // sum is not finite, which then stays as it is.
    let part = sum - product;
    let error = (product - (sum - part)) + (c - part);
    let outwards = error * sum;
    let bits = if outwards < 0.0 { sum.to_bits() - 1 } else { sum.to_bits() };
    let bits = if (outwards < 0.0) | (outwards > 0.0) { bits | 1 } else { bits };
    f64::from_bits(bits) as f32
}

/// c [R, L] += A [R, k] B [k, L], each sum a chain of fused multiply-adds in the order of k. The strides are distances
/// between rows.
///
/// # Safety
/// The matrices have these sizes; no other thread accesses c meanwhile.
pub unsafe fn add_product<const R: usize, const L: usize>(
    k: usize,
    (a, a_stride): (*const f32, usize),
    (b, b_stride): (*const f32, usize),
    (c, c_stride): (*mut f32, usize),
) {
    let (mut narrow, mut wide) = ([[0f32; L]; DEPTH], [[0f64; L]; DEPTH]);
    for from in (0..k).step_by(DEPTH) {
        let deep = DEPTH.min(k - from);
        let mut is_plain = true;
        for i in 0..deep {
            // SAFETY: a row of B.
            narrow[i] = unsafe { b.add((from + i) * b_stride).cast::<[f32; L]>().read_unaligned() };
            for j in 0..L {
                is_plain &= is_factor(narrow[i][j]);
                wide[i][j] = f64::from(narrow[i][j]);
            }
        }
        for r in 0..R {
            // SAFETY: a part of a row of A, and a row of c.
            let (a, c) = unsafe {
                let a = std::slice::from_raw_parts(a.add(r * a_stride + from), deep);
                (a, &mut *c.add(r * c_stride).cast::<[f32; L]>())
            };
            if HAS_UNIT || !is_plain || !add_plain_row(a, &wide, c) {
                add_row(a, &narrow, c);
            }
        }
    }
}

/// c += a B for any numbers.
fn add_row<const L: usize>(a: &[f32], b: &[[f32; L]; DEPTH], c: &mut [f32; L]) {
    for (a, b) in a.iter().zip(b) {
        for j in 0..L {
            c[j] = if HAS_UNIT { a.mul_add(b[j], c[j]) } else { mul_add(*a, b[j], c[j]) };
        }
    }
}

/// 2^`exponent`.
const fn power(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << 23)
}

/// Whether products of such factors are multiples of 2^-149, f32's smallest number, and below 2^102, too little to round a
/// finite sum up beyond the largest.
#[inline(always)]
fn is_factor(x: f32) -> bool {
    (x == 0.0) | (x.abs() >= power(-51)) & (x.abs() < power(51))
}

/// c += a B for factors by [`is_factor`], at half the cost of [`add_row`]. Returns false, and leaves c, if a sum came to
/// lie halfway between two f32, or `a` has other numbers.
///
/// All sums are multiples of 2^-149: those below f32's normal numbers are exact, and rounding to f32 is rounding to 24 bits,
/// for which f64's bits are an integer.
#[inline(always)]
fn add_plain_row<const L: usize>(a: &[f32], b: &[[f64; L]; DEPTH], c: &mut [f32; L]) -> bool {
    /// Bits of an f64 beyond f32's.
    const BEYOND: u64 = (1 << 29) - 1;
    let mut is_plain = true;
    for a in a {
        is_plain &= is_factor(*a);
    }
    if !is_plain {
        return false;
    }
    let mut sums = [0f64; L];
    for j in 0..L {
        sums[j] = f64::from(c[j]);
    }
    // The highest bit is set by a sum halfway.
    let mut halfway = [0u64; L];
    for (a, b) in a.iter().zip(b) {
        let a = f64::from(*a);
        for j in 0..L {
            let raised = (a * b[j] + sums[j]).to_bits() + BEYOND.div_ceil(2);
            let beyond = raised & BEYOND;
            halfway[j] |= beyond.wrapping_sub(1);
            sums[j] = f64::from_bits(raised ^ beyond);
        }
    }
    if halfway.iter().fold(0, |all, one| all | one) >> 63 != 0 {
        return false;
    }
    for j in 0..L {
        c[j] = sums[j] as f32;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Random bits: SplitMix64.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Whether two results are the same: the same bits, or both NaN, whose bits no standard fixes.
    fn same(x: f32, y: f32) -> bool {
        x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan()
    }

    fn check(a: f32, b: f32, c: f32) {
        let (ours, exact) = (mul_add(a, b, c), a.mul_add(b, c));
        assert!(same(ours, exact), "{a:e} * {b:e} + {c:e} is {exact:e}, not {ours:e}");
    }

    #[test]
    fn a_product_and_a_sum_are_rounded_once() {
        let special = [0.0, f32::from_bits(1), f32::MIN_POSITIVE, 1.0, f32::MAX, f32::INFINITY, f32::NAN];
        let special: Vec<f32> = special.into_iter().flat_map(|x| [x, -x]).collect();
        for a in &special {
            for b in &special {
                special.iter().for_each(|c| check(*a, *b, *c));
            }
        }
        let mut state = 1;
        for _ in 0..2_000_000 {
            let (bits, more) = (random(&mut state), random(&mut state));
            let (a, b, c) = (f32::from_bits(bits as u32), f32::from_bits((bits >> 32) as u32), f32::from_bits(more as u32));
            // All patterns; a sum of the product's size; a product near f32's smallest numbers, and a sum of such.
            check(a, b, c);
            let exponent = (a * b).to_bits() >> 23 & 0xff;
            let near = exponent.saturating_add_signed((more >> 32) as i32 % 60).min(254);
            check(a, b, f32::from_bits(c.to_bits() & 0x807f_ffff | near << 23));
            let (small, tiny) = (2f32.powi(-(more as i32 & 0xf)), f32::from_bits((more >> 40) as u32));
            let factor = (1.0 + (a.to_bits() >> 9) as f32 * 2f32.powi(-23)) * small;
            check(factor, tiny, f32::from_bits(c.to_bits() & 0x80ff_ffff));
            // (1 + h) (1 - h) = 1 - h^2 is halfway between two numbers near 2^24, but for h^2, which f64 does not see.
            let h = 2f32.powi(-((more >> 32) as i32 & 0xf) - 9);
            let scale = 2f32.powi((more >> 40) as i32 & 0x3f);
            let sign = if more >> 48 & 1 == 0 { 1.0 } else { -1.0 };
            let large = f32::from_bits(c.to_bits() & 0x807f_ffff | 151 << 23) * scale;
            check(sign * (1.0 + h), (1.0 - h) * scale, large);
            check(sign, scale, large);
        }
    }

    /// Rows of numbers of each kind: the bits of `f32::mul_add` in order, whether the fast sums apply or not.
    #[test]
    fn a_product_of_matrices_has_the_bits_of_its_sums_in_order() {
        const K: usize = 75;
        type Kind = (&'static str, fn(u64) -> f32);
        let kinds: [Kind; 6] = [
            ("f32", |bits| bits as i32 as f32 * 2f32.powi(-31)),
            ("few bits, often halfway", |bits| (bits as i32 >> 22) as f32 * 2f32.powi((bits >> 32) as i32 & 0xf)),
            ("many sizes", |bits| f32::from_bits(bits as u32 & 0x87ff_ffff | 0x3800_0000)),
            ("with tiny products", |bits| f32::from_bits(bits as u32 & 0x87ff_ffff | 0x1c00_0000)),
            ("with huge products", |bits| f32::from_bits(bits as u32 & 0x87ff_ffff | 0x5800_0000)),
            ("any", |bits| f32::from_bits(bits as u32)),
        ];
        let mut state = 2;
        for (name, kind) in kinds {
            for _ in 0..200 {
                let mut numbers = |n: usize| -> Vec<f32> { (0..n).map(|_| kind(random(&mut state))).collect() };
                let (a, b, c) = (numbers(2 * K), numbers(8 * K), numbers(32));
                let c: Vec<f32> = c.chunks(2).map(|pair| pair[0] * pair[1]).collect();
                let mut found = c.clone();
                // SAFETY: the buffers have these sizes.
                unsafe { add_product::<2, 8>(K, (a.as_ptr(), K), (b.as_ptr(), 8), (found.as_mut_ptr(), 8)) };
                for (at, found) in found.iter().enumerate() {
                    let (r, j) = (at / 8, at % 8);
                    let exact = (0..K).fold(c[at], |sum, i| a[r * K + i].mul_add(b[i * 8 + j], sum));
                    assert!(same(*found, exact), "{name}: {found:e}, not {exact:e}");
                }
            }
        }
    }
}

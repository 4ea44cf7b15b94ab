//! Two normals per word: Box-Muller with polynomials.

use super::group::{COUNTERS, GROUP, HALF};
use super::key::Key;
use super::sign::flip_sign;
use super::threefry::draw_words;

/// -2 ln(u) for a normal (not subnormal) u in (0, 1): error 1e-6, absolute, and relative where the result is near 0.
#[inline(always)]
fn minus_two_ln(u: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    // u = m * 2^e with m in [sqrt(1/2), sqrt(2)), x = m - 1.
    let bits = u.to_bits().wrapping_sub(SQRT_HALF);
    let e = ((bits as i32) >> 23) as f32;
    let x = f32::from_bits((bits & 0x007f_ffff).wrapping_add(SQRT_HALF)) - 1.0;
    // -2 ln(1 + x) = x p(x) with p the minimax polynomial, evaluated in three short chains instead of one long one.
    let xx = x * x;
    let first = (-0.244_219_52f32).mul_add(x, 0.375_654_55);
    let second = (-0.409_095_1f32).mul_add(x, 0.497_935_86);
    let third = (-0.666_320_56f32).mul_add(x, 1.000_028);
    let p = first.mul_add(xx, second).mul_add(xx, third).mul_add(x, -2.000_001_7);
    e.mul_add(-2.0 * std::f32::consts::LN_2, p * x)
}

/// sqrt(-2 ln u), u uniform in (0, 1) from a word's upper 20 bits: the radius of Box and Muller (1958).
#[inline(always)]
fn radius(word: u32) -> f32 {
    const STEP: f32 = 1.0 / (1 << 20) as f32;
    minus_two_ln(((word >> 12) as i32 as f32).mul_add(STEP, 0.5 * STEP)).sqrt()
}

/// (cos a, sin a), a uniform on the circle from a word's lower 12 bits: nine give the angle within an octant, three select
/// the octant by a swap and two signs.
#[inline(always)]
fn unit_vector(word: u32) -> (f32, f32) {
    const STEP: f32 = std::f32::consts::FRAC_PI_4 / 512.0;
    let a = ((word & 0x1ff) as i32 as f32).mul_add(STEP, 0.5 * STEP);
    let aa = a * a;
    // Minimax polynomials on [0, pi/4].
    let s = 8.151_636e-3f32.mul_add(aa, -1.666_248e-1).mul_add(aa, 9.999_986e-1);
    let c = (-1.358_590_8e-3f32).mul_add(aa, 4.165_502_5e-2).mul_add(aa, -4.999_985_6e-1);
    let (sin, cos) = (s * a, c.mul_add(aa, 1.0));
    let (first, second) = if word & (1 << 9) == 0 { (cos, sin) } else { (sin, cos) };
    (flip_sign(first, word << 21), flip_sign(second, word << 20))
}

/// Draws the [`GROUP`] normals of group `group` under `key`.
///
/// Several short loops instead of one: the shorter an iteration's dependency chain, the more iterations are in flight.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "loops over one index, as the definition has it")]
pub(crate) fn draw_normals(key: Key, group: u64, out: &mut [f32; GROUP]) {
    let words = draw_words(key, group * COUNTERS as u64);
    let words = words.as_flattened();
    let (first, second) = out.split_at_mut(HALF);
    let mut radii = [0f32; HALF];
    for j in 0..HALF {
        radii[j] = radius(words[j]);
    }
    for j in 0..HALF {
        let (cos, sin) = unit_vector(words[j]);
        first[j] = radii[j] * cos;
        second[j] = radii[j] * sin;
    }
}

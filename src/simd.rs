//! Loops that the compiler turns into vector code, compiled once per instruction set and chosen at run time.
//!
//! A loop written as plain scalar Rust inside [`vectorize!`](crate::vectorize) is compiled three times: for AVX-512,
//! for AVX2 with FMA, and for the baseline of the target. Every multiply-add that matters is spelled `mul_add`, one
//! rounding on every path, so all three give **the same bits**. Nothing here needs `-C target-cpu`.

/// Defines `fn name(args)` whose body is compiled for each instruction set; the best one the machine has runs.
///
/// The body must be free of calls that are not `#[inline(always)]`, or they will not be vectorised with it.
#[macro_export]
macro_rules! vectorize {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($gen:tt)*])? ($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$($gen)*>)? ($($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            fn body $(<$($gen)*>)? ($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
                fn avx512 $(<$($gen)*>)? ($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($gen)*>)? ($($arg: $ty),*) $(-> $ret)? { body($($arg),*) }
                // SAFETY: each call is made only where the machine was found to have the features.
                match $crate::simd::level() {
                    $crate::simd::Level::Baseline => {}
                    $crate::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    _ => return unsafe { avx512($($arg),*) },
                }
            }
            body($($arg),*)
        }
    };
}

/// The instruction sets that the loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What the target guarantees.
    Baseline = 1,
    /// AVX2 with fused multiply-add: 8 lanes.
    Avx2 = 2,
    /// AVX-512 (F, BW, DQ, VL): 16 lanes.
    Avx512 = 3,
}

/// What a processor may have, beside AVX-512, for products of pairs of bf16 numbers that are added up in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairUnit {
    /// AVX512-BF16: a vector of 16 sums at a time.
    Vectors,
    /// AMX: a tile of 16 x 16 sums at a time.
    Tiles,
}

impl Level {
    /// As it is named to people.
    pub fn name(self) -> &'static str {
        match self {
            Level::Baseline => std::env::consts::ARCH,
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }
}

static LEVEL: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// The level in use: the best that the machine has, unless [`limit`] lowered it.
pub fn level() -> Level {
    use std::sync::atomic::Ordering::Relaxed;
    match LEVEL.load(Relaxed) {
        1 => Level::Baseline,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => {
            let found = detect();
            LEVEL.store(found as u8, Relaxed);
            found
        }
    }
}

/// Uses at most `most` from here on: how tests hold the paths against each other.
pub fn limit(most: Level) {
    LEVEL.store(detect().min(most) as u8, std::sync::atomic::Ordering::Relaxed);
}

fn detect() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if avx2 && avx512 {
            return Level::Avx512;
        }
        if avx2 {
            return Level::Avx2;
        }
    }
    Level::Baseline
}

/// The best unit for pairs that the machine has, looked for once.
pub fn pair_unit() -> Option<PairUnit> {
    static FOUND: std::sync::OnceLock<Option<PairUnit>> = std::sync::OnceLock::new();
    *FOUND.get_or_init(detect_pair_unit)
}

fn detect_pair_unit() -> Option<PairUnit> {
    #[cfg(target_arch = "x86_64")]
    if detect() == Level::Avx512 && is_x86_feature_detected!("avx512bf16") {
        return Some(if may_use_tiles() { PairUnit::Tiles } else { PairUnit::Vectors });
    }
    None
}

/// What computations run on, as it is named to people.
pub fn instruction_set() -> &'static str {
    match (level(), pair_unit()) {
        (Level::Avx512, Some(PairUnit::Vectors)) => "avx512 with bf16",
        (Level::Avx512, Some(PairUnit::Tiles)) => "avx512 with amx",
        (level, _) => level.name(),
    }
}

/// Whether the machine has AMX for bf16, and the operating system lets this process use it: it is asked here.
#[cfg(target_arch = "x86_64")]
fn may_use_tiles() -> bool {
    const TILES: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    if leaf.edx & TILES == 0 || leaf.edx & BF16 == 0 {
        return false;
    }
    #[cfg(target_os = "linux")]
    {
        // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): their registers are saved only for those who ask.
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: it asks for a permission and touches no memory.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Brings a line of memory into the caches, if there is one: a hint, which changes nothing.
#[inline(always)]
pub fn fetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: of any address; it does not fault.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// e^x, to about 2 units in the last place on [-87, 88]; below it 0, above it large and finite.
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

/// tanh x, to about 2 units in the last place whatever its size: of small numbers by a polynomial (Cephes' tanhf), for which
/// 1 - 2 / (e^2x + 1) would keep no more digits than 1 leaves.
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

/// The derivative of tanh at x, 1 / cosh^2 x, to a few units in the last place; 0 beyond 43.
#[inline(always)]
pub fn tanh_slope(x: f32) -> f32 {
    let e = exp(-2.0 * x.abs());
    let half = 1.0 / (1.0 + e);
    4.0 * e * (half * half)
}

/// Sum of `f` over `xs`, in 16 partial sums whatever the instruction set, so that it has the same bits on each.
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
    folded(lanes)
}

/// Sum of the products of `xs` and `ys`, of one length: in 16 partial sums too.
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
    folded(lanes)
}

#[inline(always)]
fn folded(mut lanes: [f32; 16]) -> f32 {
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest of `xs`; NaN are passed over, as [`f32::max`] does.
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

    /// Relative to the number itself, however small it is: from the smallest normal numbers on.
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
        let mut fast = xs.clone();
        exp_all(&mut fast);
        for (x, y) in xs.iter().zip(&fast) {
            let exact = f64::from(*x).exp();
            assert!((f64::from(*y) - exact).abs() <= 3e-7 * exact, "exp({x}) = {y}, not {exact}");
            assert_eq!(y.to_bits(), exp(*x).to_bits(), "exp({x}) differs between vector and scalar code");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }
}

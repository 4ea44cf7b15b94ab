//! Loops that the compiler turns into vector code, compiled once per instruction set and chosen at run time.
//!
//! A loop written as plain scalar Rust inside [`vectorize!`](crate::vectorize) is compiled three times: for AVX-512,
//! for AVX2 with FMA, and for the baseline of the target. Every multiply-add that matters is spelled `mul_add`, one
//! rounding on every path, so all three give **the same bits**. Nothing here needs `-C target-cpu`.
//!
//! `ZOTUNE_SIMD` holds a process to less than its machine has ([`check_environment`]), and [`on`] a piece of work: how the instruction sets are held
//! against each other. A thread's set is its own, so work that is held to one changes nothing for what runs beside it.

use std::cell::Cell;

use anyhow::{Context, Result, bail};

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
                match $crate::device::cpu::simd::level() {
                    $crate::device::cpu::simd::Level::Baseline => {}
                    $crate::device::cpu::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    _ => return unsafe { avx512($($arg),*) },
                }
            }
            body($($arg),*)
        }
    };
}

/// The instruction sets that the loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What the target guarantees.
    Baseline,
    /// AVX2 with fused multiply-add: 8 lanes.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL): 16 lanes.
    Avx512,
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

/// All that computations can run on: the loops' instruction set, and the unit for pairs of bf16. Each has what those before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Machine {
    /// What the target guarantees.
    Baseline = 1,
    /// AVX2 with fused multiply-add.
    Avx2 = 2,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512 = 3,
    /// AVX-512, and AVX512-BF16.
    Avx512Bf16 = 4,
    /// These, and AMX for bf16.
    Amx = 5,
}

/// The variable that holds a process to less than its machine has.
pub const VARIABLE: &str = "ZOTUNE_SIMD";

impl Machine {
    /// All that there are, the least first.
    pub const ALL: [Self; 5] = [Self::Baseline, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// As [`VARIABLE`] takes it.
    pub fn name(self) -> &'static str {
        ["baseline", "avx2", "avx512", "avx512-bf16", "amx"][self as usize - 1]
    }

    fn pair_unit(self) -> Option<PairUnit> {
        match self {
            Machine::Amx => Some(PairUnit::Tiles),
            Machine::Avx512Bf16 => Some(PairUnit::Vectors),
            _ => None,
        }
    }

    /// What this machine has.
    #[cfg(target_arch = "x86_64")]
    fn found() -> Self {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match () {
            _ if !avx2 => Machine::Baseline,
            _ if !avx512 => Machine::Avx2,
            _ if !is_x86_feature_detected!("avx512bf16") => Machine::Avx512,
            _ if !may_use_tiles() => Machine::Avx512Bf16,
            _ => Machine::Amx,
        }
    }

    /// What this machine has.
    #[cfg(not(target_arch = "x86_64"))]
    fn found() -> Self {
        Machine::Baseline
    }

    /// What this process uses: all that the machine has, or what [`VARIABLE`] says of it. Looked for once.
    fn allowed() -> std::result::Result<Self, &'static str> {
        static ALLOWED: std::sync::OnceLock<std::result::Result<Machine, String>> = std::sync::OnceLock::new();
        let allowed = ALLOWED.get_or_init(|| {
            let (found, asked) = (Machine::found(), std::env::var_os(VARIABLE));
            let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(found) };
            let known = || Machine::ALL.iter().take_while(|m| **m <= found).map(|m| m.name()).collect::<Vec<_>>().join(", ");
            match Machine::ALL.into_iter().find(|m| asked.to_str() == Some(m.name())) {
                Some(machine) if machine <= found => Ok(machine),
                _ => Err(format!("{VARIABLE}={}: this machine has {}", asked.display(), known())),
            }
        });
        allowed.as_ref().map(|machine| *machine).map_err(String::as_str)
    }
}

/// Sees that [`VARIABLE`], where it is set, names something that this machine has.
pub fn check_environment() -> Result<()> {
    Machine::allowed().map(drop).map_err(|why| usage!("{why}"))
}

thread_local! {
    /// What this thread uses; 0: it has not looked yet.
    static USED: Cell<u8> = const { Cell::new(0) };
}

/// What this thread uses: what the process may use, or what its work is held to ([`on`]).
#[inline]
pub fn machine() -> Machine {
    match USED.get() {
        1 => Machine::Baseline,
        2 => Machine::Avx2,
        3 => Machine::Avx512,
        4 => Machine::Avx512Bf16,
        5 => Machine::Amx,
        _ => first_look(),
    }
}

/// # Panics
/// Where [`VARIABLE`] names what is not there: to guess would be to compute something else than was asked for. The program has
/// refused it before.
#[cold]
fn first_look() -> Machine {
    let machine = Machine::allowed().unwrap_or_else(|why| panic!("{why}"));
    USED.set(machine as u8);
    machine
}

/// The level in use.
#[inline]
pub fn level() -> Level {
    match machine() {
        Machine::Baseline => Level::Baseline,
        Machine::Avx2 => Level::Avx2,
        _ => Level::Avx512,
    }
}

/// The unit for pairs in use.
pub fn pair_unit() -> Option<PairUnit> {
    machine().pair_unit()
}

/// All that this process can be held to, the least first.
pub fn machines() -> impl Iterator<Item = Machine> {
    let most = machine();
    Machine::ALL.into_iter().filter(move |machine| *machine <= most)
}

/// Does `work` on so many threads that are held to `machine`; no other thread is. What `work` hands to the threads that it runs on
/// is held with it.
pub fn on<R: Send>(machine: Machine, threads: usize, work: impl FnOnce() -> R + Send) -> Result<R> {
    let most = Machine::allowed().map_err(anyhow::Error::msg)?;
    if machine > most {
        bail!("{} cannot be tried on a machine with {}", machine.name(), most.name());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).start_handler(move |_| USED.set(machine as u8));
    Ok(pool.build().context("cannot start the threads")?.install(work))
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

    /// Work that is held, and work beside it that is not; the threads that it is spread over too.
    #[test]
    fn work_is_held_to_what_is_said_and_nothing_else_is() {
        use rayon::prelude::*;
        let most = machine();
        for held in machines() {
            let seen: Vec<Machine> =
                on(held, 3, || (0..100).into_par_iter().map(|_| machine()).chain(rayon::iter::once(machine())).collect())
                    .unwrap();
            assert!(seen.len() == 101 && seen.iter().all(|machine| *machine == held), "{held:?}: {seen:?}");
            let units = on(held, 1, || (level(), pair_unit())).unwrap();
            let expected = match held {
                Machine::Baseline => (Level::Baseline, None),
                Machine::Avx2 => (Level::Avx2, None),
                Machine::Avx512 => (Level::Avx512, None),
                Machine::Avx512Bf16 => (Level::Avx512, Some(PairUnit::Vectors)),
                Machine::Amx => (Level::Avx512, Some(PairUnit::Tiles)),
            };
            assert_eq!(units, expected);
        }
        assert_eq!(machine(), most);
        assert!(Machine::ALL.into_iter().filter(|other| *other > most).all(|other| on(other, 1, || ()).is_err()));
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

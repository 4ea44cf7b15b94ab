//! Loops that the compiler vectorises, compiled once per instruction set and dispatched at run time.
//!
//! A loop written as scalar Rust inside [`vectorize!`](crate::vectorize) is compiled three times: for AVX-512, for AVX2
//! with FMA, and for the target's baseline. Multiply-adds are written `mul_add`, with one rounding on every path, so all
//! three give **the same bits**. `-C target-cpu` is not needed.
//!
//! `ZOTUNE_SIMD` limits a process to less than its CPU has ([`check_environment`]), and [`on`] limits one piece of work, to
//! compare instruction sets. The limit is per thread, so limited work does not affect other threads.

use std::cell::Cell;

use anyhow::{Context, Result, bail};

/// Defines `fn name(args)` with its body compiled for each instruction set; the best available one runs.
///
/// Calls in the body must be `#[inline(always)]`, or they are not vectorised with it.
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
                // SAFETY: `level` returns only what the CPU has.
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

/// Instruction sets that the loops are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The target's baseline.
    Baseline,
    /// AVX2 with fused multiply-add: 8 lanes.
    Avx2,
    /// AVX-512 (F, BW, DQ, VL): 16 lanes.
    Avx512,
}

/// Units for products of bf16 pairs with f32 sums, besides AVX-512.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairUnit {
    /// AVX512-BF16: a vector of 16 sums.
    Vectors,
    /// AMX: a tile of 16 x 16 sums.
    Tiles,
}

impl Level {
    /// Name for messages.
    pub fn name(self) -> &'static str {
        match self {
            Level::Baseline => std::env::consts::ARCH,
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        }
    }
}

/// CPU features for computation: the loops' instruction set, and the unit for bf16 pairs. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Machine {
    /// The target's baseline.
    Baseline = 1,
    /// AVX2 with fused multiply-add.
    Avx2 = 2,
    /// AVX-512 (F, BW, DQ, VL).
    Avx512 = 3,
    /// AVX-512 and AVX512-BF16.
    Avx512Bf16 = 4,
    /// AVX-512, AVX512-BF16, and AMX for bf16.
    Amx = 5,
}

/// Environment variable that limits a process to less than its CPU has.
pub const VARIABLE: &str = "ZOTUNE_SIMD";

impl Machine {
    /// All levels, the lowest first.
    pub const ALL: [Self; 5] = [Self::Baseline, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// Value of [`VARIABLE`].
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

    /// The best that this CPU has.
    #[cfg(target_arch = "x86_64")]
    fn detect() -> Self {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        match () {
            _ if !avx2 => Machine::Baseline,
            _ if !avx512 => Machine::Avx2,
            _ if !is_x86_feature_detected!("avx512bf16") => Machine::Avx512,
            _ if !request_amx() => Machine::Avx512Bf16,
            _ => Machine::Amx,
        }
    }

    /// The best that this CPU has.
    #[cfg(not(target_arch = "x86_64"))]
    fn detect() -> Self {
        Machine::Baseline
    }

    /// The level this process uses: the CPU's, or [`VARIABLE`]'s. Determined once.
    fn allowed() -> std::result::Result<Self, &'static str> {
        static ALLOWED: std::sync::OnceLock<std::result::Result<Machine, String>> = std::sync::OnceLock::new();
        let allowed = ALLOWED.get_or_init(|| {
            let (detected, requested) = (Machine::detect(), std::env::var_os(VARIABLE));
            let Some(requested) = requested.filter(|requested| !requested.is_empty()) else { return Ok(detected) };
            let known =
                || Machine::ALL.iter().take_while(|m| **m <= detected).map(|m| m.name()).collect::<Vec<_>>().join(", ");
            match Machine::ALL.into_iter().find(|m| requested.to_str() == Some(m.name())) {
                Some(machine) if machine <= detected => Ok(machine),
                _ => Err(format!("{VARIABLE}={}: this machine has {}", requested.display(), known())),
            }
        });
        allowed.as_ref().map(|machine| *machine).map_err(String::as_str)
    }
}

/// Fails if [`VARIABLE`] is set to something that this CPU does not have.
pub fn check_environment() -> Result<()> {
    Machine::allowed().map(drop).map_err(|why| usage!("{why}"))
}

thread_local! {
    /// The level this thread uses; 0: not determined yet.
    static USED: Cell<u8> = const { Cell::new(0) };
}

/// The level this thread uses: the process's, or the limit set by [`on`].
#[inline]
pub fn machine() -> Machine {
    match USED.get() {
        1 => Machine::Baseline,
        2 => Machine::Avx2,
        3 => Machine::Avx512,
        4 => Machine::Avx512Bf16,
        5 => Machine::Amx,
        _ => determine(),
    }
}

/// # Panics
/// If [`VARIABLE`] names an unavailable level; a fallback would silently compute with another one. The program checks it
/// first ([`check_environment`]).
#[cold]
fn determine() -> Machine {
    let machine = Machine::allowed().unwrap_or_else(|why| panic!("{why}"));
    USED.set(machine as u8);
    machine
}

/// The loops' instruction set in use on this thread.
#[inline]
pub fn level() -> Level {
    match machine() {
        Machine::Baseline => Level::Baseline,
        Machine::Avx2 => Level::Avx2,
        _ => Level::Avx512,
    }
}

/// The unit for bf16 pairs in use on this thread.
pub fn pair_unit() -> Option<PairUnit> {
    machine().pair_unit()
}

/// All levels up to this thread's, the lowest first.
pub fn machines() -> impl Iterator<Item = Machine> {
    let limit = machine();
    Machine::ALL.into_iter().filter(move |machine| *machine <= limit)
}

/// Runs `work` on a pool of `threads` threads limited to `machine`, with all parallel work that it spawns. Fails above the
/// process's level.
pub fn on<R: Send>(machine: Machine, threads: usize, work: impl FnOnce() -> R + Send) -> Result<R> {
    let limit = Machine::allowed().map_err(anyhow::Error::msg)?;
    if machine > limit {
        bail!("{} cannot be tried on a machine with {}", machine.name(), limit.name());
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).start_handler(move |_| USED.set(machine as u8));
    Ok(pool.build().context("cannot start the threads")?.install(work))
}

/// The instruction set and unit in use, for messages.
pub fn instruction_set() -> &'static str {
    match (level(), pair_unit()) {
        (Level::Avx512, Some(PairUnit::Vectors)) => "avx512 with bf16",
        (Level::Avx512, Some(PairUnit::Tiles)) => "avx512 with amx",
        (level, _) => level.name(),
    }
}

/// Whether the CPU has AMX for bf16 and the operating system permits it; requests the permission.
#[cfg(target_arch = "x86_64")]
fn request_amx() -> bool {
    const TILES: u32 = 1 << 24;
    const BF16: u32 = 1 << 22;
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    if leaf.edx & TILES == 0 || leaf.edx & BF16 == 0 {
        return false;
    }
    #[cfg(target_os = "linux")]
    {
        // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA): Linux saves tile registers only on request.
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XFEATURE_XTILEDATA: libc::c_long = 18;
        // SAFETY: requests a permission; touches no memory.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Prefetches a cache line; any address is allowed.
#[inline(always)]
pub fn prefetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limited work, the threads it is spread over, and unlimited work beside it.
    #[test]
    fn work_is_held_to_what_is_said_and_nothing_else_is() {
        use rayon::prelude::*;
        let limit = machine();
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
        assert_eq!(machine(), limit);
        assert!(Machine::ALL.into_iter().filter(|other| *other > limit).all(|other| on(other, 1, || ()).is_err()));
    }
}

//! AMX: tiles of 16 x 16 sums of products of bf16 pairs.

/// Eight tiles of 16 rows of 64 bytes: AMX, or a model of it in tests.
pub trait Tiles {
    /// Tile `T` <- 16 rows from `from`, `stride` bytes apart.
    ///
    /// # Safety
    /// The rows are readable.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);

    /// 16 rows from `to`, `stride` bytes apart, <- tile `T`.
    ///
    /// # Safety
    /// The rows are writable, and no other thread accesses them meanwhile.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize);

    /// Tile `C` += tile `A` x tile `B`: f32 [16, 16] += bf16 [16, 32] x bf16 pairs [16, 16].
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self);
}

/// This thread's AMX tiles, configured until dropped.
#[cfg(target_arch = "x86_64")]
pub struct Amx(());

#[cfg(target_arch = "x86_64")]
impl Amx {
    /// # Safety
    /// The CPU has AMX for bf16, and this process has permission to use it.
    pub unsafe fn configure() -> Self {
        /// Palette 1: every tile has 16 rows of 64 bytes.
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(64);
        rows[..8].fill(16);
        let config = Config { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the configuration is complete; the rest is the caller's contract.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Amx(())
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Amx {
    fn drop(&mut self) {
        // SAFETY: an Amx exists, so the instruction is available; it resets the tiles, which the system then need not save.
        unsafe { std::arch::asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// The instruction with the tile's number in its name. Stable Rust has no intrinsics for AMX.
#[cfg(target_arch = "x86_64")]
macro_rules! on_tile {
    ($tile:expr, $before:literal, $after:literal, $($operands:tt)*) => {
        match $tile {
            0 => std::arch::asm!(concat!($before, "tmm0", $after), $($operands)*),
            1 => std::arch::asm!(concat!($before, "tmm1", $after), $($operands)*),
            2 => std::arch::asm!(concat!($before, "tmm2", $after), $($operands)*),
            3 => std::arch::asm!(concat!($before, "tmm3", $after), $($operands)*),
            4 => std::arch::asm!(concat!($before, "tmm4", $after), $($operands)*),
            5 => std::arch::asm!(concat!($before, "tmm5", $after), $($operands)*),
            6 => std::arch::asm!(concat!($before, "tmm6", $after), $($operands)*),
            _ => std::arch::asm!(concat!($before, "tmm7", $after), $($operands)*),
        }
    };
}

#[cfg(target_arch = "x86_64")]
impl Tiles for Amx {
    #[inline(always)]
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
        // SAFETY: by the function's contract. The compiler uses no tiles.
        unsafe {
            on_tile!(T, "tileloadd ", ", [{from} + {stride}*1]", from = in(reg) from, stride = in(reg) stride,
                options(nostack, readonly))
        };
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: by the function's contract.
        unsafe {
            on_tile!(T, "tilestored [{to} + {stride}*1], ", "", to = in(reg) to, stride = in(reg) stride, options(nostack))
        };
    }

    #[inline(always)]
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        // The combinations used by `by_tiles`.
        // SAFETY: works on tiles only, which the compiler does not use.
        unsafe {
            match (C, A, B) {
                (0, 4, 6) => std::arch::asm!("tdpbf16ps tmm0, tmm4, tmm6", options(nomem, nostack)),
                (1, 4, 7) => std::arch::asm!("tdpbf16ps tmm1, tmm4, tmm7", options(nomem, nostack)),
                (2, 5, 6) => std::arch::asm!("tdpbf16ps tmm2, tmm5, tmm6", options(nomem, nostack)),
                (3, 5, 7) => std::arch::asm!("tdpbf16ps tmm3, tmm5, tmm7", options(nomem, nostack)),
                _ => unreachable!("tiles {C} += {A} x {B}"),
            }
        }
    }
}

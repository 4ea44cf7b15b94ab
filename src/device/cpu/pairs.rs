//! Products of bf16 numbers on the units that some processors have for them: AVX512-BF16, two products a lane, and AMX, a tile of
//! 16 x 16 sums at a time. Sums are f32; only what is multiplied is rounded to bf16.
//!
//! Both take the same layout, that of `product`: A is the weight as it is held, [rows, pairs] of two neighbours along k; B the
//! activations, [pairs, lanes]. In which order a unit adds up is its own affair, so results are the plain path's to rounding.

use std::sync::OnceLock;

use super::simd::{PairUnit, pair_unit};
use super::tile::Rows;

/// Two numbers next to each other along k.
pub type Pair = u32;

/// Tokens in a vector, and rows or columns of a tile.
pub const SIDE: usize = 16;

/// c [rows, 16 * vectors] += A [rows, 2 * pairs] B [2 * pairs, 16 * vectors], at most 3 vectors at a time. Rows of A that will be
/// wanted next, so many `ahead`, are fetched meanwhile; 0: none.
///
/// # Safety
/// The matrices hold what the sizes say, B and c whole vectors; nobody else touches c meanwhile; the machine has AVX512-BF16.
#[cfg(target_arch = "x86_64")]
pub unsafe fn by_vectors(
    (rows, pairs, vectors): (usize, usize, usize),
    a: Rows<Pair>,
    b: Rows<Pair>,
    c: *mut f32,
    stride: usize,
    ahead: usize,
) {
    let mut first = 0;
    while first < vectors {
        let many = (vectors - first).min(3);
        let b = Rows { start: b.at(0, first * SIDE), ..b };
        let mut row = 0;
        while row < rows {
            let (a, c) = (Rows { start: a.at(row, 0), ..a }, c.wrapping_add(row * stride + first * SIDE));
            // SAFETY: as of the function.
            row += unsafe {
                match (rows - row, many) {
                    (8.., 1) => vectors_of::<8, 1>(pairs, a, b, c, stride, ahead),
                    (8.., 2) => vectors_of::<8, 2>(pairs, a, b, c, stride, ahead),
                    (8.., _) => vectors_of::<8, 3>(pairs, a, b, c, stride, ahead),
                    (_, 1) => vectors_of::<1, 1>(pairs, a, b, c, stride, ahead),
                    (_, 2) => vectors_of::<1, 2>(pairs, a, b, c, stride, ahead),
                    (_, _) => vectors_of::<1, 3>(pairs, a, b, c, stride, ahead),
                }
            };
        }
        first += many;
    }
}

/// Gives its rows.
///
/// # Safety
/// As of [`by_vectors`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bf16")]
#[allow(clippy::needless_range_loop, reason = "indices of a tile, as the definition has it")]
unsafe fn vectors_of<const R: usize, const V: usize>(
    pairs: usize,
    a: Rows<Pair>,
    b: Rows<Pair>,
    c: *mut f32,
    stride: usize,
    ahead: usize,
) -> usize {
    /// Pairs in a line of a cache.
    const LINE: usize = 16;
    use std::arch::x86_64::*;
    let pairs_of = |x: __m512i| -> __m512bh {
        // SAFETY: both are 512 bits.
        unsafe { std::mem::transmute(x) }
    };
    // SAFETY: within the matrices.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); V]; R];
        for r in 0..R {
            for v in 0..V {
                sums[r][v] = _mm512_loadu_ps(c.add(r * stride + v * SIDE));
            }
        }
        for line in (0..pairs).step_by(LINE) {
            if ahead > 0 {
                for r in 0..R {
                    _mm_prefetch::<_MM_HINT_T1>(a.at(r + ahead, line).cast());
                }
            }
            for i in line..pairs.min(line + LINE) {
                let x: [__m512bh; V] = std::array::from_fn(|v| pairs_of(_mm512_loadu_si512(b.at(i, v * SIDE).cast())));
                for r in 0..R {
                    let w = pairs_of(_mm512_set1_epi32(a.at(r, i).cast::<i32>().read_unaligned()));
                    for v in 0..V {
                        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], w, x[v]);
                    }
                }
            }
        }
        for r in 0..R {
            for v in 0..V {
                _mm512_storeu_ps(c.add(r * stride + v * SIDE), sums[r][v]);
            }
        }
    }
    R
}

/// Eight tiles of 16 rows of 64 bytes. What AMX does, and in tests a model of it.
pub trait Tiles {
    /// Tile `T` <- 16 rows from `from` on, `stride` bytes apart.
    ///
    /// # Safety
    /// The rows are there.
    unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize);

    /// The way back.
    ///
    /// # Safety
    /// The rows are there, and nobody else touches them meanwhile.
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize);

    /// Tile `C` += tile `A` x tile `B`: f32 [16, 16] += bf16 [16, 32] x bf16 pairs [16, 16].
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self);
}

/// The same as [`by_vectors`] with tiles; `rows` and `pairs` are multiples of 16.
///
/// # Safety
/// The matrices hold what the sizes say; nobody else touches c meanwhile.
pub unsafe fn by_tiles<T: Tiles>(
    tiles: &mut T,
    (rows, pairs, vectors): (usize, usize, usize),
    a: Rows<Pair>,
    b: Rows<Pair>,
    c: *mut f32,
    stride: usize,
) {
    debug_assert!(rows.is_multiple_of(SIDE) && pairs.is_multiple_of(SIDE));
    let bytes = |m: Rows<Pair>| 4 * m.stride;
    for row in (0..rows).step_by(2 * SIDE) {
        let two_rows = row + SIDE < rows;
        for vector in (0..vectors).step_by(2) {
            let two_vectors = vector + 1 < vectors;
            let c = c.wrapping_add(row * stride + vector * SIDE);
            let corners = [c, c.wrapping_add(SIDE), c.wrapping_add(SIDE * stride), c.wrapping_add(SIDE * stride + SIDE)];
            macro_rules! sums {
                ($way:ident) => {
                    tiles.$way::<0>(corners[0].cast(), 4 * stride);
                    if two_vectors {
                        tiles.$way::<1>(corners[1].cast(), 4 * stride);
                    }
                    if two_rows {
                        tiles.$way::<2>(corners[2].cast(), 4 * stride);
                    }
                    if two_rows && two_vectors {
                        tiles.$way::<3>(corners[3].cast(), 4 * stride);
                    }
                };
            }
            // SAFETY: all tiles lie within the matrices: those of the second row or vector are touched where there is one.
            unsafe {
                sums!(load);
                for i in (0..pairs).step_by(SIDE) {
                    tiles.load::<4>(a.at(row, i).cast(), bytes(a));
                    tiles.load::<6>(b.at(i, vector * SIDE).cast(), bytes(b));
                    tiles.multiply::<0, 4, 6>();
                    if two_rows {
                        tiles.load::<5>(a.at(row + SIDE, i).cast(), bytes(a));
                        tiles.multiply::<2, 5, 6>();
                    }
                    if two_vectors {
                        tiles.load::<7>(b.at(i, (vector + 1) * SIDE).cast(), bytes(b));
                        tiles.multiply::<1, 4, 7>();
                    }
                    if two_rows && two_vectors {
                        tiles.multiply::<3, 5, 7>();
                    }
                }
                sums!(store);
            }
        }
    }
}

/// This thread's AMX tiles, configured for as long as it lives.
#[cfg(target_arch = "x86_64")]
pub struct Amx(());

#[cfg(target_arch = "x86_64")]
impl Amx {
    /// # Safety
    /// The machine has AMX for bf16, and this process may use it.
    pub unsafe fn begin() -> Self {
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
        // SAFETY: the configuration is whole, and the function's caller has seen to the rest.
        unsafe { std::arch::asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Amx(())
    }
}

#[cfg(target_arch = "x86_64")]
impl Drop for Amx {
    fn drop(&mut self) {
        // SAFETY: whoever has an Amx may do this: the registers are clean then, and nobody saves them.
        unsafe { std::arch::asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// The unit of this machine. Tiles are taken where they multiply a small product as the model of them says: their code could not be
/// tried on every processor that has them.
pub fn unit() -> Option<PairUnit> {
    #[cfg(target_arch = "x86_64")]
    if pair_unit() == Some(PairUnit::Tiles) {
        static AGREE: OnceLock<bool> = OnceLock::new();
        let agree = AGREE.get_or_init(|| {
            let agree = tiles_agree();
            if !agree {
                tracing::warn!("AMX on this machine gives wrong products; bf16 is computed without it");
            }
            agree
        });
        return Some(if *agree { PairUnit::Tiles } else { PairUnit::Vectors });
    }
    pair_unit()
}

/// Whether tiles and vectors give the same product of whole numbers, which no order of additions rounds.
#[cfg(target_arch = "x86_64")]
fn tiles_agree() -> bool {
    const ROWS: usize = 2 * SIDE;
    const PAIRS: usize = 2 * SIDE;
    let numbers = |len: usize, by: usize| -> Vec<half::bf16> {
        (0..len).map(|i| half::bf16::from_f32(((i * by) % 17) as f32 - 8.0)).collect()
    };
    let (a, b) = (numbers(ROWS * 2 * PAIRS, 5), numbers(2 * PAIRS * 3 * SIDE, 7));
    let (a, b) = (Rows { start: a.as_ptr().cast(), stride: PAIRS }, Rows { start: b.as_ptr().cast(), stride: 3 * SIDE });
    let mut sums = [1f32, 1f32].map(|one| vec![one; ROWS * 3 * SIDE]);
    // SAFETY: the buffers have the sizes; a machine with tiles has vectors.
    unsafe {
        by_tiles(&mut Amx::begin(), (ROWS, PAIRS, 3), a, b, sums[0].as_mut_ptr(), 3 * SIDE);
        by_vectors((ROWS, PAIRS, 3), a, b, sums[1].as_mut_ptr(), 3 * SIDE, 0);
    }
    sums[0] == sums[1]
}

/// The instruction with the tile's number in its name. Stable Rust has no intrinsics for them.
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
        // SAFETY: as of the function. The compiler uses no tiles.
        unsafe {
            on_tile!(T, "tileloadd ", ", [{from} + {stride}*1]", from = in(reg) from, stride = in(reg) stride,
                options(nostack, readonly))
        };
    }

    #[inline(always)]
    unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
        // SAFETY: as of the function.
        unsafe {
            on_tile!(T, "tilestored [{to} + {stride}*1], ", "", to = in(reg) to, stride = in(reg) stride, options(nostack))
        };
    }

    #[inline(always)]
    fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
        // Those that by_tiles asks for.
        // SAFETY: it works on tiles, which the compiler does not use.
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

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// Tiles as the manual describes them.
    struct Model([[u8; 1024]; 8]);

    impl Tiles for Model {
        unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
            for row in 0..SIDE {
                // SAFETY: as of the function.
                let bytes = unsafe { std::slice::from_raw_parts(from.add(row * stride), 64) };
                self.0[T][64 * row..][..64].copy_from_slice(bytes);
            }
        }

        unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
            for row in 0..SIDE {
                // SAFETY: as of the function.
                unsafe { std::ptr::copy_nonoverlapping(self.0[T][64 * row..].as_ptr(), to.add(row * stride), 64) };
            }
        }

        fn multiply<const C: usize, const A: usize, const B: usize>(&mut self) {
            let half = |tile: &[u8; 1024], row: usize, i: usize| {
                bf16::from_le_bytes([tile[64 * row + 2 * i], tile[64 * row + 2 * i + 1]]).to_f32()
            };
            for row in 0..SIDE {
                for col in 0..SIDE {
                    let at = 64 * row + 4 * col;
                    let mut sum = f32::from_le_bytes(self.0[C][at..at + 4].try_into().unwrap());
                    for pair in 0..SIDE {
                        for i in 0..2 {
                            sum += half(&self.0[A], row, 2 * pair + i) * half(&self.0[B], pair, 2 * col + i);
                        }
                    }
                    self.0[C][at..at + 4].copy_from_slice(&sum.to_le_bytes());
                }
            }
        }
    }

    /// Every unit that the machine has, and the model of the tiles that it may not have, gives the product in f64 of the rounded
    /// Numbers, to f32's rounding.
    #[test]
    #[allow(clippy::print_stderr, reason = "says what was not there to be tried")]
    fn every_unit_multiplies() {
        let mut tried = Vec::new();
        for (rows, pairs, vectors) in [(32, 16, 2), (32, 48, 3), (16, 32, 1), (32, 16, 5), (7, 9, 4)] {
            let numbers =
                |n: usize, by: f32| -> Vec<bf16> { (0..n).map(|i| bf16::from_f32((i as f32 * by).sin())).collect() };
            let (a, b) = (numbers(2 * rows * pairs, 0.7), numbers(2 * pairs * SIDE * vectors, 0.3));
            let stride = SIDE * vectors + 3;
            let expected: Vec<f64> = (0..rows * SIDE * vectors)
                .map(|at| {
                    let (r, t) = (at / (SIDE * vectors), at % (SIDE * vectors));
                    let product = |k: usize| {
                        let x = b[2 * ((k / 2) * SIDE * vectors + t) + k % 2];
                        f64::from(a[r * 2 * pairs + k].to_f32()) * f64::from(x.to_f32())
                    };
                    (0..2 * pairs).map(product).sum::<f64>() + 0.5
                })
                .collect();
            let check = |name: &str, run: &dyn Fn(Rows<Pair>, Rows<Pair>, *mut f32)| {
                let mut c = vec![0.5f32; rows * stride];
                let of_a = Rows { start: a.as_ptr().cast(), stride: pairs };
                let of_b = Rows { start: b.as_ptr().cast(), stride: SIDE * vectors };
                run(of_a, of_b, c.as_mut_ptr());
                for (at, expected) in expected.iter().enumerate() {
                    let (r, t) = (at / (SIDE * vectors), at % (SIDE * vectors));
                    let found = f64::from(c[r * stride + t]);
                    assert!(
                        (found - expected).abs() < 1e-5,
                        "{name}, {rows} x {pairs} x {vectors}: {found}, not {expected}"
                    );
                }
            };
            let whole = rows % SIDE == 0 && pairs % SIDE == 0;
            if whole {
                // SAFETY: the buffers have the sizes.
                check("model", &|a, b, c| unsafe {
                    by_tiles(&mut Model([[0; 1024]; 8]), (rows, pairs, vectors), a, b, c, stride);
                });
            }
            #[cfg(target_arch = "x86_64")]
            if pair_unit().is_some() {
                // SAFETY: the buffers have the sizes, the machine the unit.
                check("vectors", &|a, b, c| unsafe { by_vectors((rows, pairs, vectors), a, b, c, stride, 0) });
                tried.push("vectors");
            }
            #[cfg(target_arch = "x86_64")]
            if whole && pair_unit() == Some(PairUnit::Tiles) {
                // SAFETY: the same.
                check("tiles", &|a, b, c| unsafe {
                    by_tiles(&mut Amx::begin(), (rows, pairs, vectors), a, b, c, stride);
                });
                tried.push("tiles");
            }
        }
        tried.sort_unstable();
        tried.dedup();
        eprintln!("units of this machine that were tried: {tried:?}");
    }
}

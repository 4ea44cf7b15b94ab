//! Products of bf16 numbers on dedicated units: AVX512-BF16, two products per lane, and AMX, a tile of 16 x 16 sums. Sums
//! are f32; only the factors are rounded to bf16.
//!
//! Both use the layout of `product`: A is the weight in storage order, [rows, pairs] of two neighbours along k; B the
//! activations, [pairs, lanes]. The units' order of additions is unspecified, so results agree with the f32 path up to
//! rounding.

use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
pub use super::amx::Amx;
use super::amx::Tiles;
use super::simd::{PairUnit, pair_unit};
use super::tile::Rows;

/// Two bf16 numbers adjacent along k.
pub type Pair = u32;

/// Tokens in a vector; rows and columns of a tile.
pub const SIDE: usize = 16;

/// c [rows, 16 * vectors] += A [rows, 2 * pairs] B [2 * pairs, 16 * vectors], at most 3 vectors at a time. Prefetches the
/// rows of A that are `ahead` rows further; 0: none.
///
/// # Safety
/// The matrices have these sizes, B and c in whole vectors; no other thread accesses c meanwhile; the CPU has AVX512-BF16.
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
        let count = (vectors - first).min(3);
        let b = Rows { start: b.at(0, first * SIDE), ..b };
        let mut row = 0;
        while row < rows {
            let (a, c) = (Rows { start: a.at(row, 0), ..a }, c.wrapping_add(row * stride + first * SIDE));
            // SAFETY: by the function's contract.
            row += unsafe {
                match (rows - row, count) {
                    (8.., 1) => vectors_of::<8, 1>(pairs, a, b, c, stride, ahead),
                    (8.., 2) => vectors_of::<8, 2>(pairs, a, b, c, stride, ahead),
                    (8.., _) => vectors_of::<8, 3>(pairs, a, b, c, stride, ahead),
                    (_, 1) => vectors_of::<1, 1>(pairs, a, b, c, stride, ahead),
                    (_, 2) => vectors_of::<1, 2>(pairs, a, b, c, stride, ahead),
                    (_, _) => vectors_of::<1, 3>(pairs, a, b, c, stride, ahead),
                }
            };
        }
        first += count;
    }
}

/// One tile of R rows and V vectors; returns R.
///
/// # Safety
/// As for [`by_vectors`].
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
    /// Pairs in a cache line.
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

/// [`by_vectors`] with tiles; `rows` and `pairs` are multiples of 16.
///
/// # Safety
/// The matrices have these sizes; no other thread accesses c meanwhile.
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
                ($op:ident) => {
                    tiles.$op::<0>(corners[0].cast(), 4 * stride);
                    if two_vectors {
                        tiles.$op::<1>(corners[1].cast(), 4 * stride);
                    }
                    if two_rows {
                        tiles.$op::<2>(corners[2].cast(), 4 * stride);
                    }
                    if two_rows && two_vectors {
                        tiles.$op::<3>(corners[3].cast(), 4 * stride);
                    }
                };
            }
            // SAFETY: all tiles lie within the matrices; those of a second row or vector are used only if it exists.
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

/// The unit used for pairs. AMX is used only if it multiplies a small product correctly, since this code could not be
/// tested on every processor that has it.
pub fn unit() -> Option<PairUnit> {
    #[cfg(target_arch = "x86_64")]
    if pair_unit() == Some(PairUnit::Tiles) {
        static AGREE: OnceLock<bool> = OnceLock::new();
        let agree = AGREE.get_or_init(|| {
            let agree = tiles_agree();
            if !agree {
                tracing::warn!("AMX gives wrong products on this machine; bf16 is computed without it");
            }
            agree
        });
        return Some(if *agree { PairUnit::Tiles } else { PairUnit::Vectors });
    }
    pair_unit()
}

/// Whether tiles and vectors give the same product of integers, which is exact in any order.
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
    // SAFETY: the buffers have these sizes; a CPU with AMX has AVX512-BF16.
    unsafe {
        by_tiles(&mut Amx::configure(), (ROWS, PAIRS, 3), a, b, sums[0].as_mut_ptr(), 3 * SIDE);
        by_vectors((ROWS, PAIRS, 3), a, b, sums[1].as_mut_ptr(), 3 * SIDE, 0);
    }
    sums[0] == sums[1]
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// A model of the tiles, from the manual.
    struct Model([[u8; 1024]; 8]);

    impl Tiles for Model {
        unsafe fn load<const T: usize>(&mut self, from: *const u8, stride: usize) {
            for row in 0..SIDE {
                // SAFETY: by the function's contract.
                let bytes = unsafe { std::slice::from_raw_parts(from.add(row * stride), 64) };
                self.0[T][64 * row..][..64].copy_from_slice(bytes);
            }
        }

        unsafe fn store<const T: usize>(&mut self, to: *mut u8, stride: usize) {
            for row in 0..SIDE {
                // SAFETY: by the function's contract.
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

    /// Every available unit, and the model of the tiles, agrees with the product of the rounded numbers in f64, up to f32's
    /// rounding.
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
            let in_whole_tiles = rows % SIDE == 0 && pairs % SIDE == 0;
            if in_whole_tiles {
                // SAFETY: the buffers have these sizes.
                check("model", &|a, b, c| unsafe {
                    by_tiles(&mut Model([[0; 1024]; 8]), (rows, pairs, vectors), a, b, c, stride);
                });
            }
            #[cfg(target_arch = "x86_64")]
            if pair_unit().is_some() {
                // SAFETY: the buffers have these sizes, and the CPU has the unit.
                check("vectors", &|a, b, c| unsafe { by_vectors((rows, pairs, vectors), a, b, c, stride, 0) });
                tried.push("vectors");
            }
            #[cfg(target_arch = "x86_64")]
            if in_whole_tiles && pair_unit() == Some(PairUnit::Tiles) {
                // SAFETY: the same.
                check("tiles", &|a, b, c| unsafe {
                    by_tiles(&mut Amx::configure(), (rows, pairs, vectors), a, b, c, stride);
                });
                tried.push("tiles");
            }
        }
        tried.sort_unstable();
        tried.dedup();
        eprintln!("units of this machine that were tried: {tried:?}");
    }
}

//! The f32 kernel: C [rows, lanes] += A [rows, k] B [k, lanes]; A is read element by element in place, B a vector at a
//! time, C stays in registers.
//!
//! Each element is one chain of fused multiply-adds in the order of k for any vector width and tile size: the same bits on
//! every CPU.

use super::fused;
use super::simd::{self, Level};

/// f32 numbers in a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 16;

/// Depth of the AVX2 kernel along k before the next rows: the part of B that all rows read stays in the first-level cache.
#[cfg(target_arch = "x86_64")]
const DEPTH: usize = 256;

/// The vector unit of a product, determined once per product, because the layout depends on it.
#[derive(Clone, Copy)]
pub struct VectorUnit(Level);

/// A row-major matrix in a larger buffer.
pub struct Rows<T> {
    /// The first element.
    pub start: *const T,
    /// Distance between rows, in elements.
    pub stride: usize,
}

impl<T> Clone for Rows<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Rows<T> {}

impl<T> Rows<T> {
    /// Pointer to an element; may be out of bounds.
    #[inline(always)]
    pub fn at(self, row: usize, col: usize) -> *const T {
        self.start.wrapping_add(row * self.stride + col)
    }
}

impl VectorUnit {
    /// The best that this thread may use.
    pub fn best() -> Self {
        VectorUnit(simd::level())
    }

    /// Numbers in a vector, to which buffers are padded.
    pub fn lanes(self) -> usize {
        if self.0 == Level::Avx512 { 16 } else { 8 }
    }

    /// Maximum vectors of B per kernel call: 8 x 3 sums and their operands fill the 32 registers of AVX-512, 6 x 2 the 16
    /// of AVX2.
    pub fn vectors(self) -> usize {
        if self.0 == Level::Avx512 { 3 } else { 2 }
    }

    /// Rows of A per job: a few times the kernel's.
    pub fn strip(self) -> usize {
        if self.0 == Level::Avx2 { 48 } else { 32 }
    }

    /// c [rows, lanes * vectors] += A [rows, k] B [k, lanes * vectors]. Prefetches the rows of A that are `ahead` rows
    /// further; 0: none.
    ///
    /// # Safety
    /// The matrices have these sizes, B and c in whole vectors; no other thread accesses c meanwhile.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn tile(
        self,
        rows: usize,
        k: usize,
        vectors: usize,
        a: Rows<f32>,
        b: Rows<f32>,
        c: *mut f32,
        c_stride: usize,
        ahead: usize,
    ) {
        /// Splits into tiles whose sums fit into the registers.
        macro_rules! split {
            ($kernel:ident, $lanes:literal, $depth:expr, [$($rows:literal),*]) => {
                for first in (0..vectors).step_by(self.vectors()) {
                    for from in (0..k).step_by($depth) {
                        let (deep, b) = ($depth.min(k - from), Rows { start: b.at(from, first * $lanes), ..b });
                        let mut row = 0;
                        $(while rows - row >= $rows {
                            let a = Rows { start: a.at(row, from), ..a };
                            let c = c.wrapping_add(row * c_stride + first * $lanes);
                            // SAFETY: by the function's contract.
                            match self.vectors().min(vectors - first) {
                                1 => unsafe { $kernel::<$rows, 1>(deep, a, b, c, c_stride, ahead) },
                                2 => unsafe { $kernel::<$rows, 2>(deep, a, b, c, c_stride, ahead) },
                                _ => unsafe { $kernel::<$rows, 3>(deep, a, b, c, c_stride, ahead) },
                            }
                            row += $rows;
                        })*
                    }
                }
            };
        }
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => split!(avx512, 16, usize::MAX, [8, 4, 2, 1]),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => split!(avx2, 8, DEPTH, [6, 4, 2, 1]),
            _ => split!(baseline, 8, usize::MAX, [32, 4, 1]),
        }
    }
}

/// # Safety
/// As for [`VectorUnit::tile`].
unsafe fn baseline<const R: usize, const V: usize>(
    k: usize,
    a: Rows<f32>,
    b: Rows<f32>,
    c: *mut f32,
    c_stride: usize,
    _ahead: usize,
) {
    let (a, b, c) = ((a.start, a.stride), (b.start, b.stride), (c, c_stride));
    // SAFETY: by the function's contract.
    unsafe {
        match V {
            1 => fused::add_product::<R, 8>(k, a, b, c),
            2 => fused::add_product::<R, 16>(k, a, b, c),
            _ => unreachable!("two vectors at most"),
        }
    }
}

/// The kernel in the intrinsics of an instruction set.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($name:ident, $features:literal, $lanes:expr, $load:ident, $store:ident, $set1:ident, $fma:ident) => {
        /// # Safety
        /// As for [`VectorUnit::tile`]; the CPU has the features.
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize, const V: usize>(
            k: usize,
            a: Rows<f32>,
            b: Rows<f32>,
            c: *mut f32,
            c_stride: usize,
            ahead: usize,
        ) {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch, $fma, $load, $set1, $store};
            // SAFETY: within the tile.
            unsafe {
                let mut sums = [[$set1(0.0); V]; R];
                for r in 0..R {
                    for v in 0..V {
                        sums[r][v] = $load(c.add(r * c_stride + v * $lanes));
                    }
                }
                let mut at = b.start;
                for line in (0..k).step_by(LINE) {
                    if ahead > 0 {
                        for r in 0..R {
                            _mm_prefetch::<_MM_HINT_T1>(a.at(r + ahead, line).cast());
                        }
                    }
                    for i in line..k.min(line + LINE) {
                        let mut x = [$set1(0.0); V];
                        for v in 0..V {
                            x[v] = $load(at.add(v * $lanes));
                        }
                        for r in 0..R {
                            let w = $set1(*a.at(r, i));
                            for v in 0..V {
                                sums[r][v] = $fma(w, x[v], sums[r][v]);
                            }
                        }
                        at = at.add(b.stride);
                    }
                }
                for r in 0..R {
                    for v in 0..V {
                        $store(c.add(r * c_stride + v * $lanes), sums[r][v]);
                    }
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
kernel!(
    avx512,
    "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma",
    16,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps
);

#[cfg(target_arch = "x86_64")]
kernel!(avx2, "avx2,fma", 8, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_fmadd_ps);

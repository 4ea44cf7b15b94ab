//! Matrix products, with the same bits on every machine: each element is one chain of fused multiply-adds in the order of k,
//! whatever the vector width, the tile and the thread that it falls to.
//!
//! One kernel: C [rows, lanes] += A [rows, k] B [k, lanes], A read number by number where it lies, B a vector at a time, C in
//! registers. For a linear layer A is the weight as it is held, which so needs no copy, and B the activations, transposed once.

use std::cell::RefCell;

use rayon::prelude::*;

use super::Shared;
use crate::simd::{self, Level};

/// Vectors of B that a kernel takes at a time, at most: 8 x 3 sums fill the registers of AVX-512, 4 x 3 those of AVX2.
const VECTORS: usize = 3;
/// Rows of a weight that a thread takes at a time.
const STRIP: usize = 32;

/// The vector unit that a product runs on. Asked for once a product: what it is laid out for, it must be run on.
#[derive(Clone, Copy)]
pub struct Unit(Level);

/// A matrix in a larger buffer: where it starts, and how far apart its rows are.
#[derive(Clone, Copy)]
pub struct Rows {
    /// The first number.
    pub start: *const f32,
    /// Numbers from one row to the next.
    pub stride: usize,
}

impl Unit {
    /// The best that the machine has.
    pub fn best() -> Self {
        Unit(simd::level())
    }

    /// Numbers in a vector. Buffers are padded to it.
    pub fn lanes(self) -> usize {
        match self.0 {
            Level::Avx512 => 16,
            _ => 8,
        }
    }

    /// c [rows, lanes * vectors] += A [rows, k] B [k, lanes * vectors].
    ///
    /// # Safety
    /// The matrices hold what the sizes say, B and c whole vectors; nobody else touches c meanwhile.
    #[allow(clippy::too_many_arguments)]
    pub unsafe fn tile(self, rows: usize, k: usize, vectors: usize, a: Rows, b: Rows, c: *mut f32, c_stride: usize) {
        /// Splits into tiles whose sums the registers hold.
        macro_rules! split {
        ($kernel:ident, $lanes:expr, [$($rows:literal),*]) => {{
            let (mut row, mut first) = (0, 0);
            while first < vectors {
                let many = (vectors - first).min(VECTORS);
                let b = Rows { start: b.start.wrapping_add(first * $lanes), ..b };
                $(while rows - row >= $rows {
                    let a = Rows { start: a.start.wrapping_add(row * a.stride), ..a };
                    let c = c.wrapping_add(row * c_stride + first * $lanes);
                    // SAFETY: as of the function.
                    match many {
                        1 => unsafe { $kernel::<$rows, 1>(k, a, b, c, c_stride) },
                        2 => unsafe { $kernel::<$rows, 2>(k, a, b, c, c_stride) },
                        _ => unsafe { $kernel::<$rows, 3>(k, a, b, c, c_stride) },
                    }
                    row += $rows;
                })*
                (row, first) = (0, first + many);
            }
        }};
    }
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => split!(avx512, 16, [8, 4, 2, 1]),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => split!(avx2, 8, [4, 2, 1]),
            _ => split!(baseline, 8, [1]),
        }
    }
}

/// # Safety
/// As of [`Unit::tile`].
unsafe fn baseline<const R: usize, const V: usize>(k: usize, a: Rows, b: Rows, c: *mut f32, c_stride: usize) {
    for r in 0..R {
        for j in 0..8 * V {
            // SAFETY: within the tile.
            unsafe {
                let mut sum = *c.add(r * c_stride + j);
                for i in 0..k {
                    sum = (*a.start.add(r * a.stride + i)).mul_add(*b.start.add(i * b.stride + j), sum);
                }
                *c.add(r * c_stride + j) = sum;
            }
        }
    }
}

/// The kernel with the intrinsics of an instruction set.
#[cfg(target_arch = "x86_64")]
macro_rules! kernel {
    ($name:ident, $features:literal, $lanes:expr, $load:ident, $store:ident, $set1:ident, $fma:ident) => {
        /// # Safety
        /// As of [`Unit::tile`]; the machine has the features.
        #[target_feature(enable = $features)]
        unsafe fn $name<const R: usize, const V: usize>(k: usize, a: Rows, b: Rows, c: *mut f32, c_stride: usize) {
            use std::arch::x86_64::{$fma, $load, $set1, $store};
            // SAFETY: within the tile.
            unsafe {
                let mut sums = [[$set1(0.0); V]; R];
                for r in 0..R {
                    for v in 0..V {
                        sums[r][v] = $load(c.add(r * c_stride + v * $lanes));
                    }
                }
                let mut at = b.start;
                for i in 0..k {
                    let mut x = [$set1(0.0); V];
                    for v in 0..V {
                        x[v] = $load(at.add(v * $lanes));
                    }
                    for r in 0..R {
                        let w = $set1(*a.start.add(r * a.stride + i));
                        for v in 0..V {
                            sums[r][v] = $fma(w, x[v], sums[r][v]);
                        }
                    }
                    at = at.add(b.stride);
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

/// Activations [tokens, k], transposed and padded for the kernel: panels of up to three vectors of tokens, each [k, its width].
pub struct Panels {
    unit: Unit,
    packed: Vec<f32>,
    tokens: usize,
    k: usize,
}

thread_local!(static SPARE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });

impl Panels {
    /// Of `x` [tokens, k], by all threads. The buffer of the last ones is used again.
    pub fn new(x: &[f32], tokens: usize, k: usize) -> Self {
        let (unit, mut packed) = (Unit::best(), SPARE.take());
        packed.resize(tokens.next_multiple_of(unit.lanes()) * k, 0.0);
        let width = VECTORS * unit.lanes();
        packed.par_chunks_mut(width * k).enumerate().for_each(|(p, panel)| {
            let first = p * width;
            let here = width.min(tokens - first);
            transpose(&x[first * k..(first + here) * k], here, k, panel);
        });
        Panels { unit, packed, tokens, k }
    }

    /// Where each panel starts, the tokens that are in it, and its vectors.
    fn each(&self) -> impl Iterator<Item = (*const f32, std::ops::Range<usize>, usize)> {
        let (width, lanes) = (VECTORS * self.unit.lanes(), self.unit.lanes());
        (0..self.tokens).step_by(width).map(move |first| {
            let here = width.min(self.tokens - first);
            (self.packed[first * self.k..].as_ptr(), first..first + here, here.div_ceil(lanes))
        })
    }
}

impl Drop for Panels {
    fn drop(&mut self) {
        SPARE.set(std::mem::take(&mut self.packed));
    }
}

/// x [tokens, k] -> out [k, padded], zeros behind the tokens.
pub fn transpose(x: &[f32], tokens: usize, k: usize, out: &mut [f32]) {
    let padded = out.len() / k.max(1);
    for block in (0..k).step_by(16) {
        let end = k.min(block + 16);
        for t in 0..tokens {
            for i in block..end {
                out[i * padded + t] = x[t * k + i];
            }
        }
        for i in block..end {
            out[i * padded + tokens..(i + 1) * padded].fill(0.0);
        }
    }
}

thread_local!(static STRIPS: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) });

/// y [tokens, outer] = x W^T + bias, for x as [`Panels`] and a weight W [outer, k] of which `widen` gives a strip of rows as f32:
/// where they lie, or in the buffer that it is handed. `finish` is shown each strip of each token as it is done,
/// and where in y it stands.
pub fn by_weight(
    x: &Panels,
    outer: usize,
    bias: Option<&[f32]>,
    strip_of: impl for<'b> Fn(std::ops::Range<usize>, &'b mut Vec<f32>) -> *const f32 + Sync,
    finish: impl Fn(usize, &mut [f32]) + Sync,
    y: &mut [f32],
) {
    debug_assert_eq!(y.len(), x.tokens * outer);
    let (y, lanes) = (Shared(y.as_mut_ptr()), x.unit.lanes());
    (0..outer.div_ceil(STRIP)).into_par_iter().for_each(|strip| {
        let rows = strip * STRIP..outer.min((strip + 1) * STRIP);
        let many = rows.len();
        STRIPS.with_borrow_mut(|(widened, sums)| {
            let a = Rows { start: strip_of(rows.clone(), widened), stride: x.k };
            sums.resize(STRIP * VECTORS * lanes, 0.0);
            for (panel, tokens, vectors) in x.each() {
                let wide = vectors * lanes;
                for (r, row) in sums.chunks_mut(wide).take(many).enumerate() {
                    row.fill(bias.map_or(0.0, |bias| bias[rows.start + r]));
                }
                let b = Rows { start: panel, stride: wide };
                // SAFETY: the strip has `many` rows of k numbers, the panel k rows of `wide`, and sums `many` of them.
                unsafe { x.unit.tile(many, x.k, vectors, a, b, sums.as_mut_ptr(), wide) };
                for (j, token) in tokens.enumerate() {
                    let place = token * outer + rows.start;
                    // SAFETY: a strip's columns of a token are this job's alone.
                    let out = unsafe { std::slice::from_raw_parts_mut(y.at(place), many) };
                    for (r, out) in out.iter_mut().enumerate() {
                        *out = sums[r * wide + j];
                    }
                    finish(place, out);
                }
            }
        })
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every instruction set, and any number of threads, gives the bits of the plain sum in order; whatever the sizes.
    #[test]
    fn every_instruction_set_gives_the_bits_of_the_sum_in_order() {
        for (tokens, k, outer) in [(1, 1, 1), (5, 7, 33), (16, 64, 40), (49, 100, 65), (150, 33, 17)] {
            let numbers = |n: usize, by: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * by).sin()).collect() };
            let (x, w, bias) = (numbers(tokens * k, 0.7), numbers(outer * k, 1.3), numbers(outer, 0.1));
            let expected: Vec<f32> = (0..tokens * outer)
                .map(|at| {
                    let (t, o) = (at / outer, at % outer);
                    (0..k).fold(bias[o], |sum, i| w[o * k + i].mul_add(x[t * k + i], sum))
                })
                .collect();
            for level in [Level::Baseline, Level::Avx2, Level::Avx512] {
                simd::limit(level);
                let mut y = vec![f32::NAN; tokens * outer];
                let strip = |rows: std::ops::Range<usize>, _: &mut Vec<f32>| w[rows.start * k..].as_ptr();
                by_weight(&Panels::new(&x, tokens, k), outer, Some(&bias), strip, |_, _| (), &mut y);
                assert!(y == expected, "{level:?}, {tokens} x {k} x {outer}");
            }
            simd::limit(Level::Avx512);
        }
    }
}

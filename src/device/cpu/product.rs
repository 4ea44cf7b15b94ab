//! Products with weights. A weight is read in place, in storage precision, without a copy; the activations are transposed
//! once, into panels.
//!
//! The f32 kernel is in `tile`. Weights in half precision are widened a strip at a time; bf16 weights are multiplied
//! directly if the CPU has a unit for it (`pairs`). A weight at several points is displaced a strip at a time, in cache:
//! its directions are drawn once, and each point's activations are multiplied by that point's strip.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;

use super::activation::activate;
use super::displaced::Displaced;
use super::matrix::SharedMut;
use super::pairs::{self, Amx, Pair};
use super::simd::PairUnit;
use super::small::SmallWeight;
use super::tile::{Rows, VectorUnit};
use super::transpose::transpose;
use crate::device::cpu::convert::convert;
use crate::device::{Activation, Element, View};

/// Maximum sums of a strip: 32 rows with the widest panel of activations.
const SUMS: usize = 32 * 4 * 16;

/// Layout of the activations, which decides the kernel.
#[derive(Clone, Copy)]
enum Packing {
    /// f32.
    F32(VectorUnit),
    /// Rounded to bf16, pairs along k.
    Bf16Pairs(PairUnit),
}

impl Packing {
    /// Tokens in a vector.
    fn lanes(self) -> usize {
        match self {
            Packing::F32(unit) => unit.lanes(),
            Packing::Bf16Pairs(_) => pairs::SIDE,
        }
    }

    /// Tokens in a panel.
    fn width(self) -> usize {
        let vectors = match self {
            Packing::F32(unit) => unit.vectors(),
            Packing::Bf16Pairs(PairUnit::Vectors) => 3,
            Packing::Bf16Pairs(PairUnit::Tiles) => 4,
        };
        self.lanes() * vectors
    }

    /// Rows of a weight [.., k] per job: fewer if the displaced strip would not fit into the second-level cache.
    fn strip(self, k: usize, is_displaced: bool) -> usize {
        /// Elements: 320 KiB in f32.
        const MAX_ELEMENTS: usize = 80 << 10;
        let (mut rows, min_rows) = match self {
            Packing::F32(unit) => (unit.strip(), unit.strip() / 4),
            Packing::Bf16Pairs(_) => (2 * pairs::SIDE, pairs::SIDE),
        };
        while is_displaced && rows > min_rows && rows * k > MAX_ELEMENTS {
            rows /= 2;
        }
        rows
    }

    /// 32-bit words of a token's `k` numbers.
    fn words(self, k: usize) -> usize {
        match self {
            Packing::F32(_) => k,
            Packing::Bf16Pairs(_) => k / 2,
        }
    }
}

/// Activations [tokens, k], transposed and padded for the kernel: panels of a few vectors of tokens, each [k, width]
/// numbers or [k / 2, width] pairs.
pub struct Panels {
    packing: Packing,
    /// f32 bits, or pairs of bf16.
    packed: Vec<u32>,
    tokens: usize,
    k: usize,
}

impl Panels {
    /// Packs `x` [tokens, k] on all threads; in bf16 if `in_bf16` (the weights are bf16) and the CPU has a unit for pairs.
    pub fn new(x: &[f32], tokens: usize, k: usize, in_bf16: bool) -> Self {
        let unit = pairs::unit().filter(|_| in_bf16 && k.is_multiple_of(2));
        Self::of(unit.map_or(Packing::F32(VectorUnit::best()), Packing::Bf16Pairs), x, tokens, k)
    }

    fn of(packing: Packing, x: &[f32], tokens: usize, k: usize) -> Self {
        let (words, width) = (packing.words(k), packing.width());
        let len = tokens.next_multiple_of(packing.lanes()) * words;
        let mut packed: Vec<u32> = Vec::with_capacity(len);
        packed.spare_capacity_mut()[..len].par_chunks_mut(width * words).enumerate().for_each(|(p, panel)| {
            let first = p * width;
            let (count, stride) = (width.min(tokens - first), panel.len() / words);
            if count < stride {
                panel.fill(MaybeUninit::new(0));
            }
            let x = &x[first * k..(first + count) * k];
            let to = panel.as_mut_ptr().cast();
            match packing {
                // SAFETY: `count` rows of x; the panel is [words, stride].
                Packing::F32(_) => unsafe { transpose(count, k, Rows { start: x.as_ptr(), stride: k }, to, stride, None) },
                Packing::Bf16Pairs(_) => BF16_PANEL.with_borrow_mut(|in_bf16| {
                    in_bf16.resize(count * words, 0);
                    convert(x, bytemuck::cast_slice_mut::<Pair, bf16>(in_bf16));
                    // SAFETY: the same, with pairs as f32 bits.
                    unsafe {
                        transpose(count, words, Rows { start: in_bf16.as_ptr().cast(), stride: words }, to, stride, None)
                    }
                }),
            }
        });
        // SAFETY: every panel was written, including its padding.
        unsafe { packed.set_len(len) };
        Panels { packing, packed, tokens, k }
    }

    /// Each panel's start, token range and number of vectors.
    fn each(&self) -> impl Iterator<Item = (*const u32, Range<usize>, usize)> {
        let (words, width) = (self.packing.words(self.k), self.packing.width());
        (0..self.tokens).step_by(width).map(move |first| {
            let count = width.min(self.tokens - first);
            (self.packed[first * words..].as_ptr(), first..first + count, count.div_ceil(self.packing.lanes()))
        })
    }
}

/// Buffers for a strip of a weight, displaced or widened.
#[derive(Default)]
struct Scratch {
    wide: Vec<f32>,
    bf16: Vec<bf16>,
    f16: Vec<f16>,
}

// Per thread: a panel in bf16 as 32-bit words, and a strip.
thread_local!(static BF16_PANEL: RefCell<Vec<Pair>> = const { RefCell::new(Vec::new()) });

thread_local!(static STRIPS: RefCell<Scratch> = RefCell::default());

/// A layer's weight [outer, k] and bias [outer].
pub struct Layer<'a> {
    /// In storage precision.
    pub weight: View<'a>,
    /// Rows of the weight.
    pub outer: usize,
    /// None: no bias.
    pub bias: Option<SmallWeight>,
    /// The points to read the weight at, if not at theta.
    pub displaced: Option<&'a Displaced>,
}

/// Rows of a weight for the kernel; `point_stride` is the distance between the strips of consecutive points, 0 without
/// displacement.
#[derive(Clone, Copy)]
enum Strip {
    F32 { unit: VectorUnit, rows: Rows<f32>, point_stride: usize },
    Bf16Pairs { unit: PairUnit, rows: Rows<Pair>, point_stride: usize },
}

impl Strip {
    /// Whether the next rows in memory are the next strip's, so that prefetching them pays. (Not for widened strips, which
    /// lie in scratch: prefetching past those is useless but harmless.)
    fn is_undisplaced(self) -> bool {
        matches!(self, Strip::F32 { point_stride: 0, .. } | Strip::Bf16Pairs { point_stride: 0, .. })
    }

    /// The strip of a point.
    fn at(self, point: usize) -> Self {
        match self {
            Strip::F32 { unit, rows, point_stride } => {
                let rows = Rows { start: rows.start.wrapping_add(point * point_stride), ..rows };
                Strip::F32 { unit, rows, point_stride }
            }
            Strip::Bf16Pairs { unit, rows, point_stride } => {
                let rows = Rows { start: rows.start.wrapping_add(point * point_stride), ..rows };
                Strip::Bf16Pairs { unit, rows, point_stride }
            }
        }
    }
}

impl Layer<'_> {
    /// A strip of the weight, in place, or displaced or widened in `scratch`.
    fn strip(&self, rows: Range<usize>, k: usize, packing: Packing, scratch: &mut Scratch) -> Strip {
        fn displace<'s, T: Element>(w: &'s [T], first: usize, by: Option<&Displaced>, to: &'s mut Vec<T>) -> &'s [T] {
            match by {
                Some(displaced) => {
                    displaced.read(w, first, to);
                    to
                }
                None => w,
            }
        }
        fn widen<T: Element>(w: &[T], to: &mut Vec<f32>) -> *const f32 {
            to.resize(w.len(), 0.0);
            convert(w, to);
            to.as_ptr()
        }
        let (range, first, by) = (rows.start * k..rows.end * k, rows.start * k, self.displaced);
        let point_stride = if by.is_some() { range.len() } else { 0 };
        match (packing, &self.weight) {
            (Packing::Bf16Pairs(unit), View::Bf16(w)) => {
                let w = displace(&w[range], first, by, &mut scratch.bf16);
                Strip::Bf16Pairs {
                    unit,
                    rows: Rows { start: w.as_ptr().cast(), stride: k / 2 },
                    point_stride: point_stride / 2,
                }
            }
            (Packing::Bf16Pairs(_), _) => unreachable!("halves come to halves"),
            (Packing::F32(unit), weight) => {
                let start = match weight {
                    View::F32(w) => displace(&w[range], first, by, &mut scratch.wide).as_ptr(),
                    View::Bf16(w) => widen(displace(&w[range], first, by, &mut scratch.bf16), &mut scratch.wide),
                    View::F16(w) => widen(displace(&w[range], first, by, &mut scratch.f16), &mut scratch.wide),
                };
                Strip::F32 { unit, rows: Rows { start, stride: k }, point_stride }
            }
        }
    }
}

/// y [tokens, width] = residual + activation(x W^T + bias), with one [`Panels`] per point, or one for all; the outputs of
/// `layers` side by side make up the width.
pub fn apply_layers(x: &[Panels], layers: &[Layer], activation: Activation, residual: Option<&[f32]>) -> Vec<f32> {
    let width: usize = layers.iter().map(|layer| layer.outer).sum();
    let tokens: usize = x.iter().map(|x| x.tokens).sum();
    debug_assert!(residual.is_none_or(|residual| residual.len() == tokens * width));
    let Some(&Panels { packing, k, .. }) = x.first() else { return Vec::new() };
    let mut strips: Vec<(&Layer, Range<usize>, usize)> = Vec::new();
    let mut column = 0;
    for layer in layers {
        let strip_rows = packing.strip(k, layer.displaced.is_some());
        for first in (0..layer.outer).step_by(strip_rows) {
            strips.push((layer, first..layer.outer.min(first + strip_rows), column + first));
        }
        column += layer.outer;
    }
    let mut y: Vec<f32> = Vec::with_capacity(tokens * width);
    let y_at = SharedMut(y.as_mut_ptr());
    strips.into_par_iter().for_each(|(layer, rows, column)| {
        STRIPS.with_borrow_mut(|scratch| {
            let strip = layer.strip(rows.clone(), k, packing, scratch);
            let mut offset = column;
            for (point, x) in x.iter().enumerate() {
                let bias = layer.bias.as_ref().map(|bias| &bias.at(point)[rows.clone()]);
                let (to, residual) = ((y_at.at(offset), width), residual.map(|residual| residual[offset..].as_ptr()));
                // SAFETY: only this job accesses the strip's columns of y, which exist for every token.
                unsafe { apply_strip(x, strip.at(point), rows.len(), bias, activation, to, residual) };
                offset += x.tokens * width;
            }
        })
    });
    // SAFETY: the strips cover all columns of y, and each wrote them for every token.
    unsafe { y.set_len(tokens * width) };
    y
}

/// A strip's columns of y, for all tokens of `x`.
///
/// # Safety
/// The strip has `rows` rows of k numbers; y and `residual` have its columns for every token; no other thread accesses y's.
unsafe fn apply_strip(
    x: &Panels,
    strip: Strip,
    rows: usize,
    bias: Option<&[f32]>,
    activation: Activation,
    (y, width): (*mut f32, usize),
    residual: Option<*const f32>,
) {
    #[cfg(target_arch = "x86_64")]
    let mut tiles = {
        let in_whole_tiles = rows.is_multiple_of(pairs::SIDE) && x.k.is_multiple_of(2 * pairs::SIDE);
        // SAFETY: the CPU has AMX, and this process has permission to use it.
        (in_whole_tiles && matches!(strip, Strip::Bf16Pairs { unit: PairUnit::Tiles, .. }))
            .then(|| unsafe { Amx::configure() })
    };
    let (mut sums, lanes) = ([0f32; SUMS], x.packing.lanes());
    for (panel, tokens, vectors) in x.each() {
        let wide = vectors * lanes;
        let sums = &mut sums[..rows * wide];
        for (r, row) in sums.chunks_exact_mut(wide).enumerate() {
            row.fill(bias.map_or(0.0, |bias| bias[r]));
        }
        let c = sums.as_mut_ptr();
        // The first panel prefetches the next strip.
        let ahead = if tokens.start == 0 && strip.is_undisplaced() { rows } else { 0 };
        // SAFETY: the panel is [k, wide] numbers or [k / 2, wide] pairs; the sums are [rows, wide].
        match strip {
            Strip::F32 { unit, rows: a, .. } => unsafe {
                unit.tile(rows, x.k, vectors, a, Rows { start: panel.cast(), stride: wide }, c, wide, ahead);
            },
            #[cfg(target_arch = "x86_64")]
            Strip::Bf16Pairs { rows: a, .. } => unsafe {
                let (pairs, b) = (x.k / 2, Rows { start: panel, stride: wide });
                match &mut tiles {
                    Some(tiles) => pairs::by_tiles(tiles, (rows, pairs, vectors), a, b, c, wide),
                    None => pairs::by_vectors((rows, pairs, vectors), a, b, c, wide, ahead),
                }
            },
            #[cfg(not(target_arch = "x86_64"))]
            Strip::Bf16Pairs { .. } => unreachable!("no other processor's unit is known"),
        }
        activate(sums, activation);
        let (offset, sums) = (tokens.start * width, Rows { start: sums.as_ptr(), stride: wide });
        let residual = residual.map(|residual| residual.wrapping_add(offset));
        // SAFETY: the strip's columns of these tokens.
        unsafe { transpose(rows, tokens.len(), sums, y.wrapping_add(offset), width, residual) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::simd;

    /// Every instruction set and any number of threads give the bits of the sum in order, for all sizes.
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
            for machine in simd::machines() {
                let bias = Some(SmallWeight { values: bias.clone(), len: outer });
                let layer = Layer { weight: View::F32(&w), outer, bias, displaced: None };
                let run = || apply_layers(&[Panels::new(&x, tokens, k, false)], &[layer], Activation::None, None);
                assert!(simd::on(machine, 2, run).unwrap() == expected, "{machine:?}, {tokens} x {k} x {outer}");
            }
        }
    }

    /// With a unit for pairs, a bf16 layer agrees with the f32 path on activations rounded to bf16; the f32 path gives the
    /// same bits for bf16 weights as for the widened weights.
    #[test]
    fn weights_in_bf16_are_multiplied_as_they_are_or_widened() {
        for (tokens, k, outer) in [(1, 2, 1), (5, 34, 33), (16, 64, 48), (150, 96, 64)] {
            let numbers =
                |n: usize, by: f32| -> Vec<bf16> { (0..n).map(|i| bf16::from_f32((i as f32 * by).sin())).collect() };
            let (x, w) = (numbers(tokens * k, 0.7), numbers(outer * k, 1.3));
            let [x, wide]: [Vec<f32>; 2] = [&x, &w].map(|in_bf16| in_bf16.iter().map(|h| h.to_f32()).collect());
            let product = |packing, weight| {
                let layer = Layer { weight, outer, bias: None, displaced: None };
                apply_layers(&[Panels::of(packing, &x, tokens, k)], &[layer], Activation::None, None)
            };
            let exact = product(Packing::F32(VectorUnit::best()), View::F32(&wide));
            assert!(product(Packing::F32(VectorUnit::best()), View::Bf16(&w)) == exact);
            if let Some(unit) = pairs::unit() {
                for (found, exact) in product(Packing::Bf16Pairs(unit), View::Bf16(&w)).iter().zip(&exact) {
                    assert!(
                        (found - exact).abs() < 1e-5 * k as f32,
                        "{unit:?}, {tokens} x {k} x {outer}: {found}, not {exact}"
                    );
                }
            }
        }
    }
}

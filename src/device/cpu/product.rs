//! Products with weights: the weight is read where it lies, as it is held, and so needs no copy; the activations are transposed
//! once, into panels.
//!
//! In f32 the kernel is that of `tile`. Weights held in half precision are widened a strip at a time; those in bf16 are multiplied as
//! they are where the machine has a unit for it (`pairs`). A weight that is read at several points is displaced a strip at a time, in
//! cache: its directions are drawn once, and each point's activations are multiplied by the strip that is theirs.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;

use super::activation::activate;
use super::displaced::Displaced;
use super::matrix::Shared;
use super::pairs::{self, Amx, Pair};
use super::simd::PairUnit;
use super::small::Small;
use super::tile::{Rows, Unit};
use super::transpose::transpose;
use crate::device::cpu::convert::convert;
use crate::device::{Activation, Element, View};

/// Sums of a strip, at most: 32 rows with the widest panel of activations.
const SUMS: usize = 32 * 4 * 16;

/// How activations are laid out for a product, and so what multiplies them.
#[derive(Clone, Copy)]
enum Form {
    /// f32.
    Wide(Unit),
    /// Rounded to bf16, pairs along k.
    Pairs(PairUnit),
}

impl Form {
    /// Tokens in a vector.
    fn lanes(self) -> usize {
        match self {
            Form::Wide(unit) => unit.lanes(),
            Form::Pairs(_) => pairs::SIDE,
        }
    }

    /// Tokens in a panel.
    fn width(self) -> usize {
        let vectors = match self {
            Form::Wide(unit) => unit.vectors(),
            Form::Pairs(PairUnit::Vectors) => 3,
            Form::Pairs(PairUnit::Tiles) => 4,
        };
        self.lanes() * vectors
    }

    /// Rows of a weight [.., k] that a thread takes at a time: fewer where, displaced to a point, they would not stay in the second
    /// cache.
    fn strip(self, k: usize, is_displaced: bool) -> usize {
        /// Numbers: 320 KiB in f32.
        const MOST: usize = 80 << 10;
        let (mut rows, least) = match self {
            Form::Wide(unit) => (unit.strip(), unit.strip() / 4),
            Form::Pairs(_) => (2 * pairs::SIDE, pairs::SIDE),
        };
        while is_displaced && rows > least && rows * k > MOST {
            rows /= 2;
        }
        rows
    }

    /// Words of 32 bits that a token's `k` numbers take.
    fn words(self, k: usize) -> usize {
        match self {
            Form::Wide(_) => k,
            Form::Pairs(_) => k / 2,
        }
    }
}

/// Activations [tokens, k], transposed and padded for the kernel: panels of a few vectors of tokens, each [k, its width], or
/// [k / 2, its width] pairs.
pub struct Panels {
    form: Form,
    /// Bits of f32, or pairs of bf16.
    packed: Vec<u32>,
    tokens: usize,
    k: usize,
}

impl Panels {
    /// Of `x` [tokens, k], by all threads; in `halves` where weights in bf16 come to them and the machine multiplies those.
    pub fn new(x: &[f32], tokens: usize, k: usize, halves: bool) -> Self {
        let unit = pairs::unit().filter(|_| halves && k.is_multiple_of(2));
        Self::of(unit.map_or(Form::Wide(Unit::best()), Form::Pairs), x, tokens, k)
    }

    fn of(form: Form, x: &[f32], tokens: usize, k: usize) -> Self {
        let (words, width) = (form.words(k), form.width());
        let len = tokens.next_multiple_of(form.lanes()) * words;
        let mut packed: Vec<u32> = Vec::with_capacity(len);
        packed.spare_capacity_mut()[..len].par_chunks_mut(width * words).enumerate().for_each(|(p, panel)| {
            let first = p * width;
            let (here, stride) = (width.min(tokens - first), panel.len() / words);
            if here < stride {
                panel.fill(MaybeUninit::new(0));
            }
            let x = &x[first * k..(first + here) * k];
            let to = panel.as_mut_ptr().cast();
            match form {
                // SAFETY: `here` rows of x, and the panel is [words, stride].
                Form::Wide(_) => unsafe { transpose(here, k, Rows { start: x.as_ptr(), stride: k }, to, stride, None) },
                Form::Pairs(_) => HALVES.with_borrow_mut(|halves| {
                    halves.resize(here * words, 0);
                    convert(x, bytemuck::cast_slice_mut::<Pair, bf16>(halves));
                    // SAFETY: the same, of pairs as bits.
                    unsafe {
                        transpose(here, words, Rows { start: halves.as_ptr().cast(), stride: words }, to, stride, None)
                    }
                }),
            }
        });
        // SAFETY: every panel was written, its padding too.
        unsafe { packed.set_len(len) };
        Panels { form, packed, tokens, k }
    }

    /// Where each panel starts, the tokens that are in it, and its vectors.
    fn each(&self) -> impl Iterator<Item = (*const u32, Range<usize>, usize)> {
        let (words, width) = (self.form.words(self.k), self.form.width());
        (0..self.tokens).step_by(width).map(move |first| {
            let here = width.min(self.tokens - first);
            (self.packed[first * words..].as_ptr(), first..first + here, here.div_ceil(self.form.lanes()))
        })
    }
}

/// A strip of a weight, displaced as it is held or in f32.
#[derive(Default)]
struct Scratch {
    wide: Vec<f32>,
    bf16: Vec<bf16>,
    f16: Vec<f16>,
}

// A thread's own: a panel in bf16, as the words of 32 bits that it is read as; a strip.
thread_local!(static HALVES: RefCell<Vec<Pair>> = const { RefCell::new(Vec::new()) });

thread_local!(static STRIPS: RefCell<Scratch> = RefCell::default());

/// A layer's weight [outer, k] and bias [outer].
pub struct Layer<'a> {
    /// As it is held.
    pub weight: View<'a>,
    /// Rows of the weight.
    pub outer: usize,
    /// If there is one.
    pub bias: Option<Small>,
    /// The points that the weight is read at, if not as it stands.
    pub displaced: Option<&'a Displaced>,
}

/// Rows of a weight as a product reads them; `apart`: how far it is from one point's to the next one's.
#[derive(Clone, Copy)]
enum Strip {
    Wide { unit: Unit, rows: Rows<f32>, apart: usize },
    Pairs { unit: PairUnit, rows: Rows<Pair>, apart: usize },
}

impl Strip {
    /// Whether the rows behind it are the next strip's.
    fn lies_in_the_weight(self) -> bool {
        matches!(self, Strip::Wide { apart: 0, .. } | Strip::Pairs { apart: 0, .. })
    }

    /// That of a point, where there are several.
    fn at(self, point: usize) -> Self {
        match self {
            Strip::Wide { unit, rows, apart } => {
                let rows = Rows { start: rows.start.wrapping_add(point * apart), ..rows };
                Strip::Wide { unit, rows, apart }
            }
            Strip::Pairs { unit, rows, apart } => {
                let rows = Rows { start: rows.start.wrapping_add(point * apart), ..rows };
                Strip::Pairs { unit, rows, apart }
            }
        }
    }
}

impl Layer<'_> {
    /// Where they lie; or in `scratch`, displaced or widened.
    fn strip(&self, rows: Range<usize>, k: usize, form: Form, scratch: &mut Scratch) -> Strip {
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
        let (here, first, by) = (rows.start * k..rows.end * k, rows.start * k, self.displaced);
        let apart = if by.is_some() { here.len() } else { 0 };
        match (form, &self.weight) {
            (Form::Pairs(unit), View::Bf16(w)) => {
                let w = displace(&w[here], first, by, &mut scratch.bf16);
                Strip::Pairs { unit, rows: Rows { start: w.as_ptr().cast(), stride: k / 2 }, apart: apart / 2 }
            }
            (Form::Pairs(_), _) => unreachable!("halves come to halves"),
            (Form::Wide(unit), weight) => {
                let start = match weight {
                    View::F32(w) => displace(&w[here], first, by, &mut scratch.wide).as_ptr(),
                    View::Bf16(w) => widen(displace(&w[here], first, by, &mut scratch.bf16), &mut scratch.wide),
                    View::F16(w) => widen(displace(&w[here], first, by, &mut scratch.f16), &mut scratch.wide),
                };
                Strip::Wide { unit, rows: Rows { start, stride: k }, apart }
            }
        }
    }
}

/// y [tokens, width] = onto + activation(x W^T + bias), for x as [`Panels`], those of each point where there are several; `layers`
/// side by side, whose rows make up the width.
pub fn by_weights(x: &[Panels], layers: &[Layer], activation: Activation, onto: Option<&[f32]>) -> Vec<f32> {
    let width: usize = layers.iter().map(|layer| layer.outer).sum();
    let tokens: usize = x.iter().map(|x| x.tokens).sum();
    debug_assert!(onto.is_none_or(|onto| onto.len() == tokens * width));
    let Some(&Panels { form, k, .. }) = x.first() else { return Vec::new() };
    let mut strips: Vec<(&Layer, Range<usize>, usize)> = Vec::new();
    let mut column = 0;
    for layer in layers {
        let many = form.strip(k, layer.displaced.is_some());
        for first in (0..layer.outer).step_by(many) {
            strips.push((layer, first..layer.outer.min(first + many), column + first));
        }
        column += layer.outer;
    }
    let mut y: Vec<f32> = Vec::with_capacity(tokens * width);
    let y_at = Shared(y.as_mut_ptr());
    strips.into_par_iter().for_each(|(layer, rows, column)| {
        STRIPS.with_borrow_mut(|scratch| {
            let strip = layer.strip(rows.clone(), k, form, scratch);
            let mut place = column;
            for (point, x) in x.iter().enumerate() {
                let bias = layer.bias.as_ref().map(|bias| &bias.at(point)[rows.clone()]);
                let (to, onto) = ((y_at.at(place), width), onto.map(|onto| onto[place..].as_ptr()));
                // SAFETY: the strip's columns of y are this job's alone, and there for every token.
                unsafe { strip_by_panels(x, strip.at(point), rows.len(), bias, activation, to, onto) };
                place += x.tokens * width;
            }
        })
    });
    // SAFETY: the strips are all columns of y, and each wrote them for every token.
    unsafe { y.set_len(tokens * width) };
    y
}

/// A strip's columns of y, for every token.
///
/// # Safety
/// The strip has `rows` rows of k numbers; y and `onto` have those columns for every token; nobody else touches y's meanwhile.
unsafe fn strip_by_panels(
    x: &Panels,
    strip: Strip,
    rows: usize,
    bias: Option<&[f32]>,
    activation: Activation,
    (y, width): (*mut f32, usize),
    onto: Option<*const f32>,
) {
    #[cfg(target_arch = "x86_64")]
    let mut tiles = {
        let whole = rows.is_multiple_of(pairs::SIDE) && x.k.is_multiple_of(2 * pairs::SIDE);
        // SAFETY: the machine has them, and this process may use them.
        (whole && matches!(strip, Strip::Pairs { unit: PairUnit::Tiles, .. })).then(|| unsafe { Amx::begin() })
    };
    let (mut sums, lanes) = ([0f32; SUMS], x.form.lanes());
    for (panel, tokens, vectors) in x.each() {
        let wide = vectors * lanes;
        let sums = &mut sums[..rows * wide];
        for (r, row) in sums.chunks_exact_mut(wide).enumerate() {
            row.fill(bias.map_or(0.0, |bias| bias[r]));
        }
        let c = sums.as_mut_ptr();
        // The first panel's turn brings the next strip nearer.
        let ahead = if tokens.start == 0 && strip.lies_in_the_weight() { rows } else { 0 };
        // SAFETY: the panel is [k, wide] numbers or [k / 2, wide] pairs, and the sums are [rows, wide].
        match strip {
            Strip::Wide { unit, rows: a, .. } => unsafe {
                unit.tile(rows, x.k, vectors, a, Rows { start: panel.cast(), stride: wide }, c, wide, ahead);
            },
            #[cfg(target_arch = "x86_64")]
            Strip::Pairs { rows: a, .. } => unsafe {
                let (pairs, b) = (x.k / 2, Rows { start: panel, stride: wide });
                match &mut tiles {
                    Some(tiles) => pairs::by_tiles(tiles, (rows, pairs, vectors), a, b, c, wide),
                    None => pairs::by_vectors((rows, pairs, vectors), a, b, c, wide, ahead),
                }
            },
            #[cfg(not(target_arch = "x86_64"))]
            Strip::Pairs { .. } => unreachable!("no other processor's unit is known"),
        }
        activate(sums, activation);
        let (place, sums) = (tokens.start * width, Rows { start: sums.as_ptr(), stride: wide });
        let onto = onto.map(|onto| onto.wrapping_add(place));
        // SAFETY: the strip's columns of these tokens.
        unsafe { transpose(rows, tokens.len(), sums, y.wrapping_add(place), width, onto) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::simd;

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
            for machine in simd::machines() {
                let bias = Some(Small { all: bias.clone(), len: outer });
                let layer = Layer { weight: View::F32(&w), outer, bias, displaced: None };
                let run = || by_weights(&[Panels::new(&x, tokens, k, false)], &[layer], Activation::None, None);
                assert!(simd::on(machine, 2, run).unwrap() == expected, "{machine:?}, {tokens} x {k} x {outer}");
            }
        }
    }

    /// On a unit for pairs a layer in bf16 gives what the plain path gives for activations rounded to bf16; and that gives what f32
    /// gives for the widened weights.
    #[test]
    fn weights_in_bf16_are_multiplied_as_they_are_or_widened() {
        for (tokens, k, outer) in [(1, 2, 1), (5, 34, 33), (16, 64, 48), (150, 96, 64)] {
            let numbers =
                |n: usize, by: f32| -> Vec<bf16> { (0..n).map(|i| bf16::from_f32((i as f32 * by).sin())).collect() };
            let (x, w) = (numbers(tokens * k, 0.7), numbers(outer * k, 1.3));
            let [x, wide]: [Vec<f32>; 2] = [&x, &w].map(|halves| halves.iter().map(|h| h.to_f32()).collect());
            let product = |form, weight| {
                let layer = Layer { weight, outer, bias: None, displaced: None };
                by_weights(&[Panels::of(form, &x, tokens, k)], &[layer], Activation::None, None)
            };
            let exact = product(Form::Wide(Unit::best()), View::F32(&wide));
            assert!(product(Form::Wide(Unit::best()), View::Bf16(&w)) == exact);
            if let Some(unit) = pairs::unit() {
                for (found, exact) in product(Form::Pairs(unit), View::Bf16(&w)).iter().zip(&exact) {
                    assert!(
                        (found - exact).abs() < 1e-5 * k as f32,
                        "{unit:?}, {tokens} x {k} x {outer}: {found}, not {exact}"
                    );
                }
            }
        }
    }
}

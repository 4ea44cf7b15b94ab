//! Low-rank products, s h B^T with h = x A^T, added to rows.

use rayon::prelude::*;

use super::matrix::{Columns, Matrix, multiply, threads};
use super::points::by_points;
use super::small::Small;

/// A part: B [outer, r] at every point, and where its columns stand.
pub struct LowRankPart<'a> {
    /// The numbers of B.
    pub b: &'a Small,
    /// Rows of B: columns of the output.
    pub outer: usize,
    /// Columns of B: columns of h.
    pub r: usize,
    /// s
    pub scale: f32,
    /// The first of its columns of y.
    pub column: usize,
    /// The first of its columns of h.
    pub first: usize,
}

/// Tokens that a thread takes at a time.
const TOKENS: usize = 8;

/// y [tokens, width] += s h B^T under the columns of each part: h [tokens, ranks].
pub fn add_low_rank(y: &mut [f32], width: usize, h: &[f32], ranks: usize, parts: &[LowRankPart]) -> candle_core::Result<()> {
    let b_t = |part: &LowRankPart| {
        let all = part.b.all.chunks(part.b.len).flat_map(|b| transposed(b, part.r)).collect();
        Small { all, len: part.b.len }
    };
    let b_t: Vec<Small> = parts.iter().map(b_t).collect();
    let points = b_t.iter().map(Small::points).max().unwrap_or(1);
    let (mut stretches, mut h) = (Vec::new(), h);
    for (point, y) in by_points(y, width, points, TOKENS)? {
        let (here, rest) = h.split_at(y.len() / width * ranks);
        stretches.push((point, y, here));
        h = rest;
    }
    stretches.into_par_iter().for_each(|(point, y, h)| {
        for (y, h) in y.chunks_mut(width).zip(h.chunks(ranks)) {
            for (part, b_t) in parts.iter().zip(&b_t) {
                let LowRankPart { outer, r, scale, column, first, .. } = *part;
                add_to_row(&mut y[column..][..outer], scale, &h[first..][..r], b_t.at(point));
            }
        }
    });
    Ok(())
}

/// The part's columns of dh [tokens, ranks] = s dy B, from dy [tokens, width].
pub fn input_gradient(dh: &mut [f32], ranks: usize, dy: &[f32], width: usize, part: &LowRankPart) {
    let LowRankPart { b, outer, r, scale, column, first } = *part;
    let tokens = dy.len() / width;
    let dy = Columns { all: dy, first: column, width, count: outer }.matrix(0);
    // SAFETY: dy is [tokens, outer], B [outer, r], and dh's columns [tokens, r] ours.
    unsafe {
        multiply((tokens, outer, r), dh[first..].as_mut_ptr(), ranks, false, dy, Matrix::of(b.at(0), r), scale, threads())
    }
}

/// dB [outer, r] += s dy^T h.
pub fn add_weight_gradient(db: &mut [f32], dy: &[f32], width: usize, h: &[f32], ranks: usize, part: &LowRankPart) {
    let LowRankPart { outer, r, scale, column, first, .. } = *part;
    let tokens = dy.len() / width;
    let dy = Columns { all: dy, first: column, width, count: outer }.matrix(0).transposed();
    let h = Matrix::of(&h[first..], ranks);
    // SAFETY: dy^T is [outer, tokens], h [tokens, r], dB [outer, r] and ours.
    unsafe { multiply((outer, tokens, r), db.as_mut_ptr(), r, true, dy, h, scale, threads()) }
}

/// B's transpose [r, outer].
fn transposed(b: &[f32], r: usize) -> Vec<f32> {
    (0..r).flat_map(|k| b.iter().skip(k).step_by(r).copied()).collect()
}

vectorize! {
    /// y += s h B^T for one token: h [r], B^T [r, outer], y [outer]; each element one chain in the order of r.
    fn add_to_row(y: &mut [f32], scale: f32, h: &[f32], b_t: &[f32]) {
        let outer = y.len();
        for (k, h) in h.iter().enumerate() {
            let (h, b_t) = (scale * h, &b_t[k * outer..(k + 1) * outer]);
            for i in 0..outer {
                y[i] = h.mul_add(b_t[i], y[i]);
            }
        }
    }
}

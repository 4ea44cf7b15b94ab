//! Low-rank products, s h B^T with h = x A^T.

use rayon::prelude::*;

use super::matrix::{Columns, Matrix, multiply, threads};
use super::points::chunks_by_point;
use super::small::SmallWeight;

/// One adapter's B [outer, r] at every point, and its columns.
pub struct LowRankPart<'a> {
    /// B [outer, r].
    pub b: &'a SmallWeight,
    /// Rows of B, columns in y.
    pub outer: usize,
    /// Columns of B, columns in h.
    pub r: usize,
    /// s
    pub scale: f32,
    /// Its first column in y.
    pub column: usize,
    /// Its first column in h.
    pub first: usize,
}

/// Tokens per job.
const TOKENS: usize = 8;

/// y [tokens, width] += s h B^T in the columns of each part: h [tokens, ranks].
pub fn add_low_rank(y: &mut [f32], width: usize, h: &[f32], ranks: usize, parts: &[LowRankPart]) -> candle_core::Result<()> {
    let b_t = |part: &LowRankPart| {
        let values = part.b.values.chunks(part.b.len).flat_map(|b| transposed(b, part.r)).collect();
        SmallWeight { values, len: part.b.len }
    };
    let b_t: Vec<SmallWeight> = parts.iter().map(b_t).collect();
    let points = b_t.iter().map(SmallWeight::points).max().unwrap_or(1);
    let (mut jobs, mut h) = (Vec::new(), h);
    for (point, y) in chunks_by_point(y, width, points, TOKENS)? {
        let (h_here, rest) = h.split_at(y.len() / width * ranks);
        jobs.push((point, y, h_here));
        h = rest;
    }
    jobs.into_par_iter().for_each(|(point, y, h)| {
        for (y, h) in y.chunks_mut(width).zip(h.chunks(ranks)) {
            for (part, b_t) in parts.iter().zip(&b_t) {
                let LowRankPart { outer, r, scale, column, first, .. } = *part;
                add_to_row(&mut y[column..][..outer], scale, &h[first..][..r], b_t.at(point));
            }
        }
    });
    Ok(())
}

/// dh [tokens, ranks] = s dy B in the part's columns, given dy [tokens, width].
pub fn input_gradient(dh: &mut [f32], ranks: usize, dy: &[f32], width: usize, part: &LowRankPart) {
    let LowRankPart { b, outer, r, scale, column, first } = *part;
    let tokens = dy.len() / width;
    let dy = Columns { all: dy, first: column, width, count: outer }.matrix(0);
    // SAFETY: dy is [tokens, outer], B [outer, r]; dh's columns are [tokens, r] and borrowed mutably.
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
    // SAFETY: dy^T is [outer, tokens], h [tokens, r]; dB is [outer, r] and borrowed mutably.
    unsafe { multiply((outer, tokens, r), db.as_mut_ptr(), r, true, dy, h, scale, threads()) }
}

/// B's transpose [r, outer].
fn transposed(b: &[f32], r: usize) -> Vec<f32> {
    (0..r).flat_map(|k| b.iter().skip(k).step_by(r).copied()).collect()
}

vectorize! {
    /// y += s h B^T for one token: h [r], B^T [r, outer], y [outer]; each element is accumulated in the order of r.
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

//! Backward pass of a linear layer: dx = dy W, dW = dy^T x.

use rayon::prelude::*;

use super::convert::convert;
use super::matrix::{Columns, Matrix, multiply, threads};
use crate::device::{Element, View};

/// Rows of a weight in half precision that one job widens.
const TILE: usize = 64;

/// dx [tokens, inner] += dy W, for dy [tokens, outer] and W [outer, inner].
pub fn add_input_gradient(dy: Columns, weight: View, dx: &mut [f32], (tokens, inner): (usize, usize)) {
    match weight {
        View::F32(w) => {
            let (size, w) = ((tokens, dy.count, inner), Matrix::of(w, inner));
            // SAFETY: dy is [tokens, outer], W [outer, inner]; dx is [tokens, inner] and borrowed mutably.
            unsafe { multiply(size, dx.as_mut_ptr(), inner, true, dy.matrix(0), w, 1.0, threads()) }
        }
        View::Bf16(w) => backward_widened(dy, w, dx, (tokens, inner)),
        View::F16(w) => backward_widened(dy, w, dx, (tokens, inner)),
    }
}

/// dW [outer, inner] += dy^T x, for x [tokens, inner].
pub fn add_weight_gradient(dw: &mut [f32], dy: Columns, x: &[f32], (tokens, inner): (usize, usize)) {
    let (dy_t, x) = (dy.matrix(0).transposed(), Matrix::of(x, inner));
    // SAFETY: dy^T is [outer, tokens], x [tokens, inner]; dW is [outer, inner] and borrowed mutably.
    unsafe { multiply((dy.count, tokens, inner), dw.as_mut_ptr(), inner, true, dy_t, x, 1.0, threads()) }
}

/// dx += dy W with W in half precision: tile by tile with all threads on each, since every tile adds to all of dx.
fn backward_widened<T: Element>(dy: Columns, w: &[T], dx: &mut [f32], (tokens, inner): (usize, usize)) {
    const TILES: usize = 8 * TILE;
    let mut tile = vec![0f32; TILES.min(dy.count) * inner];
    for (i, rows) in w.chunks(TILES * inner).enumerate() {
        let tile = &mut tile[..rows.len()];
        tile.par_chunks_mut(TILE * inner).zip(rows.par_chunks(TILE * inner)).for_each(|(to, from)| convert(from, to));
        let b = Matrix::of(tile, inner);
        let size = (tokens, rows.len() / inner, inner);
        // SAFETY: the tile's columns of dy; dx is [tokens, inner] and borrowed mutably.
        unsafe { multiply(size, dx.as_mut_ptr(), inner, true, dy.matrix(i * TILES), b, 1.0, threads()) }
    }
}

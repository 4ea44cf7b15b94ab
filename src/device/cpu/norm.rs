//! Layer norm and RMS norm, row by row.

use rayon::prelude::*;

use super::points::by_points;
use super::simd;
use super::small::Small;
use crate::device::Heads;

/// What a norm does with a row.
#[derive(Clone, Copy)]
pub struct NormKind {
    /// What is added to the variance.
    pub eps: f32,
    /// Layer norm subtracts the mean; RMS norm does not.
    pub centred: bool,
}

/// Rows that a thread takes at a time.
const ROWS: usize = 16;

/// x <- (x - mean) / sd * weight + bias for each row of x [.., hidden].
pub fn normalise_rows(x: &mut [f32], weight: &Small, bias: Option<&Small>, kind: NormKind) -> candle_core::Result<()> {
    let (hidden, points) = (weight.len, weight.points().max(bias.map_or(1, Small::points)));
    by_points(x, hidden, points, ROWS)?.into_par_iter().for_each(|(point, rows)| {
        let (weight, bias) = (weight.at(point), bias.map(|b| b.at(point)));
        rows.chunks_mut(hidden).for_each(|row| normalise(row, weight, bias, kind.eps, kind.centred));
    });
    Ok(())
}

/// Of x and dy [.., hidden] the normalised x and dx: their product with dy and the sums of dy's rows are the gradients of weight and bias.
pub fn differentiate_rows(x: &[f32], dy: &[f32], weight: &Small, kind: NormKind) -> (Vec<f32>, Vec<f32>) {
    let (mut normalised, mut dx, hidden) = (x.to_vec(), dy.to_vec(), weight.len);
    let rows = normalised.par_chunks_mut(ROWS * hidden).zip(dx.par_chunks_mut(ROWS * hidden));
    rows.for_each(|(x, dy)| {
        for (x, dy) in x.chunks_mut(hidden).zip(dy.chunks_mut(hidden)) {
            differentiate(x, dy, weight.at(0), kind.eps, kind.centred);
        }
    });
    (normalised, dx)
}

/// Which of the weights of queries and keys a head has.
fn weight_of(head: usize, heads: Heads) -> usize {
    usize::from(head >= heads.queries)
}

/// RMS norm over each head of queries and of keys of x [tokens, width], by weights [dim] of their own.
pub fn normalise_heads(
    x: &mut [f32],
    width: usize,
    heads: Heads,
    weights: &[Small; 2],
    eps: f32,
) -> candle_core::Result<()> {
    let points = weights[0].points().max(weights[1].points());
    by_points(x, width, points, 1)?.into_par_iter().for_each(|(point, row)| {
        for (i, head) in row.chunks_mut(heads.dim).take(heads.queries + heads.keys).enumerate() {
            normalise(head, weights[weight_of(i, heads)].at(point), None, eps, false);
        }
    });
    Ok(())
}

/// As [`differentiate_rows`], of heads.
pub fn differentiate_heads(
    x: &[f32],
    dy: &[f32],
    width: usize,
    heads: Heads,
    weights: &[Small; 2],
    eps: f32,
) -> (Vec<f32>, Vec<f32>) {
    let (mut normalised, mut dx) = (x.to_vec(), dy.to_vec());
    normalised.par_chunks_mut(width).zip(dx.par_chunks_mut(width)).for_each(|(x, dy)| {
        let each = x.chunks_mut(heads.dim).zip(dy.chunks_mut(heads.dim)).take(heads.queries + heads.keys);
        for (i, (x, dy)) in each.enumerate() {
            differentiate(x, dy, weights[weight_of(i, heads)].at(0), eps, false);
        }
    });
    (normalised, dx)
}

/// Adds to `dw` [dim] the gradient of the weight of queries (0) or keys (1), from the normalised x and dy [tokens, width].
pub fn add_head_gradient(dw: &mut [f32], which: usize, normalised: &[f32], dy: &[f32], width: usize, heads: Heads) {
    for head in (0..heads.queries + heads.keys).filter(|head| weight_of(*head, heads) == which) {
        add_rows(dw, &normalised[head * heads.dim..], width, Some(&dy[head * heads.dim..]));
    }
}

/// Adds to `sums` the first columns of the rows of `x` [.., width], times those of `y` where it is given: one order of additions for
/// every column.
pub fn add_rows(sums: &mut [f32], x: &[f32], width: usize, y: Option<&[f32]>) {
    for (i, x) in x.chunks(width).enumerate() {
        match y {
            Some(y) => sums.iter_mut().zip(x).zip(&y[i * width..]).for_each(|((s, x), y)| *s += x * y),
            None => sums.iter_mut().zip(x).for_each(|(s, x)| *s += x),
        }
    }
}

vectorize! {
    fn normalise(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, centred: bool) {
        let n = row.len() as f32;
        // The mean first, then the squares about it: no cancellation where activations have a large mean.
        let mean = if centred { simd::sum(row, |x| x) / n } else { 0.0 };
        let variance = simd::sum(row, |x| (x - mean) * (x - mean)) / n;
        let scale = 1.0 / (variance + eps).sqrt();
        for (x, w) in row.iter_mut().zip(weight) {
            *x = (*x - mean) * scale * *w;
        }
        if let Some(bias) = bias {
            for (x, b) in row.iter_mut().zip(bias) {
                *x += *b;
            }
        }
    }
}

vectorize! {
    /// x <- its normalised form n; dy <- dx = (g - mean(g) - n mean(g n)) / sd with g = dy * weight (no mean(g) where x is
    /// not centred).
    fn differentiate(x: &mut [f32], dy: &mut [f32], weight: &[f32], eps: f32, centred: bool) {
        let n = x.len() as f32;
        let mean = if centred { simd::sum(x, |x| x) / n } else { 0.0 };
        let variance = simd::sum(x, |x| (x - mean) * (x - mean)) / n;
        let scale = 1.0 / (variance + eps).sqrt();
        for i in 0..x.len() {
            x[i] = (x[i] - mean) * scale;
            dy[i] *= weight[i];
        }
        let along = simd::dot(x, dy) / n;
        let level = if centred { simd::sum(dy, |g| g) / n } else { 0.0 };
        for i in 0..x.len() {
            dy[i] = (dy[i] - level - x[i] * along) * scale;
        }
    }
}

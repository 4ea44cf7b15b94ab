//! Layer norm and RMS norm, row by row.

use rayon::prelude::*;

use super::math;
use super::points::chunks_by_point;
use super::small::SmallWeight;
use crate::device::Heads;

/// The kind of a norm.
#[derive(Clone, Copy)]
pub struct NormKind {
    /// Added to the variance.
    pub eps: f32,
    /// Whether the mean is subtracted: layer norm does, RMS norm does not.
    pub centred: bool,
}

/// Rows per job.
const ROWS: usize = 16;

/// x <- (x - mean) / sd * weight + bias for each row of x [.., hidden].
pub fn normalise_rows(
    x: &mut [f32],
    weight: &SmallWeight,
    bias: Option<&SmallWeight>,
    kind: NormKind,
) -> candle_core::Result<()> {
    let (hidden, points) = (weight.len, weight.points().max(bias.map_or(1, SmallWeight::points)));
    chunks_by_point(x, hidden, points, ROWS)?.into_par_iter().for_each(|(point, rows)| {
        let (weight, bias) = (weight.at(point), bias.map(|b| b.at(point)));
        rows.chunks_mut(hidden).for_each(|row| normalise(row, weight, bias, kind.eps, kind.centred));
    });
    Ok(())
}

/// The normalised x and dx, given x and dy [.., hidden]. The gradients of weight and bias follow from them with
/// [`add_rows`].
pub fn differentiate_rows(x: &[f32], dy: &[f32], weight: &SmallWeight, kind: NormKind) -> (Vec<f32>, Vec<f32>) {
    let (mut normalised, mut dx, hidden) = (x.to_vec(), dy.to_vec(), weight.len);
    let rows = normalised.par_chunks_mut(ROWS * hidden).zip(dx.par_chunks_mut(ROWS * hidden));
    rows.for_each(|(x, dy)| {
        for (x, dy) in x.chunks_mut(hidden).zip(dy.chunks_mut(hidden)) {
            differentiate(x, dy, weight.at(0), kind.eps, kind.centred);
        }
    });
    (normalised, dx)
}

/// Index of a head's weight: 0 for queries, 1 for keys.
fn weight_of(head: usize, heads: Heads) -> usize {
    usize::from(head >= heads.queries)
}

/// RMS norm over each query head and each key head of x [tokens, width], with weights [dim] for queries and for keys.
pub fn normalise_heads(
    x: &mut [f32],
    width: usize,
    heads: Heads,
    weights: &[SmallWeight; 2],
    eps: f32,
) -> candle_core::Result<()> {
    let points = weights[0].points().max(weights[1].points());
    chunks_by_point(x, width, points, 1)?.into_par_iter().for_each(|(point, row)| {
        for (i, head) in row.chunks_mut(heads.dim).take(heads.queries + heads.keys).enumerate() {
            normalise(head, weights[weight_of(i, heads)].at(point), None, eps, false);
        }
    });
    Ok(())
}

/// [`differentiate_rows`] for heads.
pub fn differentiate_heads(
    x: &[f32],
    dy: &[f32],
    width: usize,
    heads: Heads,
    weights: &[SmallWeight; 2],
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

/// Adds to `dw` [dim] the gradient of the weight of queries (0) or keys (1), given the normalised x and dy [tokens, width].
pub fn add_head_gradient(dw: &mut [f32], kind: usize, normalised: &[f32], dy: &[f32], width: usize, heads: Heads) {
    for head in (0..heads.queries + heads.keys).filter(|head| weight_of(*head, heads) == kind) {
        add_rows(dw, &normalised[head * heads.dim..], width, Some(&dy[head * heads.dim..]));
    }
}

/// Adds to `sums` the first columns of the rows of `x` [.., width], times those of `y` if given, in a fixed order.
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
        // Two passes, to avoid cancellation where activations have a large mean.
        let mean = if centred { math::sum(row, |x| x) / n } else { 0.0 };
        let variance = math::sum(row, |x| (x - mean) * (x - mean)) / n;
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
    /// On entry x and dy, on return the normalised x, n, and dx = (g - mean(g) - n mean(g n)) / sd with g = dy * weight (no
    /// mean(g) unless centred).
    fn differentiate(x: &mut [f32], dy: &mut [f32], weight: &[f32], eps: f32, centred: bool) {
        let n = x.len() as f32;
        let mean = if centred { math::sum(x, |x| x) / n } else { 0.0 };
        let variance = math::sum(x, |x| (x - mean) * (x - mean)) / n;
        let scale = 1.0 / (variance + eps).sqrt();
        for i in 0..x.len() {
            x[i] = (x[i] - mean) * scale;
            dy[i] *= weight[i];
        }
        let mean_gn = math::dot(x, dy) / n;
        let mean_g = if centred { math::sum(dy, |g| g) / n } else { 0.0 };
        for i in 0..x.len() {
            dy[i] = (dy[i] - mean_g - x[i] * mean_gn) * scale;
        }
    }
}

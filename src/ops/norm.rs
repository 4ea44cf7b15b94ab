//! Layer norm and RMS norm over the last dimension.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::tensors::{by_points, floats, small, with_floats};
use crate::device::Heads;
use crate::device::cpu::{Small, simd};
use crate::params::Leaf;

/// (x - mean) / sqrt(var + eps) * weight + bias over the last dimension of x [tokens, hidden] f32.
pub fn layer_norm(x: &Tensor, affine: Option<(Leaf, Leaf)>, eps: f32) -> Result<Tensor> {
    let (weight, bias) = affine.unzip();
    Ok(x.apply_op1(Norm { weight, bias, offset: 0.0, eps, centred: true })?)
}

/// x / sqrt(mean(x^2) + eps) * (offset + weight) over the last dimension of x [tokens, hidden] f32.
pub fn rms_norm(x: &Tensor, weight: Leaf, offset: f32, eps: f32) -> Result<Tensor> {
    Ok(x.apply_op1(Norm { weight: Some(weight), bias: None, offset, eps, centred: false })?)
}

/// The same over each head of queries and of keys, by weights [head_dim] of their own; q, k and v side by side
/// [tokens, (queries + 2 keys) * head_dim] f32, the values as they are.
pub fn rms_norm_heads(qkv: &Tensor, heads: Heads, weights: [Leaf; 2], offset: f32, eps: f32) -> Result<Tensor> {
    Ok(qkv.apply_op1(HeadNorms { weights, heads, offset, eps })?)
}

struct Norm {
    weight: Option<Leaf>,
    bias: Option<Leaf>,
    /// What the weight is added to.
    offset: f32,
    eps: f32,
    /// Layer norm subtracts the mean; RMS norm does not.
    centred: bool,
}

/// Rows that a thread takes at a time.
const ROWS: usize = 16;

impl Norm {
    /// Weight and bias in f32, ones and nothing where there are none.
    fn affine(&self, hidden: usize) -> candle_core::Result<(Small, Option<Small>)> {
        let ones = || Ok(Small { all: vec![1.0; hidden], len: hidden });
        let weight = self.weight.as_ref().map_or_else(ones, |w| raised(w, self.offset))?;
        let bias = self.bias.as_ref().map(small).transpose()?;
        if weight.len != hidden || bias.as_ref().is_some_and(|b| b.len != hidden) {
            candle_core::bail!("norm: {hidden} by {}", weight.len);
        }
        Ok((weight, bias))
    }
}

/// offset + weight in f32.
fn raised(weight: &Leaf, offset: f32) -> candle_core::Result<Small> {
    let mut weight = small(weight)?;
    if offset != 0.0 {
        weight.all.iter_mut().for_each(|w| *w += offset);
    }
    Ok(weight)
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let hidden = layout.shape().dims2()?.1;
        let (weight, bias) = self.affine(hidden)?;
        let mut y = floats(x, layout)?.to_vec();
        let points = weight.points().max(bias.as_ref().map_or(1, Small::points));
        by_points(&mut y, hidden, points, ROWS)?.into_par_iter().for_each(|(point, rows)| {
            let (weight, bias) = (weight.at(point), bias.as_ref().map(|b| b.at(point)));
            rows.chunks_mut(hidden).for_each(|row| normalise(row, weight, bias, self.eps, self.centred));
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (tokens, hidden) = x.dims2()?;
        let (weight, _) = self.affine(hidden)?;
        let dx = with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            // Row by row: x becomes the normalised x, whose product with dy is the weight's share, and then dx.
            let (mut normalised, mut dx) = (x.to_vec(), dy.to_vec());
            let rows = normalised.par_chunks_mut(ROWS * hidden).zip(dx.par_chunks_mut(ROWS * hidden));
            rows.for_each(|(x, dy)| {
                for (x, dy) in x.chunks_mut(hidden).zip(dy.chunks_mut(hidden)) {
                    differentiate(x, dy, weight.at(0), self.eps, self.centred);
                }
            });
            if let Some(weight) = &self.weight {
                weight.add_gradient(|dw| add_rows(dw, &normalised, hidden, Some(dy)));
            }
            if let Some(bias) = &self.bias {
                bias.add_gradient(|db| add_rows(db, dy, hidden, None));
            }
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, (tokens, hidden), x.device())?))
    }
}

struct HeadNorms {
    /// Of queries and of keys.
    weights: [Leaf; 2],
    heads: Heads,
    offset: f32,
    eps: f32,
}

impl HeadNorms {
    /// Both weights as they multiply, and the width of a row, which is checked.
    fn raised(&self, shape: &Shape) -> candle_core::Result<([Small; 2], usize)> {
        let Heads { queries, keys, dim } = self.heads;
        let [q, k] = &self.weights;
        let (weights, width) = ([raised(q, self.offset)?, raised(k, self.offset)?], shape.dims2()?.1);
        if width != (queries + 2 * keys) * dim || weights.iter().any(|w| w.len != dim) {
            candle_core::bail!("head norms: {shape:?} for {:?}", self.heads);
        }
        Ok((weights, width))
    }

    /// Which of the weights a head has.
    fn of(&self, head: usize) -> usize {
        usize::from(head >= self.heads.queries)
    }
}

impl CustomOp1 for HeadNorms {
    fn name(&self) -> &'static str {
        "head norms"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (weights, width) = self.raised(layout.shape())?;
        let Heads { queries, keys, dim } = self.heads;
        let mut y = floats(qkv, layout)?.to_vec();
        let points = weights[0].points().max(weights[1].points());
        by_points(&mut y, width, points, 1)?.into_par_iter().for_each(|(point, row)| {
            for (i, head) in row.chunks_mut(dim).take(queries + keys).enumerate() {
                normalise(head, weights[self.of(i)].at(point), None, self.eps, false);
            }
        });
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (weights, width) = self.raised(qkv.shape())?;
        let Heads { queries, keys, dim } = self.heads;
        let dx = with_floats([qkv, &upstream.contiguous()?], |[x, dy]| {
            let (mut normalised, mut dx) = (x.to_vec(), dy.to_vec());
            normalised.par_chunks_mut(width).zip(dx.par_chunks_mut(width)).for_each(|(x, dy)| {
                for (i, (x, dy)) in x.chunks_mut(dim).zip(dy.chunks_mut(dim)).take(queries + keys).enumerate() {
                    differentiate(x, dy, weights[self.of(i)].at(0), self.eps, false);
                }
            });
            for (i, weight) in self.weights.iter().enumerate() {
                weight.add_gradient(|dw| {
                    for head in (0..queries + keys).filter(|head| self.of(*head) == i) {
                        add_rows(dw, &normalised[head * dim..], width, Some(&dy[head * dim..]));
                    }
                });
            }
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, qkv.shape(), qkv.device())?))
    }
}

/// Adds to `sums` the first columns of the rows of `x` [.., width], times those of `y` where it is given: one order of additions for
/// every column.
pub(super) fn add_rows(sums: &mut [f32], x: &[f32], width: usize, y: Option<&[f32]>) {
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

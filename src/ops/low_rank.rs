//! What a low-rank adapter adds to linear layers (Hu et al. 2021, "LoRA", arXiv 2106.09685): y + s (x A^T) B^T.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::linear::Columns;
use super::tensors::{by_points, floats, small, with_floats};
use crate::device::cpu::matrix::{multiply, threads};
use crate::device::cpu::{Matrix, Small};
use crate::params::Leaf;

/// The second factor of an adapter, and where its layer's outputs stand.
pub struct LowRank {
    /// B [outer, r], f32.
    pub b: Leaf,
    /// s
    pub scale: f32,
    /// The layer's first column among the outputs.
    pub column: usize,
}

/// y + s h B^T under the columns of each part: y [tokens, width]; h = x A^T [tokens, sum of r], the parts' columns side by side.
pub fn add_low_rank(y: &Tensor, h: &Tensor, parts: Vec<LowRank>) -> Result<Tensor> {
    Ok(y.apply_op2(h, AddLowRank(parts))?)
}

struct AddLowRank(Vec<LowRank>);

/// A part with the sizes of B, and where its columns of h begin.
struct Placed<'a> {
    part: &'a LowRank,
    outer: usize,
    r: usize,
    first: usize,
}

impl AddLowRank {
    /// The parts, which must fit into y and h.
    fn parts(&self, width: usize, ranks: usize) -> candle_core::Result<Vec<Placed<'_>>> {
        let mut first = 0;
        let mut parts = Vec::new();
        for part in &self.0 {
            let (outer, r) = part.b.tensor().dims2()?;
            if part.column + outer > width || first + r > ranks {
                candle_core::bail!("low rank: {outer} x {r} at column {} of {width}, {first} of {ranks}", part.column);
            }
            parts.push(Placed { part, outer, r, first });
            first += r;
        }
        Ok(parts)
    }
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

/// Tokens that a thread takes at a time.
const TOKENS: usize = 8;

impl CustomOp2 for AddLowRank {
    fn name(&self) -> &'static str {
        "low rank"
    }

    fn cpu_fwd(&self, y: &CpuStorage, ly: &Layout, h: &CpuStorage, lh: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let ((tokens, width), (_, ranks)) = (ly.shape().dims2()?, lh.shape().dims2()?);
        let (y, h) = (floats(y, ly)?, floats(h, lh)?);
        let parts = self.parts(width, ranks)?;
        let b_t = |placed: &Placed| {
            let b = small(&placed.part.b)?;
            Ok(Small { all: b.all.chunks(b.len).flat_map(|b| transposed(b, placed.r)).collect(), len: b.len })
        };
        let b_t = parts.iter().map(b_t).collect::<candle_core::Result<Vec<_>>>()?;
        let points = b_t.iter().map(Small::points).max().unwrap_or(1);
        let mut sum = y.to_vec();
        let mut stretches = Vec::new();
        let mut h = h;
        for (point, sum) in by_points(&mut sum, width, points, TOKENS)? {
            let (here, rest) = h.split_at(sum.len() / width * ranks);
            stretches.push((point, sum, here));
            h = rest;
        }
        stretches.into_par_iter().for_each(|(point, sum, h)| {
            for (sum, h) in sum.chunks_mut(width).zip(h.chunks(ranks)) {
                for (Placed { part, outer, r, first }, b_t) in parts.iter().zip(&b_t) {
                    add_to_row(&mut sum[part.column..][..*outer], part.scale, &h[*first..][..*r], b_t.at(point));
                }
            }
        });
        Ok((CpuStorage::F32(sum), (tokens, width).into()))
    }

    /// dh = s dy B, dB += s dy^T h; y's is the upstream.
    fn bwd(
        &self,
        _: &Tensor,
        h: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let ((tokens, ranks), width) = (h.dims2()?, upstream.dim(1)?);
        let mut dh = vec![0f32; tokens * ranks];
        with_floats([h, &upstream.contiguous()?], |[h, dy]| {
            for Placed { part, outer, r, first } in self.parts(width, ranks)? {
                let dy = Columns { all: dy, first: part.column, width, count: outer }.matrix(0);
                let h = Matrix::of(&h[first..], ranks);
                with_floats([part.b.tensor()], |[b]| {
                    let (dh, b) = (dh[first..].as_mut_ptr(), Matrix::of(b, r));
                    // SAFETY: dy is [tokens, outer], B [outer, r], and dh's columns [tokens, r] ours.
                    unsafe { multiply((tokens, outer, r), dh, ranks, false, dy, b, part.scale, threads()) };
                    Ok(())
                })?;
                let dy = dy.transposed();
                // SAFETY: dy^T is [outer, tokens], h [tokens, r], dB [outer, r] and lent to us alone.
                part.b.add_gradient(|db| unsafe {
                    multiply((outer, tokens, r), db.as_mut_ptr(), r, true, dy, h, part.scale, threads());
                });
            }
            Ok(())
        })?;
        Ok((Some(upstream.clone()), Some(Tensor::from_vec(dh, (tokens, ranks), h.device())?)))
    }
}

//! What a low-rank adapter adds to linear layers (Hu et al. 2021, "LoRA", arXiv 2106.09685): y + s (x A^T) B^T.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::activation::Activation;
use super::linear::Columns;
use super::product::{Layer, Panels, by_weights};
use super::{Matrix, floats, multiply, numbers, threads, with_floats};
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

/// Columns `first..first + count` of x, whose rows have `width`, each `scale` times as large.
fn cut(x: &[f32], width: usize, first: usize, count: usize, scale: f32) -> Vec<f32> {
    x.chunks(width).flat_map(|row| row[first..first + count].iter().map(move |x| scale * x)).collect()
}

impl CustomOp2 for AddLowRank {
    fn name(&self) -> &'static str {
        "low rank"
    }

    fn cpu_fwd(&self, y: &CpuStorage, ly: &Layout, h: &CpuStorage, lh: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let ((tokens, width), (_, ranks)) = (ly.shape().dims2()?, lh.shape().dims2()?);
        let mut sum = floats(y, ly)?.to_vec();
        let h = floats(h, lh)?;
        for Placed { part, outer, r, first } in self.parts(width, ranks)? {
            let (storage, layout) = part.b.tensor().storage_and_layout();
            let layer = Layer { weight: numbers(&storage, layout)?, outer, bias: None };
            let scaled = cut(h, ranks, first, r, part.scale);
            let onto = cut(&sum, width, part.column, outer, 1.0);
            let adapted = by_weights(&Panels::new(&scaled, tokens, r, false), &[layer], Activation::None, Some(&onto));
            for (row, adapted) in sum.chunks_mut(width).zip(adapted.chunks(outer)) {
                row[part.column..part.column + outer].copy_from_slice(adapted);
            }
        }
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

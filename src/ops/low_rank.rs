//! The second product of low-rank adapters of linear layers (Hu et al. 2021, "LoRA", arXiv 2106.09685): y + s (x A^T) B^T.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};

use super::tensors::{floats, small_weight, with_floats};
use crate::device::Activations;
use crate::device::cpu::SmallWeight;
use crate::device::cpu::low_rank::{self as cpu, LowRankPart};
use crate::params::Leaf;

/// The factor B of an adapter, and its layer's columns.
pub struct LowRank {
    /// B [outer, r], f32.
    pub b: Leaf,
    /// s
    pub scale: f32,
    /// The layer's first column in y.
    pub column: usize,
}

/// y + s h B^T in the columns of each part: y [tokens, width]; h = x A^T [tokens, sum of r], the parts' columns side by
/// side.
pub fn add_low_rank(y: &Activations, h: &Activations, parts: Vec<LowRank>) -> Result<Activations> {
    y.zip(h, |y, h| Ok(y.apply_op2(h, AddLowRank(parts))?))
}

struct AddLowRank(Vec<LowRank>);

impl AddLowRank {
    fn weights(&self) -> Vec<SmallWeight> {
        self.0.iter().map(|part| small_weight(&part.b)).collect()
    }

    /// The parts for the loops. Fails unless they fit into y and h.
    fn parts<'a>(
        &self,
        weights: &'a [SmallWeight],
        width: usize,
        ranks: usize,
    ) -> candle_core::Result<Vec<LowRankPart<'a>>> {
        let (mut first, mut parts) = (0, Vec::new());
        for (LowRank { b, scale, column }, weight) in self.0.iter().zip(weights) {
            let (outer, r) = b.array().dims2()?;
            if column + outer > width || first + r > ranks {
                candle_core::bail!("low rank: {outer} x {r} at column {column} of {width}, {first} of {ranks}");
            }
            parts.push(LowRankPart { b: weight, outer, r, scale: *scale, column: *column, first });
            first += r;
        }
        Ok(parts)
    }
}

impl CustomOp2 for AddLowRank {
    fn name(&self) -> &'static str {
        "low rank"
    }

    fn cpu_fwd(&self, y: &CpuStorage, ly: &Layout, h: &CpuStorage, lh: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let ((tokens, width), (_, ranks)) = (ly.shape().dims2()?, lh.shape().dims2()?);
        let (weights, mut sum) = (self.weights(), floats(y, ly)?.to_vec());
        cpu::add_low_rank(&mut sum, width, floats(h, lh)?, ranks, &self.parts(&weights, width, ranks)?)?;
        Ok((CpuStorage::F32(sum), (tokens, width).into()))
    }

    /// dh = s dy B, dB += s dy^T h, and dy for y.
    fn bwd(
        &self,
        _: &Tensor,
        h: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let ((tokens, ranks), width) = (h.dims2()?, upstream.dim(1)?);
        let (weights, mut dh) = (self.weights(), vec![0f32; tokens * ranks]);
        with_floats([h, &upstream.contiguous()?], |[h, dy]| {
            for (part, leaf) in self.parts(&weights, width, ranks)?.iter().zip(&self.0) {
                cpu::input_gradient(&mut dh, ranks, dy, width, part);
                leaf.b.add_gradient(|db| cpu::add_weight_gradient(db, dy, width, h, ranks, part));
            }
            Ok(())
        })?;
        Ok((Some(upstream.clone()), Some(Tensor::from_vec(dh, (tokens, ranks), h.device())?)))
    }
}

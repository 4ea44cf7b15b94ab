//! Layer norm and RMS norm over the last dimension.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::floats;
use crate::simd;

/// (x - mean) / sqrt(var + eps) * weight + bias over the last dimension of x [tokens, hidden] f32.
pub fn layer_norm(x: &Tensor, affine: Option<(&Tensor, &Tensor)>, eps: f32) -> Result<Tensor> {
    let op = NormOp { eps, centred: true };
    Ok(match affine {
        Some((weight, bias)) => x.apply_op3_no_bwd(&weight.to_dtype(DType::F32)?, &bias.to_dtype(DType::F32)?, &op)?,
        None => x.apply_op2_no_bwd(&Tensor::ones(x.dim(1)?, DType::F32, x.device())?, &op)?,
    })
}

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension of x [tokens, hidden] f32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    Ok(x.apply_op2_no_bwd(&weight.to_dtype(DType::F32)?, &NormOp { eps, centred: false })?)
}

struct NormOp {
    eps: f32,
    /// Layer norm subtracts the mean; RMS norm does not.
    centred: bool,
}

impl NormOp {
    fn forward(
        &self,
        x: &[f32],
        shape: &Shape,
        weight: &[f32],
        bias: Option<&[f32]>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let hidden = weight.len();
        if shape.dims2()?.1 != hidden || bias.is_some_and(|b| b.len() != hidden) {
            candle_core::bail!("norm: {shape:?} by {hidden}");
        }
        let mut y = x.to_vec();
        let rows = 16;
        y.par_chunks_mut(rows * hidden).for_each(|rows| {
            for row in rows.chunks_mut(hidden) {
                normalise(row, weight, bias, self.eps, self.centred);
            }
        });
        Ok((CpuStorage::F32(y), shape.clone()))
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

impl CustomOp2 for NormOp {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(floats(x, lx)?, lx.shape(), floats(w, lw)?, None)
    }
}

impl CustomOp3 for NormOp {
    fn name(&self) -> &'static str {
        "norm-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(floats(x, lx)?, lx.shape(), floats(w, lw)?, Some(floats(b, lb)?))
    }
}

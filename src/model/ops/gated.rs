//! The gate of LLaMA's feed-forward layer.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::{floats, with_floats};
use crate::simd;

/// silu(gate) * up: gate and up side by side [tokens, 2 * inner] f32 -> [tokens, inner].
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    Ok(gate_up.apply_op1(SwiGlu)?)
}

struct SwiGlu;

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        let inner = width / 2;
        let x = floats(x, layout)?;
        let mut y = vec![0f32; tokens * inner];
        y.par_chunks_mut(inner).zip(x.par_chunks(width)).for_each(|(y, x)| gate(y, &x[..inner], &x[inner..]));
        Ok((CpuStorage::F32(y), (tokens, inner).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let width = x.dim(1)?;
        let dx = with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            let mut dx = x.to_vec();
            dx.par_chunks_mut(width).zip(dy.par_chunks(width / 2)).for_each(|(dx, dy)| {
                let (gate, up) = dx.split_at_mut(width / 2);
                differentiate(gate, up, dy);
            });
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

vectorize! {
    fn gate(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for i in 0..y.len() {
            let x = gate[i];
            y[i] = x / (1.0 + simd::exp(-x)) * up[i];
        }
    }
}

vectorize! {
    /// Gate and up in, their gradients out.
    fn differentiate(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
        for i in 0..dy.len() {
            let (x, u) = (gate[i], up[i]);
            let sigmoid = 1.0 / (1.0 + simd::exp(-x));
            gate[i] = dy[i] * u * (sigmoid * (1.0 + x * (1.0 - sigmoid)));
            up[i] = dy[i] * (x * sigmoid);
        }
    }
}

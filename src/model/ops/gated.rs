//! The gate of LLaMA's feed-forward layer.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::linear::{Activation, activate};
use super::{floats, with_floats};
use crate::simd;

/// silu(gate) * up, both [tokens, inner] f32.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok(gate.apply_op2(up, SwiGlu)?)
}

struct SwiGlu;

const CHUNK: usize = 1 << 14;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, g: &CpuStorage, lg: &Layout, u: &CpuStorage, lu: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (gate, up) = (floats(g, lg)?, floats(u, lu)?);
        if gate.len() != up.len() {
            candle_core::bail!("swiglu: {:?} by {:?}", lg.shape(), lu.shape());
        }
        let mut y = gate.to_vec();
        y.par_chunks_mut(CHUNK).zip(up.par_chunks(CHUNK)).for_each(|(y, up)| {
            activate(y, Activation::Silu);
            y.iter_mut().zip(up).for_each(|(y, u)| *y *= *u);
        });
        Ok((CpuStorage::F32(y), lg.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (mut dgate, mut dup) = with_floats([gate, up, &upstream.contiguous()?], |[gate, up, dy]| {
            let (mut dgate, mut dup) = (gate.to_vec(), up.to_vec());
            let chunks = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK)).zip(dy.par_chunks(CHUNK));
            chunks.for_each(|((dgate, dup), dy)| differentiate(dgate, dup, dy));
            Ok((Some(dgate), Some(dup)))
        })?;
        let tensor = |x: Option<Vec<f32>>| x.map(|x| Tensor::from_vec(x, gate.shape(), gate.device())).transpose();
        Ok((tensor(dgate.take())?, tensor(dup.take())?))
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

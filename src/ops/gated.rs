//! The gate of LLaMA's feed-forward layer, and of its relatives'.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::tensors::{floats, with_floats};
use crate::device::Activation;
use crate::device::cpu::activation::{activate, multiply_by_slope};
use crate::device::cpu::simd;

/// activation(gate) * up: gate and up side by side [tokens, 2 * inner] f32 -> [tokens, inner].
pub fn gated(gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
    Ok(gate_up.apply_op1(Gated { activation })?)
}

struct Gated {
    activation: Activation,
}

impl CustomOp1 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        let inner = width / 2;
        let x = floats(x, layout)?;
        let mut y = vec![0f32; tokens * inner];
        y.par_chunks_mut(inner).zip(x.par_chunks(width)).for_each(|(y, x)| match self.activation {
            Activation::Silu => swiglu(y, &x[..inner], &x[inner..]),
            other => {
                y.copy_from_slice(&x[..inner]);
                activate(y, other);
                y.iter_mut().zip(&x[inner..]).for_each(|(y, up)| *y *= up);
            }
        });
        Ok((CpuStorage::F32(y), (tokens, inner).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let width = x.dim(1)?;
        let dx = with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            let mut dx = x.to_vec();
            dx.par_chunks_mut(width).zip(dy.par_chunks(width / 2)).for_each(|(dx, dy)| {
                let (gate, up) = dx.split_at_mut(width / 2);
                match self.activation {
                    Activation::Silu => differentiate_swiglu(gate, up, dy),
                    other => differentiate(gate, up, dy, other),
                }
            });
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

/// Gate and up in, their gradients out.
fn differentiate(gate: &mut [f32], up: &mut [f32], dy: &[f32], activation: Activation) {
    let (mut activated, mut dgate): (Vec<f32>, Vec<f32>) =
        (gate.to_vec(), dy.iter().zip(&*up).map(|(dy, up)| dy * up).collect());
    activate(&mut activated, activation);
    multiply_by_slope(&mut dgate, gate, activation);
    gate.copy_from_slice(&dgate);
    up.iter_mut().zip(&activated).zip(dy).for_each(|((up, activated), dy)| *up = dy * activated);
}

vectorize! {
    /// silu(gate) * up in one pass.
    fn swiglu(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for i in 0..y.len() {
            let x = gate[i];
            y[i] = x / (1.0 + simd::exp(-x)) * up[i];
        }
    }
}

vectorize! {
    /// Gate and up in, their gradients out.
    fn differentiate_swiglu(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
        for i in 0..dy.len() {
            let (x, u) = (gate[i], up[i]);
            let sigmoid = 1.0 / (1.0 + simd::exp(-x));
            gate[i] = dy[i] * u * (sigmoid * (1.0 + x * (1.0 - sigmoid)));
            up[i] = dy[i] * (x * sigmoid);
        }
    }
}

//! The gate of gated feed-forward layers (LLaMA and relatives).

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::tensors::{floats, with_floats};
use crate::device::Activation;
use crate::device::Activations;
use crate::device::cpu::gated as cpu;

/// activation(gate) * up: gate and up side by side [tokens, 2 * inner], f32 -> [tokens, inner].
pub fn gated(gate_up: &Activations, activation: Activation) -> Result<Activations> {
    gate_up.map(|x| Ok(x.apply_op1(Gated { activation })?))
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
        let y = cpu::gated(floats(x, layout)?, width / 2, self.activation);
        Ok((CpuStorage::F32(y), (tokens, width / 2).into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let inner = x.dim(1)? / 2;
        let dx = with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            let mut dx = x.to_vec();
            cpu::differentiate_gated(&mut dx, dy, inner, self.activation);
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

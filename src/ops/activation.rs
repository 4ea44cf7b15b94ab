//! Elementwise activations after a linear layer.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::tensors::{floats, with_floats};
use crate::device::Activation;
use crate::device::Activations;
use crate::device::cpu::activation::{activate_all, multiply_all_by_slope};

/// Applies an activation elementwise, for operations that do not fuse it.
pub fn activated(x: &Activations, activation: Activation) -> Result<Activations> {
    if activation == Activation::None { Ok(x.clone()) } else { x.map(|x| Ok(x.apply_op1(Activate(activation))?)) }
}

struct Activate(Activation);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut y = floats(x, layout)?.to_vec();
        activate_all(&mut y, self.0);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dx = with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            let mut dx = dy.to_vec();
            multiply_all_by_slope(&mut dx, x, self.0);
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

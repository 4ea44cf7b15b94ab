//! Soft caps (Bello et al. 2016, arXiv 1611.09940; Gemma 2): bound numbers to (-cap, cap).

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::tensors::{floats, with_floats};
use crate::device::Activations;
use crate::device::cpu::cap::{cap_all, differentiate_cap};

/// cap tanh(x / cap) elementwise, f32.
pub fn soft_cap(x: &Activations, cap: f32) -> Result<Activations> {
    x.map(|x| Ok(x.apply_op1(SoftCap { cap })?))
}

struct SoftCap {
    cap: f32,
}

impl CustomOp1 for SoftCap {
    fn name(&self) -> &'static str {
        "soft cap"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut y = floats(x, layout)?.to_vec();
        cap_all(&mut y, self.cap);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dx = with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            let mut dx = x.to_vec();
            differentiate_cap(&mut dx, dy, self.cap);
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

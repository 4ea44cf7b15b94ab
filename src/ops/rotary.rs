//! Rotary position embeddings (Su et al. 2021, arXiv 2104.09864), with a head's two halves as coordinate pairs.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::tensors::{floats, with_floats};
use crate::device::Activations;
use crate::device::cpu::rotary as cpu;

/// Rotates the first `heads` heads of x [tokens, ...], queries and keys; the columns after them are copied. cos, sin
/// [tokens, head_dim / 2].
pub fn rotate(x: &Activations, heads: usize, cos: &Activations, sin: &Activations) -> Result<Activations> {
    let (Activations::Cpu(cos), Activations::Cpu(sin)) = (cos.clone(), sin.clone());
    x.map(|x| Ok(x.apply_op1(Rotate { heads, cos, sin })?))
}

struct Rotate {
    heads: usize,
    cos: Tensor,
    sin: Tensor,
}

impl Rotate {
    /// Rotates `x` in place, by the negative angles if `inverse`.
    fn rotate(&self, x: &mut [f32], width: usize, inverse: bool) -> candle_core::Result<()> {
        with_floats([&self.cos, &self.sin], |[cos, sin]| {
            let half = self.cos.dim(1)?;
            if 2 * half * self.heads > width || x.len() / width * half != cos.len() {
                candle_core::bail!("rotate: {} heads of width {width} by {half} angles", self.heads);
            }
            cpu::rotate(x, width, self.heads, [cos, sin], half, inverse);
            Ok(())
        })
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut y = floats(x, layout)?.to_vec();
        self.rotate(&mut y, layout.shape().dims2()?.1, false)?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let mut dx = upstream.flatten_all()?.to_vec1()?;
        self.rotate(&mut dx, x.dim(1)?, true)?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

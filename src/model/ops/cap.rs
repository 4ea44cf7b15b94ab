//! Soft caps (Bello et al. 2016, arXiv 1611.09940; Gemma 2): no number leaves (-cap, cap).

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::activation::CHUNK;
use super::{floats, with_floats};
use crate::simd;

/// cap tanh(x / cap) of each number of x, f32.
pub fn soft_cap(x: &Tensor, cap: f32) -> Result<Tensor> {
    Ok(x.apply_op1(SoftCap { cap })?)
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
        y.par_chunks_mut(CHUNK).for_each(|chunk| cap(chunk, 1.0, self.cap));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dx = with_floats([y, &upstream.contiguous()?], |[y, dy]| {
            let mut dx = y.to_vec();
            dx.par_chunks_mut(CHUNK).zip(dy.par_chunks(CHUNK)).for_each(|(dx, dy)| {
                cap_slopes(dx, self.cap);
                dx.iter_mut().zip(dy).for_each(|(dx, dy)| *dx *= dy);
            });
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, y.shape(), y.device())?))
    }
}

vectorize! {
    /// x <- cap tanh(factor x / cap)
    pub fn cap(xs: &mut [f32], factor: f32, cap: f32) {
        let twice = 2.0 * factor / cap;
        for x in xs {
            // tanh a = 1 - 2 / (e^2a + 1)
            *x = cap * (1.0 - 2.0 / (simd::exp(twice * *x) + 1.0));
        }
    }
}

vectorize! {
    /// What came out of [`cap`] in, its derivatives out.
    pub fn cap_slopes(ys: &mut [f32], cap: f32) {
        for y in ys {
            let tanh = *y / cap;
            *y = 1.0 - tanh * tanh;
        }
    }
}

//! Soft caps (Bello et al. 2016, arXiv 1611.09940; Gemma 2): no number leaves (-cap, cap).

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::tensors::{floats, with_floats};
use crate::device::cpu::cap::{cap_all, differentiate_cap};

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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// A score's cap keeps the score's own digits, however small it is beside the cap: what is off is a millionth of the score, not of
    /// the cap.
    #[test]
    fn capped_scores_keep_their_digits() -> Result<()> {
        let xs: Vec<f32> = (0..7000).map(|i| 1e-6 * 10f32.powf(i as f32 / 750.0)).flat_map(|x| [x, -x]).collect();
        for cap in [30f32, 50.0] {
            let x = Tensor::new(xs.as_slice(), &Device::Cpu)?;
            let y = soft_cap(&x, cap)?;
            let slopes = SoftCap { cap }.bwd(&x, &y, &y.ones_like()?)?;
            let slopes: Vec<f32> = slopes.map_or(Ok(Vec::new()), |slopes| slopes.to_vec1())?;
            assert_eq!(slopes.len(), xs.len());
            for ((x, y), slope) in xs.iter().zip(y.to_vec1::<f32>()?).zip(slopes) {
                let a = f64::from(*x) / f64::from(cap);
                let (exact, exact_slope) = (f64::from(cap) * a.tanh(), 1.0 / a.cosh().powi(2));
                assert!((f64::from(y) / exact - 1.0).abs() < 1e-6, "cap {cap} of {x} is {y}, not {exact}");
                // Beyond the slope's smallest number it is 0. An argument that is rounded shifts a slope by as much as it is long.
                let (found, within) = (f64::from(slope), 1e-6 * (1.0 + a.abs()) * exact_slope + 1e-37);
                assert!((found - exact_slope).abs() < within, "the slope of cap {cap} at {x} is {slope}, not {exact_slope}");
            }
        }
        Ok(())
    }
}

//! TODO

use std::sync::Arc;

use anyhow::Result;
use candle_core::DType;
use half::{bf16, f16};

use super::points::Points;
use super::role::ParamSet;
use super::store::Params;
use crate::device::bytes::with_bytes;
use crate::direction::Term;

impl Params {
    /// The share of the way from theta to theta + coeff z, for a `term`, that the weights of `span` make when they are rounded to what they are
    /// held in: 1 in f32, less where coeff is small beside the spacing of half precision's numbers. Of each weight the first numbers
    /// are looked at.
    pub fn displaced_share(&mut self, term: Term, span: ParamSet) -> Result<f64> {
        let points = Arc::new(Points::new(span, &[vec![term]]));
        let weights = self.settle()?.at(&points);
        let (mut made, mut whole) = (0.0, 0.0);
        for (id, _) in weights.ids() {
            let (leaf, tensor) = (weights.leaf(id), weights.get(id));
            let Some(displaced) = leaf.displaced() else { continue };
            let (a, b) = with_bytes(tensor, |bytes| match tensor.dtype() {
                DType::BF16 => displaced.way_made::<bf16>(bytes),
                DType::F16 => displaced.way_made::<f16>(bytes),
                _ => displaced.way_made::<f32>(bytes),
            })?;
            (made, whole) = (made + a, whole + b);
        }
        Ok(if whole > 0.0 { made / whole } else { 1.0 })
    }
}

//! Rows of an embedding.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};

use super::with_floats;
use crate::params::{Leaf, ParamId, Weights};

/// Rows of the embedding `weight` [vocab, hidden] for `ids`, as f32 [ids, hidden].
pub fn embed(weights: Weights, weight: ParamId, ids: &[u32]) -> Result<Tensor> {
    Ok(weights.root()?.apply_op1(Embed { weight: weights.leaf(weight), ids: ids.to_vec() })?)
}

/// An operation on nothing: its argument only tells whether it is recorded.
struct Embed {
    weight: Leaf,
    ids: Vec<u32>,
}

impl CustomOp1 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let weight = self.weight.tensor();
        let ids = Tensor::new(self.ids.as_slice(), weight.device())?;
        let rows = weight.index_select(&ids, 0)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok((CpuStorage::F32(rows), (self.ids.len(), weight.dim(1)?).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let hidden = self.weight.tensor().dim(1)?;
        with_floats([&upstream.contiguous()?], |[dy]| {
            self.weight.add_gradient(|dw| {
                for (id, dy) in self.ids.iter().zip(dy.chunks(hidden)) {
                    let row = &mut dw[*id as usize * hidden..][..hidden];
                    row.iter_mut().zip(dy).for_each(|(dw, dy)| *dw += dy);
                }
            });
            Ok(None)
        })
    }
}

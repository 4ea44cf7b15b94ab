//! Embedding lookup.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::tensors::with_floats;
use crate::device::Activations;
use crate::device::cpu::embed::{add_rows_of, rows};
use crate::params::{Leaf, ParamId, Weights};

/// Rows `ids` of the embedding `weight` [vocab, hidden] -> [ids, hidden], f32. At several points `ids` repeats once per
/// point.
pub fn embed(weights: Weights, weight: ParamId, ids: &[u32]) -> Result<Activations> {
    let embed = Embed { weight: weights.leaf(weight), ids: ids.to_vec() };
    weights.root()?.map(|root| Ok(root.apply_op1(embed)?))
}

/// Applied to the graph's root, whose value is unused: it only decides whether the operation is recorded.
struct Embed {
    weight: Leaf,
    ids: Vec<u32>,
}

impl CustomOp1 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (weight, (_, hidden)) = (self.weight.array().view(), self.weight.array().dims2()?);
        let rows = rows(weight, hidden, &self.ids, self.weight.displaced())?;
        Ok((CpuStorage::F32(rows), (self.ids.len(), hidden).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (_, hidden) = self.weight.array().dims2()?;
        with_floats([&upstream.contiguous()?], |[dy]| {
            self.weight.add_gradient(|dw| add_rows_of(dw, hidden, &self.ids, dy));
            Ok(None)
        })
    }
}

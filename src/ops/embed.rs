//! Rows of an embedding.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::tensors::{rows_a_point, with_floats};
use crate::device::cpu::Displaced;
use crate::device::cpu::convert::convert;
use crate::device::numbers::with_weight;
use crate::device::{Element, Numbers};
use crate::params::{Leaf, ParamId, Weights};

/// Rows of the embedding `weight` [vocab, hidden] for `ids`, as f32 [ids, hidden]. At several points the ids are as often the same.
pub fn embed(weights: Weights, weight: ParamId, ids: &[u32]) -> Result<Tensor> {
    Ok(weights.root()?.apply_op1(Embed { weight: weights.leaf(weight), ids: ids.to_vec() })?)
}

/// An operation on nothing: its argument only tells whether it is recorded.
struct Embed {
    weight: Leaf,
    ids: Vec<u32>,
}

impl Embed {
    /// A row's directions are drawn once for all points.
    fn displaced(&self, displaced: &Displaced) -> candle_core::Result<(CpuStorage, Shape)> {
        fn copied<T: Element>(w: &[T], hidden: usize, ids: &[u32], displaced: &Displaced) -> candle_core::Result<Vec<f32>> {
            let rows = rows_a_point(ids.len(), displaced.points())?;
            let Some(vocab) = w.len().checked_div(hidden) else { candle_core::bail!("an embedding of nothing") };
            if ids.iter().any(|id| *id as usize >= vocab) || ids.chunks(rows).any(|other| *other != ids[..rows]) {
                candle_core::bail!("embed: {} ids at {} points, {vocab} rows", ids.len(), displaced.points());
            }
            let mut y = vec![0f32; ids.len() * hidden];
            let mut of_points: Vec<_> = y.chunks_mut(rows * hidden).map(|y| y.chunks_mut(hidden)).collect();
            let jobs: Vec<(usize, Vec<&mut [f32]>)> = ids[..rows]
                .iter()
                .map(|id| (*id as usize * hidden, of_points.iter_mut().filter_map(Iterator::next).collect()))
                .collect();
            jobs.into_par_iter().for_each_init(Vec::new, |row, (first, to)| {
                displaced.read(&w[first..first + hidden], first, row);
                to.into_iter().zip(row.chunks(hidden)).for_each(|(to, from)| convert(from, to));
            });
            Ok(y)
        }
        let (ids, hidden) = (&self.ids, self.weight.tensor().dim(1)?);
        let rows = with_weight(self.weight.tensor(), |numbers| match numbers {
            Numbers::F32(w) => copied(w, hidden, ids, displaced),
            Numbers::Bf16(w) => copied(w, hidden, ids, displaced),
            Numbers::F16(w) => copied(w, hidden, ids, displaced),
        })?;
        Ok((CpuStorage::F32(rows), (ids.len(), hidden).into()))
    }
}

impl CustomOp1 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let weight = self.weight.tensor();
        if let Some(displaced) = self.weight.displaced() {
            return self.displaced(displaced);
        }
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

//! Prefix tuning: virtual keys and values before the tokens (Li and Liang 2021, "Prefix-Tuning", arXiv 2101.00190).

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::tensors::{floats, small_weight, with_floats};
use crate::device::Activations;
use crate::device::Heads;
use crate::params::Leaf;

/// The part of a prefix's embeddings [prefix, blocks * 2 * keys * dim], f32, with a block's keys and values.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The model's heads.
    pub heads: Heads,
    /// Index of the block.
    pub block: usize,
}

impl Place {
    /// The block's columns, in PEFT's order: keys, then values.
    fn columns(self) -> std::ops::Range<usize> {
        let width = 2 * self.heads.keys * self.heads.dim;
        self.block * width..(self.block + 1) * width
    }

    /// Width of the queries in a row of qkv.
    fn queries(self) -> usize {
        self.heads.queries * self.heads.dim
    }
}

/// Puts the prefix before qkv [tokens, ..] -> [prefix + tokens, ..]: keys and values, no queries; one copy per point.
pub fn with_prefix(qkv: &Activations, embeddings: Leaf, place: Place) -> Result<Activations> {
    qkv.map(|qkv| Ok(qkv.apply_op1(WithPrefix { embeddings, place })?))
}

struct WithPrefix {
    embeddings: Leaf,
    place: Place,
}

impl CustomOp1 for WithPrefix {
    fn name(&self) -> &'static str {
        "prefix"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (tokens, width) = layout.shape().dims2()?;
        let (prefix, all) = self.embeddings.array().dims2()?;
        let (columns, queries) = (self.place.columns(), self.place.queries());
        if columns.end > all || queries + columns.len() != width {
            candle_core::bail!("prefix: {:?} of {prefix} x {all} in front of {tokens} x {width}", self.place);
        }
        let embeddings = small_weight(&self.embeddings);
        let prefix_rows = embeddings.points() * prefix;
        let mut rows = Vec::with_capacity((prefix_rows + tokens) * width);
        for row in embeddings.values.chunks(all) {
            rows.resize(rows.len() + queries, 0.0);
            rows.extend_from_slice(&row[columns.clone()]);
        }
        rows.extend_from_slice(floats(qkv, layout)?);
        Ok((CpuStorage::F32(rows), (prefix_rows + tokens, width).into()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (prefix, all) = self.embeddings.array().dims2()?;
        let (columns, queries, width) = (self.place.columns(), self.place.queries(), qkv.dim(1)?);
        with_floats([&upstream.contiguous()?], |[dy]| {
            let (of_prefix, of_tokens) = dy.split_at(prefix * width);
            self.embeddings.add_gradient(|gradient| {
                for (gradient, dy) in gradient.chunks_mut(all).zip(of_prefix.chunks(width)) {
                    gradient[columns.clone()].iter_mut().zip(&dy[queries..]).for_each(|(g, dy)| *g += dy);
                }
            });
            Ok(Some(Tensor::from_slice(of_tokens, qkv.shape(), qkv.device())?))
        })
    }
}

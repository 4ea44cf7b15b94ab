//! Causal attention over a packed batch, whose sequences form trees with shared prefixes.

use std::sync::Arc;

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::tensors::{floats, with_floats};
use crate::device::Activations;
use crate::device::cpu::attention::{self as cpu, PrefixRows};
use crate::device::{Heads, QueryBlock, Scores};

/// Causal attention within each sequence of the batch: every query attends to the rows of its [`QueryBlock`] and the prefix.
///
/// q, k and v side by side [prefixes + tokens, (queries + 2 keys) * dim], f32 -> [tokens, queries * dim].
pub fn attention(
    qkv: &Activations,
    blocks: &Arc<Vec<QueryBlock>>,
    prefix: PrefixRows,
    heads: Heads,
    scores: Scores,
) -> Result<Activations> {
    let loops = cpu::Attention::new(qkv.num_rows()?, blocks, prefix, heads, scores)?;
    qkv.map(|qkv| Ok(qkv.apply_op1(Attention { loops, width: heads.queries * heads.dim })?))
}

struct Attention {
    loops: cpu::Attention,
    /// Width of the output.
    width: usize,
}

impl CustomOp1 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.loops.check(layout.shape().dims2()?)?;
        let (out, tokens) = self.loops.forward(floats(qkv, layout)?)?;
        Ok((CpuStorage::F32(out), (tokens, self.width).into()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.loops.check(qkv.dims2()?)?;
        let gradient = with_floats([qkv, &upstream.contiguous()?], |[qkv, dout]| Ok(self.loops.backward(qkv, dout)))?;
        Ok(Some(Tensor::from_vec(gradient, qkv.shape(), qkv.device())?))
    }
}

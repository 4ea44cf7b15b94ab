//! Layer norm and RMS norm over the last dimension.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::tensors::{floats, small_weight, with_floats};
use crate::device::Activations;
use crate::device::Heads;
use crate::device::cpu::SmallWeight;
use crate::device::cpu::norm::{self as cpu, NormKind};
use crate::params::Leaf;

/// (x - mean) / sqrt(var + eps) * weight + bias over the last dimension of x [tokens, hidden], f32.
pub fn layer_norm(x: &Activations, affine: Option<(Leaf, Leaf)>, eps: f32) -> Result<Activations> {
    let (weight, bias) = affine.unzip();
    let norm = Norm { weight, bias, offset: 0.0, kind: NormKind { eps, centred: true } };
    x.map(|x| Ok(x.apply_op1(norm)?))
}

/// x / sqrt(mean(x^2) + eps) * (offset + weight) over the last dimension of x [tokens, hidden], f32.
pub fn rms_norm(x: &Activations, weight: Leaf, offset: f32, eps: f32) -> Result<Activations> {
    let norm = Norm { weight: Some(weight), bias: None, offset, kind: NormKind { eps, centred: false } };
    x.map(|x| Ok(x.apply_op1(norm)?))
}

/// [`rms_norm`] over each query head and each key head, with weights [head_dim] for queries and for keys: q, k and v side by
/// side [tokens, (queries + 2 keys) * head_dim], f32. The values are unchanged.
pub fn rms_norm_heads(qkv: &Activations, heads: Heads, weights: [Leaf; 2], offset: f32, eps: f32) -> Result<Activations> {
    qkv.map(|qkv| Ok(qkv.apply_op1(HeadNorms { weights, heads, offset, eps })?))
}

struct Norm {
    weight: Option<Leaf>,
    bias: Option<Leaf>,
    /// Added to the weight.
    offset: f32,
    kind: NormKind,
}

impl Norm {
    /// Weight plus offset, and bias, in f32; a missing weight is 1. Fails unless both have length `hidden`.
    fn affine(&self, hidden: usize) -> candle_core::Result<(SmallWeight, Option<SmallWeight>)> {
        let ones = || SmallWeight { values: vec![1.0; hidden], len: hidden };
        let weight = self.weight.as_ref().map_or_else(ones, |w| with_offset(w, self.offset));
        let bias = self.bias.as_ref().map(small_weight);
        if weight.len != hidden || bias.as_ref().is_some_and(|b| b.len != hidden) {
            candle_core::bail!("norm: {hidden} by {}", weight.len);
        }
        Ok((weight, bias))
    }
}

/// offset + weight in f32.
fn with_offset(weight: &Leaf, offset: f32) -> SmallWeight {
    let mut weight = small_weight(weight);
    if offset != 0.0 {
        weight.values.iter_mut().for_each(|w| *w += offset);
    }
    weight
}

impl CustomOp1 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (weight, bias) = self.affine(layout.shape().dims2()?.1)?;
        let mut y = floats(x, layout)?.to_vec();
        cpu::normalise_rows(&mut y, &weight, bias.as_ref(), self.kind)?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (tokens, hidden) = x.dims2()?;
        let (affine, _) = self.affine(hidden)?;
        let dx = with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            let (normalised, dx) = cpu::differentiate_rows(x, dy, &affine, self.kind);
            if let Some(weight) = &self.weight {
                weight.add_gradient(|dw| cpu::add_rows(dw, &normalised, hidden, Some(dy)));
            }
            if let Some(bias) = &self.bias {
                bias.add_gradient(|db| cpu::add_rows(db, dy, hidden, None));
            }
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, (tokens, hidden), x.device())?))
    }
}

struct HeadNorms {
    /// Of queries and of keys.
    weights: [Leaf; 2],
    heads: Heads,
    offset: f32,
    eps: f32,
}

impl HeadNorms {
    /// Both weights plus offset, and the row width. Fails unless they fit the heads.
    fn with_offset(&self, shape: &Shape) -> candle_core::Result<([SmallWeight; 2], usize)> {
        let [q, k] = &self.weights;
        let (weights, width) = ([with_offset(q, self.offset), with_offset(k, self.offset)], shape.dims2()?.1);
        if width != self.heads.width() || weights.iter().any(|w| w.len != self.heads.dim) {
            candle_core::bail!("head norms: {shape:?} for {:?}", self.heads);
        }
        Ok((weights, width))
    }
}

impl CustomOp1 for HeadNorms {
    fn name(&self) -> &'static str {
        "head norms"
    }

    fn cpu_fwd(&self, qkv: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (weights, width) = self.with_offset(layout.shape())?;
        let mut y = floats(qkv, layout)?.to_vec();
        cpu::normalise_heads(&mut y, width, self.heads, &weights, self.eps)?;
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, qkv: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (weights, width) = self.with_offset(qkv.shape())?;
        let dx = with_floats([qkv, &upstream.contiguous()?], |[x, dy]| {
            let (normalised, dx) = cpu::differentiate_heads(x, dy, width, self.heads, &weights, self.eps);
            for (kind, weight) in self.weights.iter().enumerate() {
                weight.add_gradient(|dw| cpu::add_head_gradient(dw, kind, &normalised, dy, width, self.heads));
            }
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, qkv.shape(), qkv.device())?))
    }
}

//! The linear layer: one product over all tokens of the batch, with one weight or several side by side; bias, activation and
//! the residual addition are fused into it.

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};

use super::activation::activated;
use super::tensors::{floats, small_weight, with_floats};
use crate::device::Activations;
use crate::device::cpu::linear::{add_input_gradient, add_weight_gradient};
use crate::device::cpu::matrix::Columns;
use crate::device::cpu::norm::add_rows;
use crate::device::cpu::points::rows_per_point;
use crate::device::cpu::product::apply_layers;
use crate::device::cpu::{Displaced, Layer, Panels, SmallWeight};
use crate::device::{Activation, View};
use crate::params::Leaf;

/// A weight [out, in] and a bias [out] of a linear layer.
pub struct Part {
    /// In storage precision.
    pub weight: Leaf,
    /// None: no bias.
    pub bias: Option<Leaf>,
}

/// act(x W^T + b): x [tokens, in], f32 -> [tokens, out], the parts' columns side by side.
pub fn linear(x: &Activations, parts: Vec<Part>, activation: Activation) -> Result<Activations> {
    let Activations::Cpu(tensor) = x;
    if !tensor.track_op() || activation == Activation::None {
        return x.map(|x| Ok(x.apply_op1(Linear { parts, activation })?));
    }
    // The backward pass of an activation needs its input, so it is not fused.
    let before = x.map(|x| Ok(x.apply_op1(Linear { parts, activation: Activation::None })?))?;
    activated(&before, activation)
}

/// residual + x W^T + b: [tokens, out], f32.
pub fn linear_onto(residual: &Activations, x: &Activations, part: Part) -> Result<Activations> {
    x.zip(residual, |x, residual| Ok(x.apply_op2(residual, Linear { parts: vec![part], activation: Activation::None })?))
}

struct Linear {
    parts: Vec<Part>,
    activation: Activation,
}

impl Linear {
    fn forward(&self, x: &CpuStorage, lx: &Layout, residual: Option<&[f32]>) -> candle_core::Result<(CpuStorage, Shape)> {
        let (tokens, inner) = lx.shape().dims2()?;
        let mut layers = Vec::new();
        for part in &self.parts {
            let (outer, w_inner) = part.weight.array().dims2()?;
            let bias = part.bias.as_ref().map(small_weight);
            if inner != w_inner || bias.as_ref().is_some_and(|b| b.len != outer) {
                candle_core::bail!("linear: {tokens} x {inner} by {outer} x {w_inner}");
            }
            layers.push(Layer { weight: part.weight.array().view(), outer, bias, displaced: part.weight.displaced() });
        }
        let width = layers.iter().map(|layer| layer.outer).sum();
        if residual.is_some_and(|residual| residual.len() != tokens * width) {
            candle_core::bail!("linear: {tokens} x {width} onto something else");
        }
        let in_bf16 = layers.iter().all(|layer| matches!(layer.weight, View::Bf16(_)));
        let points = |layer: &Layer| {
            layer.displaced.map_or(1, Displaced::points).max(layer.bias.as_ref().map_or(1, SmallWeight::points))
        };
        let rows = rows_per_point(tokens, layers.iter().map(points).max().unwrap_or(1))?;
        let of_point = |x| Panels::new(x, rows, inner, in_bf16);
        let x: Vec<Panels> = floats(x, lx)?.chunks((rows * inner).max(1)).map(of_point).collect();
        let y = apply_layers(&x, &layers, self.activation, residual);
        Ok((CpuStorage::F32(y), (tokens, width).into()))
    }

    /// dx = dy W summed over the parts; dW += dy^T x; db += the sum of dy's rows.
    fn backward(&self, x: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let ((tokens, inner), width) = (x.dims2()?, upstream.dim(1)?);
        let mut dx = vec![0f32; tokens * inner];
        with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            let mut column = 0;
            for part in &self.parts {
                let outer = part.weight.array().shape()[0];
                let (dy, size) = (Columns { all: dy, first: column, width, count: outer }, (tokens, inner));
                add_input_gradient(dy, part.weight.array().view(), &mut dx, size);
                part.weight.add_gradient(|dw| add_weight_gradient(dw, dy, x, size));
                if let Some(bias) = &part.bias {
                    bias.add_gradient(|db| add_rows(db, &dy.all[column..], width, None));
                }
                column += outer;
            }
            Ok(())
        })?;
        Ok(Some(Tensor::from_vec(dx, (tokens, inner), x.device())?))
    }
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(x, lx, None)
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.backward(x, upstream)
    }
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear onto"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, o: &CpuStorage, lo: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(x, lx, Some(floats(o, lo)?))
    }

    fn bwd(
        &self,
        x: &Tensor,
        _: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.backward(x, upstream)?, Some(upstream.clone())))
    }
}

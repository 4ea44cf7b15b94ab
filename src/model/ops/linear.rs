//! The linear layer: one product over all tokens of the batch, bias and activation fused into it.

use std::ops::Range;

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::norm::add_rows;
use super::product::{Panels, by_weight};
use super::{Matrix, Numbers, floats, multiply, threads, widened, with_floats, with_weight};
use crate::noise::Element;
use crate::params::Leaf;
use crate::simd;

/// What follows a linear layer, fused into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    None,
    Relu,
    /// x/2 (1 + erf(x / sqrt 2))
    Gelu,
    /// The tanh form of GELU.
    GeluNew,
    /// x sigmoid(x)
    Silu,
}

impl Activation {
    /// By the name that config.json uses.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "relu" => Some(Activation::Relu),
            "gelu" => Some(Activation::Gelu),
            "gelu_new" | "gelu_pytorch_tanh" => Some(Activation::GeluNew),
            "silu" | "swish" => Some(Activation::Silu),
            _ => None,
        }
    }
}

/// act(x W^T + b): x [tokens, in] f32, weight [out, in], bias [out] -> [tokens, out] f32.
pub fn linear(x: &Tensor, weight: Leaf, bias: Option<Leaf>, activation: Activation) -> Result<Tensor> {
    if !x.track_op() || activation == Activation::None {
        return Ok(x.apply_op1(Linear { weight, bias, activation })?);
    }
    // Going back, an activation wants to see what it was applied to.
    let before = x.apply_op1(Linear { weight, bias, activation: Activation::None })?;
    Ok(before.apply_op1(Activate(activation))?)
}

/// onto + x W^T + b: what a block adds to its stream, [tokens, out] f32.
pub fn linear_onto(onto: &Tensor, x: &Tensor, weight: Leaf, bias: Option<Leaf>) -> Result<Tensor> {
    Ok(x.apply_op2(onto, Linear { weight, bias, activation: Activation::None })?)
}

struct Linear {
    weight: Leaf,
    bias: Option<Leaf>,
    activation: Activation,
}

/// Weight rows that a thread widens at a time, going back, where they are held in half precision.
const TILE: usize = 64;

impl Linear {
    fn forward(&self, x: &CpuStorage, lx: &Layout, onto: Option<&[f32]>) -> candle_core::Result<(CpuStorage, Shape)> {
        let ((tokens, inner), (outer, w_inner)) = (lx.shape().dims2()?, self.weight.tensor().dims2()?);
        let bias = self.bias.as_ref().map(|b| widened(b.tensor())).transpose()?;
        let fits = bias.as_ref().is_none_or(|b| b.len() == outer) && onto.is_none_or(|onto| onto.len() == tokens * outer);
        if inner != w_inner || !fits {
            candle_core::bail!("linear: {tokens} x {inner} by {outer} x {w_inner}");
        }
        let (x, bias) = (Panels::new(floats(x, lx)?, tokens, inner), bias.as_deref());
        let mut y = vec![0f32; tokens * outer];
        let finish = |place: usize, strip: &mut [f32]| {
            activate(strip, self.activation);
            if let Some(onto) = onto {
                strip.iter_mut().zip(&onto[place..]).for_each(|(y, onto)| *y += onto);
            }
        };
        with_weight(self.weight.tensor(), |w| {
            match w {
                Numbers::F32(w) => by_weight(&x, outer, bias, |rows, _| w[rows.start * inner..].as_ptr(), finish, &mut y),
                Numbers::Bf16(w) => by_weight(&x, outer, bias, |rows, to| widened_rows(w, inner, rows, to), finish, &mut y),
                Numbers::F16(w) => by_weight(&x, outer, bias, |rows, to| widened_rows(w, inner, rows, to), finish, &mut y),
            }
            Ok(())
        })?;
        Ok((CpuStorage::F32(y), (tokens, outer).into()))
    }

    /// dx = dy W, dW += dy^T x, db += the sum of dy's rows.
    fn backward(&self, x: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let ((tokens, inner), outer) = (x.dims2()?, self.weight.tensor().dim(0)?);
        let mut dx = vec![0f32; tokens * inner];
        with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            let at = |m: &[f32], row_stride, col_stride| Matrix { start: m.as_ptr(), row_stride, col_stride };
            let dx_at = dx.as_mut_ptr();
            with_weight(self.weight.tensor(), |w| {
                match w {
                    // SAFETY: dy is [tokens, outer], W [outer, inner], dx [tokens, inner] and ours.
                    Numbers::F32(w) => unsafe {
                        multiply(
                            (tokens, outer, inner),
                            dx_at,
                            inner,
                            false,
                            at(dy, outer, 1),
                            at(w, inner, 1),
                            1.0,
                            threads(),
                        )
                    },
                    Numbers::Bf16(w) => backward_widened(dy, w, &mut dx, (tokens, outer, inner)),
                    Numbers::F16(w) => backward_widened(dy, w, &mut dx, (tokens, outer, inner)),
                }
                Ok(())
            })?;
            // SAFETY: dy^T is [outer, tokens], x [tokens, inner], dW [outer, inner] and lent to us alone.
            self.weight.add_gradient(|dw| unsafe {
                multiply(
                    (outer, tokens, inner),
                    dw.as_mut_ptr(),
                    inner,
                    true,
                    at(dy, 1, outer),
                    at(x, inner, 1),
                    1.0,
                    threads(),
                )
            });
            if let Some(bias) = &self.bias {
                bias.add_gradient(|db| add_rows(db, dy, None));
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

/// Rows of a weight held in half precision, widened into `to`: a few at a time, never the whole matrix.
fn widened_rows<T: Element>(w: &[T], inner: usize, rows: Range<usize>, to: &mut Vec<f32>) -> *const f32 {
    to.resize(rows.len() * inner, 0.0);
    widen(&w[rows.start * inner..rows.end * inner], to);
    to.as_ptr()
}

/// dx += dy W with W held in half precision: all threads on one tile after the other, for each adds to all of dx.
fn backward_widened<T: Element>(dy: &[f32], w: &[T], dx: &mut [f32], (tokens, outer, inner): (usize, usize, usize)) {
    const TILES: usize = 8 * TILE;
    let mut tile = vec![0f32; TILES.min(outer) * inner];
    for (i, rows) in w.chunks(TILES * inner).enumerate() {
        let tile = &mut tile[..rows.len()];
        tile.par_chunks_mut(TILE * inner).zip(rows.par_chunks(TILE * inner)).for_each(|(to, from)| widen(from, to));
        let a = Matrix { start: dy.as_ptr().wrapping_add(i * TILES), row_stride: outer, col_stride: 1 };
        let b = Matrix { start: tile.as_ptr(), row_stride: inner, col_stride: 1 };
        let size = (tokens, rows.len() / inner, inner);
        // SAFETY: the tile's columns of dy, [tokens, inner] of dx, which is lent to us alone.
        unsafe { multiply(size, dx.as_mut_ptr(), inner, true, a, b, 1.0, threads()) }
    }
}

/// An activation by itself, in a graph.
struct Activate(Activation);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut y = floats(x, layout)?.to_vec();
        y.par_chunks_mut(1 << 14).for_each(|chunk| activate(chunk, self.0));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let dx = with_floats([x, &upstream.contiguous()?], |[x, dy]| {
            let mut dx = dy.to_vec();
            dx.par_chunks_mut(1 << 14).zip(x.par_chunks(1 << 14)).for_each(|(dy, x)| multiply_by_slope(dy, x, self.0));
            Ok(dx)
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

vectorize! {
    fn widen[T: Element](from: &[T], to: &mut [f32]) {
        for (t, f) in to.iter_mut().zip(from) {
            *t = f.widen();
        }
    }
}

vectorize! {
    /// The activation of each number, in place.
    pub fn activate(xs: &mut [f32], activation: Activation) {
        // Loops, not iterator adaptors: those are compiled for the baseline and called.
        match activation {
            Activation::None => {}
            Activation::Relu => {
                for x in xs {
                    *x = if *x < 0.0 { 0.0 } else { *x };
                }
            }
            Activation::Gelu => {
                for x in xs {
                    *x *= 0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(*x) * std::f64::consts::FRAC_1_SQRT_2) as f32);
                }
            }
            Activation::GeluNew => {
                for x in xs {
                    let inner = 0.797_884_6 * *x * (*x * *x).mul_add(0.044_715, 1.0);
                    // (1 + tanh a) / 2 = 1 - 1 / (e^2a + 1)
                    *x *= 1.0 - 1.0 / (simd::exp(2.0 * inner) + 1.0);
                }
            }
            Activation::Silu => {
                for x in xs {
                    *x /= 1.0 + simd::exp(-*x);
                }
            }
        }
    }
}

vectorize! {
    /// dy <- dy times the activation's derivative at x.
    fn multiply_by_slope(dy: &mut [f32], x: &[f32], activation: Activation) {
        match activation {
            Activation::None => {}
            Activation::Relu => {
                for i in 0..dy.len() {
                    dy[i] = if x[i] > 0.0 { dy[i] } else { 0.0 };
                }
            }
            Activation::Gelu => {
                for i in 0..dy.len() {
                    let cdf = 0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(x[i]) * std::f64::consts::FRAC_1_SQRT_2));
                    let density = 0.398_942_3 * simd::exp(-0.5 * x[i] * x[i]);
                    dy[i] *= x[i].mul_add(density, cdf as f32);
                }
            }
            Activation::GeluNew => {
                for i in 0..dy.len() {
                    let (x, xx) = (x[i], x[i] * x[i]);
                    let inner = 0.797_884_6 * x * xx.mul_add(0.044_715, 1.0);
                    let half = 1.0 - 1.0 / (simd::exp(2.0 * inner) + 1.0);
                    // d/dx [x h] = h + 2 x h (1 - h) d inner/dx, h = (1 + tanh inner) / 2
                    dy[i] *= half + 2.0 * x * half * (1.0 - half) * 0.797_884_6 * xx.mul_add(0.134_145, 1.0);
                }
            }
            Activation::Silu => {
                for i in 0..dy.len() {
                    let sigmoid = 1.0 / (1.0 + simd::exp(-x[i]));
                    dy[i] *= sigmoid * (1.0 + x[i] * (1.0 - sigmoid));
                }
            }
        }
    }
}

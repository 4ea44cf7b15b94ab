//! The linear layer: one product over all tokens of the batch, bias and activation fused into it.

use std::cell::RefCell;

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::norm::add_rows;
use super::{Matrix, Numbers, Shared, floats, multiply, threads, widened, with_floats, with_weight};
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

struct Linear {
    weight: Leaf,
    bias: Option<Leaf>,
    activation: Activation,
}

/// Weight rows that are widened at a time where they are held in half precision: never the whole matrix.
const TILE: usize = 64;

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let ((tokens, inner), (outer, w_inner)) = (lx.shape().dims2()?, self.weight.tensor().dims2()?);
        let bias = self.bias.as_ref().map(|b| widened(b.tensor())).transpose()?;
        if inner != w_inner || bias.as_ref().is_some_and(|b| b.len() != outer) {
            candle_core::bail!("linear: {tokens} x {inner} by {outer} x {w_inner}");
        }
        let (x, add) = (floats(x, lx)?, bias.is_some());
        let mut y = bias.map_or_else(|| vec![0f32; tokens * outer], |bias| bias.repeat(tokens));
        let size = (tokens, inner, outer);
        with_weight(self.weight.tensor(), |w| {
            match w {
                Numbers::F32(w) => {
                    let a = Matrix { start: x.as_ptr(), row_stride: inner, col_stride: 1 };
                    let b = Matrix { start: w.as_ptr(), row_stride: 1, col_stride: inner };
                    // SAFETY: shapes were checked above; y is ours.
                    unsafe { multiply(size, y.as_mut_ptr(), outer, add, a, b, 1.0, threads()) }
                }
                Numbers::Bf16(w) => forward_widened(x, w, &mut y, size, add),
                Numbers::F16(w) => forward_widened(x, w, &mut y, size, add),
            }
            Ok(())
        })?;
        if self.activation != Activation::None {
            y.par_chunks_mut(1 << 14).for_each(|chunk| activate(chunk, self.activation));
        }
        Ok((CpuStorage::F32(y), (tokens, outer).into()))
    }

    /// dx = dy W, dW += dy^T x, db += the sum of dy's rows.
    fn bwd(&self, x: &Tensor, _: &Tensor, upstream: &Tensor) -> candle_core::Result<Option<Tensor>> {
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

thread_local!(static WIDENED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });

/// y += x W^T with W held in half precision: widened tile by tile, a tile a thread.
fn forward_widened<T: Element>(x: &[f32], w: &[T], y: &mut [f32], (tokens, inner, outer): (usize, usize, usize), add: bool) {
    let y = Shared(y.as_mut_ptr());
    w.par_chunks(TILE * inner).enumerate().for_each(|(i, rows)| {
        WIDENED.with_borrow_mut(|tile| {
            tile.resize(rows.len(), 0.0);
            widen(rows, tile);
            let a = Matrix { start: x.as_ptr(), row_stride: inner, col_stride: 1 };
            let b = Matrix { start: tile.as_ptr(), row_stride: 1, col_stride: inner };
            let size = (tokens, inner, rows.len() / inner);
            // SAFETY: each tile writes its own columns of y.
            unsafe { multiply(size, y.at(i * TILE), outer, add, a, b, 1.0, Parallelism::None) }
        })
    });
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

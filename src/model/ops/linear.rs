//! The linear layer: one product over all tokens of the batch, bias and activation fused into it.

use std::cell::RefCell;

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Shape, Tensor};
use gemm::Parallelism;
use half::{bf16, f16};
use rayon::prelude::*;

use super::{Matrix, Shared, floats, multiply};
use crate::noise::Element;
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
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    let op = LinearOp { activation };
    Ok(match bias {
        Some(bias) => x.apply_op3_no_bwd(weight, &bias.to_dtype(DType::F32)?, &op)?,
        None => x.apply_op2_no_bwd(weight, &op)?,
    })
}

fn threads() -> Parallelism {
    Parallelism::Rayon(rayon::current_num_threads())
}

struct LinearOp {
    activation: Activation,
}

impl LinearOp {
    /// Output columns that one thread widens and multiplies at a time when weights are held in half precision.
    const TILE: usize = 64;

    fn forward(
        &self,
        (x, lx): (&CpuStorage, &Layout),
        (w, lw): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let ((tokens, inner), (outer, w_inner)) = (lx.shape().dims2()?, lw.shape().dims2()?);
        let size = outer * inner;
        if inner != w_inner || bias.is_some_and(|b| b.len() != outer) || lw.contiguous_offsets() != Some((0, size)) {
            candle_core::bail!("linear: {tokens} x {inner} by {outer} x {w_inner}");
        }
        let x = floats(x, lx)?;
        let mut y = match bias {
            Some(bias) => bias.repeat(tokens),
            None => vec![0f32; tokens * outer],
        };
        let add = bias.is_some();
        match w {
            CpuStorage::F32(w) => {
                let a = Matrix { start: x.as_ptr(), row_stride: inner, col_stride: 1 };
                let b = Matrix { start: w.as_ptr(), row_stride: 1, col_stride: inner };
                // SAFETY: shapes were checked above; y is ours.
                unsafe { multiply((tokens, inner, outer), y.as_mut_ptr(), outer, add, a, b, 1.0, threads()) }
            }
            CpuStorage::BF16(w) => widened::<bf16>(x, &w[..size], &mut y, (tokens, inner, outer), add),
            CpuStorage::F16(w) => widened::<f16>(x, &w[..size], &mut y, (tokens, inner, outer), add),
            _ => candle_core::bail!("weights are held in f32, f16 or bf16"),
        }
        if self.activation != Activation::None {
            y.par_chunks_mut(1 << 14).for_each(|chunk| activate(chunk, self.activation));
        }
        Ok((CpuStorage::F32(y), (tokens, outer).into()))
    }
}

/// y += x W^T with W held in half precision: widened tile by tile, never whole.
fn widened<T: Element>(x: &[f32], w: &[T], y: &mut [f32], (tokens, inner, outer): (usize, usize, usize), add: bool) {
    thread_local!(static TILE: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
    let y = Shared(y.as_mut_ptr());
    w.par_chunks(LinearOp::TILE * inner).enumerate().for_each(|(i, rows)| {
        TILE.with_borrow_mut(|tile| {
            tile.resize(rows.len(), 0.0);
            widen(rows, tile);
            let a = Matrix { start: x.as_ptr(), row_stride: inner, col_stride: 1 };
            let b = Matrix { start: tile.as_ptr(), row_stride: 1, col_stride: inner };
            let size = (tokens, inner, rows.len() / inner);
            // SAFETY: each tile writes its own columns of y.
            unsafe { multiply(size, y.at(i * LinearOp::TILE), outer, add, a, b, 1.0, Parallelism::None) }
        })
    });
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

impl CustomOp2 for LinearOp {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward((x, lx), (w, lw), None)
    }
}

impl CustomOp3 for LinearOp {
    fn name(&self) -> &'static str {
        "linear-bias"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        lx: &Layout,
        w: &CpuStorage,
        lw: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward((x, lx), (w, lw), Some(floats(b, lb)?))
    }
}

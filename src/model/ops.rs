//! The operations that models are made of, over packed tokens: activations in f32, weights in whatever they are held in.
//!
//! Forward only, no graph. Every loop over threads gives each output element to one thread and one fixed order of
//! additions, so results have the same bits for any number of threads.

use std::cell::RefCell;

use anyhow::{Result, bail};
use candle_core::{CpuStorage, CustomOp2, CustomOp3, DType, Layout, Shape, Tensor};
use gemm::Parallelism;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::data::QueryBlock;
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

/// Rows of the embedding `weight` [vocab, hidden] for `ids`, as f32 [ids, hidden].
pub fn embed(weight: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let ids = Tensor::new(ids, weight.device())?;
    Ok(weight.index_select(&ids, 0)?.to_dtype(DType::F32)?)
}

/// act(x W^T + b): x [tokens, in] f32, weight [out, in], bias [out] -> [tokens, out] f32.
pub fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    let op = Linear { activation };
    Ok(match bias {
        Some(bias) => x.apply_op3_no_bwd(weight, &bias.to_dtype(DType::F32)?, &op)?,
        None => x.apply_op2_no_bwd(weight, &op)?,
    })
}

/// (x - mean) / sqrt(var + eps) * weight + bias over the last dimension of x [tokens, hidden] f32.
pub fn layer_norm(x: &Tensor, affine: Option<(&Tensor, &Tensor)>, eps: f32) -> Result<Tensor> {
    let op = Norm { eps, centred: true };
    Ok(match affine {
        Some((weight, bias)) => x.apply_op3_no_bwd(&weight.to_dtype(DType::F32)?, &bias.to_dtype(DType::F32)?, &op)?,
        None => x.apply_op2_no_bwd(&Tensor::ones(x.dim(1)?, DType::F32, x.device())?, &op)?,
    })
}

/// x / sqrt(mean(x^2) + eps) * weight over the last dimension of x [tokens, hidden] f32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    Ok(x.apply_op2_no_bwd(&weight.to_dtype(DType::F32)?, &Norm { eps, centred: false })?)
}

/// silu(gate) * up, both [tokens, inner] f32.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    Ok(gate.apply_op2_no_bwd(up, &SwiGlu)?)
}

/// Rotates q or k [tokens, heads * head_dim] by halves; cos, sin [tokens, head_dim / 2].
pub fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let head_dim = 2 * cos.dim(1)?;
    let heads = x.reshape((1, tokens, width / head_dim, head_dim))?;
    Ok(candle_nn::rotary_emb::rope_thd(&heads, cos, sin)?.reshape((tokens, width))?)
}

/// Causal attention within each example of the batch: every query sees what its [`QueryBlock`] shows it.
///
/// q [tokens, heads * head_dim], k and v [tokens, kv_heads * head_dim], f32 -> [tokens, heads * head_dim]. Scores are
/// multiplied by `scale`; `heads / kv_heads` query heads share a key head.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, blocks: &[QueryBlock], head_dim: usize, scale: f32) -> Result<Tensor> {
    Ok(q.apply_op3_no_bwd(k, v, &Attention { blocks, head_dim, scale })?)
}

/// ln softmax(row)[target] for each of `picks` = (row of logits [rows, vocab] f32, target).
pub fn log_probs(logits: &Tensor, picks: &[(usize, u32)]) -> Result<Vec<f32>> {
    let (rows, vocab) = logits.dims2()?;
    let (storage, layout) = logits.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { bail!("logits are not on the CPU") };
    let logits = floats(storage, layout)?;
    let log_sums: Vec<f32> = (0..rows).into_par_iter().map(|r| log_sum_exp(&logits[r * vocab..(r + 1) * vocab])).collect();
    Ok(picks.iter().map(|&(row, target)| logits[row * vocab + target as usize] - log_sums[row]).collect())
}

vectorize! {
    /// ln of the sum of e^x over `xs`.
    fn log_sum_exp(xs: &[f32]) -> f32 {
        let max = simd::max(xs);
        // f32 sums over short runs, joined in f64: a vocabulary of 50,000 loses nothing.
        let mut total = 0f64;
        for run in xs.chunks(1024) {
            total += f64::from(simd::sum(run, #[inline(always)] |x| simd::exp(x - max)));
        }
        if max.is_finite() { max + total.ln() as f32 } else { f32::NAN }
    }
}

/// The f32 numbers of a contiguous tensor.
fn floats<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(x), Some((start, end))) => Ok(&x[start..end]),
        (_, None) => candle_core::bail!("a tensor is not contiguous"),
        _ => candle_core::bail!("activations are f32"),
    }
}

fn threads() -> Parallelism {
    Parallelism::Rayon(rayon::current_num_threads())
}

/// A matrix inside a larger buffer: where it starts and how far apart its rows and columns are.
#[derive(Clone, Copy)]
struct Matrix {
    start: *const f32,
    row_stride: usize,
    col_stride: usize,
}

/// dst [m, n] (row stride `dst_stride`) = (or += when `add`) scale * a [m, k] b [k, n].
///
/// # Safety
/// The pointers and strides must describe matrices inside live buffers; nobody else may touch `dst` meanwhile.
#[allow(clippy::too_many_arguments)]
unsafe fn multiply(
    (m, k, n): (usize, usize, usize),
    dst: *mut f32,
    dst_stride: usize,
    add: bool,
    a: Matrix,
    b: Matrix,
    scale: f32,
    parallelism: Parallelism,
) {
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            1,
            dst_stride as isize,
            add,
            a.start,
            a.col_stride as isize,
            a.row_stride as isize,
            b.start,
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        )
    }
}

struct Linear {
    activation: Activation,
}

impl Linear {
    /// Output columns that one thread widens and multiplies at a time when weights are held in half precision.
    const TILE: usize = 64;

    fn forward(
        &self,
        (x, lx): (&CpuStorage, &Layout),
        (w, lw): (&CpuStorage, &Layout),
        bias: Option<&[f32]>,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let ((tokens, inner), (outer, w_inner)) = (lx.shape().dims2()?, lw.shape().dims2()?);
        if inner != w_inner || bias.is_some_and(|b| b.len() != outer) || lw.contiguous_offsets().is_none_or(|o| o.0 != 0) {
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
            CpuStorage::BF16(w) => widened::<bf16>(x, w, &mut y, (tokens, inner, outer), add),
            CpuStorage::F16(w) => widened::<f16>(x, w, &mut y, (tokens, inner, outer), add),
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
    w.par_chunks(Linear::TILE * inner).enumerate().for_each(|(i, rows)| {
        TILE.with_borrow_mut(|tile| {
            tile.resize(rows.len(), 0.0);
            widen(rows, tile);
            let a = Matrix { start: x.as_ptr(), row_stride: inner, col_stride: 1 };
            let b = Matrix { start: tile.as_ptr(), row_stride: 1, col_stride: inner };
            let size = (tokens, inner, rows.len() / inner);
            // SAFETY: each tile writes its own columns of y.
            unsafe { multiply(size, y.at(i * Linear::TILE), outer, add, a, b, 1.0, Parallelism::None) }
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
    fn activate(xs: &mut [f32], activation: Activation) {
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

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward((x, lx), (w, lw), None)
    }
}

impl CustomOp3 for Linear {
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

struct Norm {
    eps: f32,
    /// Layer norm subtracts the mean; RMS norm does not.
    centred: bool,
}

impl Norm {
    fn forward(&self, x: &[f32], shape: &Shape, weight: &[f32], bias: Option<&[f32]>) -> candle_core::Result<(CpuStorage, Shape)> {
        let hidden = weight.len();
        if shape.dims2()?.1 != hidden || bias.is_some_and(|b| b.len() != hidden) {
            candle_core::bail!("norm: {shape:?} by {hidden}");
        }
        let mut y = x.to_vec();
        let rows = 16;
        y.par_chunks_mut(rows * hidden).for_each(|rows| {
            for row in rows.chunks_mut(hidden) {
                normalise(row, weight, bias, self.eps, self.centred);
            }
        });
        Ok((CpuStorage::F32(y), shape.clone()))
    }
}

vectorize! {
    fn normalise(row: &mut [f32], weight: &[f32], bias: Option<&[f32]>, eps: f32, centred: bool) {
        let n = row.len() as f32;
        // The mean first, then the squares about it: no cancellation where activations have a large mean.
        let mean = if centred { simd::sum(row, |x| x) / n } else { 0.0 };
        let variance = simd::sum(row, |x| (x - mean) * (x - mean)) / n;
        let scale = 1.0 / (variance + eps).sqrt();
        for (x, w) in row.iter_mut().zip(weight) {
            *x = (*x - mean) * scale * *w;
        }
        if let Some(bias) = bias {
            for (x, b) in row.iter_mut().zip(bias) {
                *x += *b;
            }
        }
    }
}

impl CustomOp2 for Norm {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, lx: &Layout, w: &CpuStorage, lw: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        self.forward(floats(x, lx)?, lx.shape(), floats(w, lw)?, None)
    }
}

impl CustomOp3 for Norm {
    fn name(&self) -> &'static str {
        "norm-bias"
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
        self.forward(floats(x, lx)?, lx.shape(), floats(w, lw)?, Some(floats(b, lb)?))
    }
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, g: &CpuStorage, lg: &Layout, u: &CpuStorage, lu: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (gate, up) = (floats(g, lg)?, floats(u, lu)?);
        if gate.len() != up.len() {
            candle_core::bail!("swiglu: {:?} by {:?}", lg.shape(), lu.shape());
        }
        let mut y = gate.to_vec();
        let chunk = 1 << 14;
        y.par_chunks_mut(chunk).zip(up.par_chunks(chunk)).for_each(|(y, up)| {
            activate(y, Activation::Silu);
            y.iter_mut().zip(up).for_each(|(y, u)| *y *= *u);
        });
        Ok((CpuStorage::F32(y), lg.shape().clone()))
    }
}

struct Attention<'a> {
    blocks: &'a [QueryBlock],
    head_dim: usize,
    scale: f32,
}

/// A buffer that threads write disjoint parts of.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: whoever uses it promises that no two threads write the same element.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}

impl Shared {
    fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

impl Attention<'_> {
    /// One block of queries under one head: two products each for the keys that all its queries see and for its own.
    ///
    /// # Safety
    /// `q`, `k`, `v` and `out` hold all rows that the block names; nobody else writes this block's part of `out`.
    unsafe fn block(&self, block: &QueryBlock, q: Matrix, k: Matrix, v: Matrix, out: *mut f32, scores: &mut Vec<f32>) {
        let d = self.head_dim;
        let queries = block.queries.len();
        let (shared, own) = (block.shared.len(), block.queries.end - block.own_start);
        let keys = shared + own;
        scores.clear();
        scores.resize(queries * keys, 0.0);
        let row = |m: Matrix, i: usize| Matrix { start: m.start.wrapping_add(i * m.row_stride), ..m };
        let transposed = |m: Matrix| Matrix { start: m.start, row_stride: m.col_stride, col_stride: m.row_stride };
        let parts = [(block.shared.start, 0, shared), (block.own_start, shared, own)];
        for (first, column, count) in parts {
            let keys_t = transposed(row(k, first));
            let dst = scores.as_mut_ptr().wrapping_add(column);
            let size = (queries, d, count);
            unsafe { multiply(size, dst, keys, false, row(q, block.queries.start), keys_t, self.scale, Parallelism::None) };
        }
        for (i, row) in scores.chunks_mut(keys).enumerate() {
            // Query i sees everything shared, and its own stretch up to itself.
            let visible = shared + (block.queries.start + i - block.own_start) + 1;
            softmax(&mut row[..visible]);
            row[visible..].fill(0.0);
        }
        for (n, (first, column, count)) in parts.into_iter().enumerate() {
            let p = Matrix { start: scores.as_ptr().wrapping_add(column), row_stride: keys, col_stride: 1 };
            let dst = out.wrapping_add(block.queries.start * q.row_stride);
            unsafe { multiply((queries, count, d), dst, q.row_stride, n > 0, p, row(v, first), 1.0, Parallelism::None) };
        }
    }
}

vectorize! {
    fn softmax(row: &mut [f32]) {
        let max = simd::max(row);
        for x in row.iter_mut() {
            *x = simd::exp(*x - max);
        }
        let scale = 1.0 / simd::sum(row, |x| x);
        for x in row.iter_mut() {
            *x *= scale;
        }
    }
}

impl CustomOp3 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        lq: &Layout,
        k: &CpuStorage,
        lk: &Layout,
        v: &CpuStorage,
        lv: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        thread_local!(static SCORES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) });
        let (q, k, v) = (floats(q, lq)?, floats(k, lk)?, floats(v, lv)?);
        let ((tokens, width), (_, kv_width)) = (lq.shape().dims2()?, lk.shape().dims2()?);
        let end = self.blocks.iter().map(|b| b.queries.end).max().unwrap_or(0);
        if k.len() != tokens * kv_width || v.len() != k.len() || width % kv_width != 0 || end > tokens {
            candle_core::bail!("attention: q {:?}, k {:?}, v {:?}", lq.shape(), lk.shape(), lv.shape());
        }
        let heads = width / self.head_dim;
        let group = width / kv_width;
        let mut out = vec![0f32; tokens * width];
        let (out_at, q_at, kv_at) = (Shared(out.as_mut_ptr()), q.as_ptr() as usize, (k.as_ptr() as usize, v.as_ptr() as usize));
        (0..self.blocks.len() * heads).into_par_iter().for_each(|job| {
            let (block, head) = (&self.blocks[job / heads], job % heads);
            let part = |start: usize, head: usize, row_stride: usize| Matrix {
                start: (start as *const f32).wrapping_add(head * self.head_dim),
                row_stride,
                col_stride: 1,
            };
            let (q, k, v) =
                (part(q_at, head, width), part(kv_at.0, head / group, kv_width), part(kv_at.1, head / group, kv_width));
            // SAFETY: a job writes its block's rows under its head's columns, no other job does.
            SCORES.with_borrow_mut(|scores| unsafe {
                self.block(block, q, k, v, out_at.at(head * self.head_dim), scores);
            });
        });
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }
}

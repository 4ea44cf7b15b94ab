//! The operations that models are made of, over packed tokens: activations in f32, weights in whatever they are held in.
//!
//! Forward only, no graph. Every loop over threads gives each output element to one thread and one fixed order of
//! additions, so results have the same bits for any number of threads.

mod attention;
mod linear;
mod norm;

use anyhow::{Result, bail};
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use crate::simd;

pub use attention::attention;
pub use linear::{Activation, linear};
pub use norm::{layer_norm, rms_norm};

/// Rows of the embedding `weight` [vocab, hidden] for `ids`, as f32 [ids, hidden].
pub fn embed(weight: &Tensor, ids: &[u32]) -> Result<Tensor> {
    let ids = Tensor::new(ids, weight.device())?;
    Ok(weight.index_select(&ids, 0)?.to_dtype(DType::F32)?)
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

/// A matrix inside a larger buffer: where it starts and how far apart its rows and columns are.
///
/// As free as a pointer: whoever multiplies promises that what it points to is there.
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

/// A buffer that threads write disjoint parts of.
#[derive(Clone, Copy)]
struct Shared(*mut f32);

// SAFETY: whoever uses them promises that no two threads write the same element, and none reads what another writes.
unsafe impl Send for Shared {}
unsafe impl Sync for Shared {}
unsafe impl Send for Matrix {}
unsafe impl Sync for Matrix {}

impl Shared {
    fn at(&self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
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
            linear::activate(y, Activation::Silu);
            y.iter_mut().zip(up).for_each(|(y, u)| *y *= *u);
        });
        Ok((CpuStorage::F32(y), lg.shape().clone()))
    }
}

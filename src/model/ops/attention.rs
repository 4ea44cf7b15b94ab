//! Causal attention over a packed batch whose examples share prefixes.

use std::cell::RefCell;

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::{Matrix, Shared, floats, multiply};
use crate::data::QueryBlock;
use crate::simd;

/// Causal attention within each example of the batch: every query sees what its [`QueryBlock`] shows it.
///
/// q [tokens, heads * head_dim], k and v [tokens, kv_heads * head_dim], f32 -> [tokens, heads * head_dim]. Scores are
/// multiplied by `scale`; `heads / kv_heads` query heads share a key head.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, blocks: &[QueryBlock], head_dim: usize, scale: f32) -> Result<Tensor> {
    Ok(q.apply_op3_no_bwd(k, v, &Attention { blocks, head_dim, scale })?)
}

struct Attention<'a> {
    blocks: &'a [QueryBlock],
    head_dim: usize,
    scale: f32,
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
        let fits = k.len() == tokens * kv_width
            && v.len() == k.len()
            && kv_width.is_multiple_of(self.head_dim)
            && width.is_multiple_of(kv_width)
            && self.blocks.iter().all(|block| block.is_within(tokens));
        if !fits {
            candle_core::bail!("attention: q {:?}, k {:?}, v {:?}", lq.shape(), lk.shape(), lv.shape());
        }
        let (heads, group) = (width / self.head_dim, width / kv_width);
        let mut out = vec![0f32; tokens * width];
        let out_at = Shared(out.as_mut_ptr());
        let [q, k, v] = [(q, width), (k, kv_width), (v, kv_width)].map(|(x, row_stride)| Matrix {
            start: x.as_ptr(),
            row_stride,
            col_stride: 1,
        });
        (0..self.blocks.len() * heads).into_par_iter().for_each(|job| {
            let (block, head) = (&self.blocks[job / heads], job % heads);
            let under = |m: Matrix, head: usize| Matrix { start: m.start.wrapping_add(head * self.head_dim), ..m };
            let (q, k, v) = (under(q, head), under(k, head / group), under(v, head / group));
            // SAFETY: all rows that a block names are within the tokens, and no two blocks share a query (Batch sees to
            // it), so a job alone writes its block's rows under its head's columns.
            SCORES.with_borrow_mut(|scores| unsafe {
                self.block(block, q, k, v, out_at.at(head * self.head_dim), scores);
            });
        });
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }
}

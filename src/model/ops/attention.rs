//! Causal attention over a packed batch whose examples share prefixes.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use gemm::Parallelism;
use rayon::prelude::*;

use super::product::{Rows, Unit};
use super::{Matrix, Shared, floats, multiply, with_floats};
use crate::data::QueryBlock;
use crate::simd;

/// Causal attention within each example of the batch: every query sees what its [`QueryBlock`] shows it.
///
/// q [tokens, heads * head_dim], k and v [tokens, kv_heads * head_dim], f32 -> [tokens, heads * head_dim]. Scores are
/// multiplied by `scale`; `heads / kv_heads` query heads share a key head.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    blocks: &Arc<Vec<QueryBlock>>,
    head_dim: usize,
    scale: f32,
) -> Result<Tensor> {
    Ok(q.apply_op3(k, v, Attention { unit: Unit::best(), blocks: blocks.clone(), head_dim, scale })?)
}

struct Attention {
    unit: Unit,
    blocks: Arc<Vec<QueryBlock>>,
    head_dim: usize,
    scale: f32,
}

/// Scores of one block of queries under one head, and room beside them: a thread's own.
#[derive(Default)]
struct Scratch {
    /// Probabilities [queries, padded keys].
    p: Vec<f32>,
    /// Their gradient.
    dp: Vec<f32>,
    /// K transposed [head_dim, padded keys]; V padded [keys, padded head_dim].
    kv: Vec<f32>,
    /// The output [queries, padded head_dim].
    out: Vec<f32>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Matrix {
    fn row(self, i: usize) -> Matrix {
        Matrix { start: self.start.wrapping_add(i * self.row_stride), ..self }
    }

    fn transposed(self) -> Matrix {
        Matrix { row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    fn rows(self) -> Rows {
        Rows { start: self.start, stride: self.row_stride }
    }

    /// The columns of a head.
    fn under(self, head: usize, head_dim: usize) -> Matrix {
        Matrix { start: self.start.wrapping_add(head * head_dim), ..self }
    }
}

/// `len` zeros.
fn cleared(buffer: &mut Vec<f32>, len: usize) {
    buffer.clear();
    buffer.resize(len, 0.0);
}

/// The keys of a block in two stretches: where each starts among the rows, its first column of the scores, its length.
fn stretches(block: &QueryBlock) -> [(usize, usize, usize); 2] {
    let (shared, own) = (block.shared.len(), block.queries.end - block.own_start);
    [(block.shared.start, 0, shared), (block.own_start, shared, own)]
}

impl Attention {
    /// The probabilities of one block of queries under one head into `s.p` [queries, padded keys]; gives the padded keys.
    ///
    /// # Safety
    /// `q` and `k` hold all rows that the block names.
    unsafe fn probabilities(&self, block: &QueryBlock, q: Matrix, k: Matrix, s: &mut Scratch) -> usize {
        let (queries, d) = (block.queries.len(), self.head_dim);
        let keys: usize = stretches(block).iter().map(|(_, _, count)| count).sum();
        let padded = keys.next_multiple_of(self.unit.lanes());
        cleared(&mut s.kv, d * padded);
        for (first, column, count) in stretches(block) {
            for key in 0..count {
                for i in 0..d {
                    // SAFETY: as of the function.
                    s.kv[i * padded + column + key] = unsafe { *k.row(first + key).start.add(i) };
                }
            }
        }
        cleared(&mut s.p, queries * padded);
        let (a, b) = (q.row(block.queries.start).rows(), Rows { start: s.kv.as_ptr(), stride: padded });
        // SAFETY: the queries are rows of q, and the buffers have the sizes.
        unsafe { self.unit.tile(queries, d, padded / self.unit.lanes(), a, b, s.p.as_mut_ptr(), padded) };
        for (i, row) in s.p.chunks_mut(padded).enumerate() {
            // Query i sees everything shared, and its own stretch up to itself.
            let visible = block.shared.len() + (block.queries.start + i - block.own_start) + 1;
            softmax(&mut row[..visible], self.scale);
            row[visible..].fill(0.0);
        }
        padded
    }

    /// One block of queries under one head.
    ///
    /// # Safety
    /// `q`, `k`, `v` and `out` hold all rows that the block names; nobody else writes this block's part of `out`.
    unsafe fn forward(&self, block: &QueryBlock, q: Matrix, k: Matrix, v: Matrix, out: *mut f32, s: &mut Scratch) {
        let (queries, d) = (block.queries.len(), self.head_dim);
        let padded_keys = unsafe { self.probabilities(block, q, k, s) };
        let keys: usize = stretches(block).iter().map(|(_, _, count)| count).sum();
        let padded = d.next_multiple_of(self.unit.lanes());
        cleared(&mut s.kv, keys * padded);
        for (first, column, count) in stretches(block) {
            for key in 0..count {
                // SAFETY: as of the function.
                let row = unsafe { std::slice::from_raw_parts(v.row(first + key).start, d) };
                s.kv[(column + key) * padded..][..d].copy_from_slice(row);
            }
        }
        cleared(&mut s.out, queries * padded);
        let a = Rows { start: s.p.as_ptr(), stride: padded_keys };
        let b = Rows { start: s.kv.as_ptr(), stride: padded };
        // SAFETY: the buffers have the sizes; the block's rows of out are ours.
        unsafe {
            self.unit.tile(queries, keys, padded / self.unit.lanes(), a, b, s.out.as_mut_ptr(), padded);
            for (i, row) in s.out.chunks(padded).enumerate() {
                let to = out.wrapping_add((block.queries.start + i) * q.row_stride);
                std::ptr::copy_nonoverlapping(row.as_ptr(), to, d);
            }
        }
    }

    /// The way back: with P the probabilities, dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = scale dS K,
    /// dK = scale dS^T Q; all of them added to what is there.
    ///
    /// # Safety
    /// All matrices hold the rows that the block names; nobody else writes those of `dq`, `dk` and `dv` meanwhile.
    unsafe fn backward(
        &self,
        block: &QueryBlock,
        [q, k, v, dout]: [Matrix; 4],
        [dq, dk, dv]: [*mut f32; 3],
        s: &mut Scratch,
    ) {
        let (queries, d) = (block.queries.len(), self.head_dim);
        let keys = unsafe { self.probabilities(block, q, k, s) };
        cleared(&mut s.dp, queries * keys);
        let (q_rows, dout) = (q.row(block.queries.start), dout.row(block.queries.start));
        for (first, column, count) in stretches(block) {
            let p = Matrix { start: s.p.as_ptr().wrapping_add(column), row_stride: keys, col_stride: 1 };
            let (dv, dp) = (dv.wrapping_add(first * v.row_stride), s.dp.as_mut_ptr().wrapping_add(column));
            unsafe {
                multiply((count, queries, d), dv, v.row_stride, true, p.transposed(), dout, 1.0, Parallelism::None);
                multiply((queries, d, count), dp, keys, false, dout, v.row(first).transposed(), 1.0, Parallelism::None);
            }
        }
        s.dp.chunks_mut(keys).zip(s.p.chunks(keys)).for_each(|(dp, p)| through_softmax(dp, p));
        let dq = dq.wrapping_add(block.queries.start * q.row_stride);
        for (first, column, count) in stretches(block) {
            let ds = Matrix { start: s.dp.as_ptr().wrapping_add(column), row_stride: keys, col_stride: 1 };
            let dk = dk.wrapping_add(first * k.row_stride);
            unsafe {
                multiply((queries, count, d), dq, q.row_stride, true, ds, k.row(first), self.scale, Parallelism::None);
                multiply(
                    (count, queries, d),
                    dk,
                    k.row_stride,
                    true,
                    ds.transposed(),
                    q_rows,
                    self.scale,
                    Parallelism::None,
                );
            }
        }
    }

    /// Checks the shapes; gives heads, and query heads a key head.
    fn heads(&self, q: &Shape, k: &Shape, v: &Shape) -> candle_core::Result<(usize, usize)> {
        let ((tokens, width), (_, kv_width)) = (q.dims2()?, k.dims2()?);
        let fits = k.dims2()?.0 == tokens
            && v == k
            && kv_width.is_multiple_of(self.head_dim)
            && width.is_multiple_of(kv_width)
            && self.blocks.iter().all(|block| block.is_within(tokens));
        if !fits {
            candle_core::bail!("attention: q {q:?}, k {k:?}, v {v:?}");
        }
        Ok((width / self.head_dim, width / kv_width))
    }

    /// The stretches of blocks that share no keys with each other: an example each.
    fn examples(&self) -> Vec<Range<usize>> {
        let mut examples: Vec<Range<usize>> = Vec::new();
        let mut end = 0;
        for (i, block) in self.blocks.iter().enumerate() {
            let first = if block.shared.is_empty() { block.own_start } else { block.shared.start.min(block.own_start) };
            match examples.last_mut() {
                Some(last) if first < end => last.end = i + 1,
                _ => examples.push(i..i + 1),
            }
            end = end.max(block.queries.end);
        }
        examples
    }
}

vectorize! {
    /// x <- softmax(factor x)
    fn softmax(row: &mut [f32], factor: f32) {
        for x in row.iter_mut() {
            *x *= factor;
        }
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

vectorize! {
    /// dp <- p (dp - sum(p dp))
    fn through_softmax(dp: &mut [f32], p: &[f32]) {
        let mean = simd::dot(dp, p);
        for i in 0..dp.len() {
            dp[i] = p[i] * (dp[i] - mean);
        }
    }
}

fn matrix(x: &[f32], row_stride: usize) -> Matrix {
    Matrix { start: x.as_ptr(), row_stride, col_stride: 1 }
}

impl CustomOp3 for Attention {
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
        let (q, k, v) = (floats(q, lq)?, floats(k, lk)?, floats(v, lv)?);
        let (heads, group) = self.heads(lq.shape(), lk.shape(), lv.shape())?;
        let (d, width) = (self.head_dim, heads * self.head_dim);
        let mut out = vec![0f32; q.len()];
        let out_at = Shared(out.as_mut_ptr());
        let (q, k, v) = (matrix(q, width), matrix(k, width / group), matrix(v, width / group));
        (0..self.blocks.len() * heads).into_par_iter().for_each(|job| {
            let (block, head) = (&self.blocks[job / heads], job % heads);
            let (q, k, v) = (q.under(head, d), k.under(head / group, d), v.under(head / group, d));
            // SAFETY: all rows that a block names are within the tokens, and no two blocks share a query (Batch sees to
            // it), so a job alone writes its block's rows under its head's columns.
            SCRATCH.with_borrow_mut(|scratch| unsafe { self.forward(block, q, k, v, out_at.at(head * d), scratch) });
        });
        Ok((CpuStorage::F32(out), lq.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (heads, group) = self.heads(q.shape(), k.shape(), v.shape())?;
        let (d, width, kv_heads) = (self.head_dim, heads * self.head_dim, heads / group);
        let mut gradients = [q, k, v].map(|x| vec![0f32; x.elem_count()]);
        let [dq, dk, dv] = gradients.each_mut().map(|g| Shared(g.as_mut_ptr()));
        with_floats([q, k, v, &upstream.contiguous()?], |[q, k, v, dout]| {
            let all = [(q, width), (k, width / group), (v, width / group), (dout, width)].map(|(x, w)| matrix(x, w));
            let examples = self.examples();
            (0..examples.len() * kv_heads).into_par_iter().for_each(|job| {
                let (example, kv_head) = (examples[job / kv_heads].clone(), job % kv_heads);
                for block in &self.blocks[example] {
                    for head in kv_head * group..(kv_head + 1) * group {
                        let [q, k, v, dout] = all;
                        let under = [q.under(head, d), k.under(kv_head, d), v.under(kv_head, d), dout.under(head, d)];
                        let gradients = [dq.at(head * d), dk.at(kv_head * d), dv.at(kv_head * d)];
                        // SAFETY: examples share no rows and key heads no columns, so a job alone writes its part.
                        SCRATCH.with_borrow_mut(|scratch| unsafe { self.backward(block, under, gradients, scratch) });
                    }
                }
            });
            Ok(())
        })?;
        let [dq, dk, dv] = gradients;
        let tensor = |x: Vec<f32>, like: &Tensor| Tensor::from_vec(x, like.shape(), like.device()).map(Some);
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    }
}

//! Loops of causal attention over a packed batch.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use gemm::Parallelism;
use rayon::prelude::*;

use super::cap::{cap, cap_slopes};
use super::math;
use super::matrix::{Matrix, SharedMut, multiply};
use super::points::rows_per_point;
use super::tile::{Rows, VectorUnit};
use crate::device::{Heads, QueryBlock, Scores};

/// Virtual prefix rows: keys and values, no queries, visible to all; one copy per point, visible to that point's tokens.
#[derive(Clone, Copy, Debug)]
pub struct PrefixRows {
    /// Rows of one copy.
    pub rows: usize,
    /// Number of copies.
    pub points: usize,
}

impl PrefixRows {
    /// No prefix.
    pub const NONE: Self = PrefixRows { rows: 0, points: 1 };
}

/// Causal attention within each sequence of a batch.
pub struct Attention {
    unit: VectorUnit,
    blocks: Arc<Vec<QueryBlock>>,
    /// Rows of one copy of the prefix.
    prefix: usize,
    /// Prefix rows before the tokens, of all copies.
    prefix_rows: usize,
    /// Tokens per point.
    tokens: usize,
    heads: Heads,
    scores: Scores,
}

/// A thread's buffers for one block of queries and one head.
#[derive(Default)]
struct Scratch {
    /// Probabilities [queries, padded keys].
    p: Vec<f32>,
    /// Gradient of `p`, then of the scores.
    dp: Vec<f32>,
    /// Derivatives of the soft cap at the scores, if there is a cap.
    slopes: Vec<f32>,
    /// K transposed [head_dim, padded keys], then V padded [keys, padded head_dim].
    kv: Vec<f32>,
    /// Output [queries, padded head_dim].
    out: Vec<f32>,
}

thread_local!(static SCRATCH: RefCell<Scratch> = RefCell::default());

impl Matrix {
    fn row(self, i: usize) -> Matrix {
        Matrix { start: self.start.wrapping_add(i * self.row_stride), ..self }
    }

    fn rows(self) -> Rows<f32> {
        Rows { start: self.start, stride: self.row_stride }
    }

    /// The columns of a head.
    fn head(self, head: usize, head_dim: usize) -> Matrix {
        Matrix { start: self.start.wrapping_add(head * head_dim), ..self }
    }
}

/// Resets the buffer to `len` zeros.
fn reset_to_zeros(buffer: &mut Vec<f32>, len: usize) {
    buffer.clear();
    buffer.resize(len, 0.0);
}

impl Attention {
    /// Attention over `rows` rows, including the prefix's. Fails unless the tokens divide evenly into points.
    pub fn new(
        rows: usize,
        blocks: &Arc<Vec<QueryBlock>>,
        prefix: PrefixRows,
        heads: Heads,
        scores: Scores,
    ) -> candle_core::Result<Self> {
        let (prefix_rows, blocks) = (prefix.rows * prefix.points, blocks.clone());
        let tokens = rows_per_point(rows.saturating_sub(prefix_rows), prefix.points)?;
        Ok(Attention { unit: VectorUnit::best(), blocks, prefix: prefix.rows, prefix_rows, tokens, heads, scores })
    }

    /// q, k and v side by side [rows, (queries + 2 keys) * dim] -> [tokens, queries * dim], and the number of tokens.
    pub fn forward(&self, qkv: &[f32]) -> candle_core::Result<(Vec<f32>, usize)> {
        let (Heads { queries, dim, .. }, width) = (self.heads, self.heads.width());
        let tokens = self.check((qkv.len() / width, width))?;
        let qkv = Matrix::of(qkv, width);
        let mut out = vec![0f32; tokens * queries * dim];
        let out_at = SharedMut(out.as_mut_ptr());
        (0..self.blocks.len() * queries).into_par_iter().for_each(|job| {
            let (block, head) = (&self.blocks[job / queries], job % queries);
            let [q, k, v] = self.head_indices(head).map(|index| qkv.head(index, dim));
            // SAFETY: `check` found all rows of the block within the tokens, and blocks share no query (guaranteed by
            // Batch), so only this job writes its block's rows in its head's columns.
            SCRATCH.with_borrow_mut(|scratch| unsafe { self.block_forward(block, q, k, v, out_at.at(head * dim), scratch) });
        });
        Ok((out, tokens))
    }

    /// The gradient of qkv, given that of the output, `dout` [tokens, queries * dim].
    pub fn backward(&self, qkv: &[f32], dout: &[f32]) -> Vec<f32> {
        let Heads { queries, keys, dim } = self.heads;
        let mut gradient = vec![0f32; qkv.len()];
        let gradient_at = SharedMut(gradient.as_mut_ptr());
        let (qkv, dout) = (Matrix::of(qkv, self.heads.width()), Matrix::of(dout, queries * dim));
        let (trees, group) = (self.trees(), queries / keys);
        (0..trees.len() * keys).into_par_iter().for_each(|job| {
            let (tree, key_head) = (trees[job / keys].clone(), job % keys);
            for block in &self.blocks[tree] {
                for head in key_head * group..(key_head + 1) * group {
                    let head_indices = self.head_indices(head);
                    let [q, k, v] = head_indices.map(|index| qkv.head(index, dim));
                    let matrices = [q, k, v, dout.head(head, dim)];
                    // The gradient has the layout of qkv.
                    let gradients = head_indices.map(|index| gradient_at.at(index * dim));
                    // SAFETY: trees share no rows and key heads no columns, so only this job writes its part.
                    SCRATCH.with_borrow_mut(|scratch| unsafe { self.block_backward(block, matrices, gradients, scratch) });
                }
            }
        });
        gradient
    }

    /// The key ranges of a block: (first row, first column of the scores, length).
    fn key_ranges<'b>(&self, block: &'b QueryBlock) -> impl Iterator<Item = (usize, usize, usize)> + use<'b> {
        let (prefix_rows, prefix) = (self.prefix_rows, block.queries.start / self.tokens * self.prefix);
        let prefix = prefix..prefix + self.prefix;
        let causal = std::iter::once(block.own_start..block.queries.end);
        let seen = block.seen.iter().cloned().chain(causal);
        let rows = std::iter::once(prefix).chain(seen.map(move |rows| prefix_rows + rows.start..prefix_rows + rows.end));
        rows.scan(0, |column, rows| {
            let first = *column;
            *column += rows.len();
            Some((rows.start, first, rows.len()))
        })
    }

    /// Number of keys of a block.
    fn keys(&self, block: &QueryBlock) -> usize {
        self.prefix + block.before() + block.queries.len()
    }

    /// Computes the probabilities of one block and head into `s.p` [queries, padded keys], and if `slopes` and there is a
    /// cap, its derivatives into `s.slopes`. Returns the number of padded keys.
    ///
    /// # Safety
    /// `q` and `k` hold all rows of the block.
    unsafe fn probabilities(&self, block: &QueryBlock, [q, k]: [Matrix; 2], slopes: bool, s: &mut Scratch) -> usize {
        let (queries, keys, d) = (block.queries.len(), self.keys(block), self.heads.dim);
        let padded = keys.next_multiple_of(self.unit.lanes());
        reset_to_zeros(&mut s.kv, d * padded);
        for (first, column, count) in self.key_ranges(block) {
            for key in 0..count {
                for i in 0..d {
                    // SAFETY: by the function's contract.
                    s.kv[i * padded + column + key] = unsafe { *k.row(first + key).start.add(i) };
                }
            }
        }
        reset_to_zeros(&mut s.p, queries * padded);
        let (a, b) = (q.row(self.prefix_rows + block.queries.start).rows(), Rows { start: s.kv.as_ptr(), stride: padded });
        // SAFETY: the queries are rows of q; the buffers have the required sizes.
        unsafe { self.unit.tile(queries, d, padded / self.unit.lanes(), a, b, s.p.as_mut_ptr(), padded, 0) };
        let mut rest = self.scores.scale;
        if let Some(limit) = self.scores.cap {
            if slopes {
                s.slopes.clone_from(&s.p);
                cap_slopes(&mut s.slopes, rest, limit);
            }
            cap(&mut s.p, rest, limit);
            rest = 1.0;
        }
        for (i, row) in s.p.chunks_mut(padded).enumerate() {
            // Causal: query i attends to all keys before the block, and to the block's up to its own.
            let visible = keys - queries + i + 1;
            softmax(&mut row[..visible], rest);
            row[visible..].fill(0.0);
        }
        padded
    }

    /// Forward pass of one block and head.
    ///
    /// # Safety
    /// `q`, `k`, `v` and `out` hold all rows of the block; no other thread accesses this block's part of `out`.
    unsafe fn block_forward(&self, block: &QueryBlock, q: Matrix, k: Matrix, v: Matrix, out: *mut f32, s: &mut Scratch) {
        let (queries, d) = (block.queries.len(), self.heads.dim);
        let padded_keys = unsafe { self.probabilities(block, [q, k], false, s) };
        let keys = self.keys(block);
        let padded = d.next_multiple_of(self.unit.lanes());
        reset_to_zeros(&mut s.kv, keys * padded);
        for (first, column, count) in self.key_ranges(block) {
            for key in 0..count {
                // SAFETY: by the function's contract.
                let row = unsafe { std::slice::from_raw_parts(v.row(first + key).start, d) };
                s.kv[(column + key) * padded..][..d].copy_from_slice(row);
            }
        }
        reset_to_zeros(&mut s.out, queries * padded);
        let a = Rows { start: s.p.as_ptr(), stride: padded_keys };
        let b = Rows { start: s.kv.as_ptr(), stride: padded };
        // SAFETY: the buffers have the required sizes; only this call writes the block's rows of `out`.
        unsafe {
            self.unit.tile(queries, keys, padded / self.unit.lanes(), a, b, s.out.as_mut_ptr(), padded, 0);
            for (i, row) in s.out.chunks(padded).enumerate() {
                let to = out.wrapping_add((block.queries.start + i) * self.heads.queries * d);
                std::ptr::copy_nonoverlapping(row.as_ptr(), to, d);
            }
        }
    }

    /// Backward pass of one block and head. With P the probabilities: dV += P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP))
    /// (times the cap's derivative), dQ += scale dS K, dK += scale dS^T Q.
    ///
    /// # Safety
    /// All matrices hold the rows of the block; no other thread accesses those of `dq`, `dk` and `dv` meanwhile.
    unsafe fn block_backward(
        &self,
        block: &QueryBlock,
        [q, k, v, dout]: [Matrix; 4],
        [dq, dk, dv]: [*mut f32; 3],
        s: &mut Scratch,
    ) {
        let (queries, d) = (block.queries.len(), self.heads.dim);
        let keys = unsafe { self.probabilities(block, [q, k], true, s) };
        reset_to_zeros(&mut s.dp, queries * keys);
        let (q_rows, dout) = (q.row(self.prefix_rows + block.queries.start), dout.row(block.queries.start));
        for (first, column, count) in self.key_ranges(block) {
            let p = Matrix { start: s.p.as_ptr().wrapping_add(column), row_stride: keys, col_stride: 1 };
            let (dv, dp) = (dv.wrapping_add(first * v.row_stride), s.dp.as_mut_ptr().wrapping_add(column));
            unsafe {
                multiply((count, queries, d), dv, v.row_stride, true, p.transposed(), dout, 1.0, Parallelism::None);
                multiply((queries, d, count), dp, keys, false, dout, v.row(first).transposed(), 1.0, Parallelism::None);
            }
        }
        s.dp.chunks_mut(keys).zip(s.p.chunks(keys)).for_each(|(dp, p)| softmax_backward(dp, p));
        if self.scores.cap.is_some() {
            s.dp.iter_mut().zip(&s.slopes).for_each(|(dp, slope)| *dp *= slope);
        }
        let dq = dq.wrapping_add((self.prefix_rows + block.queries.start) * q.row_stride);
        for (first, column, count) in self.key_ranges(block) {
            let ds = Matrix { start: s.dp.as_ptr().wrapping_add(column), row_stride: keys, col_stride: 1 };
            let dk = dk.wrapping_add(first * k.row_stride);
            unsafe {
                multiply(
                    (queries, count, d),
                    dq,
                    q.row_stride,
                    true,
                    ds,
                    k.row(first),
                    self.scores.scale,
                    Parallelism::None,
                );
                multiply(
                    (count, queries, d),
                    dk,
                    k.row_stride,
                    true,
                    ds.transposed(),
                    q_rows,
                    self.scores.scale,
                    Parallelism::None,
                );
            }
        }
    }

    /// Checks the shape [rows, width] of qkv and the blocks' rows; returns the number of tokens.
    pub fn check(&self, (rows, width): (usize, usize)) -> candle_core::Result<usize> {
        let tokens = rows.saturating_sub(self.prefix_rows);
        let fits = width == self.heads.width()
            && self.heads.queries.is_multiple_of(self.heads.keys)
            && self.blocks.iter().all(|block| block.is_within(tokens));
        if !fits {
            candle_core::bail!("attention: {rows} x {width} for {:?}", self.heads);
        }
        Ok(tokens)
    }

    /// Indices of a query head, its key head and its value head among the heads in a row of qkv.
    fn head_indices(&self, head: usize) -> [usize; 3] {
        let Heads { queries, keys, .. } = self.heads;
        let key_head = head / (queries / keys);
        [head, queries + key_head, queries + keys + key_head]
    }

    /// Ranges of blocks that share no keys: one per tree, or a single one if there is a prefix.
    fn trees(&self) -> Vec<Range<usize>> {
        if self.prefix > 0 {
            return std::iter::once(0..self.blocks.len()).collect();
        }
        let mut trees: Vec<Range<usize>> = Vec::new();
        let mut end = 0;
        for (i, block) in self.blocks.iter().enumerate() {
            match trees.last_mut() {
                Some(last) if block.first() < end => last.end = i + 1,
                _ => trees.push(i..i + 1),
            }
            end = end.max(block.queries.end);
        }
        trees
    }
}

vectorize! {
    /// x <- softmax(factor x)
    pub(crate) fn softmax(row: &mut [f32], factor: f32) {
        for x in row.iter_mut() {
            *x *= factor;
        }
        let max = math::max(row);
        for x in row.iter_mut() {
            *x = math::exp(*x - max);
        }
        let scale = 1.0 / math::sum(row, |x| x);
        for x in row.iter_mut() {
            *x *= scale;
        }
    }
}

vectorize! {
    /// dp <- p (dp - sum(p dp))
    fn softmax_backward(dp: &mut [f32], p: &[f32]) {
        let mean = math::dot(dp, p);
        for i in 0..dp.len() {
            dp[i] = p[i] * (dp[i] - mean);
        }
    }
}

//! The loops of causal attention over a packed batch.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use gemm::Parallelism;
use rayon::prelude::*;

use super::cap::{cap, cap_slopes};
use super::matrix::{Matrix, Shared, multiply};
use super::points::rows_a_point;
use super::simd;
use super::tile::{Rows, Unit};
use crate::device::{Heads, QueryBlock, Scores};

/// Rows in front of the tokens' that are nobody's and that everybody sees. Where they are read at several points there are as many
/// prefixes, and each point's tokens see their own.
#[derive(Clone, Copy, Debug)]
pub struct PrefixRows {
    /// Of one prefix.
    pub rows: usize,
    /// How many prefixes there are.
    pub points: usize,
}

impl PrefixRows {
    /// None.
    pub const NONE: Self = PrefixRows { rows: 0, points: 1 };
}

/// Causal attention within each sequence of a batch.
pub struct Attention {
    unit: Unit,
    blocks: Arc<Vec<QueryBlock>>,
    /// Rows of a prefix.
    prefix: usize,
    /// Rows in front of the tokens': a prefix or several.
    front: usize,
    /// Tokens that see the same prefix.
    tokens: usize,
    heads: Heads,
    scores: Scores,
}

/// Scores of one block of queries under one head, and room beside them: a thread's own.
#[derive(Default)]
struct Scratch {
    /// Probabilities [queries, padded keys].
    p: Vec<f32>,
    /// Their gradient.
    dp: Vec<f32>,
    /// The slopes of capped scores, where there is a cap.
    slopes: Vec<f32>,
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

    fn rows(self) -> Rows<f32> {
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

impl Attention {
    /// Of `rows` rows, those of prefixes among them, where every query sees what its block shows it.
    pub fn new(
        rows: usize,
        blocks: &Arc<Vec<QueryBlock>>,
        prefix: PrefixRows,
        heads: Heads,
        scores: Scores,
    ) -> candle_core::Result<Self> {
        let (front, blocks) = (prefix.rows * prefix.points, blocks.clone());
        let tokens = rows_a_point(rows.saturating_sub(front), prefix.points)?;
        Ok(Attention { unit: Unit::best(), blocks, prefix: prefix.rows, front, tokens, heads, scores })
    }

    /// q, k and v side by side [rows, (queries + 2 keys) * dim] -> [tokens, queries * dim].
    pub fn forward(&self, qkv: &[f32]) -> candle_core::Result<(Vec<f32>, usize)> {
        let (Heads { queries, dim, .. }, width) = (self.heads, self.heads.width());
        let tokens = self.check((qkv.len() / width, width))?;
        let qkv = Matrix::of(qkv, width);
        let mut out = vec![0f32; tokens * queries * dim];
        let out_at = Shared(out.as_mut_ptr());
        (0..self.blocks.len() * queries).into_par_iter().for_each(|job| {
            let (block, head) = (&self.blocks[job / queries], job % queries);
            let [q, k, v] = self.places(head).map(|place| qkv.under(place, dim));
            // SAFETY: all rows that a block names are within the tokens, and no two blocks share a query (Batch sees to
            // it), so a job alone writes its block's rows under its head's columns.
            SCRATCH.with_borrow_mut(|scratch| unsafe { self.block_forward(block, q, k, v, out_at.at(head * dim), scratch) });
        });
        Ok((out, tokens))
    }

    /// The gradient of qkv, from that of the output, `dout` [tokens, queries * dim].
    pub fn backward(&self, qkv: &[f32], dout: &[f32]) -> Vec<f32> {
        let Heads { queries, keys, dim } = self.heads;
        let mut gradient = vec![0f32; qkv.len()];
        let gradient_at = Shared(gradient.as_mut_ptr());
        let (qkv, dout) = (Matrix::of(qkv, self.heads.width()), Matrix::of(dout, queries * dim));
        let (trees, group) = (self.trees(), queries / keys);
        (0..trees.len() * keys).into_par_iter().for_each(|job| {
            let (tree, key_head) = (trees[job / keys].clone(), job % keys);
            for block in &self.blocks[tree] {
                for head in key_head * group..(key_head + 1) * group {
                    let places = self.places(head);
                    let [q, k, v] = places.map(|place| qkv.under(place, dim));
                    let under = [q, k, v, dout.under(head, dim)];
                    // The gradient lies as what it is a gradient of.
                    let gradients = places.map(|place| gradient_at.at(place * dim));
                    // SAFETY: trees share no rows and key heads no columns, so a job alone writes its part.
                    SCRATCH.with_borrow_mut(|scratch| unsafe { self.block_backward(block, under, gradients, scratch) });
                }
            }
        });
        gradient
    }

    /// The keys of a block in stretches: where each starts among the rows, its first column of the scores, its length.
    fn stretches<'b>(&self, block: &'b QueryBlock) -> impl Iterator<Item = (usize, usize, usize)> + use<'b> {
        let (front, prefix) = (self.front, block.queries.start / self.tokens * self.prefix);
        let prefix = prefix..prefix + self.prefix;
        let own = std::iter::once(block.own_start..block.queries.end);
        let seen = block.seen.iter().cloned().chain(own);
        let rows = std::iter::once(prefix).chain(seen.map(move |rows| front + rows.start..front + rows.end));
        rows.scan(0, |column, rows| {
            let first = *column;
            *column += rows.len();
            Some((rows.start, first, rows.len()))
        })
    }

    /// How many keys they are.
    fn keys(&self, block: &QueryBlock) -> usize {
        self.prefix + block.before() + block.queries.len()
    }

    /// The probabilities of one block of queries under one head into `s.p` [queries, padded keys], and where there is a cap and its
    /// slopes are wanted, these into `s.slopes`; gives the padded keys.
    ///
    /// # Safety
    /// `q` and `k` hold all rows that the block names.
    unsafe fn probabilities(&self, block: &QueryBlock, [q, k]: [Matrix; 2], slopes: bool, s: &mut Scratch) -> usize {
        let (queries, keys, d) = (block.queries.len(), self.keys(block), self.heads.dim);
        let padded = keys.next_multiple_of(self.unit.lanes());
        cleared(&mut s.kv, d * padded);
        for (first, column, count) in self.stretches(block) {
            for key in 0..count {
                for i in 0..d {
                    // SAFETY: as of the function.
                    s.kv[i * padded + column + key] = unsafe { *k.row(first + key).start.add(i) };
                }
            }
        }
        cleared(&mut s.p, queries * padded);
        let (a, b) = (q.row(self.front + block.queries.start).rows(), Rows { start: s.kv.as_ptr(), stride: padded });
        // SAFETY: the queries are rows of q, and the buffers have the sizes.
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
            // Query i sees all that is before the block, and the block up to itself.
            let visible = keys - queries + i + 1;
            softmax(&mut row[..visible], rest);
            row[visible..].fill(0.0);
        }
        padded
    }

    /// One block of queries under one head.
    ///
    /// # Safety
    /// `q`, `k`, `v` and `out` hold all rows that the block names; nobody else writes this block's part of `out`.
    unsafe fn block_forward(&self, block: &QueryBlock, q: Matrix, k: Matrix, v: Matrix, out: *mut f32, s: &mut Scratch) {
        let (queries, d) = (block.queries.len(), self.heads.dim);
        let padded_keys = unsafe { self.probabilities(block, [q, k], false, s) };
        let keys = self.keys(block);
        let padded = d.next_multiple_of(self.unit.lanes());
        cleared(&mut s.kv, keys * padded);
        for (first, column, count) in self.stretches(block) {
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
            self.unit.tile(queries, keys, padded / self.unit.lanes(), a, b, s.out.as_mut_ptr(), padded, 0);
            for (i, row) in s.out.chunks(padded).enumerate() {
                let to = out.wrapping_add((block.queries.start + i) * self.heads.queries * d);
                std::ptr::copy_nonoverlapping(row.as_ptr(), to, d);
            }
        }
    }

    /// The way back: with P the probabilities, dV = P^T dO, dP = dO V^T, dS = P (dP - rowsum(P dP)), dQ = scale dS K,
    /// dK = scale dS^T Q; all of them added to what is there.
    ///
    /// # Safety
    /// All matrices hold the rows that the block names; nobody else writes those of `dq`, `dk` and `dv` meanwhile.
    unsafe fn block_backward(
        &self,
        block: &QueryBlock,
        [q, k, v, dout]: [Matrix; 4],
        [dq, dk, dv]: [*mut f32; 3],
        s: &mut Scratch,
    ) {
        let (queries, d) = (block.queries.len(), self.heads.dim);
        let keys = unsafe { self.probabilities(block, [q, k], true, s) };
        cleared(&mut s.dp, queries * keys);
        let (q_rows, dout) = (q.row(self.front + block.queries.start), dout.row(block.queries.start));
        for (first, column, count) in self.stretches(block) {
            let p = Matrix { start: s.p.as_ptr().wrapping_add(column), row_stride: keys, col_stride: 1 };
            let (dv, dp) = (dv.wrapping_add(first * v.row_stride), s.dp.as_mut_ptr().wrapping_add(column));
            unsafe {
                multiply((count, queries, d), dv, v.row_stride, true, p.transposed(), dout, 1.0, Parallelism::None);
                multiply((queries, d, count), dp, keys, false, dout, v.row(first).transposed(), 1.0, Parallelism::None);
            }
        }
        s.dp.chunks_mut(keys).zip(s.p.chunks(keys)).for_each(|(dp, p)| through_softmax(dp, p));
        if self.scores.cap.is_some() {
            s.dp.iter_mut().zip(&s.slopes).for_each(|(dp, slope)| *dp *= slope);
        }
        let dq = dq.wrapping_add((self.front + block.queries.start) * q.row_stride);
        for (first, column, count) in self.stretches(block) {
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

    /// Whether rows of q, k and v side by side [rows, width] are what the blocks name; gives their tokens.
    pub fn check(&self, (rows, width): (usize, usize)) -> candle_core::Result<usize> {
        let tokens = rows.saturating_sub(self.front);
        let fits = width == self.heads.width()
            && self.heads.queries.is_multiple_of(self.heads.keys)
            && self.blocks.iter().all(|block| block.is_within(tokens));
        if !fits {
            candle_core::bail!("attention: {rows} x {width} for {:?}", self.heads);
        }
        Ok(tokens)
    }

    /// Where the queries of a head stand among all heads of a token, and the keys and values that they share.
    fn places(&self, head: usize) -> [usize; 3] {
        let Heads { queries, keys, .. } = self.heads;
        let key_head = head / (queries / keys);
        [head, queries + key_head, queries + keys + key_head]
    }

    /// The stretches of blocks that share no keys with each other: a tree each; all together where there is a prefix.
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

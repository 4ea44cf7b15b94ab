//! In-place passes over a weight's buffer. Only these write weights during training.

use rayon::prelude::*;

use super::state::Slot;
use crate::device::cpu::{AffineMove, Kernel, StateSlice, moves, update};
use crate::device::{Element, ViewMut};
use crate::direction::{Key, group};

/// Elements per job: a multiple of [`group::GROUP`], 64 KiB of f32.
const CHUNK: usize = 128 * group::GROUP;

/// Applies each weight's moves in order, in place. Chunks of all weights form one list of jobs, which balances large and
/// small weights across threads.
pub fn apply_all(mut weights_and_moves: Vec<(ViewMut, Vec<AffineMove>)>) {
    fn chunks<T>(weights: &mut [T]) -> impl Iterator<Item = (usize, &mut [T])> {
        weights.chunks_mut(CHUNK).enumerate().map(|(i, chunk)| (i * CHUNK, chunk))
    }
    let mut jobs: Vec<(ViewMut, usize, &[AffineMove])> = Vec::new();
    for (weights, moves) in &mut weights_and_moves {
        match weights {
            ViewMut::F32(w) => jobs.extend(chunks(w).map(|(first, w)| (ViewMut::F32(w), first, &moves[..]))),
            ViewMut::Bf16(w) => jobs.extend(chunks(w).map(|(first, w)| (ViewMut::Bf16(w), first, &moves[..]))),
            ViewMut::F16(w) => jobs.extend(chunks(w).map(|(first, w)| (ViewMut::F16(w), first, &moves[..]))),
        }
    }
    jobs.into_par_iter().for_each(
        |(chunk, first, moves)| each_precision!(ViewMut, chunk, weights => moves::apply_moves(weights, first, moves)),
    );
}

/// The gradient of a fused pass over one weight, and its scaling and rounding.
pub struct Update<'a> {
    /// Factor on the weights, applied first (weight decay).
    pub scale: f32,
    /// The zeroth-order gradient: (key of the direction on this weight, coefficient).
    pub terms: &'a [(Key, f32)],
    /// The first-order gradient, to which the terms are added.
    pub dense: Option<&'a [f32]>,
    /// Key for stochastic rounding in half precision.
    pub rounding: Key,
}

impl Update<'_> {
    /// Runs the fused pass over one weight and its state, on all threads.
    pub fn pass<K: Kernel<S>, const S: usize>(&self, weights: ViewMut, state: [Slot<'_>; S], kernel: &K) {
        each_precision!(ViewMut, weights, weights => self.apply(weights, state, kernel));
    }

    fn apply<T: Element, K: Kernel<S>, const S: usize>(&self, weights: &mut [T], mut state: [Slot<'_>; S], kernel: &K) {
        let Update { scale, terms, dense, rounding } = *self;
        let mut buffers = state.each_mut().map(|slot| slot.chunks(CHUNK).into_iter());
        let chunks: Vec<_> = weights
            .chunks_mut(CHUNK)
            .map(|chunk| (chunk, buffers.each_mut().map(|buffer| buffer.next().unwrap_or(StateSlice::F32(&mut [])))))
            .collect();
        chunks.into_par_iter().enumerate().for_each(|(i, (chunk, mut state))| {
            let dense = dense.map(|dense| &dense[i * CHUNK..i * CHUNK + chunk.len()]);
            update::update(chunk, dense, &mut state, i * CHUNK, scale, terms, rounding, kernel);
        });
    }
}

/// W += scale B A, row by row: W [outer, inner], B [outer, r], A [r, inner].
pub fn add_product(weights: ViewMut, b: &[f32], a: &[f32], r: usize, scale: f32) {
    fn apply<T: Element>(weights: &mut [T], b: &[f32], a: &[f32], r: usize, scale: f32) {
        let inner = a.len() / r;
        weights.par_chunks_mut(inner).zip(b.par_chunks(r)).for_each(|(row, b)| {
            for (i, w) in row.iter_mut().enumerate() {
                let sum: f32 = b.iter().zip(a.chunks(inner)).map(|(b, a)| b * a[i]).sum();
                *w = T::narrow(w.widen() + scale * sum);
            }
        });
    }
    each_precision!(ViewMut, weights, weights => apply(weights, b, a, r, scale));
}

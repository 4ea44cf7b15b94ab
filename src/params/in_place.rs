//! The passes over a weight's own buffer, in place. Nothing else writes weights.

use rayon::prelude::*;

use super::state::Slot;
use crate::device::cpu::{AffineMove, Kernel, StateSlice, moves, update};
use crate::device::{Element, ViewMut};
use crate::direction::{Key, group};

/// Elements that a thread takes at a time: a multiple of [`group::GROUP`], 64 KiB of f32.
const CHUNK: usize = 128 * group::GROUP;

/// The moves of each weight, one after the other, in place. The threads take stretches of many weights together, so large and small ones
/// keep them equally busy.
pub fn apply_all(mut weights_and_moves: Vec<(ViewMut, Vec<AffineMove>)>) {
    fn stretches<'a, T>(weights: &'a mut [T]) -> impl Iterator<Item = (usize, &'a mut [T])> {
        weights.chunks_mut(CHUNK).enumerate().map(|(i, stretch)| (i * CHUNK, stretch))
    }
    let mut jobs: Vec<(ViewMut, usize, &[AffineMove])> = Vec::new();
    for (weights, moves) in &mut weights_and_moves {
        match weights {
            ViewMut::F32(w) => jobs.extend(stretches(w).map(|(first, w)| (ViewMut::F32(w), first, &moves[..]))),
            ViewMut::Bf16(w) => jobs.extend(stretches(w).map(|(first, w)| (ViewMut::Bf16(w), first, &moves[..]))),
            ViewMut::F16(w) => jobs.extend(stretches(w).map(|(first, w)| (ViewMut::F16(w), first, &moves[..]))),
        }
    }
    jobs.into_par_iter().for_each(
        |(stretch, first, moves)| each_precision!(ViewMut, stretch, weights => moves::apply_moves(weights, first, moves)),
    );
}

/// What a fused pass over one weight makes its gradient from.
pub struct Update<'a> {
    /// What the weights are multiplied by first.
    pub scale: f32,
    /// The gradient's directions on this weight, and its coefficients.
    pub terms: &'a [(Key, f32)],
    /// A gradient that the terms are added to.
    pub dense: Option<&'a [f32]>,
    /// Rounds what is held in half precision.
    pub rounding: Key,
}

impl Update<'_> {
    /// A fused pass over one weight and its state, by all threads.
    pub fn pass<K: Kernel<S>, const S: usize>(&self, weights: ViewMut, state: [Slot<'_>; S], kernel: &K) {
        each_precision!(ViewMut, weights, weights => self.over(weights, state, kernel));
    }

    fn over<T: Element, K: Kernel<S>, const S: usize>(&self, weights: &mut [T], mut state: [Slot<'_>; S], kernel: &K) {
        let Update { scale, terms, dense, rounding } = *self;
        let mut buffers = state.each_mut().map(|slot| slot.chunks(CHUNK).into_iter());
        let chunks: Vec<_> = weights
            .chunks_mut(CHUNK)
            .map(|chunk| (chunk, buffers.each_mut().map(|held| held.next().unwrap_or(StateSlice::F32(&mut [])))))
            .collect();
        chunks.into_par_iter().enumerate().for_each(|(i, (chunk, mut state))| {
            let dense = dense.map(|dense| &dense[i * CHUNK..i * CHUNK + chunk.len()]);
            update::update(chunk, dense, &mut state, i * CHUNK, scale, terms, rounding, kernel);
        });
    }
}

/// W += scale B A, a row of W at a time: B [outer, r], A [r, inner], row by row.
pub fn add_product(weights: ViewMut, b: &[f32], a: &[f32], r: usize, scale: f32) {
    fn over<T: Element>(weights: &mut [T], b: &[f32], a: &[f32], r: usize, scale: f32) {
        let inner = a.len() / r;
        weights.par_chunks_mut(inner).zip(b.par_chunks(r)).for_each(|(row, b)| {
            for (i, w) in row.iter_mut().enumerate() {
                let sum: f32 = b.iter().zip(a.chunks(inner)).map(|(b, a)| b * a[i]).sum();
                *w = T::narrow(w.widen() + scale * sum);
            }
        });
    }
    each_precision!(ViewMut, weights, weights => over(weights, b, a, r, scale));
}

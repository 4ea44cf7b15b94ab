//! Moves of weights along directions, in one pass.

use super::source::Source;
use crate::device::Element;
use crate::direction::Key;
use crate::direction::group::GROUP;
use crate::direction::threefry::draw_half_words;

/// weights <- scale * weights + sum over terms of coeff * z, rounded once to storage precision.
#[derive(Clone, Debug)]
pub struct AffineMove {
    /// Factor on the weights, applied first.
    pub scale: f32,
    /// Keys of the directions, and their coefficients.
    pub terms: Vec<(Key, f32)>,
    /// Key for stochastic rounding, at the end of a step; None: round to nearest.
    pub rounding: Option<Key>,
}

impl AffineMove {
    /// Whether the move adds the terms and does nothing else to a weight held as `T`.
    fn is_a_walk<T: Element>(&self) -> bool {
        self.scale == 1.0 && (T::EXACT || self.rounding.is_none())
    }
}

vectorize! {
    /// Applies the moves in order, in one pass, with the bits of separate passes.
    ///
    /// `weights` are the elements of a tensor from `first`, a multiple of [`GROUP`].
    pub fn apply_moves[T: Element](weights: &mut [T], first: usize, moves: &[AffineMove]) {
        let group = (first / GROUP) as u64;
        let mut sources: Vec<Source> = moves.iter().flat_map(|affine_move| &affine_move.terms).map(|(key, _)| Source::new(*key)).collect();
        let (groups, rest) = weights.as_chunks_mut::<GROUP>();
        for (i, weights) in groups.iter_mut().enumerate() {
            move_group(weights, group + i as u64, moves, &mut sources);
        }
        if !rest.is_empty() {
            let mut padded = [T::zeroed(); GROUP];
            padded[..rest.len()].copy_from_slice(rest);
            move_group(&mut padded, group + groups.len() as u64, moves, &mut sources);
            rest.copy_from_slice(&padded[..rest.len()]);
        }
    }
}

/// `sources` are those of all moves' terms, in order.
#[inline(always)]
fn move_group<T: Element>(weights: &mut [T; GROUP], group: u64, moves: &[AffineMove], sources: &mut [Source]) {
    let mut z = [0f32; GROUP];
    let mut sum = [0f32; GROUP];
    let mut sources = sources.iter_mut();
    for affine_move in moves {
        if let ([(_, coeff)], true) = (&affine_move.terms[..], affine_move.is_a_walk::<T>()) {
            // One addition to a weight needs no sum.
            if let Some(source) = sources.next() {
                source.seek(group, &mut z);
                source.add(*coeff, &z, weights);
            }
            continue;
        }
        for j in 0..GROUP {
            sum[j] = weights[j].widen();
        }
        if affine_move.scale != 1.0 {
            for s in &mut sum {
                *s *= affine_move.scale;
            }
        }
        for (&(_, coeff), source) in affine_move.terms.iter().zip(sources.by_ref()) {
            source.seek(group, &mut z);
            source.add(coeff, &z, &mut sum);
        }
        match affine_move.rounding {
            Some(key) => round_stochastically(&sum, key, group, weights),
            None => {
                for j in 0..GROUP {
                    weights[j] = T::narrow(sum[j]);
                }
            }
        }
    }
}

/// Stores the elements of group `group` with stochastic rounding: rounding to nearest would lose most of a small step in
/// half precision. Depends on key and index only, so replay rounds as the run did.
#[inline(always)]
pub(super) fn round_stochastically<T: Element>(from: &[f32; GROUP], key: Key, group: u64, to: &mut [T]) {
    let mut random = [0u32; GROUP];
    if !T::EXACT {
        draw_half_words(key, group, &mut random);
    }
    for ((t, x), r) in to.iter_mut().zip(from).zip(&random) {
        *t = T::narrow_at_random(*x, *r);
    }
}

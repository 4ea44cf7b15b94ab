//! Moves of weights along directions, in one pass.

use super::source::Source;
use crate::device::Element;
use crate::direction::Key;
use crate::direction::group::GROUP;
use crate::direction::threefry::draw_half_words;

/// A stretch of a walk: weights <- scale * weights + sum over terms of coeff * z, rounded once to the held precision.
#[derive(Clone, Debug)]
pub struct AffineMove {
    /// What the weights are multiplied by first.
    pub scale: f32,
    /// How far along which directions.
    pub terms: Vec<(Key, f32)>,
    /// Rounds at random under this key, as a step ends, or to the nearest.
    pub rounding: Option<Key>,
}

vectorize! {
    /// The moves one after the other, in one pass: the same bits as in a pass each.
    ///
    /// `weights` are the elements of a tensor from `first` on; `first` is a multiple of [`GROUP`].
    pub fn apply_moves[T: Element](weights: &mut [T], first: usize, moves: &[AffineMove]) {
        let group = (first / GROUP) as u64;
        let mut sources: Vec<Source> = moves.iter().flat_map(|affine_move| &affine_move.terms).map(|(key, _)| Source::new(*key)).collect();
        let (whole, rest) = weights.as_chunks_mut::<GROUP>();
        for (i, weights) in whole.iter_mut().enumerate() {
            move_group(weights, group + i as u64, moves, &mut sources);
        }
        if !rest.is_empty() {
            let mut padded = [T::zeroed(); GROUP];
            padded[..rest.len()].copy_from_slice(rest);
            move_group(&mut padded, group + whole.len() as u64, moves, &mut sources);
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
        for j in 0..GROUP {
            sum[j] = weights[j].widen();
        }
        if affine_move.scale != 1.0 {
            for s in &mut sum {
                *s *= affine_move.scale;
            }
        }
        for (&(_, coeff), source) in affine_move.terms.iter().zip(sources.by_ref()) {
            source.turn_to(group, &mut z);
            source.add(coeff, &z, &mut sum);
        }
        match affine_move.rounding {
            Some(key) => round_at_random(&sum, key, group, weights),
            None => {
                for j in 0..GROUP {
                    weights[j] = T::narrow(sum[j]);
                }
            }
        }
    }
}

/// Stores numbers of the `group`-th [`GROUP`] where they are held, rounded at random: in half precision most of a small step would be
/// lost to rounding to the nearest. A function of key and index alone, so a replay rounds as the run did.
#[inline(always)]
pub(super) fn round_at_random<T: Element>(from: &[f32; GROUP], key: Key, group: u64, to: &mut [T]) {
    let mut random = [0u32; GROUP];
    if !T::EXACT {
        draw_half_words(key, group, &mut random);
    }
    for ((t, x), r) in to.iter_mut().zip(from).zip(&random) {
        *t = T::narrow_at_random(*x, *r);
    }
}

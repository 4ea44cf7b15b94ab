//! The passes over weights that draw directions: displace, update, and look at the directions themselves.

use half::bf16;

use super::moves::round_at_random;
use super::simd;
use super::source::Source;
use crate::device::Element;
use crate::direction::Key;
use crate::direction::group::{GROUP, HALF};
use crate::direction::threefry::draw_a_word_each;

/// What a pass holds on a thread's stack: groups of a direction, its words and radii, the weight, the gradient, the state, what rounds it.
pub const SCRATCH_BYTES: usize = 10 * 4 * GROUP;

/// A rule's arithmetic at one weight, with `S` numbers of state.
pub trait Kernel<const S: usize>: Copy + Send + Sync {
    /// The new weight and state, from the weight, the gradient there, and the state.
    fn apply(&self, weight: f32, gradient: f32, state: [f32; S]) -> (f32, [f32; S]);
}

impl<const S: usize, F: Fn(f32, f32, [f32; S]) -> (f32, [f32; S]) + Copy + Send + Sync> Kernel<S> for F {
    #[inline(always)]
    fn apply(&self, weight: f32, gradient: f32, state: [f32; S]) -> (f32, [f32; S]) {
        self(weight, gradient, state)
    }
}

/// A closure as a kernel. It is to be `#[inline(always)]`: the pass is compiled for each instruction set with it.
pub fn kernel<const S: usize, F: Fn(f32, f32, [f32; S]) -> (f32, [f32; S]) + Copy + Send + Sync>(f: F) -> F {
    f
}

/// Brings the group that starts at `from` nearer; behind the last one, nothing that anybody wants.
#[inline(always)]
fn fetch_group<T>(from: *const T) {
    for line in (0..GROUP * size_of::<T>()).step_by(64) {
        simd::fetch(from.cast::<u8>().wrapping_add(line));
    }
}

/// Numbers of a rule's state as they are held. Arithmetic is done in f32.
pub enum StateSlice<'a> {
    /// As they are.
    F32(&'a mut [f32]),
    /// Rounded at random, up or down with the chances that keep the mean: small changes to a large moment are not lost.
    Bf16(&'a mut [bf16]),
}

impl StateSlice<'_> {
    #[inline(always)]
    fn load(&self, start: usize, to: &mut [f32]) {
        match self {
            StateSlice::F32(held) => to.copy_from_slice(&held[start..start + to.len()]),
            StateSlice::Bf16(held) => {
                let held = &held[start..start + to.len()];
                for (t, h) in to.iter_mut().zip(held) {
                    *t = h.widen();
                }
            }
        }
    }

    /// Brings the group from `start` on nearer.
    #[inline(always)]
    fn fetch(&self, start: usize) {
        match self {
            StateSlice::F32(held) => fetch_group(held.as_ptr().wrapping_add(start)),
            StateSlice::Bf16(held) => fetch_group(held.as_ptr().wrapping_add(start)),
        }
    }

    /// `half` says which 16 bits of each random word decide.
    #[inline(always)]
    fn store(&mut self, start: usize, from: &[f32], words: &[u32; GROUP], half: u32) {
        match self {
            StateSlice::F32(held) => held[start..start + from.len()].copy_from_slice(from),
            StateSlice::Bf16(held) => {
                for ((h, x), word) in held[start..start + from.len()].iter_mut().zip(from).zip(words) {
                    *h = bf16::narrow_at_random(*x, word >> (16 * half) & 0xffff);
                }
            }
        }
    }
}

vectorize! {
    /// One fused pass: form the gradient, apply the rule, store; every direction is drawn once.
    ///
    /// The gradient is `dense`, where there is one, plus the sum of coeff * z over `terms`; the weights are multiplied by `scale`
    /// before the rule sees them. `weights`, `dense` and each of `state` are the elements of a tensor from `first` on, a multiple
    /// of [`GROUP`]. What is held in half precision is rounded at random under `rounding`.
    #[allow(clippy::too_many_arguments)]
    pub fn update[T: Element, K: Kernel<S>, const S: usize](
        weights: &mut [T], dense: Option<&[f32]>, state: &mut [StateSlice<'_>; S], first: usize, scale: f32,
        terms: &[(Key, f32)], rounding: Key, kernel: &K,
    ) {
        let mut z = [0f32; GROUP];
        let (mut theta, mut gradient) = ([0f32; GROUP], [0f32; GROUP]);
        let mut states = [[0f32; GROUP]; S];
        let mut words = [0u32; GROUP];
        let mut sources: Vec<Source> = terms.iter().map(|(key, _)| Source::new(*key)).collect();
        for (i, chunk) in weights.chunks_mut(GROUP).enumerate() {
            let (group, start) = ((first / GROUP + i) as u64, i * GROUP);
            // The next group comes while this one's directions are drawn.
            fetch_group(chunk.as_ptr().wrapping_add(GROUP));
            state.iter().for_each(|held| held.fetch(start + GROUP));
            for (t, w) in theta.iter_mut().zip(chunk.iter()) {
                *t = w.widen() * scale;
            }
            match dense {
                Some(dense) => gradient[..chunk.len()].copy_from_slice(&dense[start..start + chunk.len()]),
                None => gradient.fill(0.0),
            }
            for (&(_, coeff), source) in terms.iter().zip(&mut sources) {
                source.turn_to(group, &mut z);
                source.add(coeff, &z, &mut gradient);
            }
            for k in 0..S {
                state[k].load(start, &mut states[k][..chunk.len()]);
            }
            for j in 0..GROUP {
                let mut at = [0f32; S];
                for k in 0..S {
                    at[k] = states[k][j];
                }
                let (weight, at) = kernel.apply(theta[j], gradient[j], at);
                theta[j] = weight;
                for k in 0..S {
                    states[k][j] = at[k];
                }
            }
            for k in 0..S {
                // Two numbers of state share a word's halves; the next two draw words of their own.
                if k % 2 == 0 && matches!(state[k], StateSlice::Bf16(_)) {
                    let drawn = draw_a_word_each(rounding, group | (k as u64) << 48);
                    words[..HALF].copy_from_slice(&drawn[0]);
                    words[HALF..].copy_from_slice(&drawn[1]);
                }
                state[k].store(start, &states[k][..chunk.len()], &words, (k % 2) as u32);
            }
            round_at_random(&theta, rounding, group, chunk);
        }
    }
}

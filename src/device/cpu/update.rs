//! The fused update pass over a weight and its state.

use half::bf16;

use super::moves::round_stochastically;
use super::simd;
use super::source::Source;
use crate::device::Element;
use crate::direction::Key;
use crate::direction::group::{GROUP, HALF};
use crate::direction::threefry::draw_element_words;

/// Bytes of a pass's stack buffers: groups of a direction, its words and radii, weight, gradient, state, rounding.
pub const SCRATCH_BYTES: usize = 10 * 4 * GROUP;

/// A rule's elementwise arithmetic, with `S` numbers of state.
pub trait Kernel<const S: usize>: Copy + Send + Sync {
    /// The new weight and state, given the weight, its gradient and the state.
    fn apply(&self, weight: f32, gradient: f32, state: [f32; S]) -> (f32, [f32; S]);
}

impl<const S: usize, F: Fn(f32, f32, [f32; S]) -> (f32, [f32; S]) + Copy + Send + Sync> Kernel<S> for F {
    #[inline(always)]
    fn apply(&self, weight: f32, gradient: f32, state: [f32; S]) -> (f32, [f32; S]) {
        self(weight, gradient, state)
    }
}

/// A closure as a kernel; must be `#[inline(always)]` to be compiled with the pass for each instruction set.
pub fn kernel<const S: usize, F: Fn(f32, f32, [f32; S]) -> (f32, [f32; S]) + Copy + Send + Sync>(f: F) -> F {
    f
}

/// Prefetches one group; past the end is harmless.
#[inline(always)]
fn prefetch_group<T>(from: *const T) {
    for line in (0..GROUP * size_of::<T>()).step_by(64) {
        simd::prefetch(from.cast::<u8>().wrapping_add(line));
    }
}

/// A rule's state in storage precision. Arithmetic is in f32.
pub enum StateSlice<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// bf16 with stochastic rounding, which is unbiased: small changes to a large moment are not lost.
    Bf16(&'a mut [bf16]),
}

impl StateSlice<'_> {
    #[inline(always)]
    fn load(&self, start: usize, to: &mut [f32]) {
        match self {
            StateSlice::F32(values) => to.copy_from_slice(&values[start..start + to.len()]),
            StateSlice::Bf16(values) => {
                let values = &values[start..start + to.len()];
                for (t, h) in to.iter_mut().zip(values) {
                    *t = h.widen();
                }
            }
        }
    }

    /// Prefetches the group at `start`.
    #[inline(always)]
    fn prefetch(&self, start: usize) {
        match self {
            StateSlice::F32(values) => prefetch_group(values.as_ptr().wrapping_add(start)),
            StateSlice::Bf16(values) => prefetch_group(values.as_ptr().wrapping_add(start)),
        }
    }

    /// `half` selects the 16 bits of each random word for rounding.
    #[inline(always)]
    fn store(&mut self, start: usize, from: &[f32], words: &[u32; GROUP], half: u32) {
        match self {
            StateSlice::F32(values) => values[start..start + from.len()].copy_from_slice(from),
            StateSlice::Bf16(values) => {
                for ((h, x), word) in values[start..start + from.len()].iter_mut().zip(from).zip(words) {
                    *h = bf16::narrow_at_random(*x, word >> (16 * half) & 0xffff);
                }
            }
        }
    }
}

vectorize! {
    /// One fused pass: forms the gradient, applies the rule and stores; every direction is drawn once.
    ///
    /// The gradient is `dense`, if given, plus the sum of coeff * z over `terms`; the weights are multiplied by `scale`
    /// before the rule. `weights`, `dense` and each of `state` are the elements of a tensor from `first`, a multiple of
    /// [`GROUP`]. Half precision is rounded stochastically under `rounding`.
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
            // Prefetch the next group while this one's directions are drawn.
            prefetch_group(chunk.as_ptr().wrapping_add(GROUP));
            state.iter().for_each(|values| values.prefetch(start + GROUP));
            for (t, w) in theta.iter_mut().zip(chunk.iter()) {
                *t = w.widen() * scale;
            }
            match dense {
                Some(dense) => gradient[..chunk.len()].copy_from_slice(&dense[start..start + chunk.len()]),
                None => gradient.fill(0.0),
            }
            for (&(_, coeff), source) in terms.iter().zip(&mut sources) {
                source.seek(group, &mut z);
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
                // Two numbers of state share a word, 16 bits each; every further two draw new words.
                if k % 2 == 0 && matches!(state[k], StateSlice::Bf16(_)) {
                    let drawn = draw_element_words(rounding, group | (k as u64) << 48);
                    words[..HALF].copy_from_slice(&drawn[0]);
                    words[HALF..].copy_from_slice(&drawn[1]);
                }
                state[k].store(start, &states[k][..chunk.len()], &words, (k % 2) as u32);
            }
            round_stochastically(&theta, rounding, group, chunk);
        }
    }
}

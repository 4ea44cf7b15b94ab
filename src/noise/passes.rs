//! The passes over weights that draw directions: displace, update, and look at the directions themselves.

use half::bf16;

use super::{GROUP, HALF, Key, Source, draw_a_word_each, draw_half_words};
use crate::element::Element;
use crate::simd;

/// What a pass holds on a thread's stack: groups of a direction, its words and radii, the weight, the gradient, the state, what rounds it.
pub const SCRATCH_BYTES: usize = 10 * 4 * GROUP;

/// A stretch of a walk: weights <- scale * weights + sum over terms of coeff * z, rounded once to the held precision.
#[derive(Clone, Debug)]
pub struct Leg {
    /// What the weights are multiplied by first.
    pub scale: f32,
    /// How far along which directions.
    pub terms: Vec<(Key, f32)>,
    /// Rounds at random under this key, as a step ends, or to the nearest.
    pub rounding: Option<Key>,
}

vectorize! {
    /// The legs one after the other, in one pass: the same bits as in a pass each.
    ///
    /// `weights` are the elements of a tensor from `first` on; `first` is a multiple of [`GROUP`].
    pub fn walk[T: Element](weights: &mut [T], first: usize, legs: &[Leg]) {
        let group = (first / GROUP) as u64;
        let mut sources: Vec<Source> = legs.iter().flat_map(|leg| &leg.terms).map(|(key, _)| Source::new(*key)).collect();
        let (whole, rest) = weights.as_chunks_mut::<GROUP>();
        for (i, weights) in whole.iter_mut().enumerate() {
            walk_group(weights, group + i as u64, legs, &mut sources);
        }
        if !rest.is_empty() {
            let mut padded = [T::zeroed(); GROUP];
            padded[..rest.len()].copy_from_slice(rest);
            walk_group(&mut padded, group + whole.len() as u64, legs, &mut sources);
            rest.copy_from_slice(&padded[..rest.len()]);
        }
    }
}

/// `sources` are those of all legs' terms, in order.
#[inline(always)]
fn walk_group<T: Element>(weights: &mut [T; GROUP], group: u64, legs: &[Leg], sources: &mut [Source]) {
    let mut z = [0f32; GROUP];
    let mut sum = [0f32; GROUP];
    let mut sources = sources.iter_mut();
    for leg in legs {
        for j in 0..GROUP {
            sum[j] = weights[j].widen();
        }
        if leg.scale != 1.0 {
            for s in &mut sum {
                *s *= leg.scale;
            }
        }
        for (&(_, coeff), source) in leg.terms.iter().zip(sources.by_ref()) {
            source.turn_to(group, &mut z);
            source.add(coeff, &z, &mut sum);
        }
        match leg.rounding {
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
fn round_at_random<T: Element>(from: &[f32; GROUP], key: Key, group: u64, to: &mut [T]) {
    let mut random = [0u32; GROUP];
    if !T::EXACT {
        draw_half_words(key, group, &mut random);
    }
    for ((t, x), r) in to.iter_mut().zip(from).zip(&random) {
        *t = T::narrow_at_random(*x, *r);
    }
}

vectorize! {
    /// What the weights would be after walks from where they stand, which they do not leave: `to` [points, weights] <- weights + sum
    /// over the keys of coeff * z, for each of the `points`, with the bits of a walk there. `coeffs` [keys, points]; 0 is no move.
    ///
    /// `weights` are the elements of a tensor from `first` on, any place.
    pub fn displace[T: Element](weights: &[T], first: usize, keys: &[Key], coeffs: &[f32], points: usize, to: &mut [T]) {
        let mut z = [0f32; GROUP];
        let mut sums = vec![[0f32; GROUP]; points];
        let mut sources: Vec<Source> = keys.iter().map(|key| Source::new(*key)).collect();
        let len = weights.len();
        let mut at = 0;
        while at < len {
            let (group, skip) = ((first + at) / GROUP, (first + at) % GROUP);
            let here = (GROUP - skip).min(len - at);
            if let ([source], Some((weights, _))) = (&mut sources[..], weights[at..].split_first_chunk::<GROUP>()) && skip == 0 {
                // As a rule: a whole group along one direction, from here to there without a stop.
                source.turn_to(group as u64, &mut z);
                for p in 0..points {
                    if let Some((to, _)) = to[p * len + at..].split_first_chunk_mut::<GROUP>() {
                        match coeffs[p] {
                            0.0 => *to = *weights,
                            coeff => source.displace(coeff, &z, weights, to),
                        }
                    }
                }
                at += here;
                continue;
            }
            for (s, w) in sums[0][skip..skip + here].iter_mut().zip(&weights[at..at + here]) {
                *s = w.widen();
            }
            for p in 1..points {
                sums[p] = sums[0];
            }
            for (k, source) in sources.iter_mut().enumerate() {
                source.turn_to(group as u64, &mut z);
                for p in 0..points {
                    let coeff = coeffs[k * points + p];
                    if coeff != 0.0 {
                        source.add(coeff, &z, &mut sums[p]);
                    }
                }
            }
            for p in 0..points {
                let to = &mut to[p * len + at..p * len + at + here];
                for (t, s) in to.iter_mut().zip(&sums[p][skip..skip + here]) {
                    *t = T::narrow(*s);
                }
            }
            at += here;
        }
    }
}

/// A rule's arithmetic at one weight, with `S` numbers of state.
pub trait Kernel<const S: usize>: Copy + Send + Sync {
    /// The new weight and state, from the weight, the gradient there, and the state.
    fn apply(&self, weight: f32, gradient: f32, state: [f32; S]) -> (f32, [f32; S]);
}

/// Brings the group that starts at `from` nearer; behind the last one, nothing that anybody wants.
#[inline(always)]
fn fetch_group<T>(from: *const T) {
    for line in (0..GROUP * size_of::<T>()).step_by(64) {
        simd::fetch(from.cast::<u8>().wrapping_add(line));
    }
}

/// Numbers of a rule's state as they are held. Arithmetic is done in f32.
pub enum Held<'a> {
    /// As they are.
    F32(&'a mut [f32]),
    /// Rounded at random, up or down with the chances that keep the mean: small changes to a large moment are not lost.
    Bf16(&'a mut [bf16]),
}

impl Held<'_> {
    #[inline(always)]
    fn load(&self, start: usize, to: &mut [f32]) {
        match self {
            Held::F32(held) => to.copy_from_slice(&held[start..start + to.len()]),
            Held::Bf16(held) => {
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
            Held::F32(held) => fetch_group(held.as_ptr().wrapping_add(start)),
            Held::Bf16(held) => fetch_group(held.as_ptr().wrapping_add(start)),
        }
    }

    /// `half` says which 16 bits of each random word decide.
    #[inline(always)]
    fn store(&mut self, start: usize, from: &[f32], words: &[u32; GROUP], half: u32) {
        match self {
            Held::F32(held) => held[start..start + from.len()].copy_from_slice(from),
            Held::Bf16(held) => {
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
        weights: &mut [T], dense: Option<&[f32]>, state: &mut [Held<'_>; S], first: usize, scale: f32,
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
                if k % 2 == 0 && matches!(state[k], Held::Bf16(_)) {
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

vectorize! {
    /// Adds to `products` [q, q], row by row, the inner products of `keys`' directions over `len` elements.
    pub fn gram(keys: &[Key], len: usize, products: &mut [f64]) {
        let q = keys.len();
        let mut drawn = vec![[0f32; GROUP]; q];
        let mut sources: Vec<Source> = keys.iter().map(|key| Source::new(*key)).collect();
        for group in 0..len.div_ceil(GROUP) {
            let here = GROUP.min(len - group * GROUP);
            for k in 0..q {
                sources[k].draw(group as u64, &mut drawn[k]);
                for z in &mut drawn[k][here..] {
                    *z = 0.0;
                }
            }
            for a in 0..q {
                for b in 0..=a {
                    products[a * q + b] += f64::from(simd::dot(&drawn[a], &drawn[b]));
                }
            }
        }
        for a in 0..q {
            for b in 0..a {
                products[b * q + a] = products[a * q + b];
            }
        }
    }
}

//! A weight at several points near where it stands, drawn as it is read.

use std::sync::Arc;

use super::source::Source;
use crate::device::Element;
use crate::direction::Key;
use crate::direction::group::GROUP;

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

/// One weight at several points: weight + sum of coeff * z over the directions, for each.
#[derive(Clone)]
pub struct Displaced {
    /// The directions' on this weight.
    keys: Vec<Key>,
    /// How far each point lies along each direction: [directions, points].
    coeffs: Arc<[f32]>,
    points: usize,
}

impl Displaced {
    /// `coeffs` [keys, points].
    pub fn new(keys: Vec<Key>, coeffs: Arc<[f32]>, points: usize) -> Self {
        Displaced { keys, coeffs, points }
    }

    /// How many points there are.
    pub fn points(&self) -> usize {
        self.points
    }

    /// What the weight's numbers from `first` on are at each point, rounded to what they are held in: [points, numbers].
    pub fn read<T: Element>(&self, numbers: &[T], first: usize, to: &mut Vec<T>) {
        to.resize(self.points * numbers.len(), T::zeroed());
        displace(numbers, first, &self.keys, &self.coeffs, self.points, to);
    }

    /// The inner product of the ways to the first point with and without rounding to what the weight is held in, and the square of
    /// the one without, over the first of its numbers.
    pub fn way_made<T: Element>(&self, numbers: &[T]) -> (f64, f64) {
        const LOOKED_AT: usize = 1 << 16;
        let numbers = &numbers[..numbers.len().min(LOOKED_AT)];
        let here: Vec<f32> = numbers.iter().map(|w| w.widen()).collect();
        let (mut rounded, mut there) = (Vec::new(), Vec::new());
        self.read(numbers, 0, &mut rounded);
        self.read(&here, 0, &mut there);
        let ways = here.iter().zip(&rounded).zip(&there).map(|((h, r), t)| (f64::from(r.widen() - h), f64::from(t - h)));
        ways.fold((0.0, 0.0), |(made, whole), (r, t)| (made + r * t, whole + t * t))
    }
}

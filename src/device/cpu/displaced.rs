//! A weight read at several points near theta, with directions drawn on the fly.

use std::sync::Arc;

use super::source::Source;
use crate::device::Element;
use crate::direction::Key;
use crate::direction::group::GROUP;

vectorize! {
    /// `to` [points, weights] <- weights + sum over the keys of coeff * z, per point, with `coeffs` [keys, points]; the
    /// same bits as moving the weights there. `weights` is unchanged. A coefficient of 0 is skipped.
    ///
    /// `weights` are the elements of a tensor from `first`, which need not be a multiple of the group size.
    pub fn displace[T: Element](weights: &[T], first: usize, keys: &[Key], coeffs: &[f32], points: usize, to: &mut [T]) {
        let mut z = [0f32; GROUP];
        let mut sums = vec![[0f32; GROUP]; points];
        let mut sources: Vec<Source> = keys.iter().map(|key| Source::new(*key)).collect();
        let len = weights.len();
        let mut at = 0;
        while at < len {
            let (group, skip) = ((first + at) / GROUP, (first + at) % GROUP);
            let len_here = (GROUP - skip).min(len - at);
            if let ([source], Some((weights, _))) = (&mut sources[..], weights[at..].split_first_chunk::<GROUP>()) && skip == 0 {
                // Common case: a whole group along one direction, without intermediate sums.
                source.seek(group as u64, &mut z);
                for p in 0..points {
                    if let Some((to, _)) = to[p * len + at..].split_first_chunk_mut::<GROUP>() {
                        match coeffs[p] {
                            0.0 => *to = *weights,
                            coeff => source.displace(coeff, &z, weights, to),
                        }
                    }
                }
                at += len_here;
                continue;
            }
            for (s, w) in sums[0][skip..skip + len_here].iter_mut().zip(&weights[at..at + len_here]) {
                *s = w.widen();
            }
            for p in 1..points {
                sums[p] = sums[0];
            }
            for (k, source) in sources.iter_mut().enumerate() {
                source.seek(group as u64, &mut z);
                for p in 0..points {
                    let coeff = coeffs[k * points + p];
                    if coeff != 0.0 {
                        source.add(coeff, &z, &mut sums[p]);
                    }
                }
            }
            for p in 0..points {
                let to = &mut to[p * len + at..p * len + at + len_here];
                for (t, s) in to.iter_mut().zip(&sums[p][skip..skip + len_here]) {
                    *t = T::narrow(*s);
                }
            }
            at += len_here;
        }
    }
}

/// One weight at several points: weight + sum of coeff * z over the directions.
#[derive(Clone)]
pub struct Displaced {
    /// One key per direction on this weight.
    keys: Vec<Key>,
    /// Coefficient of each direction at each point: [directions, points].
    coeffs: Arc<[f32]>,
    points: usize,
}

impl Displaced {
    /// `coeffs` [keys, points].
    pub fn new(keys: Vec<Key>, coeffs: Arc<[f32]>, points: usize) -> Self {
        Displaced { keys, coeffs, points }
    }

    /// Number of points.
    pub fn points(&self) -> usize {
        self.points
    }

    /// Reads the elements from `first` at each point, rounded to storage precision: `to` [points, numbers].
    pub fn read<T: Element>(&self, numbers: &[T], first: usize, to: &mut Vec<T>) {
        to.resize(self.points * numbers.len(), T::zeroed());
        displace(numbers, first, &self.keys, &self.coeffs, self.points, to);
    }

    /// On the first elements, at the first point: the inner product of the displacements with and without rounding, and the
    /// squared norm of the one without.
    pub fn rounded_projection<T: Element>(&self, numbers: &[T]) -> (f64, f64) {
        const SAMPLE: usize = 1 << 16;
        let numbers = &numbers[..numbers.len().min(SAMPLE)];
        let theta: Vec<f32> = numbers.iter().map(|w| w.widen()).collect();
        let (mut rounded, mut exact) = (Vec::new(), Vec::new());
        self.read(numbers, 0, &mut rounded);
        self.read(&theta, 0, &mut exact);
        let displacements =
            theta.iter().zip(&rounded).zip(&exact).map(|((h, r), t)| (f64::from(r.widen() - h), f64::from(t - h)));
        displacements.fold((0.0, 0.0), |(product, square), (r, t)| (product + r * t, square + t * t))
    }
}

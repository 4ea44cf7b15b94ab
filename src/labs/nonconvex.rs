//! Nonconvex least squares, a finite sum with a closed-form gradient: f(x) = 1/n sum f_i(x),
//! f_i(x) = (y_i - s(a_i . x))^2 with s(t) = 1 / (1 + e^-t).

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::Value;

use super::function::{Function, Start};
use super::numbers::read_points;
use crate::base::Digest;
use crate::base::permutation::permutation;
use crate::device::cpu::drawn::direction;
use crate::direction::seed::mix;
use crate::params::Weights;
use crate::zo::{Batches, Data, Score, Split};

/// One label in so many is wrong.
const WRONG: usize = 10;

/// The terms.
struct Terms {
    /// [n, d]
    a: Vec<f32>,
    /// [n], 0 or 1.
    y: Vec<f64>,
    d: usize,
}

/// The finite sum of VAMO's study (Chen and Ma 2025, arXiv 2505.13954). The paper's own formula was not at hand: this is the usual
/// one of the literature on ZO-SVRG (Liu et al. 2018, arXiv 1805.10367), with a_i ~ N(0, I) and y_i = 1 where a_i . x* > 0 for a fixed
/// x* ~ N(0, I), but one label in ten changed. x starts at 0, where f is 1/4. It is a study of optimisation: both scores are f.
pub struct NonconvexLeastSquares {
    terms: Terms,
    batch_size: usize,
    seed: u64,
}

vectorize! {
    /// a . x in eight partial sums, which gives the same bits on every instruction set.
    fn dot(a: &[f32], x: &[f32]) -> f64 {
        let mut lanes = [0f64; 8];
        let (a, x) = (a.chunks_exact(8), x.chunks_exact(8));
        for (lane, (a, x)) in lanes.iter_mut().zip(a.remainder().iter().zip(x.remainder())) {
            *lane = f64::from(*a) * f64::from(*x);
        }
        for (a, x) in a.zip(x) {
            for j in 0..8 {
                lanes[j] = f64::from(a[j]).mul_add(f64::from(x[j]), lanes[j]);
            }
        }
        lanes.iter().sum()
    }
}

impl Terms {
    fn row(&self, i: usize) -> &[f32] {
        &self.a[i * self.d..(i + 1) * self.d]
    }

    /// s(a_i . x)
    fn prediction(&self, i: usize, x: &[f32]) -> f64 {
        1.0 / (1.0 + libm::exp(-dot(self.row(i), x)))
    }

    /// f_i(x)
    fn value(&self, i: usize, x: &[f32]) -> f64 {
        let off = self.y[i] - self.prediction(i, x);
        off * off
    }

    /// The mean of f_i(x) over the terms `of`, and its gradient [d].
    fn mean_and_gradient(&self, of: &[usize], x: &[f32]) -> (f64, Vec<f64>) {
        let (mut sum, mut gradient) = (0.0, vec![0.0; self.d]);
        for &i in of {
            let p = self.prediction(i, x);
            let off = p - self.y[i];
            sum += off * off;
            let slope = 2.0 * off * p * (1.0 - p) / of.len() as f64;
            gradient.iter_mut().zip(self.row(i)).for_each(|(g, a)| *g += slope * f64::from(*a));
        }
        (sum / of.len() as f64, gradient)
    }
}

impl NonconvexLeastSquares {
    /// n terms in R^d, drawn from `train_set_seed`, in mini-batches drawn from `seed`. No terms and no variables are usage errors.
    pub fn new(n: usize, d: usize, train_set_seed: u32, batch_size: usize, seed: u64) -> Result<Self> {
        for (name, size) in [("num_train", n), ("dimension", d)] {
            if size == 0 {
                bail!(usage!("`{name}` 0: it must be at least 1"));
            }
        }
        if n.checked_mul(d).is_none_or(|len| len > 1 << 32) {
            bail!(usage!("`num_train` {n}, `dimension` {d}: their product must be at most 2^32"));
        }
        // Not a direction of any step.
        let drawn = mix(u64::from(train_set_seed) ^ mix(0x4e4c_4c53));
        let (a, solution) = (direction(drawn, "a", n * d), direction(drawn, "solution", d));
        let mut y: Vec<f64> = a.chunks_exact(d).map(|a| f64::from(u8::from(dot(a, &solution) > 0.0))).collect();
        permutation(train_set_seed, n).iter().take(n / WRONG).for_each(|&i| y[i] = 1.0 - y[i]);
        Ok(NonconvexLeastSquares { terms: Terms { a, y, d }, batch_size, seed })
    }

    /// f and its gradient [d] at theta.
    fn at_theta(&self, weights: Weights) -> Result<(f64, Vec<f64>)> {
        let x = read_points(weights.at_theta())?.pop().unwrap_or_default();
        let all: Vec<usize> = (0..self.terms.y.len()).collect();
        Ok(self.terms.mean_and_gradient(&all, &x))
    }
}

impl Function for NonconvexLeastSquares {
    fn name(&self) -> &str {
        "least-squares"
    }

    fn parameters(&self) -> BTreeMap<String, Value> {
        let Terms { d, y, .. } = &self.terms;
        [("function".into(), "(y - s(a . x))^2".into()), ("n".into(), y.len().into()), ("d".into(), (*d).into())].into()
    }

    fn data(&self) -> Data {
        let Terms { a, y, .. } = &self.terms;
        let digest = Digest::of_digests(&[Digest::of(bytemuck::cast_slice(a)), Digest::of(bytemuck::cast_slice(y))]);
        let n = y.len();
        Data { train: n, dev: n, eval: n, max_length: 0, digest, train_rows: None, eval_rows: None }
    }

    fn batches(&self) -> Batches {
        Batches::new(self.terms.y.len(), self.batch_size, self.seed)
    }

    fn losses(&self, points: &[Vec<f32>], of: &[usize]) -> Vec<Vec<f64>> {
        points.iter().map(|x| of.iter().map(|&i| self.terms.value(i, x)).collect()).collect()
    }

    fn mean_and_gradient(&self, x: &[f32], of: &[usize]) -> (f64, Vec<f32>) {
        let (mean, gradient) = self.terms.mean_and_gradient(of, x);
        (mean, gradient.into_iter().map(|g| g as f32).collect())
    }

    fn start(&self, _: u64) -> Result<Vec<Start>> {
        let d = self.terms.d;
        Ok(vec![Start { name: "x".into(), shape: vec![d], values: vec![0.0; d] }])
    }

    fn score(&self, weights: Weights, _: Split, _: &mut dyn FnMut() -> Result<()>) -> Result<Score> {
        Ok(Score::of_loss(self.at_theta(weights)?.0))
    }

    fn gradient(&self, weights: Weights) -> Result<Option<Vec<f64>>> {
        Ok(Some(self.at_theta(weights)?.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_gradients_are_those_of_the_definition() -> Result<()> {
        for (n, d) in [(1, 1), (30, 7), (50, 33)] {
            let sum = NonconvexLeastSquares::new(n, d, 5, 1, 0)?;
            let of: Vec<usize> = (0..n).step_by(2).collect();
            let x: Vec<f64> = (0..d).map(|j| f64::from((j as f32).sin())).collect();
            let by_definition = |x: &[f64]| {
                let term = |i: usize| {
                    let t: f64 = sum.terms.row(i).iter().zip(x).map(|(a, x)| f64::from(*a) * x).sum();
                    (sum.terms.y[i] - 1.0 / (1.0 + (-t).exp())).powi(2)
                };
                of.iter().map(|i| term(*i)).sum::<f64>() / of.len() as f64
            };
            let narrow: Vec<f32> = x.iter().map(|x| *x as f32).collect();
            let (mean, gradient) = sum.terms.mean_and_gradient(&of, &narrow);
            assert!((mean - by_definition(&x)).abs() < 1e-13, "{mean}");
            for j in 0..d {
                let moved = |by: f64| by_definition(&[&x[..j], &[x[j] + by], &x[j + 1..]].concat());
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((gradient[j] - slope).abs() < 1e-9, "{j}: {}, not {slope}", gradient[j]);
            }
        }
        Ok(())
    }

    /// Labels follow x*, but for one in ten; the seed of the data draws others.
    #[test]
    fn one_label_in_ten_is_wrong() -> Result<()> {
        let sum = NonconvexLeastSquares::new(1000, 20, 3, 1, 0)?;
        let solution = direction(mix(3 ^ mix(0x4e4c_4c53)), "solution", 20);
        let is_wrong = |i: &usize| (dot(sum.terms.row(*i), &solution) > 0.0) != (sum.terms.y[*i] == 1.0);
        assert_eq!((0..1000).filter(is_wrong).count(), 100);
        assert_ne!(sum.data().digest, NonconvexLeastSquares::new(1000, 20, 4, 1, 0)?.data().digest);
        assert!(NonconvexLeastSquares::new(10, 0, 0, 1, 0).is_err() && NonconvexLeastSquares::new(0, 10, 0, 1, 0).is_err());
        Ok(())
    }
}

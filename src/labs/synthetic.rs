//! Synthetic functions of R-AdaZO's experiments (Shu et al. 2025, arXiv 2502.01014, Figures 1 and 2), each with minimum 0.
//!
//! Levy is the form of related code by the same group. The paper's appendix, which defines the others, was not at hand:
//! they are the usual ones of their names.

use std::collections::BTreeMap;
use std::f64::consts::{FRAC_1_PI, PI};

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::function::{Function, Start};
use super::numbers::{flat, read_points, widened};
use crate::base::Digest;
use crate::base::memory::{human, machine_bytes};
use crate::device::cpu::drawn::direction;
use crate::direction::seed::mix;
use crate::direction::uniform::uniform;
use crate::params::Weights;
use crate::zo::{Data, Score, Split};

/// Its only weight.
const X: &str = "x";

/// A function of x in R^d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// 1/2 sum x_i^2
    Quadratic,
    /// sum |x_i|^3 + x_i^2 / 2
    Cubic,
    /// sin^2(pi w_1) + sum_{i<d} (w_i - 1)^2 (1 + 10 sin^2(pi w_i + 1)) + (w_d - 1)^2 (1 + sin^2(2 pi w_d)), with
    /// w_i = 1 + (x_i - 1) / 4
    Levy,
    /// sum_{i<d} 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2
    Rosenbrock,
}

/// Sums over x in eight partial sums, which gives the same bits on every instruction set.
#[inline(always)]
fn sum_of(x: &[f32], term: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0f64; 8];
    let chunks = x.chunks_exact(8);
    for (lane, x) in lanes.iter_mut().zip(chunks.remainder()) {
        *lane = term(f64::from(*x));
    }
    for chunk in chunks {
        for j in 0..8 {
            lanes[j] += term(f64::from(chunk[j]));
        }
    }
    lanes.iter().sum()
}

/// sin(pi t) by its Taylor series around the nearest integer; the error is below 1e-13.
#[inline(always)]
fn sin_pi(t: f64) -> f64 {
    // Adding and subtracting 1.5 x 2^52 rounds to an integer, whose parity stays in the last bit of the sum.
    const TO_INTEGER: f64 = 6_755_399_441_055_744.0;
    let shifted = t + TO_INTEGER;
    let r = PI * (t - (shifted - TO_INTEGER));
    let s = r * r;
    let series = [
        1.0,
        -1.0 / 6.0,
        1.0 / 120.0,
        -1.0 / 5_040.0,
        1.0 / 362_880.0,
        -1.0 / 39_916_800.0,
        1.0 / 6_227_020_800.0,
        -1.0 / 1_307_674_368_000.0,
        1.0 / 355_687_428_096_000.0,
    ];
    let mut sum = series[8];
    for i in (0..8).rev() {
        sum = sum * s + series[i];
    }
    f64::from_bits((r * sum).to_bits() ^ (shifted.to_bits() << 63))
}

#[inline(always)]
fn square(x: f64) -> f64 {
    x * x
}

vectorize! {
    fn quadratic(x: &[f32]) -> f64 {
        0.5 * sum_of(x, square)
    }
}

vectorize! {
    fn cubic(x: &[f32]) -> f64 {
        sum_of(x, |x| square(x) * (x.abs() + 0.5))
    }
}

vectorize! {
    /// The summands before the last one, all but the first term.
    fn levy_sum(x: &[f32]) -> f64 {
        sum_of(x, |x| {
            let v = (x - 1.0) / 4.0;
            square(v) * (1.0 + 10.0 * square(sin_pi(1.0 + v + FRAC_1_PI)))
        })
    }
}

vectorize! {
    fn rosenbrock(x: &[f32]) -> f64 {
        let term = |x: f32, next: f32| {
            let (x, next) = (f64::from(x), f64::from(next));
            100.0 * square(next - square(x)) + square(1.0 - x)
        };
        let mut lanes = [0f64; 8];
        let pairs = x.len().saturating_sub(1);
        let (x, next) = (x[..pairs].chunks_exact(8), x[x.len() - pairs..].chunks_exact(8));
        let rest = x.remainder().iter().zip(next.remainder());
        for (x, next) in x.zip(next) {
            for j in 0..8 {
                lanes[j] += term(x[j], next[j]);
            }
        }
        for (lane, (x, next)) in lanes.iter_mut().zip(rest) {
            *lane += term(*x, *next);
        }
        lanes.iter().sum()
    }
}

fn levy(x: &[f32]) -> f64 {
    let [first, .., last] = x else { return x.first().map_or(0.0, |x| levy_ends(*x, *x)) };
    levy_sum(&x[..x.len() - 1]) + levy_ends(*first, *last)
}

/// The first term, and the summand of the last coordinate.
fn levy_ends(first: f32, last: f32) -> f64 {
    let w = |x: f32| 1.0 + (f64::from(x) - 1.0) / 4.0;
    square(sin_pi(w(first))) + square(w(last) - 1.0) * (1.0 + square(sin_pi(2.0 * w(last))))
}

impl Form {
    /// All of them, by name.
    pub const ALL: [(&'static str, Form); 4] =
        [("quadratic", Form::Quadratic), ("cubic", Form::Cubic), ("levy", Form::Levy), ("rosenbrock", Form::Rosenbrock)];

    /// f(x)
    pub fn value(self, x: &[f32]) -> f64 {
        match self {
            Form::Quadratic => quadratic(x),
            Form::Cubic => cubic(x),
            Form::Levy => levy(x),
            Form::Rosenbrock => rosenbrock(x),
        }
    }

    /// The gradient of f at x: [d].
    pub fn gradient(self, x: &[f64]) -> Vec<f64> {
        let d = x.len();
        match self {
            Form::Quadratic => x.to_vec(),
            Form::Cubic => x.iter().map(|x| x * (3.0 * x.abs() + 1.0)).collect(),
            Form::Levy => (0..d).map(|i| levy_slope(x[i], i == 0, i + 1 == d)).collect(),
            Form::Rosenbrock => {
                let mut g = vec![0.0; d];
                for i in 0..d.saturating_sub(1) {
                    let off = x[i + 1] - x[i] * x[i];
                    g[i] += -400.0 * x[i] * off - 2.0 * (1.0 - x[i]);
                    g[i + 1] += 200.0 * off;
                }
                g
            }
        }
    }

    fn name(self) -> &'static str {
        Form::ALL.iter().find(|(_, form)| *form == self).map_or("", |(name, _)| name)
    }
}

/// The derivative by x of the summands of one coordinate.
fn levy_slope(x: f64, first: bool, last: bool) -> f64 {
    let v = (x - 1.0) / 4.0;
    // d/dw sin^2(a w + b) = a sin(2 (a w + b))
    let sin_2 = |turns: f64| sin_pi(2.0 * turns);
    let mut slope = if first { PI * sin_2(1.0 + v) } else { 0.0 };
    slope += match last {
        true => 2.0 * v * (1.0 + square(sin_pi(2.0 * v))) + square(v) * 2.0 * PI * sin_2(2.0 * v),
        false => {
            let turns = 1.0 + v + FRAC_1_PI;
            2.0 * v * (1.0 + 10.0 * square(sin_pi(turns))) + 10.0 * square(v) * PI * sin_2(turns)
        }
    };
    slope / 4.0
}

/// The distribution of x before the first step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartDistribution {
    /// x ~ N(0, I)
    #[default]
    Gaussian,
    /// Each coordinate is uniform in [-1, 1).
    Uniform,
}

/// One of the functions in R^d. It is no finite sum: its only example is itself.
pub struct Synthetic {
    form: Form,
    d: usize,
    start: StartDistribution,
}

impl Synthetic {
    /// In R^d. Levy and Rosenbrock need two coordinates.
    pub fn new(form: Form, d: usize, start: StartDistribution) -> Result<Self> {
        if d < 2 {
            bail!(usage!("`dimension` {d}: a function in R^d needs 2 variables or more"));
        }
        // The weights in f32, one point beside them, and one copy of a point in f64.
        let bytes = d.saturating_mul(16) as u64;
        if let Some(there) = machine_bytes().filter(|there| bytes > *there) {
            bail!(usage!("`dimension` {d}: it takes {} or more, and this machine has {}", human(bytes), human(there)));
        }
        Ok(Synthetic { form, d, start })
    }
}

impl Function for Synthetic {
    fn name(&self) -> &str {
        self.form.name()
    }

    fn parameters(&self) -> BTreeMap<String, Value> {
        [("function".into(), self.form.name().into()), ("d".into(), self.d.into())].into()
    }

    fn data(&self) -> Data {
        let digest = Digest::of(format!("{} in R^{}", self.form.name(), self.d).as_bytes());
        Data { train: 1, dev: 1, eval: 1, max_length: 0, digest, train_rows: None, eval_rows: None }
    }

    fn losses(&self, points: &[Vec<f32>], of: &[usize]) -> Vec<Vec<f64>> {
        points.iter().map(|x| vec![self.form.value(x); of.len()]).collect()
    }

    fn mean_and_gradient(&self, x: &[f32], _: &[usize]) -> (f64, Vec<f32>) {
        (self.form.value(x), self.form.gradient(&widened(x)).into_iter().map(|g| g as f32).collect())
    }

    fn start(&self, seed: u64) -> Result<Vec<Start>> {
        // Not a direction of any step.
        let seed = mix(seed ^ mix(0x5747_4152_5453));
        let values = match self.start {
            StartDistribution::Gaussian => direction(seed, X, self.d),
            StartDistribution::Uniform => uniform(seed, X, self.d),
        };
        Ok(vec![Start { name: X.into(), shape: vec![self.d], values }])
    }

    fn score(&self, weights: Weights, _: Split, _: &mut dyn FnMut() -> Result<()>) -> Result<Score> {
        let x = read_points(weights.at_theta())?.pop().unwrap_or_default();
        Ok(Score::of_loss(self.form.value(&x)))
    }

    fn gradient(&self, weights: Weights) -> Result<Option<Vec<f64>>> {
        Ok(Some(self.form.gradient(&flat(weights)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definitions, term by term, with the C library's sine.
    fn by_definition(form: Form, x: &[f64]) -> f64 {
        let d = x.len();
        let w: Vec<f64> = x.iter().map(|x| 1.0 + (x - 1.0) / 4.0).collect();
        match form {
            Form::Quadratic => x.iter().map(|x| x * x / 2.0).sum(),
            Form::Cubic => x.iter().map(|x| x.abs().powi(3) + x * x / 2.0).sum(),
            Form::Levy => {
                let middle = |w: &f64| (w - 1.0).powi(2) * (1.0 + 10.0 * (PI * w + 1.0).sin().powi(2));
                (PI * w[0]).sin().powi(2)
                    + w[..d - 1].iter().map(middle).sum::<f64>()
                    + (w[d - 1] - 1.0).powi(2) * (1.0 + (2.0 * PI * w[d - 1]).sin().powi(2))
            }
            Form::Rosenbrock => (0..d - 1).map(|i| 100.0 * (x[i + 1] - x[i] * x[i]).powi(2) + (1.0 - x[i]).powi(2)).sum(),
        }
    }

    #[test]
    fn values_and_gradients_are_those_of_the_definitions() -> Result<()> {
        for (name, form) in Form::ALL {
            for d in [2, 9, 37] {
                let x = direction(7, name, d);
                let wide: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
                let (value, expected) = (form.value(&x), by_definition(form, &wide));
                assert!((value - expected).abs() < 1e-12 * expected.max(1.0), "{name}: {value}, not {expected}");
                let gradient = form.gradient(&wide);
                for i in 0..d {
                    let moved = |by: f64| by_definition(form, &[&wide[..i], &[wide[i] + by], &wide[i + 1..]].concat());
                    let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                    assert!(
                        (gradient[i] - slope).abs() < 1e-6 * slope.abs().max(1.0),
                        "{name} {i}: {}, not {slope}",
                        gradient[i]
                    );
                }
            }
        }
        Ok(())
    }

    #[test]
    fn every_minimum_is_zero() {
        for (form, x) in [(Form::Quadratic, 0.0), (Form::Cubic, 0.0), (Form::Levy, 1.0), (Form::Rosenbrock, 1.0)] {
            assert!(form.value(&[x; 20]).abs() < 1e-24, "{}", form.name());
            assert!(form.gradient(&[f64::from(x); 20]).iter().all(|g| g.abs() < 1e-12), "{}", form.name());
        }
    }
}

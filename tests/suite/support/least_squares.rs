//! Least squares, a finite sum in closed form: f(x) = 1/n sum f_i(x), f_i(x) = (a_i . x - b_i)^2 / 2.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;

use zotune::base::Digest;
use zotune::labs::numbers::{DenseGradient, at_points, flat, widened};
use zotune::labs::{Function, Start};
use zotune::params::{ParamId, Params, Points, Weights};
use zotune::zo::{Batches, Cost, Data, Gradients, LossSum, Objective, Problem, Score, Split};

/// f over the elements of all weights in order, on a mini-batch of its terms.
#[derive(Clone)]
pub struct LeastSquares {
    /// [n][d]
    a: Vec<Vec<f64>>,
    /// [n]
    b: Vec<f64>,
    /// Indices of the mini-batch's terms.
    pub batch: Vec<usize>,
    cost: Cost,
}

impl LeastSquares {
    /// n terms in R^d with a_ij = sin(7 i + 3 j + i j) and b_i = 1 + cos i; the mini-batch is the first `batch` terms.
    pub fn new(n: usize, d: usize, batch: usize) -> Self {
        let a = (0..n).map(|i| (0..d).map(|j| libm::sin((7 * i + 3 * j + i * j) as f64)).collect()).collect();
        let b = (0..n).map(|i| 1.0 + libm::cos(i as f64)).collect();
        LeastSquares { a, b, batch: (0..batch).collect(), cost: Cost::default() }
    }

    /// Selects the mini-batch of `step`: consecutive terms, cyclically.
    pub fn turn_to_step(&mut self, step: u64) {
        let (n, size) = (self.b.len() as u64, self.batch.len() as u64);
        self.batch = (0..size).map(|k| ((step * size + k) % n) as usize).collect();
    }

    /// n
    pub fn num_terms(&self) -> usize {
        self.b.len()
    }

    /// d
    pub fn dimension(&self) -> usize {
        self.a.first().map_or(0, Vec::len)
    }

    fn residual(&self, i: usize, x: &[f64]) -> f64 {
        self.a[i].iter().zip(x).map(|(a, x)| a * x).sum::<f64>() - self.b[i]
    }

    /// f_i(x)
    pub fn value(&self, i: usize, x: &[f64]) -> f64 {
        self.residual(i, x).powi(2) / 2.0
    }

    /// The mean of f_i(x) over the terms `of`.
    pub fn mean(&self, of: &[usize], x: &[f64]) -> f64 {
        of.iter().map(|&i| self.value(i, x)).sum::<f64>() / of.len() as f64
    }

    /// The gradient of that mean: [d].
    pub fn gradient(&self, of: &[usize], x: &[f64]) -> Vec<f64> {
        let mut g = vec![0.0; x.len()];
        for &i in of {
            let r = self.residual(i, x) / of.len() as f64;
            g.iter_mut().zip(&self.a[i]).for_each(|(g, a)| *g += r * a);
        }
        g
    }

    /// The mini-batch's mean at theta.
    pub fn loss(&mut self, weights: Weights) -> Result<f32> {
        Ok(self.mean(&self.batch, &flat(weights)?) as f32)
    }
}

impl Objective for LeastSquares {
    fn losses_at(&mut self, params: &mut Params, points: Points) -> Result<Vec<LossSum>> {
        self.cost.evaluations += points.count() as u64;
        let points = Arc::new(points);
        let losses = at_points(params.settle()?.at(&points))?;
        let sum = |x: Vec<f64>| self.batch.iter().map(|&i| self.value(i, &x)).sum();
        Ok(losses.into_iter().map(|x| LossSum { sum: sum(x), weight: self.batch.len() }).collect())
    }
}

impl Problem for LeastSquares {
    fn begin(&mut self, step: u64) {
        self.turn_to_step(step);
        self.cost = Cost::default();
    }

    fn cost(&self) -> Cost {
        self.cost
    }

    fn objective(&mut self) -> &mut dyn Objective {
        self
    }

    fn num_examples(&self) -> usize {
        self.num_terms()
    }

    fn batch(&self) -> &[usize] {
        &self.batch
    }

    fn example_losses(&mut self, weights: Weights) -> Result<Vec<Vec<f64>>> {
        let points = at_points(weights)?;
        self.cost.example_evaluations += (points.len() * self.num_terms()) as u64;
        Ok(points.into_iter().map(|x| (0..self.num_terms()).map(|i| self.value(i, &x)).collect()).collect())
    }

    fn count_replayed(&mut self) {
        self.cost.evaluations += 1;
    }

    fn count_replayed_full(&mut self) {
        self.cost.example_evaluations += self.num_terms() as u64;
    }

    fn backward<'a>(&'a self, weights: Weights) -> Result<(f32, Box<dyn Gradients + 'a>)> {
        let x = flat(weights)?;
        let gradient = DenseGradient::new(&self.gradient(&self.batch, &x), weights);
        Ok((self.mean(&self.batch, &x) as f32, Box::new(gradient)))
    }

    fn full_gradient(&self, weights: Weights, add: &mut dyn FnMut(ParamId, &[f32])) -> Result<u64> {
        let all: Vec<usize> = (0..self.num_terms()).collect();
        let mut gradients = DenseGradient::new(&self.gradient(&all, &flat(weights)?), weights);
        while let Some(block) = gradients.next(weights)? {
            block.iter().for_each(|(id, gradient)| add(*id, gradient));
        }
        u64::try_from(self.num_terms()).context("too many terms")
    }
}

impl Function for LeastSquares {
    fn name(&self) -> &str {
        "least-squares"
    }

    fn parameters(&self) -> BTreeMap<String, Value> {
        [("n".into(), self.num_terms().into()), ("d".into(), self.dimension().into())].into()
    }

    fn data(&self) -> Data {
        let n = self.num_terms();
        let digest = Digest::of(format!("least squares, n {n}, d {}", self.dimension()).as_bytes());
        Data { train: n, dev: n, eval: n, max_length: 0, digest, train_rows: None, eval_rows: None }
    }

    fn batches(&self) -> Batches {
        Batches::new(self.num_terms(), self.batch.len(), 0)
    }

    fn losses(&self, points: &[Vec<f32>], of: &[usize]) -> Vec<Vec<f64>> {
        let at = |x: &Vec<f32>| {
            let x = widened(x);
            of.iter().map(|&i| self.value(i, &x)).collect()
        };
        points.iter().map(at).collect()
    }

    fn mean_and_gradient(&self, x: &[f32], of: &[usize]) -> (f64, Vec<f32>) {
        let x = widened(x);
        (self.mean(of, &x), self.gradient(of, &x).into_iter().map(|g| g as f32).collect())
    }

    fn start(&self, _: u64) -> Result<Vec<Start>> {
        let d = self.dimension();
        Ok(vec![Start { name: "x".into(), shape: vec![d], values: vec![0.0; d] }])
    }

    fn score(&self, weights: Weights, _: Split, _: &mut dyn FnMut() -> Result<()>) -> Result<Score> {
        let all: Vec<usize> = (0..self.num_terms()).collect();
        Ok(Score::of_loss(self.mean(&all, &flat(weights)?)))
    }
}

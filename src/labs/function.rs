//! What a lab trains: a function of weights, with its start and its scores.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::DType;
use serde_json::Value;

use crate::params::{Params, Weights};
use crate::zo::{Batches, Data, Score, Split, Workload};

/// A weight before training.
pub struct Start {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, as many as the shape says.
    pub values: Vec<f32>,
}

/// A function of weights x in R^d, f(x) = 1/n sum f_i(x); n is 1 if it is no finite sum.
pub trait Function {
    /// Name in results.
    fn name(&self) -> &str;

    /// By name, what the losses depend on besides weights and data.
    fn parameters(&self) -> BTreeMap<String, Value>;

    /// SHA-256 of the files that it is made from, besides the data, by name.
    fn source_files(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    /// Sizes and digests of its examples.
    fn data(&self) -> Data;

    /// The mini-batches of the training examples.
    fn batches(&self) -> Batches {
        Batches::new(1, 1, 0)
    }

    /// f_i of the training examples `of` at each of `points` [points][d]: [points][of].
    fn losses(&self, points: &[Vec<f32>], of: &[usize]) -> Vec<Vec<f64>>;

    /// The mean of f_i over the training examples `of` at x [d], and its gradient [d].
    fn mean_and_gradient(&self, x: &[f32], of: &[usize]) -> (f64, Vec<f32>);

    /// The weights before the first step of a run of this seed.
    fn start(&self, seed: u64) -> Result<Vec<Start>>;

    /// The score of the weights on a split. `proceed` is called between batches; its error ends the work.
    fn score(&self, weights: Weights, split: Split, proceed: &mut dyn FnMut() -> Result<()>) -> Result<Score>;

    /// Number of answers an example offers: chance level is a loss of ln of it.
    fn num_choices(&self) -> usize {
        1
    }

    /// The gradient of f at the weights, all in order: [d]. None: it is not known exactly.
    fn gradient(&self, _weights: Weights) -> Result<Option<Vec<f64>>> {
        Ok(None)
    }

    /// Writes what the lab shows of the trained weights into a run's folder; returns what to add to its results.
    fn show(&self, _weights: Weights, _folder: &Path) -> Result<BTreeMap<String, Value>> {
        Ok(BTreeMap::new())
    }
}

/// A lab as a workload that starts by itself.
pub trait Lab: Workload {
    /// The weights before the first step of a run of this seed, in `dtype`.
    fn start(&self, dtype: DType, seed: u64) -> Result<Params>;

    /// See [`Function::gradient`].
    fn gradient(&self, weights: Weights) -> Result<Option<Vec<f64>>>;

    /// See [`Function::show`].
    fn show(&self, weights: Weights, folder: &Path) -> Result<BTreeMap<String, Value>>;
}

//! A function in R^d as a workload: starts at x = 0, scored by f itself.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use candle_core::DType;
use serde_json::Value;

use super::least_squares::LeastSquares;
use super::numbers::flat;
use crate::base::Digest;
use crate::device::{Array, Buffer};
use crate::params::{Params, Role, Stored, Weights, file};
use crate::zo::{Data, Problem, Score, Split, Workload};

/// Name of the only weight.
const X: &str = "x";

/// File that stores x.
const FILE: &str = "model.safetensors";

/// Least squares over one weight x [d].
pub struct Lab {
    function: LeastSquares,
}

impl Lab {
    /// A workload of this function.
    pub fn new(function: LeastSquares) -> Self {
        Lab { function }
    }

    /// x = 0 in `dtype`.
    pub fn start(&self, dtype: DType) -> Result<Params> {
        let mut params = Params::new(dtype);
        let d = self.function.dimension();
        params.insert(X, Array::new(&[d], Buffer::zeros(dtype, d)?)?)?;
        Ok(params)
    }
}

impl Workload for Lab {
    fn name(&self) -> &str {
        "least-squares"
    }

    fn problem(&self) -> Box<dyn Problem + '_> {
        Box::new(self.function.clone())
    }

    fn score(&self, weights: Weights, _: Split, _: &mut dyn FnMut() -> Result<()>) -> Result<Score> {
        let all: Vec<usize> = (0..self.function.num_terms()).collect();
        let loss = self.function.mean(&all, &flat(weights)?);
        Ok(Score { loss, accuracy: None, answers: None, perplexity: None, activation_peak: 0 })
    }

    fn data(&self) -> Data {
        let n = self.function.num_terms();
        Data {
            train: n,
            dev: n,
            eval: n,
            max_length: 0,
            digest: Digest::of(b"least squares"),
            train_rows: None,
            eval_rows: None,
        }
    }

    fn function(&self) -> BTreeMap<String, Value> {
        [("n".into(), self.function.num_terms().into()), ("d".into(), self.function.dimension().into())].into()
    }

    fn weights_file(&self) -> &'static str {
        FILE
    }

    fn save(&self, weights: Weights, folder: &Path) -> Result<()> {
        let weights: Vec<(String, &Array)> = weights.iter().map(|(name, array)| (name.into(), array)).collect();
        file::save(&weights, &folder.join(FILE))
    }

    fn restore(&self, params: &mut Params, folder: &Path) -> Result<()> {
        file::restore(params, &folder.join(FILE), |name| name)
    }

    fn stored(&self, params: &Params, folder: &Path) -> Result<Vec<Stored>> {
        let digest = file::stored_digests([X].into_iter(), &folder.join(FILE))?.pop().context("no weight is stored")?;
        let trained = params.ids().any(|(id, _)| params.role(id) != Role::Frozen);
        Ok(vec![Stored { name: X.into(), trained, digest }])
    }
}

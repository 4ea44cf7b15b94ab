//! A function as a lab: how its weights are stored.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::function::{Function, Lab, Start};
use super::problem::FunctionProblem;
use crate::device::Array;
use crate::params::{Params, Role, Stored, Weights, file};
use crate::zo::{Data, Problem, Score, Split, Workload};

/// File that stores the weights.
const FILE: &str = "model.safetensors";

/// A function that is trained.
pub struct Trained<F>(pub F);

impl<F: Function> Lab for Trained<F> {
    fn start(&self, dtype: DType, seed: u64) -> Result<Params> {
        let mut params = Params::new(dtype);
        for Start { name, shape, values } in self.0.start(seed)? {
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(dtype)?;
            params.insert(&name, Array::of(&tensor)?)?;
        }
        Ok(params)
    }

    fn gradient(&self, weights: Weights) -> Result<Option<Vec<f64>>> {
        self.0.gradient(weights)
    }

    fn show(&self, weights: Weights, folder: &Path) -> Result<BTreeMap<String, Value>> {
        self.0.show(weights, folder)
    }
}

impl<F: Function> Workload for Trained<F> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn problem(&self) -> Box<dyn Problem + '_> {
        Box::new(FunctionProblem::new(&self.0))
    }

    fn score(&self, weights: Weights, split: Split, proceed: &mut dyn FnMut() -> Result<()>) -> Result<Score> {
        self.0.score(weights, split, proceed)
    }

    fn gradient_norm(&self, weights: Weights) -> Result<Option<f64>> {
        let norm = |gradient: Vec<f64>| gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        Ok(self.0.gradient(weights)?.map(norm))
    }

    fn num_choices(&self) -> usize {
        self.0.num_choices()
    }

    fn data(&self) -> Data {
        self.0.data()
    }

    fn function(&self) -> BTreeMap<String, Value> {
        self.0.parameters()
    }

    fn source_files(&self) -> Result<BTreeMap<String, String>> {
        Ok(self.0.source_files())
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
        let names: Vec<&str> = params.ids().map(|(_, name)| name).collect();
        let digests = file::stored_digests(names.iter().copied(), &folder.join(FILE))?;
        let trained = params.ids().map(|(id, _)| params.role(id) != Role::Frozen);
        let stored = names.iter().zip(trained).zip(digests);
        Ok(stored.map(|((name, trained), digest)| Stored { name: (*name).into(), trained, digest }).collect())
    }
}

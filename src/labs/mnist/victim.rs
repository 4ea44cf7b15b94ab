//! The network that an attack is on: what a run of the lab `mnist` trained.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use serde_json::Value;

use super::network::Network;
use crate::base::hash::sha256;

/// The file of the weights.
const FILE: &str = "model.safetensors";

/// The least accuracy on the test images.
const MIN_ACCURACY: f64 = 0.985;

/// The number of test images.
const NUM_TESTS: f64 = 10_000.0;

/// The weights [d] of the convolutional network in a finished run's folder. A run of something else, or of a network that is right on
/// less than 98.5 % of all test images, is a usage error.
pub fn read(run: &Path) -> Result<Vec<f32>> {
    let place = run.display();
    let results = run.join("all_results.json");
    if !results.is_file() {
        bail!(usage!(
            "`model` {place}: it has no all_results.json; give the folder of a finished run of `lab mnist` with `network cnn`"
        ));
    }
    let text = std::fs::read(&results).with_context(|| format!("cannot read {}", results.display()))?;
    let results: Value = serde_json::from_slice(&text).map_err(|error| usage!("{}: {error}", results.display()))?;
    if results["task"] != "mnist" {
        bail!(usage!(
            "`model` {place}: it is a run of {}; give the folder of a run of `lab mnist` with `network cnn`",
            results["task"].as_str().unwrap_or("something else")
        ));
    }
    let Some(accuracy) = results["eval_accuracy"].as_f64() else {
        bail!(usage!("`model` {place}: its all_results.json has no eval_accuracy; train the network again"));
    };
    let num_tests = (results["eval_answers"]["correct"].as_f64().unwrap_or_default() / accuracy).round();
    if num_tests < NUM_TESTS {
        bail!(usage!(
            "`model` {place}: its accuracy was measured on {num_tests} images; train it without `num_eval`, which takes all \
             {NUM_TESTS} test images"
        ));
    }
    if accuracy < MIN_ACCURACY {
        bail!(usage!(
            "`model` {place}: it is right on {:.2} % of the test images, and an attack is on one that is right on {:.1} %; train it \
             longer (`max_steps`) or at another `learning_rate`",
            100.0 * accuracy,
            100.0 * MIN_ACCURACY
        ));
    }
    weights(&run.join(FILE))
}

/// The file of the weights in a run's folder, with its SHA-256.
pub fn source(run: &Path) -> Result<BTreeMap<String, String>> {
    let path = run.join(FILE);
    let mut file = File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok([(FILE.into(), sha256(&mut file)?)].into())
}

/// All weights of the convolutional network, from a file in any precision.
fn weights(path: &Path) -> Result<Vec<f32>> {
    let stored =
        candle_core::safetensors::load(path, &Device::Cpu).with_context(|| format!("cannot read {}", path.display()))?;
    let mut weights = Vec::with_capacity(Network::Cnn.num_weights());
    for (name, shape) in Network::Cnn.shapes() {
        match stored.get(name).filter(|tensor| tensor.dims() == shape) {
            Some(tensor) => weights.extend(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?),
            None => bail!(usage!("{}: it has no {name} {shape:?}, which `network cnn` has", path.display())),
        }
    }
    Ok(weights)
}

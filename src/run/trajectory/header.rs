//! The header of a trajectory.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::Digest;
use crate::config::RunConfig;
use crate::device::Array;
use crate::device::cpu::simd;
use crate::params::digest::array_digests;
use crate::params::{Params, Role};
use crate::zo::{Data, Workload, methods};

/// The header of a trajectory: everything that determines the meaning of its values.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The version and commit of zotune that wrote it.
    pub zotune: String,
    /// The instruction set: it determines the summation order of matrix products.
    pub instruction_set: String,
    /// The run's config, resolved.
    pub config: RunConfig,
    /// The definition of the method, with its numbers.
    pub method: String,
    /// SHA-256 of the base model's files, by name.
    pub model: BTreeMap<String, String>,
    /// The weights before the first step.
    pub weights: Vec<Weight>,
    /// The examples.
    pub data: Data,
    /// The parameters of the loss beside weights and data, by name: the model's numbers, the task's loss. Empty in
    /// older logs.
    #[serde(default)]
    pub function: BTreeMap<String, Value>,
    /// Whether the run follows from the values: it uses no first-order gradients.
    pub replays: bool,
}

/// A weight before the first step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// Its name in the model.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// The digest of its bytes, in the precision held.
    pub digest: Digest,
}

/// The version and commit of this program.
pub fn version() -> String {
    format!("{} {}", env!("CARGO_PKG_VERSION"), env!("ZOTUNE_COMMIT"))
}

impl Header {
    /// The header of a run of `workload` from these weights.
    pub fn new(config: &RunConfig, method: &str, workload: &dyn Workload, params: &mut Params) -> Result<Self> {
        let replays = !params.ids().any(|(id, _)| params.role(id) == Role::Differentiated);
        Ok(Header {
            zotune: version(),
            instruction_set: simd::instruction_set().into(),
            config: config.clone(),
            method: method.into(),
            model: workload.source_files()?,
            weights: Weight::all(params)?,
            data: workload.data(),
            function: workload.function(),
            replays: replays && methods::method(&config.optimizer)?.replays(),
        })
    }

    /// Refuses extreme values. The checksum detects damage, not forgery.
    pub(super) fn check(&self) -> Result<()> {
        self.config.check_extremes().context("its header has values that no run can have")
    }
}

impl Weight {
    /// All weights with their present values.
    pub fn all(params: &mut Params) -> Result<Vec<Self>> {
        let weights = params.settle()?;
        let digests = array_digests(weights.iter().map(|(_, array)| array))?;
        let weight =
            |((name, array), digest): ((&str, &Array), _)| Weight { name: name.into(), shape: array.shape().into(), digest };
        Ok(weights.iter().zip(digests).map(weight).collect())
    }
}

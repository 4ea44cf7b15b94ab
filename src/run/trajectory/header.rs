//! What a trajectory begins with.

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

/// What a trajectory begins with: all that its values' meaning depends on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The program that wrote it.
    pub zotune: String,
    /// What the losses were computed with: matrix products add up in another order on another instruction set.
    pub instruction_set: String,
    /// The run's, resolved.
    pub config: RunConfig,
    /// The method with its numbers filled in.
    pub method: String,
    /// SHA-256 of the base model's files, by name.
    pub model: BTreeMap<String, String>,
    /// The weights that the run began from.
    pub weights: Vec<Weight>,
    /// What it trains on.
    pub data: Data,
    /// What the losses are computed with beside weights and data, by name: the model's numbers, the task's loss. An older log has none.
    #[serde(default)]
    pub function: BTreeMap<String, Value>,
    /// Whether the values are all there is to know. A first-order gradient is not in them.
    pub replays: bool,
}

/// A weight that a run begins from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// As the model names it.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Of its bytes as they are held.
    pub digest: Digest,
}

impl Header {
    /// Of a run of `workload` that begins with these weights.
    pub fn new(config: &RunConfig, method: &str, workload: &dyn Workload, params: &mut Params) -> Result<Self> {
        let replays = !params.ids().any(|(id, _)| params.role(id) == Role::Differentiated);
        Ok(Header {
            zotune: format!("{} {}", env!("CARGO_PKG_VERSION"), env!("ZOTUNE_COMMIT")),
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

    /// Refuses what no run asks for. A sum says that a header is as it was written, not by whom.
    pub(super) fn check(&self) -> Result<()> {
        self.config.check_extremes().context("its header has values that no run can have")
    }
}

impl Weight {
    /// All weights as they stand.
    pub fn all(params: &mut Params) -> Result<Vec<Self>> {
        let weights = params.settle()?;
        let digests = array_digests(weights.iter().map(|(_, array)| array))?;
        let weight =
            |((name, array), digest): ((&str, &Array), _)| Weight { name: name.into(), shape: array.shape().into(), digest };
        Ok(weights.iter().zip(digests).map(weight).collect())
    }
}

//! The records of a log.

use serde::{Deserialize, Serialize};

use crate::base::Digest;

/// The log's file name in a run folder.
pub const FILE: &str = "trajectory.bin";

/// A score on a split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The task's loss, mean over the split, in nats.
    pub loss: f64,
    /// The share of examples answered right; None for a task without candidates.
    pub accuracy: Option<f64>,
    /// The digest of the trained weights.
    pub digest: Digest,
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The step whose weights are kept: the one with the lowest dev loss.
    pub best_step: u64,
    /// The digests of its trained weights, in order.
    pub digests: Vec<Digest>,
}

/// A record of a log.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The next step's function values, in the order its estimator requested them.
    Step(Vec<f32>),
    /// The score on dev of the weights after the last step.
    Dev(Scored),
    /// The score on the evaluation split before the first step.
    Untrained(Scored),
    /// The run is extended to so many steps.
    Extended(u64),
    /// All steps are made and the best weights kept.
    Done(Done),
}

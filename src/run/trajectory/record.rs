//! What a log says after its header, record by record.

use serde::{Deserialize, Serialize};

use crate::base::Digest;

/// The log's name in a run folder.
pub const FILE: &str = "trajectory.bin";

/// A score on a split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The task's loss, mean over the split.
    pub loss: f64,
    /// The share of examples that came out right; None where there is nothing to choose from.
    pub accuracy: Option<f64>,
    /// Of the weights that were scored.
    pub digest: Digest,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The step whose weights were kept: the one with the best dev loss.
    pub best_step: u64,
    /// Of each of their tensors, in order.
    pub digests: Vec<Digest>,
}

/// What a log says after its header, piece by piece.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The next step's function values, in the order in which its estimator asked for them.
    Step(Vec<f32>),
    /// The score on dev of the weights after the last step.
    Dev(Scored),
    /// The score on the evaluation split before the first.
    Untrained(Scored),
    /// From here on the run is to have so many steps.
    Extended(u64),
    /// All steps were made and the best weights kept.
    Done(Done),
}

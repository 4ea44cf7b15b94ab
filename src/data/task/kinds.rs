//! Losses, metrics, and parts of a data set.

use serde::{Deserialize, Serialize};

/// The training loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Cross-entropy over the candidates of each example, with the mean log-probability of their answer tokens as
    /// scores; mean over the examples.
    Classification,
    /// Cross-entropy of the right candidate's answer tokens, mean over all such tokens of the batch.
    TeacherForcing,
}

/// The metric on the evaluation examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The share of examples whose best-scored candidate is the right one.
    Accuracy,
    /// The mean loss per token, for tasks with a single candidate.
    Loss,
}

/// The sizes of the splits; None: the default, MeZO's or limited by the data.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Training rows.
    pub num_train: Option<usize>,
    /// Rows for choosing among weights, drawn from the training file unless there is a dev file.
    pub num_dev: Option<usize>,
    /// Rows of the evaluation file.
    pub num_eval: Option<usize>,
}

/// The part of a data set that a file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Training.
    Train,
    /// Choosing among weights.
    Dev,
    /// The reported scores.
    Eval,
}

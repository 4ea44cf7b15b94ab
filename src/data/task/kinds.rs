//! The kinds of losses, metrics and splits.

use serde::{Deserialize, Serialize};

/// What is minimised on the training examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Cross-entropy over the candidates of each example, scored by the mean log-probability of their answer tokens;
    /// mean over the examples.
    Classification,
    /// Cross-entropy of the answer tokens of the right candidate, mean over all of them in the batch.
    TeacherForcing,
}

/// What is reported on the evaluation examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The share of examples whose best-scored candidate is the right one.
    Accuracy,
    /// The mean loss of a token: all that there is to say where the answer is not chosen out of several.
    Loss,
}

/// How many examples each split takes; None: MeZO's number, or as many as there are.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Rows to train on.
    pub num_train: Option<usize>,
    /// Rows of the training file to choose among weights by.
    pub num_dev: Option<usize>,
    /// Rows of the evaluation file.
    pub num_eval: Option<usize>,
}

/// What a data file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// What is trained on.
    Train,
    /// What chooses the weights.
    Dev,
    /// What is reported.
    Eval,
}

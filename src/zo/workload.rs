//! Workloads of a run: a language task ([`crate::prompt`]) or a function in R^d ([`crate::labs`]).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::DType;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::Problem;
use super::score::Answers;
use crate::base::Digest;
use crate::params::{Params, Stored, Weights};

/// A problem over a training set, scores of its weights, and the files that store them.
pub trait Workload {
    /// Name in results.
    fn name(&self) -> &str;

    /// The problem over the training set, at its first step.
    fn problem(&self) -> Box<dyn Problem + '_>;

    /// The score of the weights on a split. `proceed` is called between batches; its error ends the work.
    fn score(&self, weights: Weights, split: Split, proceed: &mut dyn FnMut() -> Result<()>) -> Result<Score>;

    /// The norm of the gradient of the function that is minimised. None: it takes backpropagation over all examples.
    fn gradient_norm(&self, _weights: Weights) -> Result<Option<f64>> {
        Ok(None)
    }

    /// Number of answers an example offers: chance level is a loss of ln of it.
    fn num_choices(&self) -> usize {
        1
    }

    /// The training set and the splits for scores.
    fn data(&self) -> Data;

    /// By name, what the losses depend on besides weights and data.
    fn function(&self) -> BTreeMap<String, Value> {
        BTreeMap::new()
    }

    /// SHA-256 of the files of the initial weights, by name.
    fn source_files(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }

    /// The weights' file name in a run's folder.
    fn weights_file(&self) -> &'static str;

    /// Writes the weights into a folder, atomically.
    fn save(&self, weights: Weights, folder: &Path) -> Result<()>;

    /// Reads weights written by [`Workload::save`], in place. Frozen weights do not change.
    fn restore(&self, params: &mut Params, folder: &Path) -> Result<()>;

    /// Names, roles and digests of the weights that [`Workload::save`] wrote into a folder.
    fn stored(&self, params: &Params, folder: &Path) -> Result<Vec<Stored>>;

    /// Names of the files that [`Workload::write_companions`] may write.
    fn companions(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Writes the files that other tools need besides the weights, which are in `dtype`.
    fn write_companions(&self, _folder: &Path, _dtype: DType) -> Result<()> {
        Ok(())
    }
}

/// The data of a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Selects the best weights.
    Dev,
    /// Reported.
    Eval,
}

/// The score of weights on a split.
#[derive(Clone, Copy, Debug)]
pub struct Score {
    /// Mean loss.
    pub loss: f64,
    /// Share of correct answers; None without a choice of answers.
    pub accuracy: Option<f64>,
    /// Statistics of the accuracy.
    pub answers: Option<Answers>,
    /// e^loss, if the loss is a mean over tokens and the only metric.
    pub perplexity: Option<f64>,
    /// Peak bytes of a forward pass.
    pub activation_peak: usize,
}

impl Score {
    /// Of a function that has a loss and nothing else.
    pub fn of_loss(loss: f64) -> Self {
        Score { loss, accuracy: None, answers: None, perplexity: None, activation_peak: 0 }
    }
}

/// Sizes and digests of a run's data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Examples in the training split.
    pub train: usize,
    /// Examples in the dev split.
    pub dev: usize,
    /// Examples in the evaluation split.
    pub eval: usize,
    /// Length in tokens that prompts are cut to.
    pub max_length: usize,
    /// Digest of all tokens and labels.
    pub digest: Digest,
    /// Digest of the rows of the training and dev splits. None in an older log, or for a problem without rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_rows: Option<Digest>,
    /// Digest of the rows of the evaluation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_rows: Option<Digest>,
}

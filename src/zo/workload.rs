//! What is trained, as a run sees it: a language task ([`crate::prompt`]), a function in R^d ([`crate::labs`]).

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

/// A problem over a training set, a score of its weights, and the files that keep them.
pub trait Workload {
    /// As results name it.
    fn name(&self) -> &str;

    /// The problem over the training set, at its first step.
    fn problem(&self) -> Box<dyn Problem + '_>;

    /// The score of the weights on a split. `proceed` is asked now and then whether to go on, and ends the work by an error.
    fn score(&self, weights: Weights, split: Split, proceed: &mut dyn FnMut() -> Result<()>) -> Result<Score>;

    /// Answers that an example has to choose from: guessing costs ln of it.
    fn num_choices(&self) -> usize {
        1
    }

    /// The training set and the splits that scores are taken on.
    fn data(&self) -> Data;

    /// What the losses are computed with beside weights and data, by name.
    fn function(&self) -> BTreeMap<String, Value> {
        BTreeMap::new()
    }

    /// SHA-256 of the files that the first weights were read from, by name.
    fn source_files(&self) -> Result<BTreeMap<String, String>> {
        Ok(BTreeMap::new())
    }

    /// The file in a run's folder that keeps the weights.
    fn weights_file(&self) -> &'static str;

    /// Writes the weights into a folder: whole or not at all.
    fn save(&self, weights: Weights, folder: &Path) -> Result<()>;

    /// Reads what [`Workload::save`] wrote back into the same weights, in place. Frozen weights stay as they are.
    fn restore(&self, params: &mut Params, folder: &Path) -> Result<()>;

    /// The weights that [`Workload::save`] wrote into a folder, as they are there.
    fn stored(&self, params: &Params, folder: &Path) -> Result<Vec<Stored>>;

    /// Names of the files that [`Workload::write_companions`] may write.
    fn companions(&self) -> Vec<&'static str> {
        Vec::new()
    }

    /// Writes what others need beside the weights, which are held in `dtype`.
    fn write_companions(&self, _folder: &Path, _dtype: DType) -> Result<()> {
        Ok(())
    }
}

/// What weights are scored on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Chooses the weights that are kept.
    Dev,
    /// Is reported.
    Eval,
}

/// What a score of weights on a split found.
#[derive(Clone, Copy, Debug)]
pub struct Score {
    /// The mean loss.
    pub loss: f64,
    /// The share of right answers; None where there is nothing to choose from.
    pub accuracy: Option<f64>,
    /// What that share is worth.
    pub answers: Option<Answers>,
    /// e to the loss, where that is a mean over tokens and all there is to report.
    pub perplexity: Option<f64>,
    /// The most bytes that a forward pass held.
    pub activation_peak: usize,
}

/// The examples of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Examples in the training split.
    pub train: usize,
    /// In the dev split.
    pub dev: usize,
    /// In the evaluation split.
    pub eval: usize,
    /// Longer prompts are cut to this, in tokens.
    pub max_length: usize,
    /// Of all their tokens and labels.
    pub digest: Digest,
    /// Of the rows that the training and dev splits were made of. An older log has none, nor has a problem without rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_rows: Option<Digest>,
    /// Of those of the evaluation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_rows: Option<Digest>,
}

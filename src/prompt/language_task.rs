//! A language task as a workload.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use candle_core::DType;
use serde_json::Value;

use super::evaluate::evaluate;
use super::prompt_loss::PromptLoss;
use crate::base::Digest;
use crate::base::hash::sha256;
use crate::data::Example;
use crate::data::task::{Loss, Metric, Splits, Task};
use crate::model::Model;
use crate::params::{Params, Stored, Weights};
use crate::zo::{Batches, Data, Problem, Score, Split, Workload};

/// A task's examples with a model, whose weights are in [`Params`].
pub struct LanguageTask<'a> {
    /// The model.
    pub model: &'a Model,
    /// Defines loss and metric.
    pub task: &'a Task,
    /// The tokenised splits.
    pub examples: &'a Splits<Example>,
    /// The maximum length of an example, in tokens.
    pub max_length: usize,
    /// Examples per mini-batch.
    pub batch_size: usize,
    /// Examples per forward pass in training.
    pub micro_batch_size: usize,
    /// Examples per forward pass in evaluations.
    pub eval_batch_size: usize,
    /// Mini-batches per step: one per direction, or 1.
    pub batches_per_step: usize,
    /// The seed of the mini-batches.
    pub seed: u64,
    /// The name of the base model, for an adapter's config.
    pub base: &'a str,
}

impl Workload for LanguageTask<'_> {
    fn name(&self) -> &str {
        &self.task.name
    }

    fn problem(&self) -> Box<dyn Problem + '_> {
        let batches = Batches::new(self.examples.train.len(), self.batch_size, self.seed);
        let loss = PromptLoss::new(self.model, self.task.loss, &self.examples.train, batches, self.micro_batch_size);
        Box::new(loss.with_batches_per_step(self.batches_per_step))
    }

    fn score(&self, weights: Weights, split: Split, proceed: &mut dyn FnMut() -> Result<()>) -> Result<Score> {
        let examples = match split {
            Split::Dev => &self.examples.dev,
            Split::Eval => &self.examples.eval,
        };
        let found = evaluate(self.model, weights, examples, self.task.loss, self.eval_batch_size, |_| proceed())?;
        Ok(Score {
            loss: found.loss,
            accuracy: found.accuracy,
            answers: found.answers,
            perplexity: (self.task.metric == Metric::Loss).then(|| found.loss.exp()),
            activation_peak: found.activation_peak,
        })
    }

    fn num_choices(&self) -> usize {
        match self.task.loss {
            Loss::Classification => self.examples.train.iter().map(|e| e.candidates.len()).max().unwrap_or(1),
            Loss::TeacherForcing => self.model.shape().vocab_size,
        }
    }

    fn data(&self) -> Data {
        data(self.examples, self.max_length)
    }

    fn function(&self) -> BTreeMap<String, Value> {
        let of_task = [("loss", serde_json::to_value(self.task.loss)), ("metric", serde_json::to_value(self.task.metric))];
        let of_task = of_task.into_iter().map(|(name, value)| (format!("task {name}"), value.unwrap_or_default()));
        model_function(self.model).into_iter().chain(of_task).collect()
    }

    fn source_files(&self) -> Result<BTreeMap<String, String>> {
        let hash = |name: &String| Ok((name.clone(), sha256(&mut self.model.source().open(name)?.0)?));
        self.model.weight_files().iter().map(hash).collect()
    }

    fn weights_file(&self) -> &'static str {
        self.model.file()
    }

    fn save(&self, weights: Weights, folder: &Path) -> Result<()> {
        self.model.save(weights, folder)
    }

    fn restore(&self, params: &mut Params, folder: &Path) -> Result<()> {
        self.model.restore(params, folder)
    }

    fn stored(&self, params: &Params, folder: &Path) -> Result<Vec<Stored>> {
        self.model.stored(params, folder)
    }

    fn companions(&self) -> Vec<&'static str> {
        Model::companions().collect()
    }

    fn write_companions(&self, folder: &Path, dtype: DType) -> Result<()> {
        self.model.write_companions(folder, dtype, self.base)
    }
}

/// The parameters of the model's function, by name.
pub fn model_function(model: &Model) -> BTreeMap<String, Value> {
    model.numbers().into_iter().map(|(name, number)| (format!("model {name}"), number)).collect()
}

/// The identity of a run's examples.
fn data(examples: &Splits<Example>, max_length: usize) -> Data {
    let Splits { train, dev, eval } = examples;
    let mut numbers = Vec::new();
    for split in [train, dev, eval] {
        numbers.push(split.len());
        for example in split {
            numbers.extend([example.label, example.candidates.len()]);
            for candidate in &example.candidates {
                numbers.extend([candidate.option_len, candidate.tokens.len()]);
                numbers.extend(candidate.tokens.iter().map(|token| *token as usize));
            }
        }
    }
    let bytes: Vec<u8> = numbers.into_iter().flat_map(|n| (n as u64).to_le_bytes()).collect();
    let rows = |splits: &[&Vec<Example>]| {
        let digests: Vec<Digest> = splits.iter().flat_map(|split| split.iter().map(|example| example.row)).collect();
        Some(Digest::of_digests(&digests))
    };
    Data {
        train: train.len(),
        dev: dev.len(),
        eval: eval.len(),
        max_length,
        digest: Digest::of(&bytes),
        train_rows: rows(&[train, dev]),
        eval_rows: rows(&[eval]),
    }
}

//! The weights as they stand -> one f32.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::data::{Batch, Example, Pick};
use crate::memory;
use crate::model::Model;
use crate::params::Weights;
use crate::task::Loss;

/// A function of the weights. It sees [`Weights`], so everything pending has been settled.
pub trait Objective {
    /// The value at the weights as they stand.
    fn loss(&mut self, weights: Weights) -> Result<f32>;
}

/// The log-probability of a candidate's answer: the sum over its tokens, and how many they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// ln p of the answer.
    pub sum: f64,
    /// Tokens in the answer.
    pub tokens: usize,
}

impl Score {
    /// Mean log-probability of the answer's tokens: what candidates are compared by.
    pub fn mean(self) -> f64 {
        self.sum / self.tokens as f64
    }
}

/// The scores of a batch's candidates: for each example, one for each candidate that was packed.
pub fn scores(model: &Model, weights: Weights, batch: &Batch) -> Result<Vec<Vec<Score>>> {
    let mut scores: Vec<Vec<Score>> = batch.examples.iter().map(|e| vec![Score::default(); e.num_candidates]).collect();
    for (prediction, log_prob) in batch.predictions.iter().zip(model.log_probs(weights, batch)?) {
        let score = &mut scores[prediction.example][prediction.candidate];
        score.sum += f64::from(log_prob);
        score.tokens += 1;
    }
    Ok(scores)
}

/// A mean in the making: micro-batches and evaluations add to it, and the result is that of one large batch.
#[derive(Clone, Copy, Debug, Default)]
pub struct LossSum {
    sum: f64,
    weight: usize,
}

impl LossSum {
    /// Adds one example, given the scores of its packed candidates and which of them is right.
    pub fn add(&mut self, loss: Loss, scores: &[Score], right: usize) {
        match loss {
            Loss::Classification => {
                let max = scores.iter().map(|s| s.mean()).fold(f64::NEG_INFINITY, f64::max);
                let log_sum = max + scores.iter().map(|s| (s.mean() - max).exp()).sum::<f64>().ln();
                self.sum += log_sum - scores[right].mean();
                self.weight += 1;
            }
            Loss::TeacherForcing => {
                self.sum -= scores[right].sum;
                self.weight += scores[right].tokens;
            }
        }
    }

    /// The mean over what was added.
    pub fn mean(&self) -> f64 {
        self.sum / self.weight as f64
    }
}

/// The prompt loss of one step's examples, in micro-batches.
pub struct PromptLoss<'a> {
    model: &'a Model,
    loss: Loss,
    micro_batches: Vec<Batch>,
    cost: Cost,
}

/// What evaluating an objective took so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Forward passes: one for each micro-batch of each evaluation.
    pub forwards: u64,
    /// Tokens fed in them.
    pub tokens: u64,
    /// Wall time in them.
    pub time: Duration,
    /// The most bytes that a forward held beside what was there before it.
    pub activation_peak: usize,
}

impl<'a> PromptLoss<'a> {
    /// Packs `examples` into micro-batches of at most `micro_batch_size`; the loss is that of all of them together.
    pub fn new(model: &'a Model, loss: Loss, examples: &[&Example], micro_batch_size: usize) -> Self {
        let pick = match loss {
            Loss::Classification => Pick::All,
            Loss::TeacherForcing => Pick::Right,
        };
        let micro_batches = examples.chunks(micro_batch_size).map(|part| Batch::pack(part.iter().copied(), pick)).collect();
        PromptLoss { model, loss, micro_batches, cost: Cost::default() }
    }

    /// Tokens that one evaluation feeds.
    pub fn num_tokens(&self) -> usize {
        self.micro_batches.iter().map(Batch::num_tokens).sum()
    }

    /// What it took so far.
    pub fn cost(&self) -> Cost {
        self.cost
    }
}

impl Objective for PromptLoss<'_> {
    fn loss(&mut self, weights: Weights) -> Result<f32> {
        let start = Instant::now();
        let mut total = LossSum::default();
        for batch in &self.micro_batches {
            let (scores, held) = memory::peak_of(|| scores(self.model, weights, batch));
            for (example, scores) in batch.examples.iter().zip(scores?) {
                total.add(self.loss, &scores, example.right);
            }
            self.cost.forwards += 1;
            self.cost.tokens += batch.num_tokens() as u64;
            self.cost.activation_peak = self.cost.activation_peak.max(held);
        }
        self.cost.time += start.elapsed();
        Ok(total.mean() as f32)
    }
}

//! The task's metric, by scoring candidates; of completions there is only the loss.

use anyhow::Result;
use serde::Serialize;

use crate::batch::{Batch, Pick};
use crate::data::Example;
use crate::error::NotFinite;
use crate::loss::{LossSum, Score, scores};
use crate::memory;
use crate::model::Model;
use crate::params::Weights;
use crate::task::Loss;

/// What an evaluation found.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The task's loss, mean as in training.
    pub loss: f64,
    /// The share of examples whose best-scored candidate is the right one; None where there is nothing to choose from.
    pub accuracy: Option<f64>,
    /// What that is worth.
    pub answers: Option<Answers>,
    /// Every example's scores, in order.
    pub examples: Vec<Scored>,
    /// The most bytes that a forward pass held.
    pub activation_peak: usize,
}

/// What an accuracy is worth: how sure it is, and what knowing nothing of the rows would give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Answers {
    /// Rows that came out right.
    pub correct: usize,
    /// 95 % interval of the accuracy on rows like these: Wilson's, which holds for few rows too.
    pub accuracy_low: f64,
    /// Its upper end.
    pub accuracy_high: f64,
    /// The share of the rows that have the most frequent answer.
    pub majority_share: f64,
    /// The most frequent answer.
    pub majority_answer: usize,
    /// The answer that every row was given, where they were all given one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_answer: Option<usize>,
}

impl Answers {
    fn of(scored: &[Scored]) -> Self {
        let correct = scored.iter().filter(|s| s.prediction == s.label).count();
        let mut counts = vec![0; scored.iter().map(|s| s.label + 1).max().unwrap_or(1)];
        scored.iter().for_each(|s| counts[s.label] += 1);
        let majority = (1..counts.len()).fold(0, |best, i| if counts[i] > counts[best] { i } else { best });
        let (low, high) = wilson(correct, scored.len());
        let first = scored.first().map(|s| s.prediction);
        Answers {
            correct,
            accuracy_low: low,
            accuracy_high: high,
            majority_share: counts[majority] as f64 / scored.len().max(1) as f64,
            majority_answer: majority,
            only_answer: first.filter(|first| scored.len() > 1 && scored.iter().all(|s| s.prediction == *first)),
        }
    }
}

/// The 95 % interval of a share of which `right` of `count` draws came out right (Wilson 1927).
pub fn wilson(right: usize, count: usize) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let n = count.max(1) as f64;
    let p = right as f64 / n;
    let middle = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let whole = 1.0 + Z * Z / n;
    (((middle - half) / whole).max(0.0), ((middle + half) / whole).min(1.0))
}

/// One example's scores.
#[derive(Clone, Debug, Serialize)]
pub struct Scored {
    /// The row's place in its data file, from 0.
    pub index: usize,
    /// The candidate that is right.
    pub label: usize,
    /// The candidate with the largest score, the first on ties.
    pub prediction: usize,
    /// Mean log-probability of each candidate's answer tokens.
    pub scores: Vec<f64>,
}

/// Scores all candidates of `examples`, `batch_size` examples at a time; `done` is told how many are through,
/// and may end it. A loss that
/// is not a number is an error ([`NotFinite`]).
pub fn evaluate(
    model: &Model,
    weights: Weights,
    examples: &[Example],
    loss: Loss,
    batch_size: usize,
    mut done: impl FnMut(usize) -> Result<()>,
) -> Result<Evaluation> {
    let mut total = LossSum::default();
    let (mut scored, mut activation_peak) = (Vec::with_capacity(examples.len()), 0);
    for part in examples.chunks(batch_size) {
        let batch = Batch::pack(part, Pick::All);
        let (found, held) = memory::peak_of(|| scores(model, weights, &batch));
        activation_peak = activation_peak.max(held);
        for (example, scores) in part.iter().zip(found?) {
            total += LossSum::of_example(loss, &scores, example.label);
            scored.push(judge(example, &scores));
        }
        done(scored.len())?;
    }
    let loss = total.mean();
    if !loss.is_finite() {
        return Err(NotFinite { place: "in an evaluation".into(), losses: vec![loss] }.into());
    }
    let is_choice = examples.iter().any(|example| example.candidates.len() > 1);
    let answers = is_choice.then(|| Answers::of(&scored));
    let accuracy = answers.map(|answers| answers.correct as f64 / scored.len() as f64);
    Ok(Evaluation { loss, accuracy, answers, examples: scored, activation_peak })
}

fn judge(example: &Example, scores: &[Score]) -> Scored {
    let means: Vec<f64> = scores.iter().map(|s| s.mean()).collect();
    let prediction = (1..means.len()).fold(0, |best, i| if means[i] > means[best] { i } else { best });
    Scored { index: example.index, label: example.label, prediction, scores: means }
}

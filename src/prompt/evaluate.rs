//! The task's metric over a split; for completions only the loss.

use anyhow::Result;
use serde::Serialize;

use super::loss::{Score, example_loss, scores};
use crate::base::{NotFinite, memory};
use crate::data::task::Loss;
use crate::data::{Batch, Example, Pick};
use crate::model::Model;
use crate::params::Weights;
use crate::zo::{Answers, LossSum};

/// The result of an evaluation.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The task's loss, mean as in training, in nats.
    pub loss: f64,
    /// The share of examples whose best-scored candidate is the right one; None for a single candidate.
    pub accuracy: Option<f64>,
    /// Statistics of the accuracy; None likewise.
    pub answers: Option<Answers>,
    /// The scores of every example, in order.
    pub examples: Vec<Scored>,
    /// The most bytes that a forward pass allocated.
    pub activation_peak: usize,
}

/// The scores of one example.
#[derive(Clone, Debug, Serialize)]
pub struct Scored {
    /// The row's index in its data file, from 0.
    pub index: usize,
    /// Index of the right candidate.
    pub label: usize,
    /// The candidate with the largest score, the first on ties.
    pub prediction: usize,
    /// The mean log-probability of each candidate's answer tokens.
    pub scores: Vec<f64>,
}

/// Scores all candidates of `examples`, `batch_size` examples per forward pass. `done` gets the number of examples so
/// far; its error ends the evaluation. A loss that is not finite is an error ([`NotFinite`]).
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
            total += example_loss(loss, &scores, example.label);
            scored.push(judge(example, &scores));
        }
        done(scored.len())?;
    }
    let loss = total.mean();
    if !loss.is_finite() {
        return Err(NotFinite { place: "in an evaluation".into(), losses: vec![loss], say: None }.into());
    }
    let is_choice = examples.iter().any(|example| example.candidates.len() > 1);
    let answers = is_choice.then(|| Answers::of(&scored.iter().map(|s| (s.prediction, s.label)).collect::<Vec<_>>()));
    let accuracy = answers.map(|answers| answers.correct as f64 / scored.len() as f64);
    Ok(Evaluation { loss, accuracy, answers, examples: scored, activation_peak })
}

fn judge(example: &Example, scores: &[Score]) -> Scored {
    Scored::of(example.index, example.label, scores.iter().map(|s| s.mean()).collect())
}

impl Scored {
    /// From the scores of an example's candidates.
    pub fn of(index: usize, label: usize, scores: Vec<f64>) -> Self {
        let prediction = (1..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
        Scored { index, label, prediction, scores }
    }
}

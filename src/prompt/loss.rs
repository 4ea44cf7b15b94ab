//! From log-probabilities to a task's loss: candidates' scores, what an example adds to the mean, and the slope of it.

use anyhow::Result;

use crate::data::Batch;
use crate::data::task::Loss;
use crate::model::Model;
use crate::params::Weights;
use crate::zo::LossSum;

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
    Ok(gathered(batch, &model.log_probs(weights, batch)?))
}

/// The scores that the log-probabilities of a batch's predictions amount to.
pub fn gathered(batch: &Batch, log_probs: &[f32]) -> Vec<Vec<Score>> {
    let mut scores: Vec<Vec<Score>> = batch.examples.iter().map(|e| vec![Score::default(); e.num_candidates]).collect();
    for (prediction, log_prob) in batch.predictions.iter().zip(log_probs) {
        let score = &mut scores[prediction.example][prediction.candidate];
        score.sum += f64::from(*log_prob);
        score.tokens += 1;
    }
    scores
}

/// One example's, given the scores of its packed candidates and which of them is right.
pub fn example_loss(loss: Loss, scores: &[Score], right: usize) -> LossSum {
    let (sum, weight) = match loss {
        Loss::Classification => (log_sum_exp(scores) - scores[right].mean(), 1),
        Loss::TeacherForcing => (-scores[right].sum, scores[right].tokens),
    };
    LossSum { sum, weight }
}

/// The derivative of what an example adds to the sum, with respect to the log-probability of each of a candidate's tokens.
pub fn slope(loss: Loss, scores: &[Score], right: usize, candidate: usize) -> f64 {
    let is_right = if candidate == right { 1.0 } else { 0.0 };
    match loss {
        Loss::Classification => {
            let score = scores[candidate];
            (libm::exp(score.mean() - log_sum_exp(scores)) - is_right) / score.tokens as f64
        }
        Loss::TeacherForcing => -is_right,
    }
}

fn log_sum_exp(scores: &[Score]) -> f64 {
    let max = scores.iter().map(|s| s.mean()).fold(f64::NEG_INFINITY, f64::max);
    // The C library's are others on other machines.
    max + libm::log(scores.iter().map(|s| libm::exp(s.mean() - max)).sum::<f64>())
}

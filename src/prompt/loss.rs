//! From log-probabilities to a task's loss: candidate scores, an example's contribution, and its derivative.

use anyhow::Result;

use crate::base::numbers::log_sum_exp;
use crate::data::Batch;
use crate::data::task::Loss;
use crate::model::Model;
use crate::params::Weights;
use crate::zo::LossSum;

/// The log-probability of a candidate's answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Score {
    /// ln p of the answer, summed over its tokens.
    pub sum: f64,
    /// The number of its tokens.
    pub tokens: usize,
}

impl Score {
    /// The mean log-probability per token, by which candidates are compared.
    pub fn mean(self) -> f64 {
        self.sum / self.tokens as f64
    }
}

/// The scores of a batch's packed candidates, by example.
pub fn scores(model: &Model, weights: Weights, batch: &Batch) -> Result<Vec<Vec<Score>>> {
    Ok(gathered(batch, &model.log_probs(weights, batch)?))
}

/// The scores from the log-probabilities of a batch's predictions, by example and packed candidate.
pub fn gathered(batch: &Batch, log_probs: &[f32]) -> Vec<Vec<Score>> {
    let mut scores: Vec<Vec<Score>> = batch.examples.iter().map(|e| vec![Score::default(); e.num_candidates]).collect();
    for (prediction, log_prob) in batch.predictions.iter().zip(log_probs) {
        let score = &mut scores[prediction.example][prediction.candidate];
        score.sum += f64::from(*log_prob);
        score.tokens += 1;
    }
    scores
}

/// The contribution of one example to the loss, from the scores of its packed candidates and the index of the right
/// one.
pub fn example_loss(loss: Loss, scores: &[Score], right: usize) -> LossSum {
    let (sum, weight) = match loss {
        Loss::Classification => (log_sum_exp(scores.iter().map(|s| s.mean())) - scores[right].mean(), 1),
        Loss::TeacherForcing => (-scores[right].sum, scores[right].tokens),
    };
    LossSum { sum, weight }
}

/// The derivative of an example's contribution to the sum with respect to the log-probability of each token of
/// `candidate`.
pub fn slope(loss: Loss, scores: &[Score], right: usize, candidate: usize) -> f64 {
    let is_right = if candidate == right { 1.0 } else { 0.0 };
    match loss {
        Loss::Classification => {
            let score = scores[candidate];
            (libm::exp(score.mean() - log_sum_exp(scores.iter().map(|s| s.mean()))) - is_right) / score.tokens as f64
        }
        Loss::TeacherForcing => -is_right,
    }
}

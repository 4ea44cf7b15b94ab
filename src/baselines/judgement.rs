//! How good the answers of a classifier are.

use serde::Serialize;

use crate::base::numbers::log_sum_exp;
use crate::prompt::Scored;
use crate::zo::Answers;

/// Loss and accuracy of scored rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// The mean cross-entropy over the classes, in nats; the softmax of a row's scores are its probabilities.
    pub loss: f64,
    /// The share of rows whose class with the largest score is the right one.
    pub accuracy: f64,
    /// Statistics of the accuracy.
    #[serde(flatten)]
    pub answers: Answers,
}

impl Judgement {
    /// Of these rows.
    pub fn of(rows: &[Scored]) -> Self {
        let loss = |row: &Scored| log_sum_exp(row.scores.iter().copied()) - row.scores[row.label];
        let answers = Answers::of(&rows.iter().map(|row| (row.prediction, row.label)).collect::<Vec<_>>());
        Judgement {
            loss: rows.iter().map(loss).sum::<f64>() / rows.len() as f64,
            accuracy: answers.correct as f64 / rows.len() as f64,
            answers,
        }
    }
}

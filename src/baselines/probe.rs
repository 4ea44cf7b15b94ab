//! Linear probing: a logistic regression on the frozen model's last state, with the strength of its penalty chosen on dev.
//!
//! As in MeZO (Malladi et al. 2023, arXiv 2305.17333, "LP" in its tables), the features are what the head reads at the last token of the
//! prompt. MeZO's code fits scikit-learn's LogisticRegressionCV without an intercept to the features as they are, and finds the penalty by
//! cross-validation on the training rows. Here the features are standardised, there is an intercept, and the dev split is asked.

use anyhow::{Context, Result};
use serde::Serialize;

use super::features::Features;
use super::judgement::Judgement;
use super::logistic::LogisticRegression;
use crate::prompt::Scored;

/// The penalties that are tried, the strongest first.
pub const PENALTIES: [f64; 7] = [100.0, 10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4];

/// One penalty that was tried.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tried {
    /// The penalty: see [`logistic`](super::logistic).
    pub l2: f64,
    /// The mean cross-entropy on the training rows, in nats.
    pub train_loss: f64,
    /// The same on dev.
    pub dev_loss: f64,
    /// The accuracy on dev.
    pub dev_accuracy: f64,
}

/// A probe's results on the evaluation split.
#[derive(Clone, Debug, Serialize)]
pub struct Probe {
    /// The penalty with the lowest dev loss; the strongest, if several have it.
    pub l2: f64,
    /// All penalties, the strongest first.
    pub tried: Vec<Tried>,
    /// How good its answers are.
    #[serde(flatten)]
    pub judgement: Judgement,
    /// ln p of each class, in the order of the rows.
    #[serde(skip)]
    pub examples: Vec<Scored>,
}

impl Probe {
    /// Fits to `train`, chooses on `dev`, reports on `eval`. Every class must have a training row.
    pub fn of(train: &Features, dev: &Features, eval: &Features, classes: usize) -> Result<Self> {
        let mut model = LogisticRegression::new(train, classes);
        let mut tried: Vec<Tried> = Vec::new();
        let mut best: Option<(f64, Vec<Scored>)> = None;
        for l2 in PENALTIES {
            // Each fit begins where the one before ended.
            model.fit(train, l2)?;
            let on_dev = Judgement::of(&scored(&model, dev));
            let train_loss = Judgement::of(&scored(&model, train)).loss;
            if tried.iter().all(|before| on_dev.loss < before.dev_loss) {
                best = Some((l2, scored(&model, eval)));
            }
            tried.push(Tried { l2, train_loss, dev_loss: on_dev.loss, dev_accuracy: on_dev.accuracy });
        }
        let (l2, examples) = best.context("no penalty was tried")?;
        Ok(Probe { l2, tried, judgement: Judgement::of(&examples), examples })
    }

    /// Whether the chosen penalty is the first or the last of those tried, so that one beyond it may be better.
    pub fn is_at_the_end(&self) -> bool {
        let ends = [self.tried.first(), self.tried.last()];
        ends.into_iter().flatten().any(|end| end.l2 == self.l2)
    }
}

/// The rows with ln p of each class as scores.
fn scored(model: &LogisticRegression, rows: &Features) -> Vec<Scored> {
    let log_probabilities = model.log_probabilities(rows);
    let of_rows = log_probabilities.chunks(model.classes).zip(&rows.labels).zip(&rows.indices);
    of_rows.map(|((scores, label), index)| Scored::of(*index, *label, scores.to_vec())).collect()
}

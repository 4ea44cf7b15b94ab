//! Statistics of an accuracy.

use serde::Serialize;

/// Accuracy with its confidence interval, and the majority baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Answers {
    /// Number of correct predictions.
    pub correct: usize,
    /// Lower end of the accuracy's 95 % confidence interval (Wilson, valid for few rows too).
    pub accuracy_low: f64,
    /// Upper end.
    pub accuracy_high: f64,
    /// Share of the most frequent label: the accuracy of always answering it.
    pub majority_share: f64,
    /// The most frequent label.
    pub majority_answer: usize,
    /// The prediction, if it is the same for all rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_answer: Option<usize>,
}

impl Answers {
    /// From examples as (prediction, label).
    pub fn of(scored: &[(usize, usize)]) -> Self {
        let correct = scored.iter().filter(|(prediction, label)| prediction == label).count();
        let mut counts = vec![0; scored.iter().map(|(_, label)| label + 1).max().unwrap_or(1)];
        scored.iter().for_each(|(_, label)| counts[*label] += 1);
        let majority = (1..counts.len()).fold(0, |best, i| if counts[i] > counts[best] { i } else { best });
        let (low, high) = wilson(correct, scored.len());
        let first = scored.first().map(|(prediction, _)| *prediction);
        Answers {
            correct,
            accuracy_low: low,
            accuracy_high: high,
            majority_share: counts[majority] as f64 / scored.len().max(1) as f64,
            majority_answer: majority,
            only_answer: first.filter(|first| scored.len() > 1 && scored.iter().all(|(prediction, _)| prediction == first)),
        }
    }
}

/// The 95 % confidence interval of a proportion with `right` successes in `count` draws (Wilson 1927).
pub fn wilson(right: usize, count: usize) -> (f64, f64) {
    const Z: f64 = 1.959_963_984_540_054;
    let n = count.max(1) as f64;
    let p = right as f64 / n;
    let middle = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let denominator = 1.0 + Z * Z / n;
    (((middle - half) / denominator).max(0.0), ((middle + half) / denominator).min(1.0))
}

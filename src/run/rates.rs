//! Which learning rates a search tries, and which one goes on: rules over the trials so far, so a resumed search tries
//! the same.
//!
//! The first rate is the method's default. The search climbs by factors of 4 as long as the largest rate is the best,
//! and else goes down as long as the smallest is, until the best rate has a worse one on both sides.

use serde::{Deserialize, Serialize};

/// The most trials of a search.
pub const MOST_TRIALS: usize = 5;

/// The ratio of neighbouring rates.
const FACTOR: f64 = 4.0;

/// A trial of a learning rate: the first steps of the run with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TriedRate {
    /// The rate.
    pub learning_rate: f64,
    /// The steps made.
    pub step: u64,
    /// The dev loss before the first step.
    pub untrained_dev_loss: f64,
    /// The dev loss after the last; None if the trial diverged or a loss was not finite.
    pub dev_loss: Option<f64>,
    /// The dev accuracy after it; None too for a task without candidates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev_accuracy: Option<f64>,
    /// Whether the trial goes on as the run.
    pub chosen: bool,
}

/// The trial with the lowest dev loss, of equals the one with the smallest rate. None if all diverged.
pub fn best(tried: &[TriedRate]) -> Option<&TriedRate> {
    let key = |trial: &TriedRate| (trial.dev_loss.unwrap_or(f64::INFINITY), trial.learning_rate);
    let finite = tried.iter().filter(|trial| trial.dev_loss.is_some_and(f64::is_finite));
    finite.min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal))
}

/// The rate that a search tries after these trials; `default` is the method's own. None if the search is over.
pub fn next(tried: &[TriedRate], default: f64) -> Option<f64> {
    let rates = || tried.iter().map(|trial| trial.learning_rate);
    let (Some(smallest), Some(largest)) = (rates().reduce(f64::min), rates().reduce(f64::max)) else {
        return Some(rounded(default));
    };
    match best(tried).map(|best| best.learning_rate) {
        _ if tried.len() == MOST_TRIALS => None,
        Some(best) if best == largest => Some(rounded(FACTOR * largest)),
        Some(best) if best > smallest => None,
        _ => Some(rounded(smallest / FACTOR)),
    }
}

/// A rate with two digits, so that it can be typed.
fn rounded(rate: f64) -> f64 {
    format!("{rate:.1e}").parse().unwrap_or(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(learning_rate: f64, dev_loss: Option<f64>) -> TriedRate {
        TriedRate { learning_rate, step: 50, untrained_dev_loss: 0.7, dev_loss, dev_accuracy: None, chosen: false }
    }

    /// The rates tried from a default of 1.234e-4, where the loss of a rate is `loss`, and the best of them.
    fn search(loss: impl Fn(f64) -> Option<f64>) -> (Vec<f64>, Option<f64>) {
        let mut tried = Vec::new();
        while let Some(rate) = next(&tried, 1.234e-4) {
            tried.push(trial(rate, loss(rate)));
        }
        (tried.iter().map(|trial| trial.learning_rate).collect(), best(&tried).map(|trial| trial.learning_rate))
    }

    /// By hand: 1.2e-4 times and by 4, with two digits.
    #[test]
    fn a_search_ends_when_both_neighbours_are_worse() {
        let valley = |at: f64| move |rate: f64| Some((rate / at).ln().abs());
        assert_eq!(search(valley(1.2e-4)), (vec![1.2e-4, 4.8e-4, 3e-5], Some(1.2e-4)));
        assert_eq!(search(valley(2e-3)), (vec![1.2e-4, 4.8e-4, 1.9e-3, 7.6e-3], Some(1.9e-3)));
        assert_eq!(search(valley(7e-6)), (vec![1.2e-4, 4.8e-4, 3e-5, 7.5e-6, 1.9e-6], Some(7.5e-6)));
        assert_eq!(search(valley(1e3)).0, [1.2e-4, 4.8e-4, 1.9e-3, 7.6e-3, 3e-2]);
        // Rates above 1e-4 diverge, or all do.
        let diverges = |rate: f64| (rate < 1e-4).then_some(-rate);
        assert_eq!(search(diverges), (vec![1.2e-4, 3e-5, 7.5e-6], Some(3e-5)));
        assert_eq!(search(|_| None), (vec![1.2e-4, 3e-5, 7.5e-6, 1.9e-6, 4.8e-7], None));
        // A loss that is not finite is none; of equals the smaller rate is the best.
        assert_eq!(
            best(&[trial(1.0, Some(f64::NAN)), trial(4.0, Some(0.5)), trial(2.0, Some(0.5))]).map(|t| t.learning_rate),
            Some(2.0)
        );
        assert_eq!(search(|_| Some(0.5)).1, Some(1.9e-6));
    }
}

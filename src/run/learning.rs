//! Whether a run learns: signs that it does not, while it trains and at its end.

use serde::Serialize;

use crate::zo::Estimate;

/// Steps in a row that a warning needs.
const IN_A_ROW: u64 = 20;

/// Steps at the start and at the end whose losses are compared for a rise.
const WINDOW: usize = 50;

/// A rise is a difference of means of so many standard errors: it is looked for many times in a run ...
const RISE_ERRORS: f64 = 5.0;

/// ... and of at least this share of the loss at the start.
const RISE_SHARE: f64 = 0.1;

/// A difference of means within so many standard errors is noise.
const NOISE_ERRORS: f64 = 2.0;

/// A dev loss that fell by less than this share did not fall noticeably.
const NOTICEABLE: f64 = 0.01;

/// Watches the steps of a process. Says each thing once.
#[derive(Debug, Default)]
pub struct Watch {
    still: Streak,
    perfect: Streak,
    constant: Streak,
    last_loss: f64,
    rise_said: bool,
}

/// Steps in a row with the same symptom.
#[derive(Debug, Default)]
struct Streak(u64);

impl Streak {
    /// Counts a step; whether the row is now long enough, for the first time.
    fn reaches(&mut self, symptom: bool) -> bool {
        // A row that was reported is not reported again.
        if self.0 < IN_A_ROW {
            self.0 = if symptom { self.0 + 1 } else { 0 };
            return self.0 == IN_A_ROW;
        }
        false
    }
}

impl Watch {
    /// What is wrong after a step with this estimate and norm of the first-order gradient, if it was not said yet. `losses`
    /// are those of all steps so far.
    pub fn after(&mut self, estimate: &Estimate, gradient_norm: Option<f64>, losses: &[f64]) -> Option<String> {
        let loss = losses.last().copied().unwrap_or(f64::NAN);
        let is_still = gradient_norm.is_none_or(|norm| norm == 0.0)
            && estimate.terms.iter().chain(&estimate.correction).all(|term| term.coeff == 0.0);
        let (still, perfect) = (self.still.reaches(is_still), self.perfect.reaches(loss == 0.0));
        let constant = self.constant.reaches(loss == self.last_loss && loss != 0.0);
        self.last_loss = loss;
        if perfect {
            return Some(format!(
                "the training loss was exactly 0 in the last {IN_A_ROW} steps: the model is already certain of every answer. Check \
                 that the prompt does not contain the answer and that there is more than one answer to choose from"
            ));
        }
        if still {
            return Some(format!(
                "the gradient was exactly 0 in the last {IN_A_ROW} steps, so no weight has moved: either `zo_eps` is so small that \
                 both losses are equal, or the loss does not depend on the trained weights"
            ));
        }
        if constant {
            return Some(format!(
                "the training loss was exactly {loss} in more than {IN_A_ROW} steps in a row: check that the training examples differ, \
                 and that `max_length` does not cut off what tells them apart"
            ));
        }
        if self.rise_said {
            return None;
        }
        let rise = rise(losses)?;
        self.rise_said = true;
        Some(format!(
            "the training loss rises: its mean was {:.4} over the first {WINDOW} steps and is {:.4} over the last {WINDOW}. The \
             `learning_rate` is probably too large; try a third of it",
            rise[0], rise[1]
        ))
    }
}

/// The mean losses of the first and the last [`WINDOW`] steps, if the second is clearly higher.
fn rise(losses: &[f64]) -> Option<[f64; 2]> {
    let last = losses.len().checked_sub(WINDOW).filter(|last| *last >= WINDOW)?;
    let change = Change::between(&losses[..WINDOW], &losses[last..]);
    let rose = change.last - change.first;
    (rose > RISE_ERRORS * change.error && rose > RISE_SHARE * change.first).then_some([change.first, change.last])
}

/// How the training loss changed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// The mean loss over the first quarter of the steps.
    #[serde(rename = "first_quarter_loss")]
    pub first: f64,
    /// The mean loss over the last quarter.
    #[serde(rename = "last_quarter_loss")]
    pub last: f64,
    /// The standard error of their difference.
    #[serde(rename = "quarter_loss_standard_error")]
    pub error: f64,
}

/// Why a run may have learned nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The loss changed by less than its noise.
    TooSmall,
    /// The loss rose.
    TooLarge,
    /// It learned, or too few steps were made to tell.
    Learned,
}

impl Change {
    /// Over all steps of a run; None if there are fewer than eight.
    pub fn over(losses: &[f64]) -> Option<Self> {
        let quarter = losses.len() / 4;
        (quarter >= 2).then(|| Self::between(&losses[..quarter], &losses[losses.len() - quarter..]))
    }

    fn between(first: &[f64], last: &[f64]) -> Self {
        let ([first, a], [last, b]) = (mean_and_variance(first), mean_and_variance(last));
        Change { first, last, error: (a + b).sqrt() }
    }

    /// What it says about the learning rate of a run whose dev loss was `untrained` before training and `lowest` at its best.
    pub fn verdict(&self, untrained: f64, lowest: f64) -> Verdict {
        let (rose, fell) = (self.last - self.first, untrained - lowest);
        if fell > NOTICEABLE * untrained.abs() {
            return Verdict::Learned;
        }
        match rose {
            rose if rose.abs() <= NOISE_ERRORS * self.error => Verdict::TooSmall,
            rose if rose > 0.0 => Verdict::TooLarge,
            _ => Verdict::Learned,
        }
    }
}

/// The mean, and its variance as an estimate of the expectation.
fn mean_and_variance(values: &[f64]) -> [f64; 2] {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    [mean, squares / (count * (count - 1.0).max(1.0))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::direction::{Direction, Term};

    fn estimate(coeff: f32) -> Estimate {
        Estimate { terms: vec![Term { direction: Direction::Gaussian, seed: 1, coeff }], ..Estimate::default() }
    }

    /// What is said over steps with these losses and coefficients, and at which steps.
    fn said(steps: impl Iterator<Item = (f64, f32)>) -> Vec<(usize, String)> {
        let (mut watch, mut losses) = (Watch::default(), Vec::new());
        let mut seen = |(loss, coeff)| {
            losses.push(loss);
            Some((losses.len(), watch.after(&estimate(coeff), None, &losses)?))
        };
        steps.filter_map(&mut seen).collect()
    }

    /// Losses of mean 0.7 and standard deviation 0.1, more or less.
    fn noisy(i: usize) -> f64 {
        0.7 + [0.13, -0.02, 0.1, -0.16, -0.05][i % 5] + 0.01 * (i % 3) as f64
    }

    #[test]
    fn each_fault_is_said_once_and_health_is_not() {
        assert_eq!(said((0..2000).map(|i| (noisy(i), 1.0))), []);
        assert_eq!(said((0..2000).map(|i| (noisy(i) - 2e-4 * i as f64, 1.0))), []);
        let zero = said((0..100).map(|_| (0.0, 0.0)));
        assert!(zero.len() == 1 && zero[0].0 == 20 && zero[0].1.contains("exactly 0 in the last 20"), "{zero:?}");
        let still = said((0..100).map(|i| (noisy(i), if i == 5 { 1.0 } else { 0.0 })));
        assert!(still.len() == 1 && still[0].0 == 26 && still[0].1.contains("zo_eps"), "{still:?}");
        let constant = said((0..100).map(|_| (0.25, 1.0)));
        assert!(constant.len() == 1 && constant[0].0 == 21 && constant[0].1.contains("exactly 0.25"), "{constant:?}");
        let rises = said((0..2000).map(|i| (noisy(i) + 5e-4 * i as f64, 1.0)));
        assert!(rises.len() == 1 && rises[0].0 > 100 && rises[0].1.contains("too large"), "{rises:?}");
    }

    /// Closed form: of 1, 2, 3, 4 the mean's variance is (5 / 3) / 4.
    #[test]
    fn a_change_is_measured_against_its_noise() {
        let change = |last: f64| Change::over(&[[1.0, 2.0, 3.0, 4.0], [0.0; 4], [9.0; 4], [last; 4]].concat());
        let error = (5.0f64 / 12.0).sqrt();
        assert_eq!(change(2.0), Some(Change { first: 2.5, last: 2.0, error }));
        assert_eq!(Change::over(&[1.0; 7]), None);
        let verdict = |last, lowest| change(last).map(|change| change.verdict(2.5, lowest));
        assert_eq!(verdict(2.0, 2.49), Some(Verdict::TooSmall));
        assert_eq!(verdict(2.0, 2.4), Some(Verdict::Learned));
        assert_eq!(verdict(4.0, 2.5), Some(Verdict::TooLarge));
        assert_eq!(verdict(1.0, 2.5), Some(Verdict::Learned));
    }
}

//! When a run has diverged: a rule over the training losses and the dev loss before training, all of them in the log,
//! so a resumed run stops at the same step.
//!
//! A step's loss is high if it exceeds twice the dev loss before training and also exceeds the loss of guessing by 5
//! nats: the right answers are then 150 times less likely than by chance. A run has diverged when 10 of its last 20
//! losses are high; a single bad batch or a passing bump is less than that.

use crate::base::Diverged;

/// The number of recent steps considered, and how many high losses among them mean divergence.
const WINDOW: usize = 20;

const TOO_MANY: usize = 10;

/// A loss is high if it exceeds this multiple of the dev loss before training ...
const TIMES_UNTRAINED: f64 = 2.0;

/// ... and exceeds ln(choices) by this many nats.
const NATS_ABOVE_CHANCE: f64 = 5.0;

/// The threshold of a high loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The threshold, in nats.
    pub loss: f64,
    /// The dev loss before training, in nats.
    untrained: f64,
}

impl Limit {
    /// For a model with dev loss `untrained` before training, which chooses among `choices` answers or tokens.
    pub fn new(untrained: f64, choices: usize) -> Self {
        let loss = (TIMES_UNTRAINED * untrained).max((choices.max(1) as f64).ln() + NATS_ABOVE_CHANCE);
        Limit { loss, untrained }
    }

    /// Whether a run with the losses `before` has diverged with the next one, `loss`.
    pub fn is_passed(self, before: &[f64], loss: f64) -> bool {
        let recent = &before[before.len().saturating_sub(WINDOW - 1)..];
        recent.iter().chain([&loss]).filter(|loss| **loss > self.loss).count() >= TOO_MANY
    }

    /// The last step whose weights are known to give a low loss. Step `s` evaluates the weights after step `s - 1`, so this is
    /// two steps before the first high one among the recent losses, or before the first step without a loss.
    pub fn last_good(self, before: &[f64]) -> u64 {
        let start = before.len().saturating_sub(WINDOW - 1);
        let high = before[start..].iter().position(|loss| *loss > self.loss).map_or(before.len(), |first| start + first);
        high.saturating_sub(1) as u64
    }

    /// The error of a run that has diverged at `step`, counted from 1.
    pub fn passed_at(self, step: u64) -> Diverged {
        Diverged(format!(
            "the run diverged at step {step}: the training loss was above {1:.1} in {TOO_MANY} of the last {0} steps (before \
             training the dev loss was {2:.4})",
            step.min(WINDOW as u64),
            self.loss,
            self.untrained
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step, from 1, at which a run with these losses stops.
    fn stops(limit: Limit, losses: &[f64]) -> Option<usize> {
        (0..losses.len()).find(|&i| limit.is_passed(&losses[..i], losses[i])).map(|i| i + 1)
    }

    #[test]
    fn half_of_twenty_steps_high_is_diverged_and_less_is_not() {
        // The threshold is the larger of twice the loss before training and 5 nats above guessing between two.
        assert!((Limit::new(0.8, 2).loss - (2f64.ln() + 5.0)).abs() < 1e-12);
        assert_eq!(Limit::new(30.0, 50_000).loss, 60.0);
        let limit = Limit::new(0.8, 2);
        assert_eq!(stops(limit, &[1e16; 100]), Some(10));
        assert_eq!(stops(limit, &[5.6; 1000]), None);
        // Nine of twenty, repeatedly.
        let bumps: Vec<f64> = (0..400).map(|i| if i % 20 < 9 { 1e6 } else { 0.5 }).collect();
        assert_eq!(stops(limit, &bumps), None);
        // Every other step, as with a batch of one and two answers: the 19th is the tenth high one.
        let alternating: Vec<f64> = (0..100).map(|i| if i % 2 == 0 { 9.0 } else { 0.0 }).collect();
        assert_eq!(stops(limit, &alternating), Some(19));
        let late = [vec![0.7; 200], vec![40.0; 20]].concat();
        assert_eq!(stops(limit, &late), Some(210));
        assert_eq!((limit.last_good(&late[..209]), limit.last_good(&[9.0; 9])), (199, 0));
        assert_eq!((limit.last_good(&[0.7]), limit.last_good(&[0.7, 0.7, 9.0])), (0, 1));
    }
}

//! When a run ends before its last step: a rule over the dev losses in the log, so a resumed run ends at the same step.

use std::collections::BTreeMap;

use super::trajectory::{Scored, Trajectory};
use crate::config::RunConfig;

impl RunConfig {
    /// The step up to `last` after which its target loss or early stopping ends a run with this log; None if it does not.
    pub(super) fn stops_early(&self, log: &Trajectory, last: u64) -> Option<u64> {
        // An extension of the run restarts the count.
        let begun = log.stages.last().map_or(0, |stage| stage.last);
        let threshold = self.early_stopping_threshold.unwrap_or(0.0);
        let tired = self.early_stopping_patience.and_then(|n| patience_ends(&log.dev, begun, last, n, threshold));
        let there = self.target_loss.and_then(|target| target_ends(&log.dev, last, target));
        tired.into_iter().chain(there).min()
    }
}

/// The first step up to `last` with a dev loss of at most `target`, after the first step.
fn target_ends(dev: &BTreeMap<u64, Scored>, last: u64, target: f64) -> Option<u64> {
    dev.range(..=last).find(|(step, scored)| **step > 0 && scored.loss <= target).map(|(step, _)| *step)
}

/// The first step after `begun` and up to `last` with `patience` dev losses in a row, also after `begun`, that are not
/// lower than the lowest before by more than `threshold` (as `EarlyStoppingCallback` of transformers counts).
fn patience_ends(dev: &BTreeMap<u64, Scored>, begun: u64, last: u64, patience: u64, threshold: f64) -> Option<u64> {
    let (mut lowest, mut waited) = (f64::INFINITY, 0);
    for (step, scored) in dev.range(..=last) {
        waited = if *step <= begun || scored.loss < lowest - threshold { 0 } else { waited + 1 };
        lowest = lowest.min(scored.loss);
        if waited >= patience {
            return Some(*step);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Digest;

    #[test]
    fn it_waits_for_as_many_evaluations_as_it_was_told() {
        let losses = [0.70, 0.60, 0.595, 0.593, 0.61, 0.50, 0.50, 0.52];
        let scored = |loss| Scored { loss, accuracy: None, digest: Digest(0) };
        let dev: BTreeMap<u64, Scored> = losses.iter().enumerate().map(|(i, loss)| (10 * i as u64, scored(*loss))).collect();
        let ends = |begun, last, patience, threshold| patience_ends(&dev, begun, last, patience, threshold);
        assert_eq!(ends(0, 70, 1, 0.0), Some(40));
        assert_eq!(ends(0, 39, 1, 0.0), None);
        assert_eq!(ends(0, 70, 2, 0.0), Some(70));
        assert_eq!(ends(0, 70, 3, 0.0), None);
        // Three small improvements are none; the lowest loss moves with them.
        assert_eq!(ends(0, 70, 3, 0.01), Some(40));
        assert_eq!(ends(0, 70, 4, 0.01), None);
        let reached = |last, target| target_ends(&dev, last, target);
        assert_eq!(
            [reached(70, 0.595), reached(19, 0.595), reached(70, 0.49), reached(70, 0.9), reached(0, 0.9)],
            [Some(20), None, None, Some(10), None]
        );
        // A run that was extended at step 40 waits anew, for a loss lower than any before.
        assert_eq!(ends(40, 70, 1, 0.0), Some(60));
    }
}

//! When a run ends before its last step: a rule over the dev losses in the log, so a resumed run ends at the same step.

use std::collections::BTreeMap;

use super::trajectory::{Scored, Trajectory};
use crate::config::RunConfig;

impl RunConfig {
    /// The step up to `last` after which early stopping ends a run with this log; None if it does not.
    pub(super) fn stops_early(&self, log: &Trajectory, last: u64) -> Option<u64> {
        // An extension of the run restarts the count.
        let begun = log.stages.last().map_or(0, |stage| stage.last);
        patience_ends(&log.dev, begun, last, self.early_stopping_patience?, self.early_stopping_threshold.unwrap_or(0.0))
    }
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
        // A run that was extended at step 40 waits anew, for a loss lower than any before.
        assert_eq!(ends(40, 70, 1, 0.0), Some(60));
    }
}

//! The disk space of a run folder.

use crate::config::RunConfig;

/// The disk space of a run folder, in bytes: one checkpoint, the number of checkpoints kept, the total at the end, the
/// peak.
pub(super) struct Disk {
    pub(super) checkpoint: u64,
    pub(super) checkpoints: u64,
    pub(super) left: u64,
    pub(super) most: u64,
}

impl Disk {
    /// `kept`: the bytes of the weights kept; `state`: of the method's state; `companions`: of the files beside every
    /// copy of the weights.
    pub(super) fn new(config: &RunConfig, kept: u64, state: u64, companions: u64) -> Self {
        // A step record of two losses; a line of trainer_log.jsonl; the log's header, run.json, the results and the
        // plot.
        const STEP: u64 = 16;
        const LINE: u64 = 400;
        const REST: u64 = 256 << 10;
        let log = STEP * config.max_steps
            + LINE * (config.max_steps / config.logging_steps + config.max_steps / config.eval_steps)
            + REST;
        let checkpoint = kept + state;
        let made = if config.save_steps == 0 { 0 } else { config.max_steps.div_ceil(config.save_steps) };
        let checkpoints = made.min(config.save_total_limit as u64);
        let left = kept + companions + checkpoints * (checkpoint + companions) + log;
        // A new checkpoint or weights file is complete before the old one is removed.
        let next = if made > checkpoints { (checkpoint + companions).max(kept) } else { kept };
        Disk { checkpoint, checkpoints, left, most: left + next }
    }
}

//! What a run folder takes on the disk.

use crate::config::RunConfig;

/// What a run folder takes on the disk, in bytes.
pub(super) struct Disk {
    pub(super) checkpoint: u64,
    pub(super) checkpoints: u64,
    pub(super) left: u64,
    pub(super) most: u64,
}

impl Disk {
    /// Of weights of `kept` bytes, a method's `state`, and the files that stand beside weights wherever they are, `companions`.
    pub(super) fn new(plan: &RunConfig, kept: u64, state: u64, companions: u64) -> Self {
        // Two losses a step in their frame; a line of trainer_log.jsonl; the log's header, run.json, the results and the picture.
        const STEP: u64 = 16;
        const LINE: u64 = 400;
        const REST: u64 = 256 << 10;
        let log =
            STEP * plan.max_steps + LINE * (plan.max_steps / plan.logging_steps + plan.max_steps / plan.eval_steps) + REST;
        let checkpoint = kept + state;
        let made = if plan.save_steps == 0 { 0 } else { plan.max_steps.div_ceil(plan.save_steps) };
        let checkpoints = made.min(plan.save_total_limit as u64);
        let left = kept + companions + checkpoints * (checkpoint + companions) + log;
        // The next one of either is whole before the last one goes.
        let next = if made > checkpoints { (checkpoint + companions).max(kept) } else { kept };
        Disk { checkpoint, checkpoints, left, most: left + next }
    }
}

//! Lines of trainer_log.jsonl.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::zo::SnapshotReport;

/// The log's file name in a run folder.
pub const FILE: &str = "trainer_log.jsonl";

/// One line of trainer_log.jsonl.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LogLine {
    /// Updates made so far.
    pub step: u64,
    /// f(theta) where evaluated, else the mean of loss_plus and loss_minus; all three are means over the steps since
    /// the last line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// f(theta + eps z).
    pub loss_plus: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// f(theta - eps z); f(theta) of one-sided estimates.
    pub loss_minus: Option<f64>,
    /// Of this step alone: the projected gradient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projected_grad: Option<f64>,
    /// Of this step alone: the norm of the first-order gradient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_order_norm: Option<f64>,
    /// Of this step alone: the norm of VAMO's correction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction_norm: Option<f64>,
    /// correction_norm / first_order_norm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction_ratio: Option<f64>,
    /// The last snapshot since the last line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The learning rate of this step.
    pub learning_rate: Option<f64>,
    /// The loss on the dev split, if evaluated after this step. (`eval_loss` in logs of earlier versions.)
    #[serde(skip_serializing_if = "Option::is_none", alias = "eval_loss")]
    pub dev_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", alias = "eval_accuracy")]
    /// The accuracy on the dev split, likewise.
    pub dev_accuracy: Option<f64>,
    /// Of a lab, at evaluations: the norm of the gradient of the function that is minimised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_norm: Option<f64>,
    /// Function evaluations since the start of training, without those on dev.
    pub function_evaluations: u64,
    /// Forward passes, likewise.
    pub forwards: u64,
    /// Backward passes, likewise.
    pub backwards: u64,
    /// Tokens fed in forward passes, likewise.
    pub tokens: u64,
    /// Wall time since the start of training, in seconds.
    pub seconds: f64,
    /// The peak resident set of the process so far, in bytes.
    pub rss_peak_bytes: u64,
}

/// Reads the whole lines of a run's log, and says whether a line that is not whole follows: it is being written, or the
/// process was killed. Fails on an invalid line, and on one whose step is not above that of the line before.
pub fn read_log_so_far(folder: &Path) -> Result<(Vec<LogLine>, bool)> {
    let path = folder.join(FILE);
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut log: Vec<LogLine> = Vec::new();
    for (i, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if !line.ends_with(b"\n") {
            return Ok((log, true));
        }
        let place = || format!("{}, line {}", path.display(), i + 1);
        let next: LogLine = serde_json::from_slice(line).with_context(place)?;
        if let Some(before) = log.last().map(|line| line.step).filter(|before| *before >= next.step) {
            bail!("{}: step {} follows step {before}", place(), next.step);
        }
        log.push(next);
    }
    Ok((log, false))
}

/// The valid lines up to step `last`, which a killed run's log may have passed, and their length in bytes.
pub fn whole_log(folder: &Path, last: u64) -> (u64, Vec<LogLine>) {
    let text = std::fs::read(folder.join(FILE)).unwrap_or_default();
    let (mut len, mut whole): (u64, Vec<LogLine>) = (0, Vec::new());
    for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let parsed: Option<LogLine> = serde_json::from_slice(line).ok();
        let follows = |next: &LogLine| next.step <= last && whole.last().is_none_or(|before| before.step < next.step);
        let Some(next) = parsed.filter(follows) else { break };
        len += line.len() as u64;
        whole.push(next);
    }
    (len, whole)
}

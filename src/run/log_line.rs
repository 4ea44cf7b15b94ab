//! Lines of trainer_log.jsonl.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::zo::SnapshotReport;

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

/// Reads a run's log. Fails on an invalid line.
pub fn read_log(folder: &Path) -> Result<Vec<LogLine>> {
    let path = folder.join("trainer_log.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().enumerate();
    lines
        .map(|(i, line)| serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), i + 1)))
        .collect()
}

/// The length in bytes of the valid lines up to step `last`, and the last of them.
pub fn whole_log(path: &Path, last: u64) -> (u64, Option<LogLine>) {
    let text = std::fs::read(path).unwrap_or_default();
    let (mut len, mut whole): (u64, Option<LogLine>) = (0, None);
    for line in text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let parsed: Option<LogLine> = serde_json::from_slice(line).ok();
        let follows = |next: &LogLine| next.step <= last && whole.as_ref().is_none_or(|before| before.step < next.step);
        let Some(next) = parsed.filter(follows) else { break };
        len += line.len() as u64;
        whole = Some(next);
    }
    (len, whole)
}

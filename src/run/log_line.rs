//! A line of trainer_log.jsonl, and reading them back.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::zo::SnapshotReport;

/// One line of trainer_log.jsonl.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LogLine {
    /// Updates made so far.
    pub step: u64,
    /// f(theta) where it was evaluated, else the mean of loss_plus and loss_minus; like them the mean over the steps since the line before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// f(theta + eps z).
    pub loss_plus: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// f(theta - eps z); f(theta) of one-sided estimates.
    pub loss_minus: Option<f64>,
    /// Of this very step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub projected_grad: Option<f64>,
    /// Of this very step: the length of the first-order gradient.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_order_norm: Option<f64>,
    /// Of this very step: the length of VAMO's correction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction_norm: Option<f64>,
    /// The correction's length over the gradient's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction_ratio: Option<f64>,
    /// The last snapshot since the line before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Of this very step.
    pub learning_rate: Option<f64>,
    /// On the dev split, where the step was one for evaluation. (Logs of earlier versions have it as eval_loss.)
    #[serde(skip_serializing_if = "Option::is_none", alias = "eval_loss")]
    pub dev_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", alias = "eval_accuracy")]
    /// The same.
    pub dev_accuracy: Option<f64>,
    /// Since the start of training, evaluations apart.
    pub function_evaluations: u64,
    /// Forward passes.
    pub forwards: u64,
    /// Backward passes.
    pub backwards: u64,
    /// Tokens fed.
    pub tokens: u64,
    /// Wall time since the start of training.
    pub seconds: f64,
    /// The process's largest resident set so far.
    pub rss_peak_bytes: u64,
}

/// Reads a run's log.
pub fn read_log(folder: &Path) -> Result<Vec<LogLine>> {
    let path = folder.join("trainer_log.jsonl");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = text.lines().enumerate();
    lines
        .map(|(i, line)| serde_json::from_str(line).with_context(|| format!("{}, line {}", path.display(), i + 1)))
        .collect()
}

/// How many bytes of a log are whole lines up to step `last`, and the last of them.
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

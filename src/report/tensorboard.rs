//! What TensorBoard shows of a run, while it trains: its log, config and memory as an event file.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::Value as Json;

use super::events::{Hyperparameter, Value, event, version};
use crate::config::RunConfig;
use crate::run::Results;
use crate::run::folder::{EVENT_FILE, EVENTS, clear_events};
use crate::run::log_line::LogLine;

/// The event file of a run. It is a rendering of trainer_log.jsonl: a process that goes on with a run writes it anew.
pub struct EventFile {
    file: File,
    path: PathBuf,
}

impl EventFile {
    /// Begins the file of a run in its folder: config, hyperparameters, and the `log` so far.
    pub fn begin(config: &RunConfig, log: &[LogLine]) -> Result<Self> {
        let now = now();
        let folder = config.output_dir.join(EVENTS);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        clear_events(&folder)?;
        // The reader takes the order of files from their names.
        let path = folder.join(format!("{EVENT_FILE}{now:.0}.zotune.{}", std::process::id()));
        let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut events = EventFile { file, path };
        events.write(&version(now))?;
        let settings = serde_json::to_value(config)?;
        let name = config.output_dir.file_name().unwrap_or_default().to_string_lossy();
        let as_text = format!("```json\n{}\n```", serde_json::to_string_pretty(&settings)?);
        let start = Value::session_start(&name, hyperparameters(&settings), now);
        events.write(&event(now, 0, vec![Value::text("config/text_summary", &as_text), start]))?;
        let elapsed = log.last().map_or(0.0, |line| line.seconds);
        log.iter().try_for_each(|line| events.line_at(line, now - elapsed + line.seconds))?;
        Ok(events)
    }

    /// Writes a line of the log.
    pub fn line(&mut self, line: &LogLine) -> Result<()> {
        self.line_at(line, now())
    }

    fn line_at(&mut self, line: &LogLine, time: f64) -> Result<()> {
        self.write(&event(time, line.step, scalars(line)))
    }

    /// Writes the scores on the evaluation split and the memory by part.
    pub fn end(&mut self, results: &Results) -> Result<()> {
        let now = now();
        let mut values: Vec<Value> = [("test/loss", Some(results.eval_loss)), ("test/accuracy", results.eval_accuracy)]
            .into_iter()
            .filter_map(|(tag, value)| Some(Value::scalar(tag, value?)))
            .collect();
        if let Json::Object(parts) = serde_json::to_value(results.memory)? {
            let bytes = parts.iter().filter_map(|(part, bytes)| Some((part, bytes.as_f64()?)));
            values.extend(bytes.map(|(part, bytes)| Value::scalar(&format!("memory/{part}"), bytes)));
        }
        values.push(Value::session_end(now));
        self.write(&event(now, results.steps, values))
    }

    fn write(&mut self, record: &[u8]) -> Result<()> {
        self.file.write_all(record).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The tags are those of the HF Trainer's callback: train/ for the training step, eval/ for the dev split.
fn scalars(line: &LogLine) -> Vec<Value> {
    let count = |n: u64| Some(n as f64);
    let of = [
        ("train/loss", line.loss),
        ("train/loss_plus", line.loss_plus),
        ("train/loss_minus", line.loss_minus),
        ("train/projected_grad", line.projected_grad),
        ("train/grad_norm", line.first_order_norm),
        ("train/correction_norm", line.correction_norm),
        ("train/correction_ratio", line.correction_ratio),
        ("train/learning_rate", line.learning_rate),
        ("train/function_evaluations", count(line.function_evaluations)),
        ("train/forwards", count(line.forwards)),
        ("train/backwards", count(line.backwards)),
        ("train/num_input_tokens_seen", count(line.tokens)),
        ("train/seconds", Some(line.seconds)),
        ("eval/loss", line.dev_loss),
        ("eval/accuracy", line.dev_accuracy),
        ("memory/peak_rss_bytes", count(line.rss_peak_bytes)),
    ];
    of.into_iter().filter_map(|(tag, value)| Some(Value::scalar(tag, value?))).collect()
}

/// The settings as hyperparameters; those that are not given are left out.
fn hyperparameters(settings: &Json) -> Vec<(&str, Hyperparameter)> {
    let all = settings.as_object().into_iter().flatten();
    let known = all.filter_map(|(name, value)| {
        let value = match value {
            Json::Null | Json::Array(_) | Json::Object(_) => return None,
            Json::Bool(yes) => Hyperparameter::Bool(*yes),
            Json::Number(number) => Hyperparameter::Number(number.as_f64()?),
            Json::String(text) => Hyperparameter::Text(text.clone()),
        };
        Some((name.as_str(), value))
    });
    known.collect()
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

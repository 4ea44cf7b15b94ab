//! Run folders: which ones are meant, and what is in them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;

use crate::base::text::quoted;
use crate::config::RunConfig;
use crate::labs::table::{LabKind, kind};
use crate::run::Memory;
use crate::run::alignment::{self, Alignment};
use crate::run::folder::RESULTS;
use crate::run::log_line::{LogLine, read_log_so_far};

/// What a report's folder has, and no other.
pub const PAGE: &str = "report.html";

/// The files of a run that a report reads.
pub const READ: [&str; 3] = ["run.json", "trainer_log.jsonl", RESULTS];

/// The order of the run folders beside it, by name, one a line. A sweep writes it.
pub const ORDER: &str = "order.txt";

/// A run, as far as it has gone.
pub struct RunRecord {
    /// Its folder, as it was named or found.
    pub folder: PathBuf,
    /// Its config, with paths relative to the current directory.
    pub config: RunConfig,
    /// The content of run.json.
    pub record: Value,
    /// The whole lines of its log.
    pub log: Vec<LogLine>,
    /// Its gradient estimates beside true gradients, if they were compared.
    pub alignments: Vec<Alignment>,
    /// None: it is not finished.
    pub scores: Option<Scores>,
}

/// What all_results.json says, as far as a report needs it. Losses that were not finite are None.
#[derive(Clone, Debug, Deserialize)]
pub struct Scores {
    /// Updates made.
    pub steps: u64,
    /// Whether early stopping ended the run.
    #[serde(default)]
    pub stopped_early: bool,
    /// The mean training loss of the last tenth of the steps.
    pub train_loss: Option<f64>,
    /// The loss of the kept weights on the evaluation split.
    pub eval_loss: Option<f64>,
    /// Their accuracy there; None for a task without candidates.
    pub eval_accuracy: Option<f64>,
    /// The loss there before training.
    pub untrained_eval_loss: Option<f64>,
    /// The accuracy there before training.
    pub untrained_eval_accuracy: Option<f64>,
    /// Loss evaluations on a mini-batch, the forward passes of backward passes included.
    pub function_evaluations: u64,
    /// Backward passes, each over a micro-batch.
    pub backwards: u64,
    /// Tokens fed in forward passes, mean over the steps.
    pub tokens_per_step: f64,
    /// Wall time of training, in seconds.
    pub train_seconds: f64,
    /// Memory by part.
    #[serde(flatten)]
    pub memory: Memory,
}

impl RunRecord {
    /// The last step in the log.
    pub fn steps(&self) -> u64 {
        self.log.last().map_or(0, |line| line.step)
    }

    /// Whether its dev loss is the very function that it minimises.
    pub fn is_exact(&self) -> bool {
        self.config.lab.lab.as_deref().and_then(|name| kind(name).ok()).is_some_and(LabKind::is_exact)
    }

    /// Function evaluations. A backward pass counts as two, over the mini-batch: it is counted by micro-batch.
    pub fn evaluations(&self, function_evaluations: u64, backwards: u64) -> f64 {
        let parts = self.config.batch_size.div_ceil(self.config.micro_batch_size.max(1)).max(1);
        function_evaluations as f64 + 2.0 * backwards as f64 / parts as f64
    }
}

/// The runs that a command names, and what to say about those left out or not finished.
#[derive(Default)]
pub struct Selection {
    /// In the order named; those found below a folder in the order of its sweep, or by path.
    pub runs: Vec<RunRecord>,
    /// Sentences for people.
    pub notes: Vec<String>,
}

impl Selection {
    /// Reads the runs at these places. A place is a run folder, a folder with runs at any depth below, or a pattern.
    ///
    /// Errors are usage errors if a place does not exist or no run is found.
    pub fn read(places: &[String]) -> Result<Self> {
        let (folders, notes) = folders(places)?;
        let mut selection = Selection { runs: Vec::new(), notes };
        for folder in folders {
            selection.add(folder)?;
        }
        match selection.runs.is_empty() {
            true => Err(usage!("there is no run to report on: {}", selection.notes.join("; "))),
            false => Ok(selection),
        }
    }

    fn add(&mut self, folder: PathBuf) -> Result<()> {
        let place = folder.display().to_string();
        if !folder.join(READ[1]).is_file() {
            self.notes.push(format!("{place} is left out: it has no {}", READ[1]));
            return Ok(());
        }
        let (log, torn) = read_log_so_far(&folder)?;
        if torn {
            self.notes.push(format!("{place}: the last line of {} is not whole and is left out", READ[1]));
        }
        if log.is_empty() {
            self.notes.push(format!("{place} is left out: its log has no whole line yet"));
            return Ok(());
        }
        let record: Value = read_json(&folder.join(READ[0]))?;
        let config: RunConfig = serde_json::from_value(record["config"].clone())
            .with_context(|| format!("{}: its config is not one of a run", folder.join(READ[0]).display()))?;
        let path = folder.join(READ[2]);
        let scores: Option<Scores> = if path.is_file() { Some(read_json(&path)?) } else { None };
        // A run that is being extended keeps the results of the shorter one until it ends.
        let last = log.last().map_or(0, |line| line.step);
        let scores = scores.filter(|scores| match scores.stopped_early {
            true => scores.steps == last,
            false => scores.steps == config.max_steps,
        });
        let alignments = alignment::read(&folder)?;
        let run = RunRecord { config: typed_config(config, &record), folder, record, log, alignments, scores };
        if run.scores.is_none() {
            let (step, of) = (run.steps(), run.config.max_steps);
            self.notes.push(format!("{place} is not finished: its log ends at step {step} of {of}"));
        }
        self.runs.push(run);
        Ok(())
    }
}

/// The run folders at these places, each once, and what to say of places without one.
pub fn folders(places: &[String]) -> Result<(Vec<PathBuf>, Vec<String>)> {
    let (mut folders, mut notes) = (Vec::new(), Vec::new());
    for place in places {
        for path in matches(place)? {
            let said = notes.len();
            match runs_at(&path, &mut notes)? {
                runs if runs.is_empty() && notes.len() == said => {
                    notes.push(format!("{} is left out: neither it nor a folder below it has a run.json", path.display()));
                }
                runs => folders.extend(runs),
            }
        }
    }
    let mut seen = BTreeSet::new();
    folders.retain(|folder| seen.insert(folder.canonicalize().unwrap_or_else(|_| folder.clone())));
    Ok((folders, notes))
}

/// The config with paths relative to the current directory.
fn typed_config(mut config: RunConfig, record: &Value) -> RunConfig {
    let last = record["resumed"].as_array().and_then(|sessions| sessions.last()).unwrap_or(record);
    if let Some(typed_in) = last["directory"].as_str() {
        config.inputs = config.inputs.typed_in(Path::new(typed_in));
    }
    config
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

/// The paths that a place stands for: itself, or what its pattern matches.
fn matches(place: &str) -> Result<Vec<PathBuf>> {
    let path = PathBuf::from(place);
    if path.exists() {
        return Ok(vec![path]);
    }
    if !place.contains(['*', '?', '[']) {
        return Err(usage!("{}: there is no such folder", quoted(place)));
    }
    let found = glob::glob(place).map_err(|e| usage!("{} is no pattern of folders: {e}", quoted(place)))?;
    let found = found.collect::<std::result::Result<Vec<_>, _>>()?;
    match found.is_empty() {
        true => Err(usage!("{}: nothing matches this pattern", quoted(place))),
        false => Ok(found),
    }
}

/// The run folders at or below `path`, in order. Notes those that have lost their run.json.
fn runs_at(path: &Path, notes: &mut Vec<String>) -> Result<Vec<PathBuf>> {
    if path.join(READ[0]).is_file() {
        return Ok(vec![path.into()]);
    }
    if path.join(READ[1]).is_file() {
        notes.push(format!("{} is left out: it has a {} and no {}", path.display(), READ[1], READ[0]));
    }
    let mut runs = Vec::new();
    if !path.is_dir() {
        return Ok(runs);
    }
    let read = || format!("cannot read {}", path.display());
    let mut below = Vec::new();
    for entry in std::fs::read_dir(path).with_context(read)? {
        let entry = entry.with_context(read)?;
        // A link may lead back up.
        if entry.file_type().with_context(read)?.is_dir() {
            below.push(entry.path());
        }
    }
    let order = std::fs::read_to_string(path.join(ORDER)).unwrap_or_default();
    below.sort_by_cached_key(|folder| {
        let rank = order.lines().position(|name| folder.ends_with(name));
        (rank.unwrap_or(usize::MAX), folder.clone())
    });
    for folder in below {
        runs.extend(runs_at(&folder, notes)?);
    }
    Ok(runs)
}

//! How far the run in a cell's folder is, judged by the folder alone.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::run::folder::results_of;
use crate::run::trajectory::record::FILE;
use crate::run::trajectory::{Scored, Trajectory};

/// A run as its folder shows it.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The steps in its log.
    pub steps: u64,
    /// The number of steps that it was last started for; 0: it has not begun.
    pub max_steps: u64,
    /// The scores on dev, by step.
    pub dev: BTreeMap<u64, Scored>,
    /// The version of zotune that began it.
    pub made_by: String,
    /// all_results.json of a run that has ended, with its last step or early.
    pub results: Option<Value>,
}

/// What is in a cell's folder.
pub enum Found {
    /// Nothing, or what a process leaves that was killed before its run began.
    Nothing,
    /// A run.
    Run(Box<Trajectory>, Standing),
}

/// Looks into a cell's folder. Fails if it has content that is no run, or a log that cannot be read.
pub fn find(folder: &Path) -> Result<Found> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(e) => return Err(usage!("cannot read the folder {} of a cell: {e}", folder.display())),
    };
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let has_begun = names.iter().any(|name| name != FILE && !name.ends_with(".partial"));
    if !has_begun {
        return Ok(match Trajectory::open(&folder.join(FILE)) {
            Ok(trajectory) => run(folder, trajectory),
            Err(_) => Found::Nothing,
        });
    }
    if !names.iter().any(|name| name == FILE) {
        return Err(usage!(
            "{} is not empty and is not a run; the sweep needs this folder for a cell: move it away, or choose another `output_dir`",
            folder.display()
        ));
    }
    match Trajectory::open(folder) {
        Ok(trajectory) => Ok(run(folder, trajectory)),
        Err(error) => Err(error.context(format!(
            "the log of the cell in {} cannot be read; to run this cell again, remove its folder",
            folder.display()
        ))),
    }
}

fn run(folder: &Path, trajectory: Trajectory) -> Found {
    let standing = Standing {
        steps: trajectory.steps(),
        max_steps: trajectory.max_steps,
        dev: trajectory.dev.clone(),
        made_by: trajectory.header.zotune.clone(),
        results: results_of(folder, &trajectory),
    };
    Found::Run(Box::new(trajectory), standing)
}

impl Standing {
    /// Whether a run of so many steps has ended.
    pub fn is_finished(&self, max_steps: u64) -> bool {
        self.max_steps == max_steps && self.results.is_some()
    }

    /// Whether the dev loss after so many steps is known.
    pub fn has_reached(&self, steps: u64) -> bool {
        self.dev.contains_key(&steps)
    }

    /// The lowest dev loss up to a step, and the one at the last score up to it.
    pub fn dev_losses(&self, steps: u64) -> Option<(f64, f64)> {
        let scores = self.dev.range(..=steps).map(|(_, scored)| scored.loss);
        let last = scores.clone().next_back()?;
        Some((scores.fold(f64::INFINITY, f64::min), last))
    }
}

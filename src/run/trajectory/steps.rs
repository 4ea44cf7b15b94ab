//! The trajectory of a run: the values that its functions had, a few numbers a step.
//!
//! Seeds, batches and learning rates follow from the config and the step, so a step's estimate, its (seed, coefficient)
//! pairs, follows from its function values. Base weights + header + values give the weights of every step, bit for bit: a
//! [`RecordedProblem`] tells the estimator the values again, and nothing is computed but the moves.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::header::Header;
use super::record::{Done, Record, Scored};
use crate::config::{RunConfig, Stage};

/// A trajectory as it was read, or as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trajectory {
    /// What it begins with.
    pub header: Header,
    /// All steps' values, one step after the other, and where each step's end.
    #[serde(skip)]
    pub(super) values: Vec<f32>,
    #[serde(skip)]
    pub(super) ends: Vec<usize>,
    /// On the evaluation split, before the first step.
    pub untrained: Option<Scored>,
    /// On dev, by step.
    pub dev: BTreeMap<u64, Scored>,
    /// What `--max-steps` was, before it was raised.
    pub stages: Vec<Stage>,
    /// How many steps the run is to have.
    pub max_steps: u64,
    /// How it ended, if it has.
    pub done: Option<Done>,
}

impl Trajectory {
    /// Before its first step.
    pub fn new(header: Header) -> Self {
        let max_steps = header.config.max_steps;
        Trajectory {
            header,
            values: Vec::new(),
            ends: Vec::new(),
            untrained: None,
            dev: BTreeMap::new(),
            stages: Vec::new(),
            max_steps,
            done: None,
        }
    }

    /// How many steps it knows.
    pub fn steps(&self) -> u64 {
        self.ends.len() as u64
    }

    /// The function values of a step, counted from 1.
    pub fn values(&self, step: u64) -> Option<&[f32]> {
        let end = *self.ends.get(usize::try_from(step).ok()?.checked_sub(1)?)?;
        let start = if step == 1 { 0 } else { self.ends[step as usize - 2] };
        Some(&self.values[start..end])
    }

    /// The step with the best dev loss, the first of equals, among those up to `last`.
    pub fn best(&self, last: u64) -> Option<(u64, Scored)> {
        let scored = self.dev.range(..=last).map(|(step, scored)| (*step, *scored));
        scored.reduce(|best, next| if next.1.loss < best.1.loss { next } else { best })
    }

    /// The step whose weights were kept, as far as it goes: the one that it ended with, else the best on dev, the last where none was scored.
    pub fn kept(&self) -> u64 {
        let ended = self.done.as_ref().map(|done| done.best_step).filter(|step| *step <= self.steps());
        ended.or_else(|| Some(self.best(self.steps())?.0)).unwrap_or(self.steps())
    }

    /// The config as it stands at the end of the trajectory.
    pub fn config(&self) -> RunConfig {
        RunConfig { max_steps: self.max_steps, stages: self.stages.clone(), ..self.header.config.clone() }
    }

    /// Adds what comes next. Fails where it cannot come next.
    pub fn push(&mut self, record: Record) -> Result<()> {
        let steps = self.steps();
        match record {
            Record::Step(values) => {
                self.values.extend(values);
                self.ends.push(self.values.len());
            }
            Record::Dev(scored) if !self.dev.contains_key(&steps) => drop(self.dev.insert(steps, scored)),
            Record::Untrained(scored) if steps == 0 => self.untrained = Some(scored),
            Record::Extended(max_steps) if max_steps >= self.max_steps => {
                self.stages.push(Stage { last: steps, max_steps: self.max_steps });
                self.max_steps = max_steps;
                self.done = None;
            }
            Record::Done(done) => self.done = Some(done),
            other => bail!("{other:?} cannot come after step {steps}"),
        }
        Ok(())
    }
}

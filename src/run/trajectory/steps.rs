//! The trajectory of a run: the function values of its steps, a few numbers per step.
//!
//! Seeds, batches and learning rates follow from the config and the step, so a step's estimate, its (seed, coefficient)
//! pairs, follows from its function values. Base weights, header and values determine the weights of every step, bit
//! for bit: a [`RecordedProblem`](crate::zo::RecordedProblem) replays the values to the estimator, and only the updates
//! are computed.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::header::Header;
use super::record::{Done, Record, Scored};
use crate::config::{RunConfig, Stage};

/// A trajectory, complete or in progress.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trajectory {
    /// Its header.
    pub header: Header,
    /// The values of all steps, concatenated, and the end of each step's.
    #[serde(skip)]
    pub(super) values: Vec<f32>,
    #[serde(skip)]
    pub(super) ends: Vec<usize>,
    /// The score on the evaluation split before the first step.
    pub untrained: Option<Scored>,
    /// The scores on dev, by step.
    pub dev: BTreeMap<u64, Scored>,
    /// The earlier values of `--max-steps`, each with the last step it applied to.
    pub stages: Vec<Stage>,
    /// The number of steps of the run.
    pub max_steps: u64,
    /// The end of the run, if it has finished.
    pub done: Option<Done>,
}

impl Trajectory {
    /// A trajectory without steps.
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

    /// The number of steps.
    pub fn steps(&self) -> u64 {
        self.ends.len() as u64
    }

    /// The function values of a step, counted from 1; None if it is missing.
    pub fn values(&self, step: u64) -> Option<&[f32]> {
        let end = *self.ends.get(usize::try_from(step).ok()?.checked_sub(1)?)?;
        let start = if step == 1 { 0 } else { self.ends[step as usize - 2] };
        Some(&self.values[start..end])
    }

    /// The step with the lowest dev loss up to `last`, the first of equals.
    pub fn best(&self, last: u64) -> Option<(u64, Scored)> {
        let scored = self.dev.range(..=last).map(|(step, scored)| (*step, *scored));
        scored.reduce(|best, next| if next.1.loss < best.1.loss { next } else { best })
    }

    /// The step whose weights are kept: the one the run ended with, else the best on dev, else the last.
    pub fn kept(&self) -> u64 {
        let ended = self.done.as_ref().map(|done| done.best_step).filter(|step| *step <= self.steps());
        ended.or_else(|| Some(self.best(self.steps())?.0)).unwrap_or(self.steps())
    }

    /// The config at the end of the trajectory.
    pub fn config(&self) -> RunConfig {
        RunConfig { max_steps: self.max_steps, stages: self.stages.clone(), ..self.header.config.clone() }
    }

    /// Appends a record. Fails if it cannot follow.
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

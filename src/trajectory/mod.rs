//! The trajectory of a run: the values that its functions had, a few numbers a step.
//!
//! Seeds, batches and learning rates follow from the config and the step, so a step's estimate, its (seed, coefficient)
//! pairs, follows from its function values. Base weights + header + values give the weights of every step, bit for bit: a
//! [`Tape`] tells the estimator the values again, and nothing is computed but the moves.

mod checks;
mod flusher;
mod log;
mod shared;
mod tape;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Common, Inputs, Plan, Stage, Tuned};
use crate::data::Example;
use crate::digest::Digest;
use crate::files::sha256;
use crate::model::Model;
use crate::params::{Params, Role};
use crate::task::{Splits, Task};

pub use log::Log;
pub use shared::export;
pub use tape::{Tape, Untold};

/// The log's name in a run folder.
pub const FILE: &str = "trajectory.bin";

/// What a trajectory begins with: all that its values' meaning depends on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Header {
    /// The program that wrote it.
    pub zotune: String,
    /// What the losses were computed with: matrix products add up in another order on another instruction set.
    pub instruction_set: String,
    /// The run's, resolved.
    pub config: Plan,
    /// The method with its numbers filled in.
    pub method: String,
    /// SHA-256 of the base model's files, by name.
    pub model: BTreeMap<String, String>,
    /// The weights that the run began from.
    pub weights: Vec<Weight>,
    /// What it trains on.
    pub data: Data,
    /// What the losses are computed with beside weights and data, by name: the model's numbers, the task's loss. An older log has none.
    #[serde(default)]
    pub function: BTreeMap<String, Value>,
    /// Whether the values are all there is to know. A first-order gradient is not in them.
    pub replays: bool,
}

/// A weight that a run begins from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Weight {
    /// As the model names it.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Of its bytes as they are held.
    pub digest: Digest,
}

/// The examples of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Examples in the training split.
    pub train: usize,
    /// In the dev split.
    pub dev: usize,
    /// In the evaluation split.
    pub eval: usize,
    /// Longer prompts are cut to this, in tokens.
    pub max_length: usize,
    /// Of all their tokens and labels.
    pub digest: Digest,
}

impl Data {
    /// Of these splits.
    pub fn new(examples: &Splits<Example>, max_length: usize) -> Self {
        let Splits { train, dev, eval } = examples;
        let mut numbers = Vec::new();
        for split in [train, dev, eval] {
            numbers.push(split.len());
            for example in split {
                numbers.extend([example.label, example.candidates.len()]);
                for candidate in &example.candidates {
                    numbers.extend([candidate.option_len, candidate.tokens.len()]);
                    numbers.extend(candidate.tokens.iter().map(|token| *token as usize));
                }
            }
        }
        let bytes: Vec<u8> = numbers.into_iter().flat_map(|n| (n as u64).to_le_bytes()).collect();
        Data { train: train.len(), dev: dev.len(), eval: eval.len(), max_length, digest: Digest::of(&bytes) }
    }
}

impl Header {
    /// Of a run that begins with these weights.
    pub fn new(plan: &Plan, method: &str, task: &Task, model: &Model, params: &mut Params, data: Data) -> Result<Self> {
        let replays = !params.ids().any(|(id, _)| params.role(id) == Role::Differentiated);
        let files = model.weight_files().iter();
        let hash = |name: &String| Ok((name.clone(), sha256(&mut model.source().open(name)?.0)?));
        Ok(Header {
            zotune: format!("{} {}", env!("CARGO_PKG_VERSION"), env!("ZOTUNE_COMMIT")),
            instruction_set: crate::simd::instruction_set().into(),
            config: plan.clone(),
            method: method.into(),
            model: files.map(hash).collect::<Result<_>>()?,
            weights: Weight::all(params)?,
            data,
            function: checks::function(model, Some(task)),
            replays: replays && crate::optim::method(&plan.optimizer)?.replays(),
        })
    }

    /// Refuses what no run asks for. A sum says that a header is as it was written, not by whom.
    fn check(&self) -> Result<()> {
        self.config.check_extremes().context("its header asks for what no run has")
    }
}

impl Weight {
    /// All weights as they stand.
    pub fn all(params: &mut Params) -> Result<Vec<Self>> {
        let weights = params.settle()?;
        let digests = Digest::of_tensors(weights.iter().map(|(_, tensor)| tensor))?;
        let weight = |((name, tensor), digest): ((&str, &candle_core::Tensor), _)| Weight {
            name: name.into(),
            shape: tensor.dims().into(),
            digest,
        };
        Ok(weights.iter().zip(digests).map(weight).collect())
    }
}

/// A score on a split.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// The task's loss, mean over the split.
    pub loss: f64,
    /// The share of examples that came out right; None where there is nothing to choose from.
    pub accuracy: Option<f64>,
    /// Of the weights that were scored.
    pub digest: Digest,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// The step whose weights were kept: the one with the best dev loss.
    pub best_step: u64,
    /// Of each of their tensors, in order.
    pub digests: Vec<Digest>,
}

/// What a log says after its header, piece by piece.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// The next step's function values, in the order in which its estimator asked for them.
    Step(Vec<f32>),
    /// The score on dev of the weights after the last step.
    Dev(Scored),
    /// The score on the evaluation split before the first.
    Untrained(Scored),
    /// From here on the run is to have so many steps.
    Extended(u64),
    /// All steps were made and the best weights kept.
    Done(Done),
}

/// A trajectory as it was read, or as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trajectory {
    /// What it begins with.
    pub header: Header,
    /// All steps' values, one step after the other, and where each step's end.
    #[serde(skip)]
    values: Vec<f32>,
    #[serde(skip)]
    ends: Vec<usize>,
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

    /// Reads a run folder's log, a log, or a file that [`export`] wrote.
    pub fn open(place: &Path) -> Result<Self> {
        let path = if place.is_dir() { place.join(FILE) } else { place.to_path_buf() };
        let bytes = std::fs::read(&path).map_err(|e| usage!("{}: there is no trajectory to read: {e}", path.display()))?;
        let (trajectory, torn) = Self::read(&bytes).with_context(|| path.display().to_string())?;
        if let Some(torn) = torn {
            tracing::warn!("{}: {torn}", path.display());
        }
        Ok(trajectory)
    }

    /// Says of what was read of `place` that it is not a whole run's, where it is not.
    pub fn warn_if_part(&self, place: &Path) {
        if self.done.is_none() {
            let (place, steps, of) = (place.display(), self.steps(), self.max_steps);
            tracing::warn!("{place}: it ends behind step {steps} of {of}: its run has not ended, or the rest of it is lost");
        }
    }

    /// Reads the bytes of a log or of a file that [`export`] wrote. Of a log whose tail is torn it gives the whole records, and what
    /// to say of the tail. Any other damage is an error.
    pub fn read(bytes: &[u8]) -> Result<(Self, Option<String>)> {
        if shared::is_shared(bytes) {
            return Ok((shared::read(bytes)?, None));
        }
        let (trajectory, whole) = log::read(bytes)?;
        Ok((trajectory, whole.torn(bytes)))
    }

    /// Says of what was typed what a trajectory that it names decides: how the weights are held, the adapter that they are, and of
    /// a model that it names too, at which commit it begins. What is trained in the model's place, if anything is, comes back.
    pub fn fill_in(common: &mut Common) -> Result<Tuned> {
        let Some(place) = &common.trajectory else { return Ok(Tuned::default()) };
        let Inputs { dtype: then, adapter, tuned, model, revision, .. } = Self::open(place)?.header.config.inputs;
        if common.revision.is_none() && common.model.as_ref() == Some(&model) {
            common.revision = revision;
        }
        if let Some(other) = common.dtype.filter(|dtype| *dtype != then) {
            return Err(usage!(
                "--dtype {}: the trajectory was walked in {}, and its weights come out of no other",
                other.dtype().as_str(),
                then.dtype().as_str()
            ));
        }
        common.dtype = Some(then);
        if adapter.is_some() {
            common.adapter = common.adapter.take().or(adapter);
        }
        Ok(if tuned.is_adapter() { tuned } else { Tuned::default() })
    }

    /// The trajectory that leads to the model that a run's adapter was trained on, if one does.
    pub fn to_base(inputs: &Inputs) -> Option<&PathBuf> {
        let place = inputs.trajectory.as_ref().filter(|_| inputs.is_adapted())?;
        // One that leads to the adapter itself is in it already.
        let leads_to_adapter = |place| Self::open(place).is_ok_and(|then| then.header.config.inputs.is_adapted());
        (!leads_to_adapter(place)).then_some(place)
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

    /// Whether a run that was made longer was scored here only because it ended here. Such a score is no candidate for the best, so a
    /// run in parts keeps the weights that it would have kept in one.
    pub fn is_cut(&self, step: u64) -> bool {
        let ended = self.stages.iter().any(|stage| stage.last == step && stage.max_steps == step);
        ended && !step.is_multiple_of(self.header.config.eval_steps)
    }

    /// The step with the best dev loss, the first of equals, among those up to `last`.
    pub fn best(&self, last: u64) -> Option<(u64, Scored)> {
        let scored = self.dev.range(..=last).map(|(step, scored)| (*step, *scored)).filter(|(step, _)| !self.is_cut(*step));
        scored.reduce(|best, next| if next.1.loss < best.1.loss { next } else { best })
    }

    /// The step whose weights were kept, as far as it goes: the best on dev, the last where none was scored.
    pub fn kept(&self) -> u64 {
        self.best(self.steps()).map_or(self.steps(), |(step, _)| step)
    }

    /// The config as it stands at the end of the trajectory.
    pub fn plan(&self) -> Plan {
        Plan { max_steps: self.max_steps, stages: self.stages.clone(), ..self.header.config.clone() }
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

//! Verifies that a run's inputs (model, task, data) and outputs are those of its trajectory. The errors name what
//! differs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::header::{Header, Weight};
use super::steps::Trajectory;
use crate::base::Digest;
use crate::model::adapter::stored::is_adapters;
use crate::model::save::{kept_digests, kept_file};
use crate::params::digest::trained_digests;
use crate::params::{Params, Stored};
use crate::zo::{Data, Workload};

impl Header {
    /// Fails if the run cannot continue with these weights, before its first step, and this workload.
    pub fn check_continues(&self, params: &mut Params, workload: &dyn Workload) -> Result<()> {
        // The weights first: another model's tokenizer makes other examples of the same rows.
        self.check_base(params)?;
        self.check_function(&workload.function())?;
        self.check_data(&workload.data())
    }

    /// Fails if `data` are not the examples that the run began with.
    pub fn check_data(&self, data: &Data) -> Result<()> {
        let numbers = |data: &Data| [data.train, data.dev, data.eval, data.max_length];
        let what =
            ["examples in the training split", "in the dev split", "in the evaluation split", "tokens at most in each"];
        let other =
            what.into_iter().zip(numbers(data).into_iter().zip(numbers(&self.data))).find(|(_, (ours, then))| ours != then);
        if let Some((what, (ours, then))) = other {
            return Err(differs!(
                "there are {ours} {what}, but the run was started with {then}: the data or the model has changed"
            ));
        }
        match data.digest == self.data.digest {
            true => Ok(()),
            false => Err(differs!(
                "the data differ from those of the run: the data file, the task file or the tokenizer has changed"
            )),
        }
    }

    /// Fails at the first weight that differs from those the run began from.
    pub fn check_base(&self, params: &mut Params) -> Result<()> {
        // An adapter created on top of this trajectory's result is not part of it.
        self.check_weights(params, self.config.inputs.is_adapted())
    }

    /// Fails at the first base weight that differs from those that the run's adapter was trained on. The adapter's own
    /// weights are not compared: they are trained by now.
    pub fn check_under_adapter(&self, params: &mut Params) -> Result<()> {
        self.check_weights(params, false)
    }

    fn check_weights(&self, params: &mut Params, with_adapter: bool) -> Result<()> {
        let compared = |weight: &Weight| with_adapter || !is_adapters(&weight.name);
        let weights: Vec<Weight> = Weight::all(params)?.into_iter().filter(compared).collect();
        let began: Vec<&Weight> = self.weights.iter().filter(|weight| compared(weight)).collect();
        let base = &self.config.inputs.model;
        if let Some((ours, _)) = weights.iter().zip(&began).find(|(ours, then)| ours != *then) {
            let files: Vec<String> = self.model.iter().map(|(name, hash)| format!("{name} with SHA-256 {hash}")).collect();
            return Err(differs!(
                "wrong base model: weight {} differs from that of the run's base model {base} ({})",
                ours.name,
                files.join(", ")
            ));
        }
        match weights.len() == began.len() {
            true => Ok(()),
            false => Err(differs!("wrong base model: it has {} weights, but {base} had {}", weights.len(), began.len())),
        }
    }

    /// Fails at the first parameter of the loss that differs from the run's. Names that only one side has are skipped.
    pub fn check_function(&self, function: &BTreeMap<String, Value>) -> Result<()> {
        let mut both = function.iter().filter_map(|(name, ours)| Some((name, ours, self.function.get(name)?)));
        let Some((name, ours, then)) = both.find(|(_, ours, then)| ours != then) else { return Ok(()) };
        let (place, name) = match name.split_once(' ') {
            Some(("task", name)) => ("the task file", name),
            Some(("model", name @ "lora scale")) => ("the adapter's adapter_config.json", name),
            Some(("model", name)) => ("the model's config.json", name),
            _ => ("the function", name.as_str()),
        };
        Err(differs!("{place} has changed: {name} is {}, but the run was started with {}", short(ours), short(then)))
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

impl Trajectory {
    /// Fails if the run used first-order gradients, so that its steps do not follow from its function values.
    pub fn check_replays(&self) -> Result<()> {
        match self.header.replays {
            true => Ok(()),
            false => Err(usage!(
                "{} uses first-order gradients, which the log does not hold, so the run cannot be replayed; its best weights \
                 are in {}",
                self.header.config.optimizer,
                kept_file(self.header.config.inputs.is_adapted())
            )),
        }
    }

    /// Whether stored weights, given by their digests, are those scored with `digest`, and frozen ones unchanged. The
    /// error names what differs.
    pub fn check_stored(&self, stored: &[Stored], digest: Digest) -> Result<()> {
        let began = |name: &str| self.header.weights.iter().find(|weight| weight.name == name).map(|weight| weight.digest);
        if let Some(other) = stored.iter().find(|stored| !stored.trained && began(&stored.name) != Some(stored.digest)) {
            bail!("{} is frozen, but it differs from what the run started with", other.name);
        }
        let trained: Vec<Digest> = stored.iter().filter(|stored| stored.trained).map(|stored| stored.digest).collect();
        match Digest::of_digests(&trained) == digest {
            true => Ok(()),
            false => bail!("the trained weights differ from those that were written"),
        }
    }

    /// Fails if the trajectory has a digest of the trained weights after `step` and theirs differs.
    pub fn check(&self, step: u64, params: &mut Params) -> Result<()> {
        let Some(then) = self.dev.get(&step) else { return Ok(()) };
        let weights = params.settle()?;
        let digests = trained_digests(weights)?;
        if Digest::of_digests(&digests) == then.digest {
            return Ok(());
        }
        let place = match &self.done {
            Some(done) if done.best_step == step => {
                let names = weights.trained().map(|(name, _)| name);
                let mut tensors = names.zip(digests.iter().zip(&done.digests));
                tensors
                    .find(|(_, (ours, then))| ours != then)
                    .map_or(String::new(), |(name, _)| format!(", first in {name}"))
            }
            _ => String::new(),
        };
        let agreed = self.dev.range(..step).next_back().map_or(0, |(step, _)| *step);
        Err(differs!("after step {step} the weights differ from the run's{place}; at step {agreed} they were the same"))
    }

    /// Fails unless `folder` holds the weights that a finished run kept. The error names what differs.
    pub fn check_kept(&self, folder: &Path) -> Result<()> {
        let done = self.done.as_ref().context("the run has not ended")?;
        let names = self.header.weights.iter().map(|weight| weight.name.as_str());
        let kept = kept_digests(folder, self.header.config.inputs.is_adapted(), names)?;
        let mut trained = done.digests.iter().peekable();
        for (name, digest) in kept {
            let began = self.header.weights.iter().find(|weight| weight.name == name).map(|weight| weight.digest);
            // Trained weights are in the order of all weights.
            if trained.next_if(|trained| **trained == digest).is_none() && began != Some(digest) {
                bail!("its {name} differs");
            }
        }
        match trained.next() {
            None => Ok(()),
            Some(_) => bail!("some of its trained weights are still those from before the run"),
        }
    }
}

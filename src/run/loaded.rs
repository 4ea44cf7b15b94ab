//! A model with its weights and tokenizer.

use anyhow::Result;

use crate::config::{Inputs, RunConfig, TrainableArgs};
use crate::data::Example;
use crate::data::task::{PromptedRow, Splits};
use crate::data::tokenizer::Tokenizer;
use crate::model::adapter::{Adapter, AdapterKind, Lora};
use crate::model::{Model, Shape, source};
use crate::params::Params;

/// A model with its weights and tokenizer, opened and checked.
pub struct LoadedModel {
    /// The model.
    pub model: Model,
    /// Its weights; empty tensors until [`load`](Self::load).
    pub params: Params,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The maximum length of an example, in tokens; longer prompts are truncated.
    pub max_length: usize,
    /// Whether a new adapter is not initialised yet.
    blank: bool,
    /// The commit, if the model is from the hub.
    pub commit: Option<String>,
}

impl LoadedModel {
    /// Opens the model that `inputs` names, and reads its weights.
    pub fn open(inputs: &Inputs) -> Result<Self> {
        Self::open_meta(inputs)?.0.load(inputs)
    }

    /// Opens the model from config.json alone, its weights as empty tensors; returns with it the number of elements of
    /// each weight.
    pub fn open_meta(inputs: &Inputs) -> Result<(Self, Vec<usize>)> {
        let (source, commit) = source::find(&inputs.model, inputs.revision.as_deref())?;
        let tokenizer = Tokenizer::open(&source, inputs.bos_id)?;
        let adapter = adapter(inputs)?;
        let blank = adapter.as_ref().is_some_and(Adapter::is_new);
        let (model, params, sizes) = Model::open_meta(&source, inputs.dtype.dtype(), adapter)?;
        let Shape { vocab_size, max_length: longest } = model.shape();
        if let Some(id) = inputs.bos_id.filter(|id| *id as usize >= vocab_size) {
            return Err(usage!("`bos_id` {id}: the vocabulary has {vocab_size} tokens"));
        }
        let tokenizer = tokenizer.with_rows(vocab_size);
        if let Some(asked) = inputs.max_length.filter(|n| *n > longest) {
            return Err(usage!("`max_length` {asked}: the model supports at most {longest} tokens"));
        }
        if let Some(asked) = inputs.tuned.num_prefix.filter(|_| longest < 2) {
            return Err(usage!(
                "`num_prefix` {asked}: the model supports at most {} tokens, so there is no room for a prompt and an answer",
                model.positions()
            ));
        }
        if longest < 2 {
            return Err(usage!(
                "the model supports at most {} tokens, so with a prefix of {} there is no room for a prompt and an answer",
                model.positions(),
                model.positions() - longest
            ));
        }
        let max_length = inputs.max_length.unwrap_or(longest.min(2048));
        Ok((LoadedModel { model, params, tokenizer, max_length, blank, commit }, sizes))
    }

    /// Reads the weights of a model that [`open_meta`](Self::open_meta) opened.
    pub fn load(self, inputs: &Inputs) -> Result<Self> {
        if let Some(commit) = &self.commit {
            source::fetch_weights(&inputs.model, commit)?;
        }
        let adapter = self.model.adapter().cloned();
        let (model, params) = Model::open_adapted(self.model.source(), inputs.dtype.dtype(), adapter)?;
        Ok(LoadedModel { model, params, ..self })
    }

    /// Initialises a new adapter as a run with this config does, unless it is done already or no adapter is trained.
    pub fn begin_adapter(&mut self, config: &RunConfig) -> Result<()> {
        if config.inputs.is_adapted() && std::mem::take(&mut self.blank) {
            self.model.begin_adapter(&mut self.params, config.seed)?;
        }
        Ok(())
    }

    /// Tokenises rows.
    pub fn encode(&self, rows: &[PromptedRow]) -> Result<Vec<Example>> {
        Example::encode_all(rows, &self.tokenizer, self.max_length)
    }

    /// Tokenises the splits of a run. A training split smaller than a batch is a usage error.
    pub fn encode_splits(&self, rows: &Splits, batch_size: usize) -> Result<Splits<Example>> {
        let Splits { train, dev, eval } = rows;
        if batch_size > train.len() {
            let rows = if train.len() == 1 {
                "is only 1 training row".into()
            } else {
                format!("are only {} training rows", train.len())
            };
            return Err(usage!(
                "`batch_size` {batch_size}{}: there {rows} ({} dev, {} eval); use `batch_size {}` or less, or give more rows",
                if batch_size == 16 { " (the default)" } else { "" },
                dev.len(),
                eval.len(),
                train.len(),
            ));
        }
        if self.tokenizer.end().is_none() && rows.train.iter().any(|row| row.answered.len() == 1) {
            tracing::warn!("the model's files name no end token, so the model does not learn where a completion ends");
        }
        let encode = |called, rows: &[PromptedRow]| Example::encode_split(called, rows, &self.tokenizer, self.max_length);
        Ok(Splits { train: encode("train", train)?, dev: encode("dev", dev)?, eval: encode("eval", eval)? })
    }
}

/// The adapter of the inputs: a stored one, a new one, or none.
pub(super) fn adapter(inputs: &Inputs) -> Result<Option<Adapter>> {
    let TrainableArgs { lora_r, lora_alpha, lora_target_modules, num_prefix, .. } = &inputs.tuned;
    if let Some(place) = &inputs.adapter {
        return Adapter::open(&source::find_adapter(place)?).map(Some);
    }
    let lora = lora_r.map(|r| {
        let alpha = lora_alpha.unwrap_or(2.0 * r as f64);
        let targets = lora_target_modules.as_ref().map_or(Vec::new(), |names| names.0.clone());
        AdapterKind::Lora(Lora { r, alpha, by_root: false, targets })
    });
    Ok(lora.or(num_prefix.map(AdapterKind::Prefix)).map(Adapter::new))
}

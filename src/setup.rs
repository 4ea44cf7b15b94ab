//! What a run begins from: a model opened, each weight's role, the method made, the loss over the training set.

use std::path::Path;

use anyhow::{Result, bail};

use crate::config::{Distribution, FoParams, Inputs, Plan, matches};
use crate::data::{Batches, Example};
use crate::files::Source;
use crate::model::{self, Model, Shape, gguf};
use crate::objective::PromptLoss;
use crate::optim::{self, Optimizer};
use crate::params::{ParamId, Params, Role, Span};
use crate::task::{PromptedRow, Splits, Task};
use crate::tokenizer::Tokenizer;

/// A model with its weights and tokenizer, opened and checked.
pub struct Bench {
    /// The model.
    pub model: Model,
    /// Its weights.
    pub params: Params,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Longer prompts are cut to this, in tokens.
    pub max_length: usize,
}

impl Bench {
    /// Opens what `inputs` names.
    pub fn open(inputs: &Inputs) -> Result<Self> {
        Self::outline(inputs)?.0.load(inputs)
    }

    /// The same from config.json alone: the model without its weights, and how many numbers each would have.
    pub fn outline(inputs: &Inputs) -> Result<(Self, Vec<usize>)> {
        let source = model_source(&inputs.model)?;
        let tokenizer = Tokenizer::open(&source, inputs.bos_id, model::bos_token_id(&source)?)?;
        let (model, params, sizes) = Model::outline(&source, inputs.dtype.dtype())?;
        let Shape { vocab_size, max_length: longest } = model.shape();
        if let Some(id) = inputs.bos_id.filter(|id| *id as usize >= vocab_size) {
            return Err(usage!("--bos-id {id}: the model's embedding has {vocab_size} rows"));
        }
        if tokenizer.id_limit() > vocab_size {
            bail!(
                "the tokenizer has ids up to {}, but the model's embedding has {vocab_size} rows: they are not of one model ({})",
                tokenizer.id_limit() - 1,
                model.source().place("config.json")
            );
        }
        if let Some(asked) = inputs.max_length.filter(|n| *n > longest) {
            return Err(usage!("--max-length {asked}: the model has positions for {longest} tokens"));
        }
        let max_length = inputs.max_length.unwrap_or(longest.min(2048));
        Ok((Bench { model, params, tokenizer, max_length }, sizes))
    }

    /// An outline's weights, read.
    pub fn load(self, inputs: &Inputs) -> Result<Self> {
        let (model, params) = Model::open(self.model.source(), inputs.dtype.dtype())?;
        Ok(Bench { model, params, ..self })
    }

    /// Tokenises rows.
    pub fn encode(&self, rows: &[PromptedRow]) -> Result<Vec<Example>> {
        Example::encode_all(rows, &self.tokenizer, self.max_length)
    }

    /// Tokenises the splits of a run, whose training split must fill a batch.
    pub fn encode_splits(&self, rows: &Splits, batch_size: usize) -> Result<Splits<Example>> {
        if batch_size > rows.train.len() {
            return Err(usage!("--batch-size {batch_size}: there are only {} training examples", rows.train.len()));
        }
        Ok(Splits { train: self.encode(&rows.train)?, dev: self.encode(&rows.dev)?, eval: self.encode(&rows.eval)? })
    }
}

/// Says which weights get which gradients, settles what depends on their number and on that of the training examples, fills
/// it into the plan, and makes the method.
pub fn set_up(plan: &mut Plan, bench: &mut Bench, num_train: usize) -> Result<Optimizer> {
    assign_roles(plan, &bench.model, &mut bench.params)?;
    let (trained, estimated) = (bench.params.count_over(Span::Trained), bench.params.count_over(Span::Estimated));
    settle_plan(plan, trained, estimated, num_train)?;
    let rate = plan.learning_rate.unwrap_or_default();
    if let Some(decay) = plan.settings.weight_decay.filter(|wd| *wd > 0.0 && 1.0 - (rate * wd) as f32 == 1.0) {
        tracing::warn!("weight decay {decay} at learning rate {rate:e} is too small for f32 and does nothing");
    }
    make_method(plan, &mut bench.params)
}

/// Which weights get which gradients.
pub fn assign_roles(plan: &Plan, model: &Model, params: &mut Params) -> Result<()> {
    let wanted = optim::method(&plan.optimizer)?.fo_params(&plan.settings);
    let differentiated = first_order(&wanted, model, params)?;
    let ids: Vec<ParamId> = params.ids().map(|(id, _)| id).collect();
    ids.into_iter().for_each(|id| params.set_role(id, Role::Estimated));
    differentiated.into_iter().for_each(|id| params.set_role(id, Role::Differentiated));
    Ok(())
}

/// Fills in what depends on how many weights are trained, how many of them have no first-order gradient, and on how many
/// examples.
pub fn settle_plan(plan: &mut Plan, num_trained: usize, num_estimated: usize, num_train: usize) -> Result<()> {
    let method = optim::method(&plan.optimizer)?;
    method.check(&plan.settings)?;
    plan.settings =
        method.resolve(&plan.settings, num_trained, num_estimated, (num_train as u64).div_ceil(plan.batch_size as u64));
    plan.learning_rate.get_or_insert(method.learning_rate(num_trained, num_estimated));
    Ok(())
}

/// The method of a settled plan, for weights whose roles are assigned.
pub fn make_method(plan: &Plan, params: &mut Params) -> Result<Optimizer> {
    params.walk_along_signs(plan.settings.distribution == Some(Distribution::Rademacher));
    optim::method(&plan.optimizer)?.make(&plan.settings, params)
}

/// The weights that `wanted` names; patterns that match nothing are an error.
fn first_order(wanted: &FoParams, model: &Model, params: &Params) -> Result<Vec<ParamId>> {
    let blocks = model.num_blocks();
    match wanted {
        FoParams::None => Ok(Vec::new()),
        FoParams::All => Ok(params.ids().map(|(id, _)| id).collect()),
        FoParams::Last(n) if *n > blocks => Err(usage!("--fo-params last:{n}: the model has {blocks} blocks")),
        FoParams::Last(n) => Ok(model.last_blocks(*n)),
        FoParams::Patterns(patterns) => {
            let names: Vec<&str> = params.ids().map(|(_, name)| name).collect();
            if let Some(idle) = patterns.iter().find(|p| !names.iter().any(|name| matches(p, name))) {
                let example = names[names.len() / 2];
                return Err(usage!("--fo-params {idle}: no weight's name matches; they look like {example}"));
            }
            let matched = |name: &str| patterns.iter().any(|pattern| matches(pattern, name));
            Ok(params.ids().filter(|(_, name)| matched(name)).map(|(id, _)| id).collect())
        }
    }
}

/// A folder or a GGUF file of that name, else the model built in under it.
pub fn model_source(name: &str) -> Result<Source> {
    let folder = Source::Folder(name.into());
    if name == "opt-mini" && !folder.has("config.json") {
        Ok(model::OPT_MINI)
    } else if Path::new(name).is_dir() {
        Ok(folder)
    } else if gguf::is_gguf(Path::new(name)) {
        gguf::open(Path::new(name))
    } else if Path::new(name).is_file() {
        Err(usage!("--model {name}: the file is no GGUF file; that, or a folder in Hugging Face layout, is wanted"))
    } else {
        Err(usage!(
            "--model {name}: there is no such folder or file; it wants a folder in Hugging Face layout, a GGUF file, or opt-mini, \
             which is built in"
        ))
    }
}

/// The loss over the training set, a mini-batch a step, or one for each direction of a step.
pub fn problem<'a>(plan: &Plan, task: &Task, model: &'a Model, train: &'a [Example]) -> PromptLoss<'a> {
    let batches = Batches::new(train.len(), plan.batch_size, plan.seed);
    let a_step = match plan.settings.fresh_batch_per_direction {
        Some(true) => plan.settings.num_directions.unwrap_or(1),
        _ => 1,
    };
    PromptLoss::new(model, task.loss, train, batches, plan.micro_batch_size).with_batches_a_step(a_step)
}

//! What a run begins from: a model opened, each weight's role, the method made, the loss over the training set.

use anyhow::Result;
use candle_core::DType;

use crate::config::{Distribution, Inputs, Plan, Selection, Tuned, matches};
use crate::data::{Batches, Example};
use crate::model::{self, Adapter, Kind, Lora, Model, Shape};
use crate::noise::{Direction, direction_seed};
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
    /// Whether a new adapter still has no values.
    blank: bool,
    /// The commit of a model from the hub.
    pub commit: Option<String>,
}

impl Bench {
    /// Opens what `inputs` names.
    pub fn open(inputs: &Inputs) -> Result<Self> {
        Self::outline(inputs)?.0.load(inputs)
    }

    /// The same from config.json alone: the model without its weights, and how many numbers each would have.
    pub fn outline(inputs: &Inputs) -> Result<(Self, Vec<usize>)> {
        let (source, commit) = model::find(&inputs.model, inputs.revision.as_deref())?;
        let tokenizer = Tokenizer::open(&source, inputs.bos_id)?;
        let adapter = adapter(inputs)?;
        let blank = adapter.as_ref().is_some_and(Adapter::is_new);
        let (model, params, sizes) = Model::outline(&source, inputs.dtype.dtype(), adapter)?;
        let Shape { vocab_size, max_length: longest } = model.shape();
        if let Some(id) = inputs.bos_id.filter(|id| *id as usize >= vocab_size) {
            return Err(usage!("--bos-id {id}: the model's embedding has {vocab_size} rows"));
        }
        let tokenizer = tokenizer.with_rows(vocab_size);
        if let Some(asked) = inputs.max_length.filter(|n| *n > longest) {
            return Err(usage!("--max-length {asked}: the model has positions for {longest} tokens"));
        }
        if longest < 2 {
            return Err(usage!(
                "the model has positions for {} tokens, and a prefix of {} leaves none for a prompt and an answer",
                model.positions(),
                model.positions() - longest
            ));
        }
        let max_length = inputs.max_length.unwrap_or(longest.min(2048));
        Ok((Bench { model, params, tokenizer, max_length, blank, commit }, sizes))
    }

    /// An outline's weights, read.
    pub fn load(self, inputs: &Inputs) -> Result<Self> {
        if let Some(commit) = &self.commit {
            model::fetch_weights(&inputs.model, commit)?;
        }
        let adapter = self.model.adapter().cloned();
        let (model, params) = Model::open_adapted(self.model.source(), inputs.dtype.dtype(), adapter)?;
        Ok(Bench { model, params, ..self })
    }

    /// Gives a new adapter the values that a run with this plan begins with, if it trains one and it has none yet.
    pub fn begin_adapter(&mut self, plan: &Plan) -> Result<()> {
        if plan.inputs.is_adapted() && std::mem::take(&mut self.blank) {
            self.model.begin_adapter(&mut self.params, plan.seed)?;
        }
        Ok(())
    }

    /// Tokenises rows.
    pub fn encode(&self, rows: &[PromptedRow]) -> Result<Vec<Example>> {
        Example::encode_all(rows, &self.tokenizer, self.max_length)
    }

    /// Tokenises the splits of a run, whose training split must fill a batch.
    pub fn encode_splits(&self, rows: &Splits, batch_size: usize) -> Result<Splits<Example>> {
        let Splits { train, dev, eval } = rows;
        if batch_size > train.len() {
            let there = if train.len() == 1 { "is only 1 training row" } else { "are fewer training rows" };
            return Err(usage!(
                "--batch-size {batch_size}{}: there {there}: {} train, {} dev, {} eval; give more rows, or --batch-size {}",
                if batch_size == 16 { " (which is the default)" } else { "" },
                train.len(),
                dev.len(),
                eval.len(),
                train.len(),
            ));
        }
        if self.tokenizer.end().is_none() && rows.train.iter().any(|row| row.answered.len() == 1) {
            tracing::warn!("the model's files name no end token: it is not taught where a completion ends");
        }
        Ok(Splits { train: self.encode(&rows.train)?, dev: self.encode(&rows.dev)?, eval: self.encode(&rows.eval)? })
    }
}

/// Says which weights get which gradients, settles what depends on their number and on that of the training examples, fills
/// it into the plan, and makes the method.
pub fn set_up(plan: &mut Plan, bench: &mut Bench, num_train: usize) -> Result<Optimizer> {
    bench.begin_adapter(plan)?;
    assign_roles(plan, &bench.model, &mut bench.params)?;
    let (trained, estimated) = (bench.params.count_over(Span::Trained), bench.params.count_over(Span::Estimated));
    settle_plan(plan, &bench.model, trained, estimated, num_train)?;
    let rate = plan.learning_rate.unwrap_or_default();
    if let Some(decay) = plan.settings.weight_decay.filter(|wd| *wd > 0.0 && 1.0 - (rate * wd) as f32 == 1.0) {
        tracing::warn!("weight decay {decay} at learning rate {rate:e} is too small for f32 and does nothing");
    }
    let optimizer = make_method(plan, &mut bench.params)?;
    warn_of_lost_looks(plan, &mut bench.params)?;
    Ok(optimizer)
}

/// Says so where half precision rounds away most of the way to the points where the function is looked at.
fn warn_of_lost_looks(plan: &Plan, params: &mut Params) -> Result<()> {
    let Some(radius) = plan.settings.zo_eps.filter(|_| plan.inputs.dtype.dtype() != DType::F32) else { return Ok(()) };
    let eps = match plan.settings.distribution {
        Some(Distribution::Sphere) => radius / (params.count_over(Span::Trained) as f64).sqrt(),
        _ => radius,
    };
    let direction = Direction::from(plan.settings.distribution.unwrap_or_default());
    let share = params.displaced_share(direction.term(direction_seed(plan.seed, 1, 0), eps as f32), Span::Trained)?;
    if share < 0.5 {
        tracing::warn!(
            "of the way to where the loss is looked at, --zo-eps {radius:e}, {:.0} % is lost to rounding in {}: slopes are of little \
             worth; a larger --zo-eps or f32 has them",
            100.0 * (1.0 - share),
            plan.inputs.dtype.dtype().as_str()
        );
    }
    Ok(())
}

/// Which weights get which gradients.
pub fn assign_roles(plan: &Plan, model: &Model, params: &mut Params) -> Result<()> {
    let trained = trained(&plan.inputs, model, params)?;
    let wanted = optim::method(&plan.optimizer)?.fo_params(&plan.settings);
    let mut differentiated = selected("--fo-params", &wanted, model, params)?;
    let named = !differentiated.is_empty();
    differentiated.retain(|id| trained.contains(id));
    if named && differentiated.is_empty() {
        return Err(usage!("--fo-params {}: none of these weights is trained", String::from(wanted)));
    }
    let ids: Vec<ParamId> = params.ids().map(|(id, _)| id).collect();
    ids.into_iter().for_each(|id| params.set_role(id, Role::Frozen));
    trained.into_iter().for_each(|id| params.set_role(id, Role::Estimated));
    differentiated.into_iter().for_each(|id| params.set_role(id, Role::Differentiated));
    Ok(())
}

/// Fills in what depends on how many weights are trained, how many of them have no first-order gradient, and on how many
/// examples.
pub fn settle_plan(
    plan: &mut Plan,
    model: &Model,
    num_trained: usize,
    num_estimated: usize,
    num_train: usize,
) -> Result<()> {
    let method = optim::method(&plan.optimizer)?;
    method.check(&plan.settings)?;
    let epoch = (num_train as u64).div_ceil(plan.batch_size as u64);
    // MeZO's radius, 1e-3, is for a model's own weights.
    let adapter = model.adapter().map(Adapter::kind).filter(|_| plan.inputs.is_adapted());
    let (zo_eps, rate) = adapter.map_or((1e-3, 1.0), |kind| (kind.zo_eps(), kind.rate(num_estimated > 0)));
    plan.settings = method.resolve(&plan.settings, zo_eps, num_trained, num_estimated, epoch);
    plan.learning_rate.get_or_insert(rate * method.learning_rate(num_trained, num_estimated));
    Ok(())
}

/// The method of a settled plan, for weights whose roles are assigned.
pub fn make_method(plan: &Plan, params: &mut Params) -> Result<Optimizer> {
    optim::method(&plan.optimizer)?.make(&plan.settings, params)
}

/// The weights that are trained: an adapter's, or those of the model's own that are asked for.
fn trained(inputs: &Inputs, model: &Model, params: &Params) -> Result<Vec<ParamId>> {
    let adapter = model.adapter_ids(params);
    if inputs.is_adapted() {
        return Ok(adapter);
    }
    let mut own = selected("--tune", inputs.tuned.tune.as_ref().unwrap_or(&Selection::All), model, params)?;
    own.retain(|id| !adapter.contains(id));
    Ok(own)
}

/// The weights that the `flag` names; patterns that match nothing are an error.
fn selected(flag: &str, wanted: &Selection, model: &Model, params: &Params) -> Result<Vec<ParamId>> {
    let blocks = model.num_blocks();
    match wanted {
        Selection::None => Ok(Vec::new()),
        Selection::All => Ok(params.ids().map(|(id, _)| id).collect()),
        Selection::Last(n) if *n > blocks => Err(usage!("{flag} last:{n}: the model has {blocks} blocks")),
        Selection::Last(n) => Ok(model.last_blocks(*n)),
        Selection::Patterns(patterns) => {
            let names: Vec<&str> = params.ids().map(|(_, name)| name).collect();
            if let Some(idle) = patterns.iter().find(|p| !names.iter().any(|name| matches(p, name))) {
                let example = names[names.len() / 2];
                return Err(usage!("{flag} {idle}: no weight's name matches; they look like {example}"));
            }
            let matched = |name: &str| patterns.iter().any(|pattern| matches(pattern, name));
            Ok(params.ids().filter(|(_, name)| matched(name)).map(|(id, _)| id).collect())
        }
    }
}

/// The adapter that the inputs name, stored or to be made.
fn adapter(inputs: &Inputs) -> Result<Option<Adapter>> {
    let Tuned { lora_r, lora_alpha, lora_target_modules, num_prefix, .. } = &inputs.tuned;
    if let Some(place) = &inputs.adapter {
        return Adapter::open(&model::find_adapter(place)?).map(Some);
    }
    let lora = lora_r.map(|r| {
        let alpha = lora_alpha.unwrap_or(2.0 * r as f64);
        let targets = lora_target_modules.as_ref().map_or(Vec::new(), |names| names.0.clone());
        Kind::Lora(Lora { r, alpha, by_root: false, targets })
    });
    Ok(lora.or(num_prefix.map(Kind::Prefix)).map(Adapter::new))
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

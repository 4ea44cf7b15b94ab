//! THE LOOP: a training run from the first evaluation to the last, read from top to bottom.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::Value;

use crate::config::{Distribution, FoParams, Inputs, Plan, matches};
use crate::data::{Batches, Example};
use crate::error::NotFinite;
use crate::estimator::At;
use crate::eval::{Evaluation, evaluate};
use crate::files::{self, Source};
use crate::journal::{Journal, Step, Totals};
use crate::memory::peak_rss_bytes;
use crate::model::{self, Model, Shape};
use crate::noise;
use crate::objective::PromptLoss;
use crate::optim::{self, Optimizer};
use crate::params::{ParamId, Params, Role, Span};
use crate::report;
use crate::task::{PromptedRow, Splits, Task};
use crate::tokenizer::Tokenizer;

/// What all_results.json holds. Losses are the task's; times are medians over the steps, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Updates made.
    pub steps: u64,
    /// The step whose weights were kept: the one with the best dev loss, 0 for the untrained ones.
    pub best_step: u64,
    /// Training loss, mean over the last tenth of the steps; with the other totals.
    #[serde(flatten)]
    pub totals: Totals,
    /// Of the weights that were kept, on the dev split.
    pub dev_loss: f64,
    /// The same.
    pub dev_accuracy: f64,
    /// Of the weights that were kept, on the evaluation split.
    pub eval_loss: f64,
    /// The same.
    pub eval_accuracy: f64,
    /// On the evaluation split, before training.
    pub untrained_eval_loss: f64,
    /// The same.
    pub untrained_eval_accuracy: f64,
    /// Where the memory went.
    #[serde(flatten)]
    pub memory: Memory,
    /// The configured rate, or the default that was taken.
    pub learning_rate: f64,
}

/// Where a run's memory went, in bytes: each part at its largest.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Memory {
    /// The weights as they are held.
    pub weights_bytes: usize,
    /// What the rule holds beside them.
    pub optimizer_state_bytes: usize,
    /// What the estimator keeps from step to step.
    pub snapshot_bytes: usize,
    /// First-order gradients alive at once.
    pub gradient_peak_bytes: usize,
    /// What a forward or backward pass held beside all that was there before it.
    pub activation_peak_bytes: usize,
    /// Directions, as they are drawn: all threads together.
    pub noise_scratch_bytes: usize,
    /// Of the process's peak what is none of these: the program, the tokenizer, the data, what the parts' peaks do not
    /// have in common.
    pub rest_bytes: usize,
    /// The process's largest resident set.
    pub peak_rss_bytes: u64,
}

impl Memory {
    /// Of the parts that are counted where they are allocated, and of the process's peak.
    pub fn of(weights: usize, state: usize, snapshot: usize, gradients: usize, activations: usize, peak: u64) -> Self {
        let noise = noise::SCRATCH_BYTES * rayon::current_num_threads();
        let parts = weights + state + snapshot + gradients + activations + noise;
        Memory {
            weights_bytes: weights,
            optimizer_state_bytes: state,
            snapshot_bytes: snapshot,
            gradient_peak_bytes: gradients,
            activation_peak_bytes: activations,
            noise_scratch_bytes: noise,
            rest_bytes: (peak as usize).saturating_sub(parts),
            peak_rss_bytes: peak,
        }
    }
}

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
        let source = model_source(&inputs.model)?;
        let tokenizer = Tokenizer::open(&source, inputs.bos_id, model::bos_token_id(&source)?)?;
        let (model, params) = Model::open(&source, inputs.dtype.dtype())?;
        Self::fit(inputs, model, params, tokenizer)
    }

    /// The same from config.json alone: the model without its weights, and how many numbers each would have.
    pub fn outline(inputs: &Inputs) -> Result<(Self, Vec<usize>)> {
        let source = model_source(&inputs.model)?;
        let tokenizer = Tokenizer::open(&source, inputs.bos_id, model::bos_token_id(&source)?)?;
        let (model, params, sizes) = Model::outline(&source, inputs.dtype.dtype())?;
        Ok((Self::fit(inputs, model, params, tokenizer)?, sizes))
    }

    /// An outline's weights, read.
    pub fn load(self, inputs: &Inputs) -> Result<Self> {
        let (model, params) = Model::open(self.model.source(), inputs.dtype.dtype())?;
        Ok(Bench { model, params, ..self })
    }

    fn fit(inputs: &Inputs, model: Model, params: Params, tokenizer: Tokenizer) -> Result<Self> {
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
        Ok(Bench { model, params, tokenizer, max_length: inputs.max_length.unwrap_or(longest.min(2048)) })
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
    settle_plan(plan, bench.params.count_over(Span::Trained), num_train)?;
    make_method(plan, &mut bench.params)
}

/// Which weights get which gradients.
pub fn assign_roles(plan: &Plan, model: &Model, params: &mut Params) -> Result<()> {
    let wanted = optim::method(&plan.optimizer)?.fo_params(&plan.settings);
    first_order(&wanted, model, params)?.into_iter().for_each(|id| params.set_role(id, Role::Differentiated));
    Ok(())
}

/// Fills in what depends on how many weights and examples there are.
pub fn settle_plan(plan: &mut Plan, num_weights: usize, num_train: usize) -> Result<()> {
    let method = optim::method(&plan.optimizer)?;
    method.check(&plan.settings)?;
    plan.settings = method.resolve(&plan.settings, num_weights, (num_train as u64).div_ceil(plan.batch_size as u64));
    plan.learning_rate.get_or_insert(method.learning_rate(num_weights));
    Ok(())
}

/// The method of a settled plan, for weights whose roles are assigned.
pub fn make_method(plan: &Plan, params: &mut Params) -> Result<Optimizer> {
    if plan.settings.distribution == Some(Distribution::Rademacher) {
        params.walk_along_signs();
    }
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

/// A folder of that name, else the model built in under it.
pub fn model_source(name: &str) -> Result<Source> {
    let folder = Source::Folder(name.into());
    if name == "opt-mini" && !folder.has("config.json") {
        Ok(model::OPT_MINI)
    } else if Path::new(name).is_dir() {
        Ok(folder)
    } else {
        Err(usage!(
            "--model {name}: there is no such folder; it wants one in Hugging Face layout, or opt-mini, which is built in"
        ))
    }
}

/// Trains `bench` on `examples` as `plan` says, and leaves the best weights in the run folder and in `bench`.
pub fn train(
    plan: &Plan,
    task: &Task,
    bench: &mut Bench,
    optimizer: &mut Optimizer,
    examples: &Splits<Example>,
    bar: ProgressBar,
) -> Result<Results> {
    let Bench { model, params, .. } = bench;
    let folder = &plan.output_dir;
    let weights_file = folder.join("model.safetensors");
    let peak_rate = plan.learning_rate.context("a plan that was not set up")?;
    if let Some(decay) = plan.settings.weight_decay.filter(|wd| *wd > 0.0 && 1.0 - (peak_rate * wd) as f32 == 1.0) {
        tracing::warn!("weight decay {decay} at learning rate {peak_rate:e} is too small for f32 and does nothing");
    }
    let mut problem = problem(plan, task, model, &examples.train);
    let score = |params: &mut Params, examples: &[Example]| -> Result<Evaluation> {
        evaluate(model, params.settle()?, examples, task.loss, plan.inputs.eval_batch_size, |_| ())
    };

    let mut journal = Journal::begin(plan, bar)?;
    let untrained = score(params, &examples.eval).context(DAMAGED)?;
    let untrained_dev = score(params, &examples.dev).context(DAMAGED)?;
    journal.untrained(&untrained_dev)?;
    // The folder is a model from the start, so a disk too small for it shows now and not after the first evaluation.
    model.write_companions(folder, params.dtype())?;
    model::save(params.settle()?, &weights_file)?;
    let untrained_dev_peak = untrained_dev.activation_peak;
    let mut best = (0, untrained_dev);

    for step in 1..=plan.max_steps {
        let (start, walked) = (Instant::now(), params.walk_time());
        let learning_rate = plan.learning_rate_at(step, peak_rate);
        let at = At { step, run_seed: plan.seed, learning_rate: learning_rate as f32 };
        problem.begin(step);

        let (estimate, mut gradients) = optimizer.estimator.estimate(&at, params, &mut problem)?;
        if !estimate.is_finite() {
            return Err(NotFinite::at_step(step, at.seed(0), estimate.losses().map(f64::from).collect()).into());
        }
        let gradient_norm = optimizer.rule.step(&at, params, &estimate, gradients.as_deref_mut())?;
        drop(gradients);

        let (time, walk_time) = (start.elapsed(), params.walk_time() - walked);
        let due = step.is_multiple_of(plan.eval_steps) || step == plan.max_steps;
        let scored = due.then(|| score(params, &examples.dev)).transpose();
        let dev = scored.with_context(|| format!("after step {step} (direction seed {})", at.seed(0)))?;
        let cost = problem.cost();
        let done = Step { number: step, estimate: &estimate, gradient_norm, learning_rate, cost, time, walk_time };
        journal.step(done, dev.as_ref())?;
        if let Some(dev) = dev.filter(|dev| dev.loss < best.1.loss) {
            model::save(params.settle()?, &weights_file)?;
            best = (step, dev);
        }
    }

    let (best_step, dev) = best;
    if best_step != plan.max_steps {
        params.settle()?;
        model::restore(params, &weights_file)?;
    }
    let eval = score(params, &examples.eval)?;
    let totals = journal.end();
    let (state, snapshot) = optimizer.bytes()?;
    let activations = totals.peaks.held.max(untrained.activation_peak).max(untrained_dev_peak);
    let memory = Memory::of(params.bytes(), state, snapshot, totals.peaks.aside, activations, peak_rss_bytes());
    Ok(Results {
        steps: plan.max_steps,
        best_step,
        totals,
        dev_loss: dev.loss,
        dev_accuracy: dev.accuracy,
        eval_loss: eval.loss,
        eval_accuracy: eval.accuracy,
        untrained_eval_loss: untrained.loss,
        untrained_eval_accuracy: untrained.accuracy,
        memory,
        learning_rate: peak_rate,
    })
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

/// Leaves all_results.json (`results`, and what the caller has put beside them) and loss.svg in the run folder.
pub fn conclude(plan: &Plan, task: &Task, results: &Value) -> Result<()> {
    files::write_bytes(&plan.output_dir.join("all_results.json"), &serde_json::to_vec_pretty(results)?)?;
    report::draw_losses(&plan.output_dir, &format!("{}, {}", task.name, plan.optimizer))
}

/// What to say when a model gives no numbers before anything was changed.
const DAMAGED: &str = "before training: the model's weights are damaged, or config.json is not theirs";

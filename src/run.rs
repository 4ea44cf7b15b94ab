//! THE LOOP: a training run from the first evaluation to the last, read from top to bottom.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::config::{Distribution, Inputs, Plan, default_learning_rate, default_zo_eps};
use crate::data::{Batches, Example};
use crate::error::NotFinite;
use crate::estimator::Estimator;
use crate::eval::{Evaluation, evaluate};
use crate::files::{self, Source};
use crate::journal::{Journal, Step, Totals};
use crate::memory;
use crate::model::{self, Model, Shape};
use crate::noise::direction_seed;
use crate::objective::PromptLoss;
use crate::optim::{self, Rule, Settings};
use crate::params::Params;
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
    /// The weights as they are held.
    pub weights_bytes: usize,
    /// What the rule holds beside them.
    pub optimizer_state_bytes: usize,
    /// The process's largest resident set.
    pub peak_rss_bytes: u64,
    /// The configured rate, or the default that was taken.
    pub learning_rate: f64,
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
        let Shape { vocab_size, max_length: longest } = model.shape();
        if let Some(id) = inputs.bos_id.filter(|id| *id as usize >= vocab_size) {
            return Err(usage!("--bos-id {id}: the model's embedding has {vocab_size} rows"));
        }
        if tokenizer.id_limit() > vocab_size {
            bail!(
                "the tokenizer has ids up to {}, but the model's embedding has {vocab_size} rows: they are not of one model ({})",
                tokenizer.id_limit() - 1,
                source.place("config.json")
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

/// The method's knobs as the plan has them; one that the method does not have is an error.
pub fn settings(plan: &Plan) -> Result<Settings> {
    let narrow = |x: Option<f64>| x.map(|x| x as f32);
    let settings = Settings {
        weight_decay: narrow(plan.weight_decay),
        momentum: narrow(plan.momentum),
        beta1: narrow(plan.beta1),
        beta2: narrow(plan.beta2),
        zeta: narrow(plan.zeta),
        amsgrad: plan.amsgrad,
    };
    optim::method(&plan.optimizer)?.check(&settings)?;
    Ok(settings)
}

/// The learning rate and the smoothing radius: as given, else the defaults for the method and the number of weights.
pub fn rate_and_radius(plan: &Plan, params: &Params) -> Result<(f64, f64)> {
    let default_rate = optim::method(&plan.optimizer)?.rate * default_learning_rate(params.count());
    let default_radius = default_zo_eps(plan.distribution, params.count());
    Ok((plan.learning_rate.unwrap_or(default_rate), plan.zo_eps.unwrap_or(default_radius)))
}

/// A folder of that name, else the model built in under it.
fn model_source(name: &str) -> Result<Source> {
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
    rule: &mut dyn Rule,
    examples: &Splits<Example>,
    bar: ProgressBar,
) -> Result<Results> {
    let Bench { model, params, .. } = bench;
    let folder = &plan.output_dir;
    let weights_file = folder.join("model.safetensors");
    let (peak_rate, zo_eps) = rate_and_radius(plan, params)?;
    let estimator = Estimator { sides: plan.perturbation_mode, distribution: plan.distribution, zo_eps: zo_eps as f32 };
    if plan.distribution == Distribution::Rademacher {
        params.walk_along_signs();
    }
    if let Some(decay) = plan.weight_decay.filter(|wd| *wd > 0.0 && 1.0 - (peak_rate * wd) as f32 == 1.0) {
        tracing::warn!("weight decay {decay} at learning rate {peak_rate:e} is too small for f32 and does nothing");
    }
    let mut batches = Batches::new(examples.train.len(), plan.batch_size, plan.seed);
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
    let mut best = (0, untrained_dev);

    for step in 1..=plan.max_steps {
        let (start, walked) = (Instant::now(), params.walk_time());
        let batch: Vec<&Example> = batches.at(step - 1).into_iter().map(|i| &examples.train[i]).collect();
        let mut objective = PromptLoss::new(model, task.loss, &batch, plan.micro_batch_size);
        let seeds: Vec<u64> = (0..plan.num_directions as u64).map(|k| direction_seed(plan.seed, step, k)).collect();

        let estimate = estimator.estimate(&seeds, params, &mut objective)?;
        if !estimate.is_finite() {
            return Err(NotFinite::at_step(step, seeds[0], estimate.losses().map(f64::from).collect()).into());
        }
        let learning_rate = plan.learning_rate_at(step, peak_rate);
        rule.step(learning_rate as f32, params, &estimate)?;

        let (time, walk_time) = (start.elapsed(), params.walk_time() - walked);
        let due = step.is_multiple_of(plan.eval_steps) || step == plan.max_steps;
        let scored = due.then(|| score(params, &examples.dev)).transpose();
        let dev = scored.with_context(|| format!("after step {step} (direction seed {})", seeds[0]))?;
        let done = Step { number: step, estimate: &estimate, learning_rate, cost: objective.cost(), time, walk_time };
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
    let results = Results {
        steps: plan.max_steps,
        best_step,
        totals: journal.end(),
        dev_loss: dev.loss,
        dev_accuracy: dev.accuracy,
        eval_loss: eval.loss,
        eval_accuracy: eval.accuracy,
        untrained_eval_loss: untrained.loss,
        untrained_eval_accuracy: untrained.accuracy,
        weights_bytes: params.bytes(),
        optimizer_state_bytes: rule.state_bytes(),
        peak_rss_bytes: memory::peak_rss_bytes(),
        learning_rate: peak_rate,
    };
    Ok(results)
}

/// Leaves all_results.json and loss.svg in the run folder.
pub fn conclude(plan: &Plan, task: &Task, results: &Results) -> Result<()> {
    files::write_bytes(&plan.output_dir.join("all_results.json"), &serde_json::to_vec_pretty(results)?)?;
    report::draw_losses(&plan.output_dir, &format!("{}, {}", task.name, plan.optimizer))
}

/// What to say when a model gives no numbers before anything was changed.
const DAMAGED: &str = "before training: the model's weights are damaged, or config.json is not theirs";

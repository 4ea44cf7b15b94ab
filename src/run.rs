//! THE LOOP: a training run from the first evaluation to the last, read from top to bottom.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;
use serde::Serialize;

use crate::config::{Inputs, Plan, default_learning_rate};
use crate::data::{Batches, Example};
use crate::error::NotFinite;
use crate::estimator::TwoPoint;
use crate::eval::{Evaluation, evaluate};
use crate::files::{self, Source};
use crate::journal::{Journal, Step, Totals};
use crate::memory;
use crate::model::{self, Model, Shape};
use crate::noise::direction_seed;
use crate::objective::PromptLoss;
use crate::optim::{self, Settings};
use crate::params::Params;
use crate::report;
use crate::task::{PromptedRow, Task};
use crate::tokenizer::Tokenizer;

/// What all_results.json holds. Losses are the task's; times are medians over the steps, in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    pub steps: u64,
    /// The step whose weights were kept: the one with the best dev loss.
    pub best_step: u64,
    /// Training loss, mean over the last tenth of the steps; with the other totals.
    #[serde(flatten)]
    pub totals: Totals,
    pub dev_loss: f64,
    pub dev_accuracy: f64,
    pub eval_loss: f64,
    pub eval_accuracy: f64,
    /// Before training.
    pub untrained_eval_loss: f64,
    pub untrained_eval_accuracy: f64,
    pub weights_bytes: usize,
    pub optimizer_state_bytes: usize,
    pub peak_rss_bytes: u64,
    pub learning_rate: f64,
}

/// A model, its weights and a task, opened and checked.
pub struct Bench {
    pub model: Model,
    pub params: Params,
    pub tokenizer: Tokenizer,
    pub task: Task,
    data: Source,
    max_length: usize,
}

/// The examples of a run.
pub struct Examples {
    pub train: Vec<Example>,
    pub dev: Vec<Example>,
    pub eval: Vec<Example>,
}

impl Bench {
    /// Opens the task first, then the model: small mistakes show before large files are read.
    pub fn open(inputs: &Inputs) -> Result<Self> {
        let task = Task::open(&inputs.task)?;
        let data = task.data(inputs.data.as_deref())?;
        let source = model_source(&inputs.model)?;
        let tokenizer = Tokenizer::open(&source, inputs.bos_id, model::bos_token_id(&source)?)?;
        let (model, params) = Model::open(&source, inputs.dtype.dtype())?;
        let Shape { vocab_size, max_length: longest } = model.shape();
        if tokenizer.id_limit() as usize > vocab_size {
            bail!(
                "the tokenizer has ids up to {}, but the model's embedding has {vocab_size} rows: they are not of one model ({})",
                tokenizer.id_limit() - 1,
                source.place("config.json")
            );
        }
        if let Some(asked) = inputs.max_length.filter(|n| *n > longest) {
            return Err(usage!("--max-length {asked}: the model has positions for {longest} tokens"));
        }
        let max_length = inputs.max_length.unwrap_or(longest.min(2048));
        Ok(Bench { model, params, tokenizer, task, data, max_length })
    }

    /// The splits of a training run, tokenised.
    pub fn examples(&self, plan: &Plan) -> Result<Examples> {
        let splits = self.task.splits(&self.data, plan.sizes(), plan.inputs.train_set_seed)?;
        Ok(Examples { train: self.encode(&splits.train)?, dev: self.encode(&splits.dev)?, eval: self.encode(&splits.eval)? })
    }

    /// The evaluation split alone, tokenised.
    pub fn eval_examples(&self, inputs: &Inputs) -> Result<Vec<Example>> {
        let sizes = crate::task::Sizes { num_eval: inputs.num_eval, ..Default::default() };
        self.encode(&self.task.eval_split(&self.data, sizes, inputs.train_set_seed)?)
    }

    fn encode(&self, rows: &[PromptedRow]) -> Result<Vec<Example>> {
        Example::encode_all(rows, &self.tokenizer, self.max_length)
    }
}

/// A folder of that name, else the model built in under it.
fn model_source(name: &str) -> Result<Source> {
    let folder = Path::new(name);
    if folder.is_dir() {
        Ok(Source::Folder(folder.to_path_buf()))
    } else if name == "opt-mini" {
        Ok(model::OPT_MINI)
    } else {
        Err(usage!("--model {name}: there is no such folder; it wants one in Hugging Face layout, or opt-mini, which is built in"))
    }
}

/// Trains `bench` on `examples` as `plan` says, and leaves the best weights in the run folder and in `bench`.
pub fn train(plan: &Plan, bench: &mut Bench, examples: &Examples, bar: ProgressBar) -> Result<Results> {
    let Bench { model, params, task, .. } = bench;
    let folder = &plan.output_dir;
    let weights_file = folder.join("model.safetensors");
    let peak_rate = plan.learning_rate.unwrap_or(default_learning_rate(params.count()));
    let estimator = TwoPoint { zo_eps: plan.zo_eps as f32 };
    let mut rule = (optim::method(&plan.optimizer)?.build)(&Settings { weight_decay: plan.weight_decay as f32 });
    let mut batches = Batches::new(examples.train.len(), plan.batch_size, plan.seed);
    let score = |params: &mut Params, examples: &[Example]| -> Result<Evaluation> {
        evaluate(model, params.settle()?, examples, task.loss, plan.inputs.eval_batch_size, |_| ())
    };

    let mut journal = Journal::begin(plan, bar)?;
    let untrained = score(params, &examples.eval)?;
    journal.untrained(&score(params, &examples.dev)?)?;
    model.write_companions(folder, params.dtype())?;

    let mut best: Option<(u64, Evaluation)> = None;
    for step in 1..=plan.max_steps {
        let (start, walked) = (Instant::now(), params.walk_time());
        let batch: Vec<&Example> = batches.at(step - 1).into_iter().map(|i| &examples.train[i]).collect();
        let mut objective = PromptLoss::new(model, task.loss, &batch, plan.micro_batch_size);
        let seed = direction_seed(plan.seed, step, 0);

        let estimate = estimator.estimate(seed, params, &mut objective)?;
        if !estimate.is_finite() {
            return Err(NotFinite { step, seed, losses: estimate.losses.to_vec() }.into());
        }
        let learning_rate = plan.learning_rate_at(step, peak_rate);
        rule.step(learning_rate as f32, params, &estimate)?;

        let (time, walk_time) = (start.elapsed(), params.walk_time() - walked);
        let due = step.is_multiple_of(plan.eval_steps) || step == plan.max_steps;
        let dev = if due { Some(score(params, &examples.dev)?) } else { None };
        let done = Step { number: step, estimate: &estimate, learning_rate, cost: objective.cost(), time, walk_time };
        journal.step(done, dev.as_ref())?;
        if let Some(dev) = dev.filter(|dev| best.as_ref().is_none_or(|(_, best)| dev.loss < best.loss)) {
            model::save(params.settle()?, &weights_file)?;
            best = Some((step, dev));
        }
    }

    let (best_step, dev) = best.context("the loss on dev was never a number")?;
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
    files::write_bytes(&folder.join("all_results.json"), &serde_json::to_vec_pretty(&results)?)?;
    report::draw_losses(folder, &format!("{}, {}", task.name, plan.optimizer))?;
    Ok(results)
}

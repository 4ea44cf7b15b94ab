//! What a run will take, said before it, from config.json alone: its first steps are tried on a stand-in with the model's
//! sizes, random weights and two or three blocks, and what the blocks add is counted as often as the model has them.

use std::cell::Cell;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::batch::{Batch, Pick};
use crate::config::Plan;
use crate::data::{Batches, Example};
use crate::estimator::At;
use crate::eval::evaluate;
use crate::memory::{Peaks, human, machine_bytes, peak_rss_bytes, release_freed, rss_bytes};
use crate::model::{Model, block_of, warm_up};
use crate::objective::PromptLoss;
use crate::optim::{Order, method};
use crate::pace::duration;
use crate::params::{Params, Role, Span};
use crate::results::{Memory, Results};
use crate::setup::{Bench, assign_roles, make_method, settle_plan};
use crate::task::{Splits, Task};

/// What a run will take.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Forecast {
    /// d
    pub num_weights: usize,
    /// How many of them are trained.
    pub num_trained: usize,
    /// Blocks between the embedding and the head.
    pub num_blocks: usize,
    /// Where the memory goes.
    #[serde(flatten)]
    pub memory: Memory,
    /// A step, without what a snapshot takes.
    pub seconds_per_step: f64,
    /// One look at the whole training set, where the method has it.
    pub seconds_per_snapshot: f64,
    /// The whole run, its evaluations with it.
    pub seconds: f64,
    /// What lies in the run folder in the end: the weights that are kept, checkpoints, the log.
    pub disk_bytes: u64,
    /// The most that lies there meanwhile: a checkpoint is whole before the one before it goes.
    pub disk_peak_bytes: u64,
    /// Of the weights that are kept.
    pub kept_bytes: u64,
    /// Of a checkpoint, which has the method's state too.
    pub checkpoint_bytes: u64,
    /// Checkpoints that are left.
    pub num_checkpoints: u64,
}

/// What becomes resident when training begins, beside its own parts: the program's pages that it runs through, threads' stacks,
/// the matrix library's buffers.
const RUNNING_BYTES: usize = 6 << 20;

/// A trial of a model of more weights than this is announced.
const MANY_WEIGHTS: usize = 500_000_000;

/// Forecasts the run of a plan that is not settled yet. `outline` is the model without its weights, `sizes` the numbers that
/// each of them has.
pub fn forecast(
    plan: &Plan,
    task: &Task,
    outline: &mut Bench,
    sizes: &[usize],
    examples: &Splits<Example>,
) -> Result<Forecast> {
    let mut plan = plan.clone();
    assign_roles(&plan, &outline.model, &mut outline.params)?;
    let count = |counts: fn(Role) -> bool| -> usize {
        let weights = outline.params.ids().zip(sizes);
        weights.filter(|((id, _), _)| counts(outline.params.role(*id))).map(|(_, size)| size).sum()
    };
    let (num_trained, num_estimated) = (count(|role| role != Role::Frozen), count(|role| role == Role::Estimated));
    settle_plan(&mut plan, &outline.model, num_trained, num_estimated, examples.train.len())?;
    let held = outline.params.settle()?;
    let weights = held.iter().zip(sizes).map(|((_, tensor), size)| tensor.dtype().size_in_bytes() * size).sum::<usize>();
    let num_weights: usize = sizes.iter().sum();
    if let Some(there) = machine_bytes().filter(|there| weights as u64 > *there) {
        tracing::warn!("plan    the weights alone are {}, and this machine has {}", human(weights as u64), human(there));
    }
    let trial = Trial::new(&plan, task, outline, examples, num_weights)?;
    release_freed();
    let before = rss_bytes();
    let taken = trial.extrapolate()?;
    release_freed();

    let dtype = plan.inputs.dtype.dtype();
    let state = (taken.state_per_weight * num_trained as f64) as usize;
    let snapshot =
        method(&plan.optimizer)?.snapshot_bytes(&plan.settings, num_trained, dtype.size_in_bytes(), examples.train.len());
    let activations = taken.activations.max(taken.eval_activations) as usize;
    let at_once = weights + state + snapshot + (taken.both.max(taken.eval_activations)) as usize;
    // A model that is compiled in is read from the program's own pages.
    let rest = before as usize + RUNNING_BYTES + outline.model.source().builtin_bytes();
    let peak = peak_rss_bytes().max((at_once + rest) as u64);
    let memory = Memory::of(weights, state, snapshot, taken.gradients as usize, activations, peak);
    let snapshots = plan.settings.snapshot_steps.map_or(0, |every| plan.max_steps.div_ceil(every)) as f64;
    // A step of a method of function values alone that looks at the whole training set does nothing else.
    let replaced = if method(&plan.optimizer)?.order == Order::Zeroth { taken.seconds } else { 0.0 };
    let seconds_per_snapshot = taken.snapshot_seconds * examples.train.len() as f64 / trial.typical.len() as f64;
    let evaluated = |examples: &[Example]| tokens(examples, plan.inputs.eval_batch_size) as f64;
    let evaluations =
        (plan.max_steps.div_ceil(plan.eval_steps) + 1) as f64 * evaluated(&examples.dev) + 2.0 * evaluated(&examples.eval);
    let kept = if plan.inputs.is_adapted() { 4 * num_trained } else { weights } as u64;
    let disk = Disk::new(&plan, kept, (state + snapshot) as u64);
    Ok(Forecast {
        disk_bytes: disk.left,
        disk_peak_bytes: disk.most,
        kept_bytes: kept,
        checkpoint_bytes: disk.checkpoint,
        num_checkpoints: disk.checkpoints,
        num_weights,
        num_trained,
        num_blocks: outline.model.num_blocks(),
        memory,
        seconds_per_step: taken.seconds,
        seconds_per_snapshot,
        seconds: plan.max_steps as f64 * taken.seconds
            + snapshots * (seconds_per_snapshot - replaced)
            + evaluations * taken.eval_seconds / evaluated(&trial.evaluated),
    })
}

/// What a run folder takes on the disk, in bytes.
struct Disk {
    checkpoint: u64,
    checkpoints: u64,
    left: u64,
    most: u64,
}

impl Disk {
    /// Of weights of `kept` bytes and a method's `state`.
    fn new(plan: &Plan, kept: u64, state: u64) -> Self {
        // Two losses a step in their frame; a line of trainer_log.jsonl; the header, the tokenizer and the rest.
        const STEP: u64 = 16;
        const LINE: u64 = 400;
        const REST: u64 = 1 << 20;
        let log =
            STEP * plan.max_steps + LINE * (plan.max_steps / plan.logging_steps + plan.max_steps / plan.eval_steps) + REST;
        let checkpoint = kept + state;
        let made = if plan.save_steps == 0 { 0 } else { plan.max_steps.div_ceil(plan.save_steps) };
        let checkpoints = made.min(plan.save_total_limit as u64);
        let left = kept + checkpoints * checkpoint + log;
        // The next one of either is whole before the last one goes.
        let next = if made > checkpoints { checkpoint.max(kept) } else { kept };
        Disk { checkpoint, checkpoints, left, most: left + next }
    }
}

/// The tokens that an evaluation feeds.
fn tokens(examples: &[Example], batch_size: usize) -> usize {
    examples.chunks(batch_size).map(|part| Batch::pack(part, Pick::All).num_tokens()).sum()
}

/// What is tried on stand-ins.
struct Trial<'a> {
    plan: &'a Plan,
    task: &'a Task,
    outline: &'a Bench,
    /// The examples of the training batch with the most tokens, of one with about the mean, of the largest evaluation batch.
    largest: Vec<Example>,
    typical: Vec<Example>,
    evaluated: Vec<Example>,
    /// Blocks below where a backward pass ends, or the first trained weight is; and from there on.
    plain: usize,
    upper: usize,
    /// Whether there is a backward pass.
    backward: bool,
    /// Of the whole model.
    num_weights: usize,
    /// When it began, and how many stand-ins were tried.
    progress: Cell<(Instant, u32)>,
}

/// What one stand-in took, or what all blocks together will.
#[derive(Clone, Copy, Debug)]
struct Taken {
    seconds: f64,
    snapshot_seconds: f64,
    eval_seconds: f64,
    activations: f64,
    eval_activations: f64,
    gradients: f64,
    /// Activations and gradients at their largest together.
    both: f64,
    state_per_weight: f64,
}

impl Taken {
    /// self + times * (with - without), for all that blocks add to; on a busy machine less can only be noise.
    fn plus(self, times: f64, with: &Taken, without: &Taken) -> Taken {
        let grow = |of: fn(&Taken) -> f64| of(&self) + times * (of(with) - of(without)).max(0.0);
        Taken {
            seconds: grow(|t| t.seconds),
            snapshot_seconds: grow(|t| t.snapshot_seconds),
            eval_seconds: grow(|t| t.eval_seconds),
            activations: grow(|t| t.activations),
            eval_activations: grow(|t| t.eval_activations),
            gradients: grow(|t| t.gradients),
            both: grow(|t| t.both),
            ..self
        }
    }
}

impl<'a> Trial<'a> {
    fn new(
        plan: &'a Plan,
        task: &'a Task,
        outline: &'a Bench,
        examples: &Splits<Example>,
        num_weights: usize,
    ) -> Result<Self> {
        let pick = PromptLoss::pick(task.loss);
        let mut batches = Batches::new(examples.train.len(), plan.batch_size, plan.seed);
        // An epoch or two show what batches are like.
        let seen = plan.max_steps.min(2 * (examples.train.len() as u64).div_ceil(plan.batch_size as u64));
        let examples_of = |batch: &[usize]| -> Vec<Example> { batch.iter().map(|&i| examples.train[i].clone()).collect() };
        let lengths: Vec<usize> = examples.train.iter().map(|e| Batch::pack([e], pick).num_tokens()).collect();
        let sized = (0..seen).map(|step| {
            let batch = batches.at(step);
            (batch.iter().map(|&i| lengths[i]).sum::<usize>(), batch)
        });
        let sized: Vec<(usize, Vec<usize>)> = sized.collect();
        let mean = sized.iter().map(|(size, _)| size).sum::<usize>() / sized.len();
        let (_, largest) = sized.iter().max_by_key(|(size, _)| size).context("no training batch")?;
        let (_, typical) = sized.iter().min_by_key(|(size, _)| size.abs_diff(mean)).context("no training batch")?;
        let (largest, typical) = (examples_of(largest), examples_of(typical));
        let evaluated =
            examples.dev.chunks(plan.inputs.eval_batch_size).chain(examples.eval.chunks(plan.inputs.eval_batch_size));
        let evaluated = evaluated.max_by_key(|b| tokens(b, b.len())).context("nothing to evaluate")?.to_vec();
        let (params, model) = (&outline.params, &outline.model);
        let lowest_of = |is: fn(Role) -> bool| {
            params.ids().filter(|(id, _)| is(params.role(*id))).map(|(id, _)| model.segment(id)).min()
        };
        let differentiated = lowest_of(|role| role == Role::Differentiated);
        let lowest = differentiated.or(lowest_of(|role| role != Role::Frozen));
        let blocks = model.num_blocks();
        let plain = lowest.map_or(blocks, |segment| segment.saturating_sub(1).min(blocks));
        let (upper, backward) = (blocks - plain, differentiated.is_some());
        let progress = Cell::new((Instant::now(), 0));
        Ok(Trial { plan, task, outline, largest, typical, evaluated, plain, upper, backward, num_weights, progress })
    }

    /// How many stand-ins are tried.
    fn parts(&self) -> u32 {
        let (lower, upper) = if self.upper == 0 { (0, self.plain) } else { (self.plain.min(1), self.upper) };
        2 + u32::from(upper > 2) + lower as u32
    }

    /// The whole model from stand-ins of two and three blocks.
    fn extrapolate(&self) -> Result<Taken> {
        let (plain, upper) = (self.plain as f64, self.upper as f64);
        // A machine's first work is slow: buffers are new, threads are asleep.
        if self.backward {
            warm_up();
        }
        self.take(self.plain.min(1), 1 - self.plain.min(1))?;
        // The last block is one of its own kind: what one more adds shows between two and three.
        if self.upper == 0 {
            let two = self.take(self.plain.min(2), 0)?;
            let three = if self.plain > 2 { self.take(3, 0)? } else { two };
            return Ok(two.plus((plain - 2.0).max(0.0), &three, &two));
        }
        let few = self.upper.min(2);
        let two = self.take(0, few)?;
        let three = if self.upper > 2 { self.take(0, 3)? } else { two };
        let whole = two.plus((upper - 2.0).max(0.0), &three, &two);
        if self.plain == 0 {
            return Ok(whole);
        }
        Ok(whole.plus(plain, &self.take(1, few)?, &two))
    }

    /// Tries the first steps on a stand-in with so many plain blocks and so many of the upper ones.
    fn take(&self, plain: usize, upper: usize) -> Result<Taken> {
        let (start, tried) = self.progress.get();
        self.progress.set((start, tried + 1));
        let seconds = start.elapsed().as_secs_f64();
        // Silence of more than a few seconds is explained.
        if tried == 0 && self.num_weights > MANY_WEIGHTS {
            tracing::info!(
                "plan    a few steps of two and three blocks are tried; of a model of this size that takes a while"
            );
        } else if seconds > 5.0 {
            tracing::info!("plan    {tried} of {} parts tried in {}", self.parts(), duration(seconds));
        }
        let (model, mut params) = self.stand_in(plain + upper)?;
        self.assign_roles(&mut params, plain);
        let mut optimizer = make_method(self.plan, &mut params)?;
        let mut step = |examples: &[Example], step: u64, params: &mut Params| -> Result<(f64, Peaks)> {
            let batches = Batches::new(examples.len(), examples.len(), 0);
            let mut problem = PromptLoss::new(&model, self.task.loss, examples, batches, self.plan.micro_batch_size);
            let start = Instant::now();
            // It moves nothing, and keeps products with it out of the subnormal numbers, which are slow.
            let at = At { step, run_seed: 0, learning_rate: 1e-20 };
            let (estimate, mut gradients) = optimizer.estimator.estimate(&at, params, &mut problem)?;
            optimizer.rule.step(&at, params, &estimate, gradients.as_deref_mut())?;
            drop(gradients);
            Ok((start.elapsed().as_secs_f64(), problem.cost().peaks))
        };
        let (_, peaks) = step(&self.largest, 1, &mut params)?;
        let (mut with_snapshot, ..) = step(&self.typical, 1, &mut params)?;
        let period = self
            .plan
            .settings
            .snapshot_steps
            .filter(|_| method(&self.plan.optimizer).is_ok_and(|m| m.order == Order::Zeroth));
        if period.is_some() {
            // It is no more than a step, and what is measured once is measured badly.
            with_snapshot = with_snapshot.min(step(&self.typical, 1, &mut params)?.0);
        }
        // One of steps 2 and 3 takes no snapshot, unless every step does. What is over in no time is measured once more.
        let mut seconds = f64::INFINITY;
        let start = Instant::now();
        for _ in 0..2 {
            seconds = seconds.min(step(&self.typical, 2, &mut params)?.0).min(step(&self.typical, 3, &mut params)?.0);
            if start.elapsed().as_secs_f64() > 0.3 {
                break;
            }
        }
        if let Some(period) = period.filter(|period| *period > 3) {
            // Its steps draw all directions since the snapshot: what one more costs shows in one in the middle of the period.
            let middle = 1 + period / 2;
            let mut later = seconds;
            step(&self.typical, 1, &mut params)?;
            let (start, mut at) = (Instant::now(), 1);
            while at < middle && start.elapsed().as_secs_f64() < 5.0 {
                at += 1;
                later = step(&self.typical, at, &mut params)?.0;
            }
            seconds += (later - seconds).max(0.0) * (middle - 2) as f64 / (at.max(3) - 2) as f64;
        }
        let start = Instant::now();
        let found = evaluate(&model, params.settle()?, &self.evaluated, self.task.loss, self.evaluated.len(), |_| Ok(()))?;
        let eval_seconds = start.elapsed().as_secs_f64();
        let trained = params.count_over(Span::Trained);
        Ok(Taken {
            seconds,
            snapshot_seconds: match (self.plan.settings.snapshot_steps, period) {
                (None, _) => 0.0,
                (_, Some(_)) => with_snapshot,
                (Some(_), None) => (with_snapshot - seconds).max(0.0),
            },
            eval_seconds,
            activations: peaks.held as f64,
            both: peaks.both as f64,
            eval_activations: found.activation_peak as f64,
            gradients: peaks.aside as f64,
            state_per_weight: optimizer.bytes()?.0 as f64 / trained.max(1) as f64,
        })
    }

    fn stand_in(&self, blocks: usize) -> Result<(Model, Params)> {
        self.outline.model.stand_in(self.plan.inputs.dtype.dtype(), blocks)
    }

    /// The stand-in's blocks from `plain` on are as the lowest of the upper ones; what is in no block is as it is.
    fn assign_roles(&self, params: &mut Params, plain: usize) {
        let real = &self.outline.params;
        let roles: Vec<_> = params
            .ids()
            .map(|(id, name)| {
                let stands_for = match block_of(name) {
                    Some((block, from)) => {
                        let real_block = if block < plain { 0 } else { self.plain };
                        format!("{}{real_block}{}", &name[..from.start], &name[from.end..])
                    }
                    None => name.to_string(),
                };
                (id, real.id(&stands_for).map_or(Role::Estimated, |id| real.role(id)))
            })
            .collect();
        roles.into_iter().for_each(|(id, role)| params.set_role(id, role));
    }
}

/// What a run was said to take beside what it took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Comparison {
    /// The forecast.
    pub forecast: Forecast,
    /// How far its peak resident set was above what came, as a share of it.
    pub peak_rss_deviation: f64,
    /// The same of the time a step took.
    pub seconds_per_step_deviation: f64,
}

impl Forecast {
    /// Beside what came.
    pub fn compare(self, results: &Results) -> Comparison {
        let off = |said: f64, came: f64| (said - came) / came;
        Comparison {
            forecast: self,
            peak_rss_deviation: off(self.memory.peak_rss_bytes as f64, results.memory.peak_rss_bytes as f64),
            seconds_per_step_deviation: off(self.seconds_per_step, results.totals.seconds_per_step),
        }
    }
}

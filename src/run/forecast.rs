//! What a run will take, said before it, from config.json alone: its first steps are tried on a stand-in with the model's
//! sizes, random weights and two or three blocks, and what the blocks add is counted as often as the model has them.

use anyhow::Result;
use serde::Serialize;

use super::disk::Disk;
use super::loaded::LoadedModel;
use super::results::{Memory, Results};
use super::setup::{assign_roles, resolve_config, trained_adapter};
use super::trial::{Trial, tokens};
use crate::base::memory::{human, machine_bytes, peak_rss_bytes, release_freed, rss_bytes};
use crate::config::RunConfig;
use crate::data::Example;
use crate::data::task::{Splits, Task};
use crate::params::Role;
use crate::zo::Order;
use crate::zo::methods::method;

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

/// Forecasts the run of a plan that is not settled yet. `outline` is the model without its weights, `sizes` the numbers that
/// each of them has.
pub fn forecast(
    plan: &RunConfig,
    task: &Task,
    outline: &mut LoadedModel,
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
    let adapter = trained_adapter(&plan, &outline.model);
    resolve_config(&mut plan, adapter.as_ref(), num_trained, num_estimated, examples.train.len())?;
    let held = outline.params.settle()?;
    let weights = held.iter().zip(sizes).map(|((_, tensor), size)| tensor.dtype().size_in_bytes() * size).sum::<usize>();
    let num_weights: usize = sizes.iter().sum();
    if let Some(there) = machine_bytes().filter(|there| weights as u64 > *there) {
        tracing::warn!("plan    the weights alone need {}, but this machine has {}", human(weights as u64), human(there));
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
    let disk = Disk::new(&plan, kept, (state + snapshot) as u64, outline.model.companion_bytes());
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

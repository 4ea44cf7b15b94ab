//! The forecast of a run's time, memory and disk space, from config.json alone: the first steps are measured on a
//! stand-in model of the same widths with random weights and two or three blocks, then extrapolated to the model's
//! number of blocks.

use anyhow::Result;
use serde::Serialize;

use super::disk::Disk;
use super::loaded::LoadedModel;
use super::rates::MOST_TRIALS;
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

/// The forecast of a run. Sizes in bytes, times in seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Forecast {
    /// d, the number of weights.
    pub num_weights: usize,
    /// The number of trained weights.
    pub num_trained: usize,
    /// The number of blocks between the embedding and the head.
    pub num_blocks: usize,
    /// The memory by part.
    #[serde(flatten)]
    pub memory: Memory,
    /// The time of a step, without its snapshot.
    pub seconds_per_step: f64,
    /// The time of one snapshot, a pass over the whole training set; 0 if the method takes none.
    pub seconds_per_snapshot: f64,
    /// The time of the whole run with its evaluations, and of the search for its learning rate.
    pub seconds: f64,
    /// The time of that search, at most: of the trials that do not go on. 0 without one.
    pub search_seconds: f64,
    /// The size of the run folder at the end: the weights kept, checkpoints, the log.
    pub disk_bytes: u64,
    /// The peak size of the run folder: a new checkpoint is complete before the old one is removed.
    pub disk_peak_bytes: u64,
    /// The size of the weights kept.
    pub kept_bytes: u64,
    /// The size of a checkpoint: weights and the method's state.
    pub checkpoint_bytes: u64,
    /// The number of checkpoints left at the end.
    pub num_checkpoints: u64,
    /// The learning rate, given or by default; of a search: the first that it tries.
    pub learning_rate: f64,
}

/// What becomes resident when training begins beside the parts counted: the program's pages, thread stacks, buffers of
/// the matrix library.
const RUNNING_BYTES: usize = 6 << 20;

/// Assigns the roles of the weights, and counts the trained ones and those whose gradient is estimated.
pub(super) fn count_roles(config: &RunConfig, opened: &mut LoadedModel, sizes: &[usize]) -> Result<(usize, usize)> {
    assign_roles(config, &opened.model, &mut opened.params)?;
    let count = |counts: fn(Role) -> bool| -> usize {
        let weights = opened.params.ids().zip(sizes);
        weights.filter(|((id, _), _)| counts(opened.params.role(*id))).map(|(_, size)| size).sum()
    };
    Ok((count(|role| role != Role::Frozen), count(|role| role == Role::Estimated)))
}

/// Forecasts the run of an unresolved config. `opened` is the model without its weights, `sizes` the number of
/// elements of each.
pub fn forecast(
    config: &RunConfig,
    task: &Task,
    opened: &mut LoadedModel,
    sizes: &[usize],
    examples: &Splits<Example>,
) -> Result<Forecast> {
    // The steps and trials of a search at most; one trial goes on as the run.
    let (trials, trial_steps) = match config.searches_rate() {
        true => (MOST_TRIALS as u64 - 1, config.trial_steps()),
        false => (0, 0),
    };
    let mut config = config.clone();
    let (num_trained, num_estimated) = count_roles(&config, opened, sizes)?;
    let adapter = trained_adapter(&config, &opened.model);
    resolve_config(&mut config, adapter.as_ref(), num_trained, num_estimated, examples.train.len())?;
    let held = opened.params.settle()?;
    let weights = held.iter().zip(sizes).map(|((_, tensor), size)| tensor.dtype().size_in_bytes() * size).sum::<usize>();
    let num_weights: usize = sizes.iter().sum();
    if let Some(there) = machine_bytes().filter(|there| weights as u64 > *there) {
        tracing::warn!("plan    the weights alone need {}, and this machine has {}", human(weights as u64), human(there));
    }
    let trial = Trial::new(&config, task, opened, examples, num_weights)?;
    release_freed();
    let before = rss_bytes();
    let measured = trial.extrapolate()?;
    release_freed();

    let dtype = config.inputs.dtype.dtype();
    let state = (measured.state_per_weight * num_trained as f64) as usize;
    let snapshot = method(&config.optimizer)?.snapshot_bytes(
        &config.settings,
        num_trained,
        dtype.size_in_bytes(),
        examples.train.len(),
    );
    let activations = measured.activations.max(measured.eval_activations) as usize;
    let at_once = weights + state + snapshot + (measured.both.max(measured.eval_activations)) as usize;
    // The weights of a built-in model are in the program's own pages.
    let rest = before as usize + RUNNING_BYTES + opened.model.source().builtin_bytes();
    let peak = peak_rss_bytes().max((at_once + rest) as u64);
    let memory = Memory::of(weights, state, snapshot, measured.gradients as usize, activations, peak);
    // For a zeroth-order method a snapshot step does nothing else.
    let replaced = if method(&config.optimizer)?.order == Order::Zeroth { measured.seconds } else { 0.0 };
    let seconds_per_snapshot = measured.snapshot_seconds * examples.train.len() as f64 / trial.typical.len() as f64;
    let evaluated = |examples: &[Example]| tokens(examples, config.inputs.eval_batch_size) as f64;
    let eval_seconds = |examples: &[Example]| evaluated(examples) * measured.eval_seconds / evaluated(&trial.evaluated);
    // With the snapshots and the evaluations on dev in them.
    let seconds_of = |steps: u64| {
        let snapshots = config.settings.snapshot_steps.map_or(0, |every| steps.div_ceil(every)) as f64;
        let evaluations = steps.div_ceil(config.eval_steps) as f64;
        steps as f64 * measured.seconds
            + snapshots * (seconds_per_snapshot - replaced)
            + evaluations * eval_seconds(&examples.dev)
    };
    let search_seconds = trials as f64 * seconds_of(trial_steps);
    let kept = if config.inputs.is_adapted() { 4 * num_trained } else { weights } as u64;
    let disk_of = |config: &RunConfig| Disk::new(config, kept, (state + snapshot) as u64, opened.model.companion_bytes());
    let disk = disk_of(&config);
    // A search holds the best trial so far and the current one.
    let of_trial = disk_of(&RunConfig { max_steps: trial_steps, ..config.clone() });
    let most = if trials > 0 { disk.most.max(of_trial.left + of_trial.most) } else { disk.most };
    Ok(Forecast {
        disk_bytes: disk.left,
        disk_peak_bytes: most,
        kept_bytes: kept,
        checkpoint_bytes: disk.checkpoint,
        num_checkpoints: disk.checkpoints,
        learning_rate: config.learning_rate.unwrap_or_default(),
        num_weights,
        num_trained,
        num_blocks: opened.model.num_blocks(),
        memory,
        seconds_per_step: measured.seconds,
        seconds_per_snapshot,
        seconds: seconds_of(config.max_steps)
            + eval_seconds(&examples.dev)
            + 2.0 * eval_seconds(&examples.eval)
            + search_seconds,
        search_seconds,
    })
}

/// The forecast of a run and its deviations.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Comparison {
    /// The forecast.
    pub forecast: Forecast,
    /// (forecast - actual) / actual of the peak resident set.
    pub peak_rss_deviation: f64,
    /// (forecast - actual) / actual of the time of a step.
    pub seconds_per_step_deviation: f64,
}

impl Forecast {
    /// Compares the forecast with the results.
    pub fn compare(self, results: &Results) -> Comparison {
        let off = |said: f64, came: f64| (said - came) / came;
        Comparison {
            forecast: self,
            peak_rss_deviation: off(self.memory.peak_rss_bytes as f64, results.memory.peak_rss_bytes as f64),
            seconds_per_step_deviation: off(self.seconds_per_step, results.totals.seconds_per_step),
        }
    }
}

//! A run from a checked config to its results: opened and checked, begun or resumed, trained, finished.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::folder;
use super::forecast::{Comparison, Forecast, count_roles, forecast};
use super::job::{Job, with_place};
use super::lab_run::{LabRun, OpenedLab};
use super::loaded::LoadedModel;
use super::progress::Progress;
use super::results::Results;
use super::setup::{language_task, resolve_config, set_up, trained_adapter};
use super::train::train;
use super::trajectory::{Header, Log, Trajectory};
use crate::base::Stop;
use crate::base::errors::given;
use crate::config::{Inputs, RawArgs, RunConfig, TrainableArgs};
use crate::data::Shown;
use crate::data::task::{Repeats, Task};
use crate::device::cpu::simd;
use crate::prompt::LanguageTask;
use crate::zo::{Batches, Optimizer, methods};

/// Reads the weights of an opened model, and replays the trajectory that the inputs name.
pub type Load<'a> = &'a dyn Fn(LoadedModel, &Inputs) -> Result<LoadedModel>;

/// A run that is opened and checked, without its weights.
pub struct PlannedRun {
    /// Config, task and examples.
    pub job: Job,
    /// The model without its weights.
    pub opened: LoadedModel,
    /// The forecast of time, memory and disk space.
    pub forecast: Forecast,
    /// The first training example.
    pub example: Shown,
    /// Counts of rows that occur in several splits.
    pub repeats: Repeats,
}

/// The checked config of options as given. A trajectory that they begin from imposes its precision and its adapter.
pub fn check_options(mut raw: RawArgs) -> Result<RunConfig> {
    let begun = Trajectory::fill_in(&mut raw.common)?;
    if begun.is_adapter() {
        if raw.tuned != TrainableArgs::default() && raw.tuned.clone().checked()? != begun {
            return Err(usage!(
                "`trajectory`: it trains an adapter, and training continues with this adapter; leave out `tune`, `lora_r` and \
                 `prefix_tuning`"
            ));
        }
        raw.tuned = begun;
    }
    RunConfig::check(raw)
}

/// A run that is checked against its model and its data, without its weights and without a forecast.
pub struct CheckedRun {
    /// Config, task and examples.
    pub job: Job,
    /// The model without its weights, and the number of elements of each.
    pub opened: LoadedModel,
    sizes: Vec<usize>,
    example: Shown,
    repeats: Repeats,
}

/// Checks a run against its model and its data; cheap checks come before large reads.
pub fn check(mut config: RunConfig) -> Result<CheckedRun> {
    if let Some(lab) = &config.lab.lab {
        return Err(usage!("`lab` {lab}: it has no language model"));
    }
    methods::method(&config.optimizer)?.check(&config.settings)?;
    super::known::check_is_model(&config.inputs.model)?;
    let data = config.inputs.data.as_deref();
    let task = given(Task::of(config.inputs.task.as_deref(), data))?;
    let files = given(task.data(data))?;
    let rows = given(task.splits(&files, config.sizes(), config.inputs.train_set_seed))?;
    let repeats = Repeats::of(&rows.train, &rows.dev, &rows.eval);
    let (opened, sizes) = LoadedModel::open_meta(&config.inputs)?;
    // A branch moves; the run records the commit.
    config.inputs.revision = opened.commit.clone();
    let examples = given(opened.encode_splits(&rows, config.batch_size))?;
    let first = Batches::first(rows.train.len(), config.seed);
    let example = Shown::of(&rows.train[first], &examples.train[first], &opened.tokenizer);
    tracing::debug!("{example}");
    super::known::warn_of_base(&config.inputs, &task, &rows.eval);
    Ok(CheckedRun { job: Job { config, task, examples }, opened, sizes, example, repeats })
}

impl CheckedRun {
    /// The forecast of time, memory and disk space.
    pub fn forecast(&mut self) -> Result<Forecast> {
        let Job { config, task, examples } = &self.job;
        forecast(config, task, &mut self.opened, &self.sizes, examples)
    }

    /// A config for the same model and data, with the defaults that depend on these filled in.
    pub fn resolve(&mut self, mut config: RunConfig) -> Result<RunConfig> {
        let (trained, estimated) = count_roles(&config, &mut self.opened, &self.sizes)?;
        let adapter = trained_adapter(&config, &self.opened.model);
        resolve_config(&mut config, adapter.as_ref(), trained, estimated, self.job.examples.train.len())?;
        Ok(config)
    }

    /// The task as a workload.
    pub fn workload(&self) -> LanguageTask<'_> {
        language_task(&self.job.config, &self.job.task, &self.opened.model, &self.job.examples, self.opened.max_length)
    }
}

/// Opens and checks a run without reading its weights.
pub fn open(config: RunConfig) -> Result<PlannedRun> {
    let mut checked = check(config)?;
    let forecast = checked.forecast()?;
    let CheckedRun { job, opened, example, repeats, .. } = checked;
    Ok(PlannedRun { job, opened, forecast, example, repeats })
}

/// A run that is ready to train.
pub struct Run {
    /// Config (resolved), task and examples.
    pub job: Job,
    /// The model, with the weights before the first step.
    pub loaded: LoadedModel,
    /// The method.
    pub optimizer: Optimizer,
    /// The log, locked.
    pub log: Log,
    /// The forecast of time, memory and disk space.
    pub forecast: Forecast,
    /// Counts of rows that occur in several splits.
    pub repeats: Repeats,
    /// The results of a finished run whose lost weights are made again.
    pub earlier: Option<Value>,
}

impl PlannedRun {
    /// Begins a new run in its folder, which [`folder::check_run`] allowed. `command` is recorded in run.json.
    pub fn begin(self, load: Load, command: &[String]) -> Result<Run> {
        let PlannedRun { mut job, opened, forecast, example, repeats } = self;
        let mut loaded = load(opened, &job.config.inputs)?;
        let optimizer = set_up(&mut job.config, &mut loaded, job.examples.train.len())?;
        let header = new_header(&job.config, &job, &mut loaded, &optimizer)?;
        let log = folder::begin(&job.config, header, &serde_json::to_value(&example)?, command)?;
        Ok(Run { job, loaded, optimizer, log, forecast, repeats, earlier: None })
    }
}

/// The header of a new log of the `job`, with this resolved config.
pub(super) fn new_header(config: &RunConfig, job: &Job, loaded: &mut LoadedModel, optimizer: &Optimizer) -> Result<Header> {
    let method = methods::method(&config.optimizer)?;
    let definition = optimizer.definition(method.name, method.source);
    let workload = language_task(config, &job.task, &loaded.model, &job.examples, loaded.max_length);
    Header::new(config, &definition, &workload, &mut loaded.params)
}

/// A run that another process began.
pub enum Resumed {
    /// Finished, with its weights in place: its results.
    Finished(Value),
    /// Still searching for its learning rate.
    Searching(Box<PlannedRun>),
    /// To be continued.
    Unfinished(Box<Unfinished>),
    /// Of a lab, to be continued.
    Lab(Box<UnfinishedLab>),
}

/// A lab's run to be continued.
pub struct UnfinishedLab {
    log: Log,
    earlier: Option<Value>,
    /// The opened lab.
    pub opened: OpenedLab,
}

impl UnfinishedLab {
    /// Continues the run. Fails if the lab or its data differ from those it began with.
    pub fn go_on(self, command: &[String]) -> Result<LabRun> {
        self.opened.go_on(self.log, self.earlier, command)
    }
}

/// A run to be continued, without its weights.
pub struct Unfinished {
    pub(super) log: Log,
    pub(super) earlier: Option<Value>,
    /// The opened run.
    pub planned: PlannedRun,
}

/// Opens the run in a folder without reading its weights. `raw` holds the settings given anew.
pub fn resume(run: &Path, raw: &RawArgs) -> Result<Resumed> {
    if let Some(known) = folder::searching(run) {
        return resume_search(known, run, raw).map(|planned| Resumed::Searching(Box::new(planned)));
    }
    let log = Log::resume(run)?;
    let mut known = log.trajectory().config();
    known.inputs = folder::inputs_of(log.trajectory(), run);
    let config = known.clone().resumed(raw, run)?;
    let steps = log.trajectory().steps();
    let at_its_end = steps == config.max_steps || config.stops_early(log.trajectory(), steps).is_some();
    let finished = config.max_steps == known.max_steps && at_its_end;
    let earlier = folder::results_of(run, log.trajectory()).filter(|_| finished);
    if let Some(results) = &earlier {
        match log.trajectory().check_kept(run) {
            Ok(()) => {
                if let Some(name) = &raw.run_name {
                    folder::rename(run, name)?;
                }
                return Ok(Resumed::Finished(results.clone()));
            }
            // The run itself reports the reason when it compares the weights file.
            Err(_) => {
                tracing::warn!("resume  the weights in {} are missing or have changed; they are rebuilt", run.display())
            }
        }
    }
    if config.lab.lab.is_some() {
        let opened = OpenedLab::open(config)?;
        return Ok(Resumed::Lab(Box::new(UnfinishedLab { log, earlier, opened })));
    }
    if raw.common.model.is_none() {
        config.inputs.check_began_here()?;
    }
    let planned = open(config)?;
    Ok(Resumed::Unfinished(Box::new(Unfinished { log, earlier, planned })))
}

/// Opens a run that still searches for its learning rate, as far as `known`.
fn resume_search(known: RunConfig, run: &Path, raw: &RawArgs) -> Result<PlannedRun> {
    let config = known.clone().resumed(raw, run)?;
    let lengths = [("max_steps", known.max_steps, config.max_steps), ("eval_steps", known.eval_steps, config.eval_steps)];
    if let Some((name, then, now)) = lengths.into_iter().find(|(_, then, now)| then != now) {
        return Err(usage!(
            "`{name}` {now}: the run still searches for its learning rate, by trials with `{name} {then}`; continue it without \
             `{name}`, and change it once the search is over"
        ));
    }
    if raw.common.model.is_none() {
        config.inputs.check_began_here()?;
    }
    open(config)
}

impl Unfinished {
    /// Continues the run. Fails if the model, the task or the data differ from those it began with.
    pub fn go_on(self, load: Load, command: &[String]) -> Result<Run> {
        let Unfinished { mut log, earlier, planned } = self;
        let PlannedRun { mut job, opened, forecast, repeats, .. } = planned;
        let mut loaded = load(opened, &job.config.inputs)?;
        loaded.begin_adapter(&job.config)?;
        let header = &log.trajectory().header;
        let workload = language_task(&job.config, &job.task, &loaded.model, &job.examples, loaded.max_length);
        header.check_continues(&mut loaded.params, &workload)?;
        if !header.replays && header.instruction_set != simd::instruction_set() {
            tracing::warn!(
                "the run was started on {} and continues on {}: first-order gradients differ in their last bits",
                header.instruction_set,
                simd::instruction_set()
            );
        }
        let optimizer = set_up(&mut job.config, &mut loaded, job.examples.train.len())?;
        folder::go_on(&mut job.config, &mut log, command)?;
        Ok(Run { job, loaded, optimizer, log, forecast, repeats, earlier })
    }
}

impl Run {
    /// Trains to the last step. If an error leaves the run resumable, it says how to resume.
    pub fn train(&mut self, stop: &Stop, progress: Progress) -> Result<Results> {
        let Run { job: Job { config, task, examples }, loaded, optimizer, log, .. } = self;
        let workload = language_task(config, task, &loaded.model, examples, loaded.max_length);
        let trained = train(config, &workload, &mut loaded.params, optimizer, log, stop, progress);
        with_place(trained, log, config)
    }

    /// The content of all_results.json: the results, the forecast's deviations, and the counts of repeated rows.
    pub fn account(&self, results: &Results) -> Result<(Value, Comparison)> {
        let comparison = self.forecast.compare(results);
        // The measured results stay if only the weights are new.
        if let Some(earlier) = &self.earlier {
            return Ok((earlier.clone(), comparison));
        }
        let mut all = serde_json::to_value(results)?;
        all["forecast"] = serde_json::to_value(comparison)?;
        all["repeated_rows"] = serde_json::to_value(self.repeats)?;
        Ok((all, comparison))
    }
}

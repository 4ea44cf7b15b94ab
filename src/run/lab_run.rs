//! A run that trains a lab's function in place of a language model: opened, begun or resumed, trained, finished.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::folder;
use super::forecast::Forecast;
use super::job::with_place;
use super::progress::Progress;
use super::results::{Memory, Results};
use super::setup::{assign_lab_roles, make_method, resolve_config};
use super::train::train;
use super::trajectory::{Header, Log};
use crate::base::Stop;
use crate::base::memory::peak_rss_bytes;
use crate::config::RunConfig;
use crate::hub::{Hub, Repo};
use crate::labs::table::{LabConfig, kind};
use crate::labs::{Dataset, Lab, LabArgs, mnist};
use crate::params::{ParamSet, Params};
use crate::zo::{Optimizer, Split, methods};

/// A lab, ready for a run of its config.
pub struct OpenedLab {
    /// The config, resolved.
    pub config: RunConfig,
    /// The workload.
    pub lab: Box<dyn Lab>,
    /// The weights before the first step, their roles assigned.
    pub params: Params,
}

/// The lab of a config.
fn open(config: &RunConfig) -> Result<Box<dyn Lab>> {
    let LabArgs { lab, .. } = &config.lab;
    let kind = kind(lab.as_deref().unwrap_or_default())?;
    (kind.open)(&LabConfig {
        args: &config.lab,
        data: &|dataset| folder_of(dataset, config.inputs.data.as_deref()),
        model: (config.inputs.model != kind.name).then(|| config.inputs.model.as_ref()),
        sizes: [config.num_train, config.num_dev, config.inputs.num_eval],
        train_set_seed: config.inputs.train_set_seed,
        batch_size: config.batch_size,
        seed: config.seed,
    })
}

/// [`mnist::unfit`], with MNIST in the folder `data` or on the hub.
pub fn unfit(network: &Path, data: Option<&Path>, images: &[usize], digit: Option<usize>) -> Result<Vec<(usize, String)>> {
    mnist::unfit(network, &folder_of(&mnist::DATASET, data)?, images, digit)
}

/// [`mnist::check`], with MNIST in the folder `data` or on the hub.
pub fn check_target(data: Option<&Path>, target: mnist::Target) -> Result<()> {
    mnist::check(&folder_of(&mnist::DATASET, data)?, target)
}

/// The folder with the files of a data set: the one that is given, or else one with those of the hub.
fn folder_of(dataset: &Dataset, given: Option<&Path>) -> Result<PathBuf> {
    given.map_or_else(|| fetch(dataset), |given| Ok(given.into()))
}

/// A folder with the files of a data set, from the hub.
fn fetch(dataset: &Dataset) -> Result<PathBuf> {
    let (hub, repo) = (Hub::from_env()?, Repo::dataset(dataset.repo, None));
    let mut folder = PathBuf::new();
    for name in dataset.files {
        let path =
            hub.file(&repo, name).context("cannot fetch the lab's data from the hub; to use a local copy: `data FOLDER`")?;
        folder = path.ancestors().nth(Path::new(name).components().count()).unwrap_or(&path).into();
    }
    Ok(folder)
}

impl OpenedLab {
    /// Opens the lab of a config, and resolves the config for it.
    pub fn open(config: RunConfig) -> Result<Self> {
        let lab = open(&config)?;
        let num_train = lab.data().train;
        if config.batch_size > num_train {
            return Err(usage!("`batch_size` {}: there are {num_train} training examples", config.batch_size));
        }
        let params = lab.start(config.inputs.dtype.dtype(), config.seed)?;
        let mut opened = OpenedLab { config, lab, params };
        opened.config = opened.resolve(opened.config.clone())?;
        Ok(opened)
    }

    /// A config for the same lab with the defaults that depend on it filled in. Assigns the roles of the weights.
    pub fn resolve(&mut self, mut config: RunConfig) -> Result<RunConfig> {
        assign_lab_roles(&config, &mut self.params)?;
        let (trained, estimated) = (self.params.count_over(ParamSet::Trained), self.params.count_over(ParamSet::Estimated));
        resolve_config(&mut config, None, trained, estimated, self.lab.data().train)?;
        Ok(config)
    }

    /// Begins a new run in its folder, which [`folder::check_run`] allowed. `command` is recorded in run.json.
    pub fn begin(mut self, command: &[String]) -> Result<LabRun> {
        let optimizer = make_method(&self.config, &mut self.params)?;
        let method = methods::method(&self.config.optimizer)?;
        let definition = optimizer.definition(method.name, method.source);
        let header = Header::new(&self.config, &definition, &*self.lab, &mut self.params)?;
        let log = folder::begin(&self.config, header, &Value::Null, command)?;
        Ok(LabRun { opened: self, optimizer, log, earlier: None })
    }

    /// Goes on with the run of a log. Fails if the lab or its data differ from those it began with.
    pub fn go_on(mut self, mut log: Log, earlier: Option<Value>, command: &[String]) -> Result<LabRun> {
        log.trajectory().header.check_continues(&mut self.params, &*self.lab)?;
        let optimizer = make_method(&self.config, &mut self.params)?;
        folder::go_on(&mut self.config, &mut log, command)?;
        Ok(LabRun { opened: self, optimizer, log, earlier })
    }

    /// The forecast of its run, from its first steps. The weights are of no use afterwards.
    pub fn forecast(mut self) -> Result<Forecast> {
        let mut optimizer = make_method(&self.config, &mut self.params)?;
        let mut problem = self.lab.problem();
        let mut step = |step: u64, params: &mut Params| -> Result<f64> {
            let start = Instant::now();
            problem.begin(step);
            optimizer.step(&self.config.step_context(step), params, &mut *problem)?;
            params.settle()?;
            Ok(start.elapsed().as_secs_f64())
        };
        // The first step may take a snapshot.
        let first = step(1, &mut self.params)?;
        let mut seconds_per_step = first;
        for at in 2..=4 {
            seconds_per_step = seconds_per_step.min(step(at, &mut self.params)?);
        }
        drop(problem);
        let every = self.config.settings.snapshot_steps;
        let seconds_per_snapshot = every.map_or(0.0, |_| (first - seconds_per_step).max(0.0));
        let start = Instant::now();
        self.lab.score(self.params.settle()?, Split::Dev, &mut || Ok(()))?;
        let evaluations = self.config.max_steps.div_ceil(self.config.eval_steps) as f64 + 3.0;
        let steps = self.config.max_steps as f64;
        let seconds = steps * seconds_per_step
            + every.map_or(0.0, |every| steps / every as f64) * seconds_per_snapshot
            + evaluations * start.elapsed().as_secs_f64();
        let (weights, (state, snapshot)) = (self.params.bytes(), optimizer.bytes()?);
        let num_trained = self.params.count_over(ParamSet::Trained);
        let checkpoint = (weights + state + snapshot) as u64;
        let num_checkpoints = if self.config.save_steps > 0 { self.config.save_total_limit as u64 } else { 0 };
        let disk = weights as u64 + num_checkpoints * checkpoint;
        Ok(Forecast {
            num_weights: self.params.count(),
            num_trained,
            num_blocks: 0,
            memory: Memory::of(weights, state, snapshot, 0, 0, peak_rss_bytes()),
            seconds_per_step,
            seconds_per_snapshot,
            seconds,
            search_seconds: 0.0,
            disk_bytes: disk,
            disk_peak_bytes: disk + if num_checkpoints > 0 { checkpoint } else { 0 },
            kept_bytes: weights as u64,
            checkpoint_bytes: checkpoint,
            num_checkpoints,
            learning_rate: self.config.learning_rate.unwrap_or_default(),
        })
    }
}

/// A run of a lab that is ready to train.
pub struct LabRun {
    /// The lab, with the weights before the first step.
    pub opened: OpenedLab,
    /// The method.
    pub optimizer: Optimizer,
    /// The log, locked.
    pub log: Log,
    /// The results of a finished run whose lost weights are made again.
    earlier: Option<Value>,
}

impl LabRun {
    /// Trains to the last step. If an error leaves the run resumable, it says how to resume.
    pub fn train(&mut self, stop: &Stop, progress: Progress) -> Result<Results> {
        let OpenedLab { config, lab, params } = &mut self.opened;
        let trained = train(config, &**lab, params, &mut self.optimizer, &mut self.log, stop, progress);
        with_place(trained, &self.log, config)
    }

    /// Writes what the lab shows. Returns the content of all_results.json.
    pub fn account(&mut self, results: &Results) -> Result<Value> {
        let OpenedLab { config, lab, params } = &mut self.opened;
        let shown = lab.show(params.settle()?, &config.output_dir)?;
        if let Some(earlier) = &self.earlier {
            return Ok(earlier.clone());
        }
        let mut all = serde_json::to_value(results)?;
        if !shown.is_empty() {
            all["lab"] = json!(shown);
        }
        Ok(all)
    }
}

//! The config of a training run, checked.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::args::RawArgs;
use super::inputs::Inputs;
use super::labs;
use super::limits::{MOST_BATCH, MOST_DIRECTIONS, MOST_ROWS, MOST_STEPS, positive, within};
use super::trainable::TrainableArgs;
use super::values::{Fsync, LearningRate, Schedule, Tracker};
use crate::base::text::quoted;
use crate::data::task::Sizes;
use crate::labs::LabArgs;
use crate::zo::methods::DEFAULT_METHOD;
use crate::zo::{Settings, StepContext};

/// The config of `zotune train` without options: configs/reviews.toml, built in.
pub const DEFAULT_JOB: &str = include_str!("../../configs/reviews.toml");

/// The fewest steps of a run whose learning rate is searched for: a trial of fewer than 20 steps says little, and a share of a run
/// is small.
const LEAST_STEPS_OF_A_SEARCH: u64 = 100;

/// An earlier part of an extended run; its schedule used the `max_steps` of then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Up to this step, the schedule used this `max_steps`.
    pub last: u64,
    /// The value of `--max-steps` then.
    pub max_steps: u64,
}

/// A training run's config, checked; stored in run.json and in the trajectory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the flag of its name, documented there")]
pub struct RunConfig {
    #[serde(flatten)]
    pub inputs: Inputs,
    /// What is trained in place of a language model; then the model of the inputs is its name, or the run that it is about.
    #[serde(flatten)]
    pub lab: LabArgs,
    pub optimizer: String,
    /// None until resolved: the default depends on the number of trained weights, and a search takes trials.
    pub learning_rate: Option<f64>,
    /// Whether the rate is searched for, or was.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub learning_rate_auto: bool,
    /// The options of the method.
    #[serde(flatten)]
    pub settings: Settings,
    pub lr_scheduler_type: Schedule,
    pub warmup_steps: u64,
    pub max_steps: u64,
    /// The earlier parts of the run, if it was extended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    pub batch_size: usize,
    pub micro_batch_size: usize,
    pub seed: u64,
    pub num_train: Option<usize>,
    pub num_dev: Option<usize>,
    pub eval_steps: u64,
    pub logging_steps: u64,
    #[serde(default = "yes")]
    pub stop_if_diverged: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping_patience: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping_threshold: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_loss: Option<f64>,
    pub save_steps: u64,
    pub save_total_limit: usize,
    pub fsync: Fsync,
    #[serde(default, skip_serializing_if = "Tracker::is_none")]
    pub report_to: Tracker,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_name: Option<String>,
    pub output_dir: PathBuf,
    pub overwrite_output_dir: bool,
}

impl RunConfig {
    /// Checks options and fills in defaults. Errors are usage errors.
    pub fn check(raw: RawArgs) -> Result<Self> {
        let lab = labs::check(&raw)?;
        let tuned = raw.tuned.checked()?;
        if raw.common.adapter.is_some() && tuned != TrainableArgs::default() {
            return Err(usage!(
                "`adapter` cannot be combined with `tune`, `lora_r` or `prefix_tuning`: the adapter is trained as it is"
            ));
        }
        let inputs = match lab {
            Some(lab) => labs::inputs(lab, raw.common)?,
            None => Inputs { tuned, ..Inputs::check(raw.common)? },
        };
        let optimizer = raw.optimizer.unwrap_or_else(|| DEFAULT_METHOD.into());
        let seed = raw.seed.unwrap_or(0);
        let max_steps = raw.max_steps.unwrap_or(20_000);
        let batch_size = raw.batch_size.unwrap_or(lab.map_or(16, |lab| if lab.is_finite_sum() { 16 } else { 1 }));
        let eval_steps = raw.eval_steps.unwrap_or((max_steps / 20).max(1));
        let output_dir = raw.output_dir.unwrap_or_else(|| match lab {
            Some(lab) => numbered_folder(&format!("lab-{}-{optimizer}-{seed}", lab.name)),
            None => default_folder(&inputs, &optimizer, seed),
        });
        let config = RunConfig {
            inputs,
            lab: raw.lab,
            optimizer,
            learning_rate: raw.learning_rate.and_then(LearningRate::fixed),
            learning_rate_auto: raw.learning_rate == Some(LearningRate::Auto),
            settings: raw.settings,
            lr_scheduler_type: raw.lr_scheduler_type.unwrap_or_default(),
            warmup_steps: raw.warmup_steps.unwrap_or(0),
            max_steps,
            stages: Vec::new(),
            batch_size,
            micro_batch_size: raw.micro_batch_size.unwrap_or(batch_size),
            seed,
            num_train: raw.num_train,
            num_dev: raw.num_dev,
            eval_steps,
            logging_steps: raw.logging_steps.unwrap_or(10),
            stop_if_diverged: raw.stop_if_diverged.unwrap_or(true),
            early_stopping_patience: raw.early_stopping_patience,
            early_stopping_threshold: raw.early_stopping_threshold,
            target_loss: raw.target_loss,
            save_steps: raw.save_steps.unwrap_or(eval_steps),
            save_total_limit: raw.save_total_limit.unwrap_or(1),
            fsync: raw.fsync.unwrap_or_default(),
            report_to: raw.report_to.unwrap_or_default(),
            run_name: raw.run_name,
            output_dir,
            overwrite_output_dir: raw.overwrite_output_dir.unwrap_or(false),
        };
        config.check_extremes()?;
        // Reports list it; a run that exists may have any.
        if let Some(name) = config.run_name.as_ref().filter(|name| name.trim().is_empty() || name.contains(char::is_control))
        {
            return Err(usage!("`run_name` {}: it must be a name on one line", quoted(name)));
        }
        Ok(config)
    }

    /// Fails on numbers outside of the supported range, in options or in a trajectory's header.
    pub fn check_extremes(&self) -> Result<()> {
        self.inputs.check_extremes()?;
        for (name, steps, least) in [
            ("max_steps", Some(self.max_steps), 1),
            ("eval_steps", Some(self.eval_steps), 1),
            ("logging_steps", Some(self.logging_steps), 1),
            ("save_steps", Some(self.save_steps), 0),
            ("warmup_steps", Some(self.warmup_steps), 0),
            ("early_stopping_patience", self.early_stopping_patience, 1),
            ("snapshot_steps", self.settings.snapshot_steps, 1),
            ("second_moment_warmup", self.settings.second_moment_warmup, 0),
        ] {
            within(name, steps, least, MOST_STEPS)?;
        }
        self.check_search()?;
        if let (Some(x), None) = (self.early_stopping_threshold, self.early_stopping_patience) {
            return Err(usage!("`early_stopping_threshold` {x} has no effect without `early_stopping_patience`"));
        }
        if let Some(x) = self.early_stopping_threshold.filter(|x| !(x.is_finite() && *x >= 0.0)) {
            return Err(usage!("`early_stopping_threshold` {x}: it must be 0 or greater"));
        }
        if let Some(x) = self.target_loss.filter(|x| !x.is_finite()) {
            return Err(usage!("`target_loss` {x}: it must be a finite number"));
        }
        for stage in &self.stages {
            within("max_steps", Some(stage.max_steps.max(stage.last)), 0, MOST_STEPS)?;
        }
        within("batch_size", Some(self.batch_size), 1, MOST_BATCH)?;
        within("micro_batch_size", Some(self.micro_batch_size), 1, MOST_BATCH)?;
        within("num_train", self.num_train, 0, MOST_ROWS)?;
        within("num_dev", self.num_dev, 0, MOST_ROWS)?;
        positive("save_total_limit", Some(self.save_total_limit))?;
        within("num_directions", self.settings.num_directions, 1, MOST_DIRECTIONS)?;
        within("max_directions", self.settings.max_directions, 1, MOST_DIRECTIONS)?;
        if let Some(x) = self.learning_rate.filter(|x| !((*x as f32).is_normal() && *x > 0.0)) {
            return Err(usage!("`learning_rate` {x}: it must be greater than 0 (and representable in f32)"));
        }
        self.settings.check()
    }

    /// Why a run of fewer steps that is extended to `max_steps` differs from one begun with so many; None if it does not.
    pub fn not_extended_exactly(&self) -> Option<&'static str> {
        match (self.lr_scheduler_type, self.early_stopping_patience) {
            (Schedule::Constant, None) => None,
            (Schedule::Constant, Some(_)) => Some("early stopping counts anew when a run is extended"),
            _ => Some("under a schedule that falls, each step depends on the number of steps"),
        }
    }

    /// Warns if a run extended beyond `then` steps differs from one begun with the new length.
    pub fn warn_of_schedule(&self, then: u64) {
        if self.lr_scheduler_type == Schedule::Constant {
            return;
        }
        let at = |step| format!("{:.2e}", self.learning_rate_at(step));
        tracing::warn!(
            "resume  {} schedule up to `max_steps`: the learning rate was {} at step {then} and is now {} at step {}",
            self.lr_scheduler_type.name(),
            at(then),
            at(then + 1),
            then + 1,
        );
        tracing::warn!(
            "        the result is not that of a run started with `max_steps` {}; with a constant rate it would be",
            self.max_steps
        );
    }

    /// Whether the learning rate is still to be searched for.
    pub fn searches_rate(&self) -> bool {
        self.learning_rate_auto && self.learning_rate.is_none()
    }

    /// The steps of a trial of a learning rate: a twentieth of the run, 20 at least, twice the warm-up at least; up to twice as many
    /// if the first evaluation on dev at or after them is that near, so that a trial evaluates at the same steps as the run.
    pub fn trial_steps(&self) -> u64 {
        let share = self.max_steps.div_ceil(20).max(20).max(2 * self.warmup_steps);
        let evaluated = share.next_multiple_of(self.eval_steps);
        if evaluated <= 2 * share { evaluated } else { share }
    }

    /// Fails if the run is too short for trials of learning rates: each would be more than a fifth of it.
    fn check_search(&self) -> Result<()> {
        let least = LEAST_STEPS_OF_A_SEARCH.max(10 * self.warmup_steps);
        if !self.learning_rate_auto || self.max_steps >= least {
            return Ok(());
        }
        let why = if least > LEAST_STEPS_OF_A_SEARCH { " (ten times `warmup_steps`)" } else { "" };
        Err(usage!(
            "`learning_rate auto` tries rates for a few steps each, so it needs `max_steps {least}` or more{why}; the run has {}",
            self.max_steps
        ))
    }

    /// The requested sizes of the splits.
    pub fn sizes(&self) -> Sizes {
        Sizes { num_train: self.num_train, num_dev: self.num_dev, num_eval: self.inputs.num_eval }
    }

    /// The context of `step`, counted from 1, for estimator and rule. The config must be resolved.
    pub fn step_context(&self, step: u64) -> StepContext {
        StepContext { step, run_seed: self.seed, learning_rate: self.learning_rate_at(step) as f32 }
    }

    /// The learning rate of `step`, counted from 1; depends on nothing else. The config must be resolved.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        let peak = self.learning_rate.unwrap_or_default();
        let stage = self.stages.iter().find(|stage| step <= stage.last);
        let max_steps = stage.map_or(self.max_steps, |stage| stage.max_steps);
        if step <= self.warmup_steps {
            return peak * step as f64 / self.warmup_steps as f64;
        }
        let rest = (max_steps.max(self.warmup_steps + 1) - self.warmup_steps) as f64;
        // The first step after the warm-up has the full rate; the one after the last would have 0.
        let done = (step - self.warmup_steps - 1) as f64 / rest;
        match self.lr_scheduler_type {
            Schedule::Constant => peak,
            Schedule::Linear => peak * (1.0 - done),
            // The C library's cosine differs between machines.
            Schedule::Cosine => peak * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * done)),
        }
    }
}

fn yes() -> bool {
    true
}

/// runs/TASK-MODEL-OPTIMIZER-SEED, TASK being the data's name if there is no task; numbered if the folder has content.
fn default_folder(inputs: &Inputs, optimizer: &str, seed: u64) -> PathBuf {
    let data = inputs.data.as_ref().map(|data| data.canonicalize().unwrap_or(data.clone()));
    let task = inputs.task.as_ref().map(PathBuf::from).or(data).unwrap_or_default();
    let stem = task.file_stem().unwrap_or_default().to_string_lossy();
    let model = Path::new(&inputs.model);
    let model = model.canonicalize().unwrap_or(model.to_path_buf());
    // The name as typed, unless it is `.` or `..`.
    let model = Path::new(&inputs.model).file_name().or(model.file_name()).unwrap_or_default().to_string_lossy();
    numbered_folder(&format!("{stem}-{model}-{optimizer}-{seed}"))
}

/// A folder of this name in runs, numbered if that has content.
fn numbered_folder(name: &str) -> PathBuf {
    let taken = |folder: &Path| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    let numbered = |n: u32| Path::new("runs").join(if n == 1 { name.into() } else { format!("{name}.{n}") });
    (1..).map(numbered).find(|folder| !taken(folder)).unwrap_or_else(|| numbered(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> Result<RunConfig> {
        RunConfig::check(RawArgs::from_toml(toml, "my.toml")?)
    }

    #[test]
    fn flags_go_over_the_file_and_the_file_over_defaults() -> Result<()> {
        let file = RawArgs::from_toml("learning-rate = 1e-5\nmax_steps = 7\nmodel = \"a\"", "my.toml")?;
        let flags = RawArgs { learning_rate: Some(LearningRate::Fixed(2e-5)), ..RawArgs::default() };
        let config = RunConfig::check(file.overlaid(&flags)?)?;
        assert_eq!((config.learning_rate, config.max_steps, config.batch_size), (Some(2e-5), 7, 16));
        assert_eq!(config.inputs.model, "a");
        Ok(())
    }

    #[test]
    fn bad_knobs_name_the_place_and_the_nearest_name() {
        let error = |toml: &str| config(toml).unwrap_err().to_string();
        assert_eq!(
            error("seed = 1\nlearning_rte = 1"),
            "my.toml, line 2: there is no option \"learning_rte\": did you mean \"learning-rate\"?"
        );
        assert!(error("max_steps = \"many\"").starts_with("my.toml, line 1: max_steps: invalid type: string"));
        assert_eq!(error("lr = -1.0"), "`learning_rate` -1: it must be greater than 0 (and representable in f32)");
        assert!(error("zo_eps = 1e-50").starts_with("`zo_eps` 0.00000000000000"));
        assert_eq!(error("weight_decay = nan"), "my.toml, line 1: weight_decay: it must be a finite number");
        assert_eq!(error("batch_size = 0"), "`batch_size` 0: it must be at least 1");
        assert!(error("lr = 1.0\nlearning_rate = 1.0").ends_with("learning_rate is set twice"));
    }

    /// By hand: the share is 50 of 1,000 steps.
    #[test]
    fn a_trial_ends_at_an_evaluation_that_is_near() -> Result<()> {
        let steps = |toml: &str| -> Result<u64> { Ok(config(&format!("lr = \"auto\"\n{toml}"))?.trial_steps()) };
        assert_eq!(steps("max_steps = 1000")?, 50);
        assert_eq!(steps("max_steps = 1000\neval_steps = 100")?, 100);
        assert_eq!(steps("max_steps = 1000\neval_steps = 30")?, 60);
        assert_eq!(steps("max_steps = 1000\neval_steps = 101")?, 50);
        assert_eq!(steps("max_steps = 100\neval_steps = 7")?, 21);
        assert_eq!(steps("max_steps = 1000\nwarmup_steps = 45")?, 100);
        let error = |toml: &str| config(toml).unwrap_err().to_string();
        assert!(error("lr = \"auto\"\nmax_steps = 99").contains("needs `max_steps 100` or more; the run has 99"));
        let error_of_warm_up = error("lr = \"auto\"\nmax_steps = 1000\nwarmup_steps = 101");
        assert!(error_of_warm_up.contains("`max_steps 1010` or more (ten times `warmup_steps`); the run has 1000"));
        assert_eq!(error("seed = 1\nlr = \"fast\""), "my.toml, line 2: lr: \"fast\": it must be a number, or \"auto\"");
        assert_eq!(error("lr = true"), "my.toml, line 1: lr: it must be a number, or \"auto\"");
        Ok(())
    }

    #[test]
    fn schedules_rise_then_hold_or_fall() -> Result<()> {
        let rates = |kind: &str| -> Result<Vec<f64>> {
            let config = config(&format!("lr = 8.0\nmax_steps = 6\nwarmup_steps = 2\nlr_scheduler_type = \"{kind}\""))?;
            Ok((1..=6).map(|step| config.learning_rate_at(step)).collect())
        };
        assert_eq!(rates("constant")?, [4.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        assert_eq!(rates("linear")?, [4.0, 8.0, 8.0, 6.0, 4.0, 2.0]);
        let cosine = rates("cosine")?;
        assert_eq!(cosine[2], 8.0);
        assert!((cosine[4] - 4.0).abs() < 1e-12 && cosine[5] > 0.0);
        Ok(())
    }
}

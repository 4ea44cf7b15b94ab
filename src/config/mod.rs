//! Every knob: as typed (a file with flags on top), then checked. Two types, so nothing unchecked gets further.

mod knobs;
mod resume;
mod settings;
mod tuned;
mod values;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::task::Sizes;

pub use knobs::{Common, Knobs, meant};
pub use settings::{Preset, Selection, Settings, StateDtype, matches};
pub use tuned::{Names, Tuned};
pub use values::{Distribution, Fsync, Precision, Schedule, Sides};

/// What `zotune train` does when nothing is said: the file configs/reviews.toml, compiled in.
pub const DEFAULT_JOB: &str = include_str!("../../configs/reviews.toml");

/// A stretch of a run under another `--max-steps` than the last: schedules go by it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// The last step of the stretch.
    pub last: u64,
    /// What the knob was.
    pub max_steps: u64,
}

/// What to open, checked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the flag of its name, documented there")]
pub struct Inputs {
    pub model: String,
    /// Of a model from the hub, once it is open: the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    pub trajectory: Option<PathBuf>,
    #[serde(default)]
    pub adapter: Option<PathBuf>,
    #[serde(flatten)]
    pub tuned: Tuned,
    /// None: the data are the task.
    pub task: Option<String>,
    pub data: Option<PathBuf>,
    pub dtype: Precision,
    pub bos_id: Option<u32>,
    pub max_length: Option<usize>,
    pub num_eval: Option<usize>,
    pub train_set_seed: u32,
    pub eval_batch_size: usize,
}

impl Inputs {
    /// Whether an adapter stands in for the model's weights: one that is read or one that is made.
    pub fn is_adapted(&self) -> bool {
        self.adapter.is_some() || self.tuned.is_adapter()
    }

    /// Where files are read from: the model, as far as it is a place on this machine, and what is named beside it.
    pub fn places(&self) -> Vec<&Path> {
        let named = [&self.data, &self.adapter, &self.trajectory];
        std::iter::once(Path::new(&self.model)).chain(named.into_iter().flatten().map(PathBuf::as_path)).collect()
    }

    /// The same as it was typed in the folder `from`: what is named relatively there, and lies there, under its whole name.
    pub fn typed_in(mut self, from: &Path) -> Self {
        let here = std::env::current_dir().and_then(|here| here.canonicalize()).ok();
        if here.is_some_and(|here| from.canonicalize().is_ok_and(|from| from == here)) {
            return self;
        }
        let whole = |path: &Path| Some(from.join(path)).filter(|whole| path.is_relative() && whole.exists());
        for path in [&mut self.data, &mut self.adapter, &mut self.trajectory].into_iter().flatten() {
            *path = whole(path).unwrap_or_else(|| path.clone());
        }
        let is_builtin = self.model == "opt-mini" && !from.join("opt-mini/config.json").is_file();
        let task = self.task.as_mut().filter(|task| task.ends_with(".toml"));
        for name in task.into_iter().chain((!is_builtin).then_some(&mut self.model)) {
            if let Some(whole) = whole(Path::new(name.as_str())) {
                *name = whole.to_string_lossy().into_owned();
            }
        }
        self
    }

    /// Checks what was typed.
    pub fn check(common: Common) -> Result<Self> {
        if let Some(device) = common.device.as_deref().filter(|d| *d != "cpu") {
            return Err(usage!("--device {device}: this build computes on: cpu"));
        }
        positive("--threads", common.threads)?;
        let inputs = Inputs {
            model: common.model.unwrap_or("opt-mini".into()),
            revision: common.revision,
            trajectory: common.trajectory,
            adapter: common.adapter,
            tuned: Tuned::default(),
            task: common.task.or_else(|| common.data.is_none().then(|| "reviews".into())),
            data: common.data,
            dtype: common.dtype.unwrap_or_default(),
            bos_id: common.bos_id,
            max_length: common.max_length,
            num_eval: common.num_eval,
            train_set_seed: common.train_set_seed.unwrap_or(0),
            eval_batch_size: common.eval_batch_size.unwrap_or(16),
        };
        inputs.check_extremes()?;
        Ok(inputs)
    }

    /// Refuses numbers that nothing is made for: too small to mean anything, too large to be counted with.
    fn check_extremes(&self) -> Result<()> {
        let Tuned { lora_r, lora_alpha, num_prefix, .. } = &self.tuned;
        within("--max-length", self.max_length, 1, MOST_TOKENS)?;
        within("--num-eval", self.num_eval, 0, MOST_ROWS)?;
        within("--eval-batch-size", Some(self.eval_batch_size), 1, MOST_BATCH)?;
        within("--lora-r", *lora_r, 1, 1 << 16)?;
        within("--num-prefix", *num_prefix, 1, 65_535)?;
        match lora_alpha.filter(|x| !((*x as f32).is_normal() && *x > 0.0)) {
            Some(alpha) => Err(usage!("--lora-alpha {alpha}: it must be a number above 0")),
            None => Ok(()),
        }
    }
}

/// A training run, checked: what run.json and the trajectory keep.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each is the flag of its name, documented there")]
pub struct Plan {
    #[serde(flatten)]
    pub inputs: Inputs,
    pub optimizer: String,
    /// None until the model is open: the default follows its size.
    pub learning_rate: Option<f64>,
    /// The method's own knobs.
    #[serde(flatten)]
    pub settings: Settings,
    pub lr_scheduler_type: Schedule,
    pub warmup_steps: u64,
    pub max_steps: u64,
    /// What it was before it was raised.
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
    pub save_steps: u64,
    pub save_total_limit: usize,
    pub fsync: Fsync,
    pub output_dir: PathBuf,
    pub overwrite_output_dir: bool,
}

impl Plan {
    /// Checks what was typed, and fills in what was not.
    pub fn check(knobs: Knobs) -> Result<Self> {
        let tuned = knobs.tuned.checked()?;
        if knobs.common.adapter.is_some() && tuned != Tuned::default() {
            return Err(usage!(
                "--adapter: it is trained further as it is; --tune, --lora-r and --prefix-tuning go without it"
            ));
        }
        let inputs = Inputs { tuned, ..Inputs::check(knobs.common)? };
        let optimizer = knobs.optimizer.unwrap_or("zo-sgd".into());
        let seed = knobs.seed.unwrap_or(0);
        let max_steps = knobs.max_steps.unwrap_or(20_000);
        let batch_size = knobs.batch_size.unwrap_or(16);
        let eval_steps = knobs.eval_steps.unwrap_or((max_steps / 20).max(1));
        let output_dir = knobs.output_dir.unwrap_or_else(|| default_folder(&inputs, &optimizer, seed));
        let plan = Plan {
            inputs,
            optimizer,
            learning_rate: knobs.learning_rate,
            settings: knobs.settings,
            lr_scheduler_type: knobs.lr_scheduler_type.unwrap_or_default(),
            warmup_steps: knobs.warmup_steps.unwrap_or(0),
            max_steps,
            stages: Vec::new(),
            batch_size,
            micro_batch_size: knobs.micro_batch_size.unwrap_or(batch_size),
            seed,
            num_train: knobs.num_train,
            num_dev: knobs.num_dev,
            eval_steps,
            logging_steps: knobs.logging_steps.unwrap_or(10),
            stop_if_diverged: knobs.stop_if_diverged.unwrap_or(true),
            save_steps: knobs.save_steps.unwrap_or(eval_steps),
            save_total_limit: knobs.save_total_limit.unwrap_or(1),
            fsync: knobs.fsync.unwrap_or_default(),
            output_dir,
            overwrite_output_dir: knobs.overwrite_output_dir.unwrap_or(false),
        };
        plan.check_extremes()?;
        Ok(plan)
    }

    /// Refuses numbers that nothing is made for, typed in or in a trajectory's header.
    pub fn check_extremes(&self) -> Result<()> {
        self.inputs.check_extremes()?;
        for (flag, steps, least) in [
            ("--max-steps", Some(self.max_steps), 1),
            ("--eval-steps", Some(self.eval_steps), 1),
            ("--logging-steps", Some(self.logging_steps), 1),
            ("--save-steps", Some(self.save_steps), 0),
            ("--warmup-steps", Some(self.warmup_steps), 0),
            ("--snapshot-steps", self.settings.snapshot_steps, 1),
        ] {
            within(flag, steps, least, MOST_STEPS)?;
        }
        for stage in &self.stages {
            within("--max-steps", Some(stage.max_steps.max(stage.last)), 0, MOST_STEPS)?;
        }
        within("--batch-size", Some(self.batch_size), 1, MOST_BATCH)?;
        within("--micro-batch-size", Some(self.micro_batch_size), 1, MOST_BATCH)?;
        within("--num-train", self.num_train, 0, MOST_ROWS)?;
        within("--num-dev", self.num_dev, 0, MOST_ROWS)?;
        positive("--save-total-limit", Some(self.save_total_limit))?;
        within("--num-directions", self.settings.num_directions, 1, MOST_DIRECTIONS)?;
        within("--max-directions", self.settings.max_directions, 1, MOST_DIRECTIONS)?;
        if let Some(x) = self.learning_rate.filter(|x| !((*x as f32).is_normal() && *x > 0.0)) {
            return Err(usage!("--learning-rate {x}: it must be a number above 0, within what f32 can hold"));
        }
        self.settings.check()
    }

    /// The sizes of the splits as asked for.
    pub fn sizes(&self) -> Sizes {
        Sizes { num_train: self.num_train, num_dev: self.num_dev, num_eval: self.inputs.num_eval }
    }

    /// The learning rate of `step`, counted from 1: a pure function of the step. The plan must have been set up.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        let peak = self.learning_rate.unwrap_or_default();
        let stage = self.stages.iter().find(|stage| step <= stage.last);
        let max_steps = stage.map_or(self.max_steps, |stage| stage.max_steps);
        if step <= self.warmup_steps {
            return peak * step as f64 / self.warmup_steps as f64;
        }
        let rest = (max_steps.max(self.warmup_steps + 1) - self.warmup_steps) as f64;
        // The first step after the warm-up has the full rate; a step past the last would have none.
        let done = (step - self.warmup_steps - 1) as f64 / rest;
        match self.lr_scheduler_type {
            Schedule::Constant => peak,
            Schedule::Linear => peak * (1.0 - done),
            // The C library's cosine is another on other machines.
            Schedule::Cosine => peak * 0.5 * (1.0 + libm::cos(std::f64::consts::PI * done)),
        }
    }
}

fn yes() -> bool {
    true
}

/// More than anybody counts to, and little enough to be counted with.
const MOST_STEPS: u64 = 1 << 40;
const MOST_ROWS: usize = 1 << 40;
const MOST_BATCH: usize = 1 << 20;
const MOST_DIRECTIONS: usize = 1 << 20;
const MOST_TOKENS: usize = 1 << 24;

/// Refuses a number that is none of `least` to `most`.
fn within<N: PartialOrd + fmt::Display>(flag: &str, value: Option<N>, least: N, most: N) -> Result<()> {
    match value {
        Some(n) if n < least => Err(usage!("{flag} {n}: it must be at least {least}")),
        Some(n) if n > most => Err(usage!("{flag} {n}: {most} is the most")),
        _ => Ok(()),
    }
}

fn positive(flag: &str, value: Option<usize>) -> Result<()> {
    within(flag, value, 1, usize::MAX)
}

/// runs/TASK-MODEL-OPTIMIZER-SEED, where data that are their own task give it their name; with a number behind it while that is taken.
fn default_folder(inputs: &Inputs, optimizer: &str, seed: u64) -> PathBuf {
    let data = inputs.data.as_ref().map(|data| data.canonicalize().unwrap_or(data.clone()));
    let task = inputs.task.as_ref().map(PathBuf::from).or(data).unwrap_or_default();
    let stem = task.file_stem().unwrap_or_default().to_string_lossy();
    let model = Path::new(&inputs.model);
    let model = model.canonicalize().unwrap_or(model.to_path_buf());
    // The name that was typed where it says something, the folder's own where it is `.` or `..`.
    let model = Path::new(&inputs.model).file_name().or(model.file_name()).unwrap_or_default().to_string_lossy();
    let name = format!("{stem}-{model}-{optimizer}-{seed}");
    let taken = |folder: &Path| std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    let numbered = |n: u32| Path::new("runs").join(if n == 1 { name.clone() } else { format!("{name}.{n}") });
    (1..).map(numbered).find(|folder| !taken(folder)).unwrap_or_else(|| numbered(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(toml: &str) -> Result<Plan> {
        Plan::check(Knobs::from_toml(toml, "my.toml")?)
    }

    #[test]
    fn flags_go_over_the_file_and_the_file_over_defaults() -> Result<()> {
        let file = Knobs::from_toml("learning-rate = 1e-5\nmax_steps = 7\nmodel = \"a\"", "my.toml")?;
        let flags = Knobs { learning_rate: Some(2e-5), ..Knobs::default() };
        let plan = Plan::check(file.overlaid(&flags)?)?;
        assert_eq!((plan.learning_rate, plan.max_steps, plan.batch_size), (Some(2e-5), 7, 16));
        assert_eq!(plan.inputs.model, "a");
        Ok(())
    }

    #[test]
    fn names_that_were_typed_in_another_folder_are_found_from_here() -> Result<()> {
        let there = tempfile::tempdir()?;
        let place = |name: &str| there.path().join(name);
        for name in ["rows.jsonl", "mine.toml", "base.zot"] {
            std::fs::write(place(name), "")?;
        }
        std::fs::create_dir(place("base"))?;
        let named = |model: &str, adapter: &str| Common {
            model: Some(model.into()),
            adapter: Some(adapter.into()),
            task: Some("mine.toml".into()),
            data: Some("rows.jsonl".into()),
            trajectory: Some("base.zot".into()),
            ..Common::default()
        };
        let found = Inputs::check(named("base", "org/on-the-hub"))?.typed_in(there.path());
        assert_eq!((Path::new(&found.model), found.data), (place("base").as_path(), Some(place("rows.jsonl"))));
        assert_eq!((found.task.map(PathBuf::from), found.trajectory), (Some(place("mine.toml")), Some(place("base.zot"))));
        // What is no place stays a name.
        assert_eq!(found.adapter, Some("org/on-the-hub".into()));
        std::fs::create_dir(place("opt-mini"))?;
        assert_eq!(Inputs::check(named("opt-mini", "a"))?.typed_in(there.path()).model, "opt-mini");
        // As it was typed where it was typed in this very folder.
        let here = std::env::current_dir()?;
        assert_eq!(Inputs::check(named("src", "tests"))?.typed_in(&here).model, "src");
        Ok(())
    }

    #[test]
    fn bad_knobs_name_the_place_and_the_nearest_name() {
        let error = |toml: &str| plan(toml).unwrap_err().to_string();
        assert_eq!(
            error("seed = 1\nlearning_rte = 1"),
            "my.toml, line 2: there is no knob \"learning_rte\": did you mean \"learning-rate\"?"
        );
        assert!(error("max_steps = \"many\"").starts_with("my.toml, line 1: max_steps: invalid type: string"));
        assert_eq!(error("lr = -1.0"), "--learning-rate -1: it must be a number above 0, within what f32 can hold");
        assert!(error("zo_eps = 1e-50").starts_with("--zo-eps 0.00000000000000"));
        assert_eq!(error("weight_decay = nan"), "my.toml, line 1: weight_decay: it must be a finite number");
        assert_eq!(error("batch_size = 0"), "--batch-size 0: it must be at least 1");
        assert!(error("lr = 1.0\nlearning_rate = 1.0").ends_with("learning_rate is there twice"));
    }

    #[test]
    fn schedules_rise_then_hold_or_fall() -> Result<()> {
        let rates = |kind: &str| -> Result<Vec<f64>> {
            let plan = plan(&format!("lr = 8.0\nmax_steps = 6\nwarmup_steps = 2\nlr_scheduler_type = \"{kind}\""))?;
            Ok((1..=6).map(|step| plan.learning_rate_at(step)).collect())
        };
        assert_eq!(rates("constant")?, [4.0, 8.0, 8.0, 8.0, 8.0, 8.0]);
        assert_eq!(rates("linear")?, [4.0, 8.0, 8.0, 6.0, 4.0, 2.0]);
        let cosine = rates("cosine")?;
        assert_eq!(cosine[2], 8.0);
        assert!((cosine[4] - 4.0).abs() < 1e-12 && cosine[5] > 0.0);
        Ok(())
    }
}

//! Options as typed: flags, and the keys of a TOML file. Nothing here is checked beyond its type.

use std::path::PathBuf;

use anyhow::Result;
use clap::builder::TypedValueParser;
use clap::{Arg, Args, Command};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::offered::{Offered, method_names, model_names, rate_names, task_names};
use super::trainable::TrainableArgs;
use super::values::{Fsync, LearningRate, Precision, Schedule, Tracker};
use crate::base::Usage;
use crate::base::numbers::number;
use crate::base::text::{nearest, rename_options};
use crate::labs::LabArgs;
use crate::zo::Settings;

/// What every verb that opens a model and a task takes. As typed: None where nothing was said.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct Common {
    /// The model: a folder in Hugging Face format, a name on the hub (facebook/opt-125m), a GGUF file, or opt-mini (built in)
    /// [default: opt-mini]
    #[arg(long, value_name = "FOLDER_OR_NAME", alias = "model-name-or-path", help_heading = "Model and data")]
    #[arg(value_parser = Offered(model_names), hide_possible_values = true)]
    pub model: Option<String>,
    /// The branch, tag or commit of a model on the hub [default: main]
    #[arg(long, help_heading = "Model and data")]
    pub revision: Option<String>,
    /// Start from the weights that this trajectory gives with --model: a run folder, or a file from zotune export
    #[arg(long, value_name = "FILE", help_heading = "Model and data")]
    pub trajectory: Option<PathBuf>,
    /// Start from this LoRA or prefix adapter (PEFT format): a folder, a run folder, or a name on the hub
    #[arg(long, value_name = "FOLDER", help_heading = "Model and data")]
    pub adapter: Option<PathBuf>,
    /// The task: sst2, copa, rte, cb, wsc, reviews (data built in), or your own task file [default: with --data, chosen by the
    /// columns of the data; else reviews]
    #[arg(long, alias = "task-name", help_heading = "Model and data")]
    #[arg(value_parser = Offered(task_names), hide_possible_values = true)]
    pub task: Option<String>,
    /// With --task: the folder with the task's data files [default: download them from the hub]. Without --task: your own data,
    /// one file, or a folder with train.jsonl and valid.jsonl and/or test.jsonl (also .csv, .tsv, .parquet). Columns: prompt and
    /// completion; text and label; or only text
    #[arg(long, value_name = "FOLDER|FILE", help_heading = "Model and data")]
    pub data: Option<PathBuf>,
    /// Number format of the weights [default: f32]
    #[arg(long, help_heading = "Model and data")]
    pub dtype: Option<Precision>,
    /// Device: cpu (the only one) [default: cpu]
    #[arg(long, help_heading = "Model and data")]
    pub device: Option<String>,
    /// Number of threads. The result is the same for any number, to the last bit [default: RAYON_NUM_THREADS, else all cores]
    #[arg(long, help_heading = "Model and data")]
    pub threads: Option<usize>,
    /// Id of the token before every prompt, in place of the tokenizer's begin token (MeZO uses 0 for OPT)
    #[arg(long, value_name = "ID", help_heading = "Model and data")]
    pub bos_id: Option<u32>,
    /// Maximum length of an example in tokens; longer prompts lose their beginning [default: 2048, or the model's maximum if less]
    #[arg(long, value_name = "TOKENS", help_heading = "Model and data")]
    pub max_length: Option<usize>,
    /// Rows in the evaluation split [default: 1000, or all if there are fewer; if your data are one file: at most a tenth of it]
    #[arg(long, help_heading = "Model and data")]
    pub num_eval: Option<usize>,
    /// Seed for drawing the splits [default: 0]
    #[arg(long, help_heading = "Model and data")]
    pub train_set_seed: Option<u32>,
    /// Batch size for evaluation. Affects memory and speed; results change by rounding only [default: 16]
    #[arg(long, alias = "per-device-eval-batch-size", help_heading = "Model and data")]
    pub eval_batch_size: Option<usize>,
}

/// Everything that `train` takes. As typed: None where nothing was said.
#[derive(Clone, Debug, Default, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct RawArgs {
    /// What it shares with the other verbs.
    #[command(flatten)]
    #[serde(flatten)]
    pub common: Common,
    /// The training method; zotune methods explains each [default: zo-sgd]
    #[arg(long, value_name = "METHOD", value_parser = Offered(method_names), help_heading = "Training")]
    pub optimizer: Option<String>,
    /// Learning rate, or auto: short trials from the same start find one, the trial with the lowest dev loss goes on [default: by method
    /// and number of weights, see zotune methods; the run prints it]
    #[arg(long, allow_negative_numbers = true, alias = "lr", help_heading = "Training")]
    #[arg(value_parser = Offered(rate_names).try_map(|text| text.parse::<LearningRate>()), hide_possible_values = true)]
    pub learning_rate: Option<LearningRate>,
    /// What of the model is trained.
    #[command(flatten)]
    #[serde(flatten)]
    pub tuned: TrainableArgs,
    /// What is trained in place of a language model.
    #[command(flatten)]
    #[serde(flatten)]
    pub lab: LabArgs,
    /// The method's own.
    #[command(flatten)]
    #[serde(flatten)]
    pub settings: Settings,
    /// Learning rate schedule after the warm-up [default: constant]
    #[arg(long, help_heading = "Training")]
    pub lr_scheduler_type: Option<Schedule>,
    /// Warm-up: steps in which the learning rate rises from 0 [default: 0]
    #[arg(long, help_heading = "Training")]
    pub warmup_steps: Option<u64>,
    /// Number of training steps [default: 20000]
    #[arg(long, help_heading = "Training")]
    pub max_steps: Option<u64>,
    /// Examples per step [default: 16]
    #[arg(long, alias = "per-device-train-batch-size", help_heading = "Training")]
    pub batch_size: Option<usize>,
    /// Examples per forward pass (as in gradient accumulation): less activation memory, same loss [default: --batch-size]
    #[arg(long, help_heading = "Training")]
    pub micro_batch_size: Option<usize>,
    /// Seed for drawing batches and random directions [default: 0]
    #[arg(long, help_heading = "Training")]
    pub seed: Option<u64>,
    /// Rows in the training split [default: 1000, or all rows that are not in dev if fewer; own data: all rows that are in no other split]
    #[arg(long, help_heading = "Training")]
    pub num_train: Option<usize>,
    /// Rows in the dev split [default: 500; cb, copa, reviews: 100; own data: at most a tenth of the training rows]
    #[arg(long, help_heading = "Training")]
    pub num_dev: Option<usize>,
    /// Steps between evaluations on the dev split [default: a twentieth of --max-steps]
    #[arg(long, help_heading = "Output")]
    pub eval_steps: Option<u64>,
    /// Steps between lines of trainer_log.jsonl [default: 10]
    #[arg(long, help_heading = "Output")]
    pub logging_steps: Option<u64>,
    /// Stop with exit code 4 if the run diverges: in 10 of the last 20 steps the training loss was above 2 x the dev loss before training
    /// and above 5 + ln K (K: number of answers; for completions and texts, the vocabulary size). --stop-if-diverged=false continues
    /// [default: true]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Output")]
    pub stop_if_diverged: Option<bool>,
    /// Stop after so many evaluations on dev in a row without a lower dev loss. The best weights are kept as ever [default: never stop early]
    #[arg(long, value_name = "EVALUATIONS", help_heading = "Output")]
    pub early_stopping_patience: Option<u64>,
    /// With --early-stopping-patience: a dev loss counts as lower only if it is lower by more than this [default: 0]
    #[arg(long, value_name = "LOSS", value_parser = number, allow_negative_numbers = true, help_heading = "Output")]
    pub early_stopping_threshold: Option<f64>,
    /// Stop once the dev loss is at most this [default: never]
    #[arg(long, value_name = "LOSS", value_parser = number, allow_negative_numbers = true, help_heading = "Output")]
    pub target_loss: Option<f64>,
    /// Steps between checkpoints (model folder and optimizer state). 0: no checkpoints; a zeroth-order run can then be resumed from
    /// its log [default: --eval-steps]
    #[arg(long, help_heading = "Output")]
    pub save_steps: Option<u64>,
    /// Number of checkpoints to keep (the newest) [default: 1]
    #[arg(long, help_heading = "Output")]
    pub save_total_limit: Option<usize>,
    /// How often the trajectory is synced to disk (protects it against power loss): every step, every so many seconds, or never
    /// [default: 5]
    #[arg(long, value_name = "every|SECONDS|never", help_heading = "Output")]
    pub fsync: Option<Fsync>,
    /// Also write what is logged for a tracker [default: none]
    #[arg(long, value_name = "TRACKER", help_heading = "Output")]
    pub report_to: Option<Tracker>,
    /// Name of the run in reports; runs of one name that differ in their seed alone are one row. A sweep names its cells after their
    /// groups [default: the method and what sets the run apart from the others]
    #[arg(long, value_name = "NAME", help_heading = "Output")]
    pub run_name: Option<String>,
    /// Folder for the run [default: runs/TASK-MODEL-OPTIMIZER-SEED]
    #[arg(long, value_name = "FOLDER", help_heading = "Output")]
    pub output_dir: Option<PathBuf>,
    /// Write into a folder that is not empty, and replace the files of an older run
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Output")]
    pub overwrite_output_dir: Option<bool>,
}

impl RawArgs {
    /// The knobs of a TOML file called `place`. An unknown key is an error with the nearest name.
    pub fn from_toml(text: &str, place: &str) -> Result<Self> {
        let table: toml::Table = toml::from_str(text).map_err(|e| usage!("{place}: {e}"))?;
        let arguments = RawArgs::augment_args(Command::new("train"));
        let mut fields = Map::new();
        for (key, value) in table {
            let at = || line_of(text, &key).map_or(place.to_string(), |line| format!("{place}, line {line}"));
            let dashed = key.replace('_', "-");
            if value.is_table() {
                return Err(usage!(
                    "{}: [{key}] begins a section, but options are set outside of sections; remove this line",
                    at()
                ));
            }
            let known = arguments.get_arguments().find(|argument| is_called(argument, &dashed));
            let Some(argument) = known else {
                let names: Vec<&str> = arguments.get_arguments().filter_map(|a| a.get_long()).collect();
                let near = meant(&dashed).unwrap_or_else(|| nearest(&dashed, names));
                return Err(usage!("{}: there is no option \"{key}\": {near}", at()));
            };
            let name = argument.get_id().to_string();
            let value = serde_json::to_value(value)?;
            if value.is_null() {
                return Err(usage!("{}: {key}: it must be a finite number", at()));
            }
            serde_json::from_value::<RawArgs>(Value::Object(Map::from_iter([(name.clone(), value.clone())])))
                .map_err(|e| usage!("{}: {key}: {e}", at()))?;
            if fields.insert(name.clone(), value).is_some() {
                let of_it = |line: &&str| key_of(line).is_some_and(|key| is_called(argument, &key.replace('_', "-")));
                let second = text.lines().enumerate().filter(|(_, line)| of_it(line)).nth(1).map_or(0, |(i, _)| i + 1);
                return Err(usage!("{place}, line {second}: {name} is set twice"));
            }
        }
        Ok(serde_json::from_value(Value::Object(fields))?)
    }

    /// An error that begins with the name of an option in backquotes (see [`usage!`]), as one that names the line of the file called
    /// `place` where the option is set, if these flags do not set it.
    pub fn blame_file(&self, error: anyhow::Error, text: &str, place: &str) -> anyhow::Error {
        let said = error.downcast_ref::<Usage>().map(|usage| usage.0.clone()).unwrap_or_default();
        let Some((name, rest)) = said.strip_prefix('`').and_then(|rest| rest.split_once('`')) else { return error };
        let arguments = RawArgs::augment_args(Command::new("train"));
        let Some(argument) = arguments.get_arguments().find(|argument| is_called(argument, &name.replace('_', "-"))) else {
            return error;
        };
        let typed = serde_json::to_value(self).is_ok_and(|typed| !typed[argument.get_id().as_str()].is_null());
        let set = |line: &&str| key_of(line).is_some_and(|key| is_called(argument, &key.replace('_', "-")));
        match text.lines().enumerate().find(|(_, line)| set(line)).filter(|_| !typed) {
            Some((i, line)) => {
                // The options of a file are set there, not typed.
                let known = |name: &str| arguments.get_arguments().any(|a| is_called(a, &name.replace('_', "-")));
                let as_set = |name: &str, value: &str| match value.get(1..) {
                    Some(value) => known(name).then(|| format!("{name} = {value}")),
                    None => known(name).then(|| name.into()),
                };
                usage!("{place}, line {}: {}{}", i + 1, key_of(line).unwrap_or(name), rename_options(rest, as_set))
            }
            None => error,
        }
    }

    /// These knobs with `flags` on top.
    pub fn overlaid(self, flags: &RawArgs) -> Result<Self> {
        let Value::Object(mut merged) = serde_json::to_value(self)? else { unreachable!("a struct is an object") };
        let Value::Object(flags) = serde_json::to_value(flags)? else { unreachable!("a struct is an object") };
        merged.extend(flags.into_iter().filter(|(_, value)| !value.is_null()));
        Ok(serde_json::from_value(Value::Object(merged))?)
    }
}

/// What others call a knob, as flags without dashes, what it is called here, and what else to say.
const ELSEWHERE: [(&[&str], &str, &str); 7] = [
    (
        &["steps", "iters", "iterations", "num-steps", "num-iters", "max-iters", "train-steps", "total-steps"],
        "--max-steps",
        "",
    ),
    (
        &["epochs", "epoch", "num-epochs", "num-train-epochs", "max-epochs"],
        "--max-steps",
        " An epoch is the training rows divided by --batch-size",
    ),
    (&["bs", "batch", "batchsize", "train-batch-size"], "--batch-size", ""),
    (&["rate", "learningrate", "step-size"], "--learning-rate", ""),
    (&["bf16", "load-bfloat16", "bfloat16"], "--dtype bf16", ""),
    (&["fp16", "load-float16", "float16"], "--dtype f16", ""),
    (&["eps", "epsilon"], "--zo-eps", ""),
];

/// Which flag somebody means by the name that it has elsewhere.
pub fn meant(name: &str) -> Option<String> {
    let (_, flag, more) = ELSEWHERE.iter().find(|(names, ..)| names.contains(&name))?;
    Some(format!("did you mean {flag}?{more}"))
}

/// Whether an argument has this name, without dashes in front.
fn is_called(argument: &Arg, name: &str) -> bool {
    argument.get_long() == Some(name) || argument.get_all_aliases().is_some_and(|all| all.contains(&name))
}

/// The line, from 1, that sets `key`, or begins the section of that name.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let section = |line: &str| line.trim().trim_matches(['[', ']']).trim() == key && line.trim().starts_with('[');
    text.lines().position(|line| key_of(line) == Some(key) || section(line)).map(|i| i + 1)
}

/// What a line sets, if it sets something.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    Some(key.trim().trim_matches('"')).filter(|key| !key.is_empty() && !key.contains(['#', '[', ' ']))
}

//! What is typed: the verbs and their flags.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::experiments::experiment_names;
use crate::baselines::Calibration;
use crate::config::args::meant;
use crate::config::offered::{Offered, method_names, task_names};
use crate::config::{Common, Precision, RawArgs};
use crate::report::Goal;

pub(super) const EXIT_CODES: &str = "Exit codes:
  0    done
  1    the run failed: a damaged model, a full disk
  2    a mistake in the flags, the config, the task file or the data files; no file was changed
  4    the loss is not finite, or the run has diverged
  5    a file could not be fetched from the hub
  6    the base model, the data or a replay does not match the run
  130  stopped by SIGINT (143: by SIGTERM); everything is saved";

/// Fine-tunes language models with forward passes only (zeroth-order methods). Some methods also use backpropagation, for as many weights
/// as you choose.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, args_override_self = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) verb: Verb,
    /// Print only the result and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Print more, with the level of each line
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    #[command(args_override_self = true)]
    /// Fine-tune a model. Without options: the built-in model on the built-in film reviews (configs/reviews.toml)
    Train(TrainArgs),
    #[command(args_override_self = true)]
    /// Forecast a run's memory, time and disk space. It times a few steps on a model of two and three blocks and reads no weights
    Plan(JobArgs),
    #[command(args_override_self = true)]
    /// Evaluate a model on a task's evaluation split. A run's model is evaluated on the run's own task and data, unless you name others
    Eval(EvalArgs),
    #[command(args_override_self = true)]
    /// Fit a linear probe to a model's last state and evaluate it: what logistic regression gets from the model without training it. The
    /// penalty with the lowest dev loss is chosen
    Probe(ProbeArgs),
    #[command(args_override_self = true)]
    /// Rebuild a run's weights from its base model and its trajectory, without a forward pass
    Replay(ReplayArgs),
    /// Export a run to share it: its trajectory as a small file, or the base model with its adapter merged in
    Export(ExportArgs),
    #[command(args_override_self = true)]
    /// Compare runs: curves, memory and tables, as a page that opens in a browser, as SVG, PNG, Markdown and CSV. Runs that differ only
    /// in their seed are one method; the report has their mean and spread
    Report(ReportArgs),
    #[command(args_override_self = true)]
    /// Train every combination of the options in a file, each as a process of its own, and print a table: per group the setting with the
    /// lowest dev loss, and its scores on the evaluation split. The same command continues a sweep that was stopped
    Sweep(SweepArgs),
    #[command(args_override_self = true)]
    /// Repeat a paper's experiment on functions without a language model: a sweep that is built in, and its report. Options go over those
    /// of the experiment
    Lab(ExperimentArgs),
    /// List the tasks, print a task file as a starting point for your own, or show an example token by token
    Tasks(TasksArgs),
    /// List the training methods: equation, source, default learning rate, options
    Methods(MethodsArgs),
    /// Print the completions of a shell: zotune completions bash > ~/.local/share/bash-completion/completions/zotune
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page, in roff: zotune man train | man -l -
    Man {
        /// The command that the page is about [default: zotune itself]
        verb: Option<String>,
    },
    /// Print the JSON schema of config files, for editors that complete TOML by one
    Schema,
}

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// Continue a run that was killed or stopped; the result is the same as without the break. With a larger --max-steps: train a finished
    /// run for more steps. If the learning rate falls (cosine, linear), that result differs from a run that was started with as many steps
    #[arg(long, value_name = "RUN")]
    pub(super) resume: Option<PathBuf>,
    #[command(flatten)]
    pub(super) job: JobArgs,
}

#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// A TOML file with options; options on the command line override it
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) knobs: Box<RawArgs>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    pub(super) common: Box<Common>,
    /// Also evaluate with the scores of each class shifted, which needs no training
    #[arg(long, value_name = "BY", value_enum, default_value_t, help_heading = "Without training")]
    pub(super) calibrate: Calibration,
    /// In-context learning: so many training rows with their right answers before each prompt
    #[arg(long, value_name = "ROWS", default_value_t = 0, help_heading = "Without training")]
    pub(super) num_fewshot: usize,
    #[command(flatten, next_help_heading = "Without training")]
    pub(super) drawn: DrawnArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Write the scores of each example to this file, in JSON Lines format
    #[arg(long, value_name = "FILE")]
    pub(super) dump: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    #[command(flatten)]
    pub(super) common: Box<Common>,
    #[command(flatten, next_help_heading = "Model and data")]
    pub(super) drawn: DrawnArgs,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Write the log-probabilities of each row's classes to this file, in JSON Lines format
    #[arg(long, value_name = "FILE")]
    pub(super) dump: Option<PathBuf>,
}

/// The rows that are drawn beside those to evaluate.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct DrawnArgs {
    /// Rows in the training split [default: as in the run whose model it is; else as in zotune train]
    #[arg(long)]
    pub(super) num_train: Option<usize>,
    /// Rows in the dev split, which are drawn with the training rows [default: likewise]
    #[arg(long)]
    pub(super) num_dev: Option<usize>,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// A run folder, or a file that zotune export wrote
    #[arg(value_name = "RUN_OR_TRAJECTORY")]
    pub(super) place: PathBuf,
    /// The base model of the run [default: the one recorded in the run]
    #[arg(long, value_name = "FOLDER_OR_NAME")]
    pub(super) model: Option<String>,
    /// The branch, tag or commit of a model on the hub [default: the commit recorded in the run]
    #[arg(long)]
    pub(super) revision: Option<String>,
    /// If the run itself started from a trajectory: that file [default: the recorded path]
    #[arg(long, value_name = "FILE")]
    pub(super) trajectory: Option<PathBuf>,
    /// Folder for the model, in Hugging Face format
    #[arg(long, value_name = "FOLDER")]
    pub(super) output_dir: PathBuf,
    /// Rebuild the weights of this step [default: the best step, with the lowest dev loss]
    #[arg(long, value_name = "STEP")]
    pub(super) to_step: Option<u64>,
    /// Write into a folder that is not empty
    #[arg(long)]
    pub(super) overwrite_output_dir: bool,
    /// Number of threads. The result is the same for any number, to the last bit [default: RAYON_NUM_THREADS, else all cores]
    #[arg(long)]
    pub(super) threads: Option<usize>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "zotune export <RUN> --trajectory <FILE>\n       zotune export <RUN> --merge --output-dir <FOLDER>"
)]
pub(super) struct ExportArgs {
    /// The run folder; with --merge also the folder of an adapter in PEFT format
    #[arg(value_name = "RUN")]
    pub(super) run: PathBuf,
    /// Write the trajectory to this file. Base model + this file = fine-tuned model
    #[arg(long, value_name = "FILE", conflicts_with = "merge")]
    pub(super) trajectory: Option<PathBuf>,
    /// Write the base model with the LoRA adapter merged into its weights, in Hugging Face format
    #[arg(long, requires = "output_dir")]
    pub(super) merge: bool,
    /// Folder for the merged model
    #[arg(long, value_name = "FOLDER", requires = "merge")]
    pub(super) output_dir: Option<PathBuf>,
    /// The base model of the adapter [default: the one recorded in the run, else in adapter_config.json]
    #[arg(long, value_name = "FOLDER", requires = "merge")]
    pub(super) model: Option<String>,
    /// Number format of the merged weights [default: as in the run, else f32]
    #[arg(long, requires = "merge")]
    pub(super) dtype: Option<Precision>,
    /// Write into a folder that is not empty
    #[arg(long, requires = "merge")]
    pub(super) overwrite_output_dir: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Run folders, folders with runs at any depth (a sweep), or patterns in quotes. A run may still be running
    #[arg(value_name = "RUN", required = true)]
    pub(super) runs: Vec<String>,
    /// Folder for the report [default: report, in the folder if one is given, else in the current one]
    #[arg(long, value_name = "FOLDER", conflicts_with = "watch")]
    pub(super) output_dir: Option<PathBuf>,
    /// Write into a folder that is not empty and has no earlier report; files of other names stay
    #[arg(long, alias = "overwrite", conflicts_with = "watch")]
    pub(super) overwrite_output_dir: bool,
    /// The training losses whose cost is compared, separated by commas; 10% is that share of the loss before training [default: the
    /// lowest that every run reaches]
    #[arg(long, value_name = "LOSSES", value_delimiter = ',', allow_negative_numbers = true)]
    pub(super) to_loss: Vec<Goal>,
    /// Report how many times faster than this method the others reach that loss: its name in the report
    #[arg(long, value_name = "METHOD")]
    pub(super) baseline: Option<String>,
    /// Write nothing; show the page at 127.0.0.1 and keep it current while runs are running. Ctrl-C ends it
    #[arg(long)]
    pub(super) watch: bool,
    /// The port of --watch; 0: any that is free
    #[arg(long, default_value_t = 7878, requires = "watch")]
    pub(super) port: u16,
    /// Print the numbers of the report as one JSON object
    #[arg(long, conflicts_with = "watch")]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(mut_arg("output_dir", |arg| arg.help("Folder for the sweep [default: runs/NAME-OF-THE-FILE]")))]
pub(super) struct SweepArgs {
    /// The sweep file: a config file in which any option may be a list of values. `seeds = [0, 1]` lists seeds. Each [[group]] has a name
    /// and options of its own. Options on the command line override the file in every cell
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
    #[command(flatten)]
    pub(super) options: SweepOptions,
}

#[derive(Debug, Args)]
#[command(mut_arg("output_dir", |arg| arg.help("Folder for the experiment's parts [default: runs/labs]")))]
pub(super) struct ExperimentArgs {
    /// The experiment, or one of its parts [default: list them]
    #[arg(value_name = "NAME", value_parser = Offered(experiment_names), hide_possible_values = true)]
    pub(super) name: Option<String>,
    #[command(flatten)]
    pub(super) options: SweepOptions,
}

#[derive(Clone, Debug, Args)]
pub(super) struct SweepOptions {
    /// Cells to run at the same time. They share the threads and must fit into the memory together [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) jobs: Option<usize>,
    /// Give all settings a few steps first, and let the better half (by dev loss, in each group) go on with twice as many, until all
    /// steps. At most ROUNDS rounds [default: until one setting is left]. Needs a constant learning rate, and no early stopping
    #[arg(long, value_name = "ROUNDS", num_args = 0..=1, require_equals = true)]
    pub(super) halving: Option<Option<u32>>,
    /// Run only the groups with these names, separated by commas
    #[arg(long, value_name = "GROUPS", value_delimiter = ',')]
    pub(super) only: Vec<String>,
    /// List the cells with their memory and time, and run none
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) knobs: Box<RawArgs>,
    /// Print the result as one JSON object; lab: one for each part, in a line
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct TasksArgs {
    #[command(subcommand)]
    pub(super) verb: Option<TasksVerb>,
}

#[derive(Debug, Subcommand)]
pub(super) enum TasksVerb {
    /// List the built-in tasks
    List,
    /// Print the file of a built-in task, or one of its examples
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// Name of the task: sst2, copa, ... With --example also a task file
    #[arg(value_parser = Offered(task_names), hide_possible_values = true)]
    pub(super) name: String,
    /// Show the first training row as the model reads it: prompt, answers and tokens
    #[arg(long)]
    pub(super) example: bool,
    /// With --example: the model whose tokenizer is used [default: opt-mini]
    #[arg(long, value_name = "FOLDER_OR_NAME", requires = "example")]
    pub(super) model: Option<String>,
    /// With --example: the folder with the task's data files [default: download them from the hub]
    #[arg(long, value_name = "FOLDER", requires = "example")]
    pub(super) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct MethodsArgs {
    /// Explain this method's options too
    #[arg(value_parser = Offered(method_names), hide_possible_values = true)]
    pub(super) name: Option<String>,
}

impl Cli {
    /// Parses the command line. Flags may be spelled with underscores: --learning_rate is --learning-rate.
    pub fn from_args(args: impl Iterator<Item = OsString>) -> Result<Self> {
        let dashed = |arg: OsString| match arg.into_string() {
            Ok(arg) => Ok(match arg.strip_prefix("--") {
                Some(flag) => {
                    let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
                    format!("--{}{value}", name.replace('_', "-"))
                }
                None => arg,
            }),
            Err(arg) => Err(usage!("the argument {arg:?} is not valid UTF-8; rename the file or folder")),
        };
        let args = args.map(dashed).collect::<Result<Vec<_>>>()?;
        // A number below 0 is a flag to clap, where the flag before it does not say that it takes one.
        let negative = |(flag, value): (&String, &String)| {
            let is_number = value.strip_prefix('-').is_some_and(|digits| digits.parse::<f64>().is_ok());
            (flag.starts_with("--") && !flag.contains('=') && is_number).then(|| (flag.clone(), value.clone()))
        };
        let negative = args.iter().zip(args.iter().skip(1)).find_map(negative);
        let trains = args.get(1).is_some_and(|verb| verb == "train" || verb == "plan" || verb == "sweep");
        Cli::try_parse_from(args).or_else(|error| match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(unexpected)) if negative.as_ref().is_some_and(|(_, value)| value == unexpected) => {
                let (flag, value) = negative.unwrap_or_default();
                Err(usage!("{flag} {value}: it must be a whole number, 0 or greater"))
            }
            Some(ContextValue::String(flag)) if trains && error.kind() == ErrorKind::UnknownArgument => {
                match meant(flag.trim_start_matches('-')) {
                    Some(meant) => Err(usage!("there is no {flag}: {meant}")),
                    None => error.exit(),
                }
            }
            _ => error.exit(),
        })
    }
}

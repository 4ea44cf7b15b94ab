//! What is typed: the verbs and their flags.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};

use crate::config::args::meant;
use crate::config::{Common, Precision, RawArgs};

pub(super) const EXIT_CODES: &str = "Exit codes:
  0    done
  1    the run failed: a damaged model, a full disk
  2    a mistake in what was typed or written: flags, config, task file, data files; nothing was touched
  4    the loss is not finite, or the run has diverged
  5    the hub did not give what was asked
  6    a replay or a base model is not the run's
  130  stopped by a signal (143 by SIGTERM), with everything saved";

/// Fine-tunes language models with forward passes alone, or with as little backpropagation as one asks for.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, args_override_self = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub(super) verb: Verb,
    /// Say only the result, and what went wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more, with each line's level
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    #[command(args_override_self = true)]
    /// Fine-tune a model; with nothing else said, a built-in one on built-in film reviews (configs/reviews.toml)
    Train(TrainArgs),
    #[command(args_override_self = true)]
    /// Say what a run would take, memory by part and time: tried on two and three blocks, no weights are read
    Plan(JobArgs),
    #[command(args_override_self = true)]
    /// Score a model on a task's evaluation split; one that a run has left on the run's own, where nothing else is said
    Eval(EvalArgs),
    #[command(args_override_self = true)]
    /// Make the weights of a run again from its base model and its trajectory, without a forward pass
    Replay(ReplayArgs),
    /// Write what a run has trained to hand it on: its trajectory as a small file, or its adapter merged into the model
    Export(ExportArgs),
    /// List the tasks, or print one's file to start a task of your own from
    Tasks(TasksArgs),
}

#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    /// Go on with a run that was killed, stopped, or is to have more --max-steps: as if nothing had happened (but with more steps under a
    /// cosine or a straight line, whose rates follow from their number, it is not the run that would have been begun so long)
    #[arg(long, value_name = "RUN")]
    pub(super) resume: Option<PathBuf>,
    #[command(flatten)]
    pub(super) job: JobArgs,
}

#[derive(Debug, Args)]
pub(super) struct JobArgs {
    /// A TOML file of knobs; flags go over it
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    #[command(flatten)]
    pub(super) knobs: Box<RawArgs>,
    /// Print the results as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(super) struct EvalArgs {
    #[command(flatten)]
    pub(super) common: Box<Common>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub(super) json: bool,
    /// Write each example's candidate scores to a file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(super) dump: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// A run folder, or a file that zotune export wrote
    #[arg(value_name = "RUN_OR_TRAJECTORY")]
    pub(super) place: PathBuf,
    /// The model that the run began from [default: by the name that the run knew it by]
    #[arg(long, value_name = "FOLDER_OR_NAME")]
    pub(super) model: Option<String>,
    /// The branch, tag or commit of a model on the hub [default: the commit that the run began from]
    #[arg(long)]
    pub(super) revision: Option<String>,
    /// The trajectory that the run began from, if it did [default: where it then lay]
    #[arg(long, value_name = "FILE")]
    pub(super) trajectory: Option<PathBuf>,
    /// Where the model goes, in Hugging Face layout
    #[arg(long, value_name = "FOLDER")]
    pub(super) output_dir: PathBuf,
    /// The step whose weights are wanted [default: the one that the run kept, with the least loss on dev]
    #[arg(long, value_name = "STEP")]
    pub(super) to_step: Option<u64>,
    /// Write into a folder that is not empty
    #[arg(long)]
    pub(super) overwrite_output_dir: bool,
    /// Threads to compute with; results have the same bits for any number [default: RAYON_NUM_THREADS, else all]
    #[arg(long)]
    pub(super) threads: Option<usize>,
    /// Print what was done as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
#[command(
    override_usage = "zotune export <RUN> --trajectory <FILE>\n       zotune export <RUN> --merge --output-dir <FOLDER>"
)]
pub(super) struct ExportArgs {
    /// The run folder; with --merge also an adapter as PEFT writes it
    #[arg(value_name = "RUN")]
    pub(super) run: PathBuf,
    /// Write the trajectory: with the base model it is the fine-tuned one
    #[arg(long, value_name = "FILE", conflicts_with = "merge")]
    pub(super) trajectory: Option<PathBuf>,
    /// Write the base model with the LoRA adapter merged into its weights, in Hugging Face layout
    #[arg(long, requires = "output_dir")]
    pub(super) merge: bool,
    /// Where the merged model goes
    #[arg(long, value_name = "FOLDER", requires = "merge")]
    pub(super) output_dir: Option<PathBuf>,
    /// The model that the adapter was trained on [default: by the name that adapter_config.json has]
    #[arg(long, value_name = "FOLDER", requires = "merge")]
    pub(super) model: Option<String>,
    /// How the merged weights are held [default: as in the run, else f32]
    #[arg(long, requires = "merge")]
    pub(super) dtype: Option<Precision>,
    /// Write into a folder that is not empty
    #[arg(long, requires = "merge")]
    pub(super) overwrite_output_dir: bool,
    /// Print what was done as one JSON object
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
    /// List the tasks that are built in
    List,
    /// Print a task's file
    Show { name: String },
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
            Err(arg) => Err(usage!("the argument {arg:?} is not UTF-8; rename the file or folder that it names")),
        };
        let args = args.map(dashed).collect::<Result<Vec<_>>>()?;
        // A number below 0 is a flag to clap, where the flag before it does not say that it takes one.
        let negative = |(flag, value): (&String, &String)| {
            let is_number = value.strip_prefix('-').is_some_and(|digits| digits.parse::<f64>().is_ok());
            (flag.starts_with("--") && !flag.contains('=') && is_number).then(|| (flag.clone(), value.clone()))
        };
        let negative = args.iter().zip(args.iter().skip(1)).find_map(negative);
        let trains = args.get(1).is_some_and(|verb| verb == "train" || verb == "plan");
        Cli::try_parse_from(args).or_else(|error| match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(unexpected)) if negative.as_ref().is_some_and(|(_, value)| value == unexpected) => {
                let (flag, value) = negative.unwrap_or_default();
                Err(usage!("{flag} {value}: it must be a whole number, and not below 0"))
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

//! The verbs: what is typed in, what is said back. Results go to stdout, everything else to stderr.

mod eval;
mod known;
mod merge;
mod train;
mod trajectory;
mod words;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::config::{Common, Inputs, Knobs, Precision, meant};
use crate::error::{nearest, plain};
use crate::hub::{self, at_commit};
use crate::replay;
use crate::setup::Bench;
use crate::simd;
use crate::task::{BUILTIN, Task};

use words::human_count;

const EXIT_CODES: &str = "Exit codes:
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
    verb: Verb,
    /// Say only the result, and what went wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more, with each line's level
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
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
struct TrainArgs {
    /// Go on with a run that was killed, stopped, or is to have more --max-steps: as if nothing had happened (but with more steps under a
    /// cosine or a straight line, whose rates follow from their number, it is not the run that would have been begun so long)
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    job: JobArgs,
}

#[derive(Debug, Args)]
struct JobArgs {
    /// A TOML file of knobs; flags go over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    knobs: Box<Knobs>,
    /// Print the results as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct EvalArgs {
    #[command(flatten)]
    common: Box<Common>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// Write each example's candidate scores to a file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    dump: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// A run folder, or a file that zotune export wrote
    #[arg(value_name = "RUN_OR_TRAJECTORY")]
    place: PathBuf,
    /// The model that the run began from [default: by the name that the run knew it by]
    #[arg(long, value_name = "FOLDER_OR_NAME")]
    model: Option<String>,
    /// The branch, tag or commit of a model on the hub [default: the commit that the run began from]
    #[arg(long)]
    revision: Option<String>,
    /// The trajectory that the run began from, if it did [default: where it then lay]
    #[arg(long, value_name = "FILE")]
    trajectory: Option<PathBuf>,
    /// Where the model goes, in Hugging Face layout
    #[arg(long, value_name = "FOLDER")]
    output_dir: PathBuf,
    /// The step whose weights are wanted [default: the one that the run kept, with the least loss on dev]
    #[arg(long, value_name = "STEP")]
    to_step: Option<u64>,
    /// Write into a folder that is not empty
    #[arg(long)]
    overwrite_output_dir: bool,
    /// Threads to compute with; results have the same bits for any number [default: RAYON_NUM_THREADS, else all]
    #[arg(long)]
    threads: Option<usize>,
    /// Print what was done as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ExportArgs {
    /// The run folder; with --merge also an adapter as PEFT writes it
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// Write the trajectory: with the base model it is the fine-tuned one
    #[arg(long, value_name = "FILE", required_unless_present = "merge", conflicts_with = "merge")]
    trajectory: Option<PathBuf>,
    /// Write the base model with the LoRA adapter merged into its weights, in Hugging Face layout
    #[arg(long, requires = "output_dir")]
    merge: bool,
    /// Where the merged model goes
    #[arg(long, value_name = "FOLDER", requires = "merge")]
    output_dir: Option<PathBuf>,
    /// The model that the adapter was trained on [default: by the name that adapter_config.json has]
    #[arg(long, value_name = "FOLDER", requires = "merge")]
    model: Option<String>,
    /// How the merged weights are held [default: as in the run, else f32]
    #[arg(long, requires = "merge")]
    dtype: Option<Precision>,
    /// Write into a folder that is not empty
    #[arg(long, requires = "merge")]
    overwrite_output_dir: bool,
    /// Print what was done as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct TasksArgs {
    #[command(subcommand)]
    verb: Option<TasksVerb>,
}

#[derive(Debug, Subcommand)]
enum TasksVerb {
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
        let trains = args.get(1).is_some_and(|verb| verb == "train" || verb == "plan");
        Cli::try_parse_from(args).or_else(|error| match error.get(ContextKind::InvalidArg) {
            Some(ContextValue::String(flag)) if trains && error.kind() == ErrorKind::UnknownArgument => {
                match meant(flag.trim_start_matches('-')) {
                    Some(meant) => Err(usage!("there is no {flag}: {meant}")),
                    None => error.exit(),
                }
            }
            _ => error.exit(),
        })
    }

    /// Does what was asked.
    pub fn run(self) -> Result<()> {
        let quiet = self.quiet;
        simd::check_environment()?;
        check_threads("RAYON_NUM_THREADS=", std::env::var("RAYON_NUM_THREADS").ok().and_then(|n| n.trim().parse().ok()))?;
        if !quiet {
            hub::draw_bars_with(download_bar);
        }
        match self.verb {
            Verb::Train(args) => train::train_verb(args, quiet),
            Verb::Plan(args) => train::plan_verb(args),
            Verb::Eval(args) => eval::eval_verb(args, quiet),
            Verb::Replay(args) => trajectory::replay_verb(args, quiet),
            Verb::Export(args) if args.merge => merge::merge_verb(args),
            Verb::Export(args) => trajectory::export_verb(args),
            Verb::Tasks(args) => tasks_verb(args),
        }
    }
}

fn tasks_verb(args: TasksArgs) -> Result<()> {
    match args.verb.unwrap_or(TasksVerb::List) {
        TasksVerb::List => {
            for (name, _) in BUILTIN {
                say(&format!("{name:<8} {}", Task::open(name)?.description))?;
            }
            Ok(())
        }
        TasksVerb::Show { name } => {
            let known = BUILTIN.iter().find(|(n, _)| *n == name);
            let (_, text) = known.ok_or_else(|| {
                usage!("there is no task \"{name}\": {}", nearest(&name, BUILTIN.iter().map(|(name, _)| *name)))
            })?;
            say(text.trim_end())
        }
    }
}

/// Refuses threads without number, which nothing would come of but waiting.
fn check_threads(said: &str, threads: Option<usize>) -> Result<()> {
    let most = 4 * std::thread::available_parallelism().map_or(1, usize::from).max(16);
    match threads.filter(|n| *n > most) {
        Some(n) => Err(usage!("{said}{n}: more than {most} on this machine would only wait for each other")),
        None => Ok(()),
    }
}

/// Runs `work` on a thread of the pool that it computes with: nothing is handed from one thread to another to begin.
fn on_threads(threads: Option<usize>, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    check_threads("--threads ", threads)?;
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build().context("cannot start the threads")?;
    pool.install(work)
}

/// The weights of what was outlined, brought to the end of its trajectory where it has one.
fn load(outline: Bench, inputs: &Inputs, quiet: bool) -> Result<Bench> {
    let bar =
        progress_bar(0, quiet || inputs.trajectory.is_none(), "{pos:>8}/{len} [{bar:20}] replaying  {eta_precise} left")?;
    let bench = replay::open(outline, inputs, &mut |step, of| {
        bar.set_length(of);
        bar.set_position(step);
        Ok(())
    });
    bar.finish_and_clear();
    bench
}

fn describe_model(inputs: &Inputs, bench: &Bench) {
    let threads = rayon::current_num_threads();
    let name = bench.commit.as_ref().map_or(inputs.model.clone(), |commit| at_commit(&inputs.model, commit));
    tracing::info!(
        "model   {name}  {} with {}, {} on the CPU ({threads} thread{}, {})",
        bench.model.kind(),
        human_count(bench.params.count()),
        inputs.dtype.dtype().as_str(),
        if threads == 1 { "" } else { "s" },
        simd::instruction_set(),
    );
}

fn progress_bar(len: u64, quiet: bool, style: &str) -> Result<ProgressBar> {
    if quiet || !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    Ok(ProgressBar::new(len).with_style(ProgressStyle::with_template(style)?.progress_chars("=> ")))
}

/// The bar of a file that comes from the hub.
fn download_bar(name: &str, len: u64) -> ProgressBar {
    let style = "{bytes:>12}/{total_bytes} [{bar:20}] {msg}  {bytes_per_sec}  {eta_precise} left";
    progress_bar(len, false, style).map_or_else(|_| ProgressBar::hidden(), |bar| bar.with_message(plain(name).into_owned()))
}

/// Whether what a flag names may be written: nothing is overwritten that nobody said so of. A device or a pipe is written to.
fn check_new(flag: &str, path: &Path) -> Result<()> {
    match path.is_file() || path.is_dir() {
        true => Err(usage!(
            "{flag} {}: it is there already, and would be lost; name another, or remove it first",
            path.display()
        )),
        false => Ok(()),
    }
}

/// To stdout; a reader that has gone away is no error of ours.
fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{}", plain(text)) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

//! The verbs: what is typed in, what is said back. Results go to stdout, everything else to stderr.

mod words;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::config::{Common, DEFAULT_JOB, Inputs, Knobs, Plan};
use crate::data::Example;
use crate::error::nearest;
use crate::eval::{Evaluation, evaluate};
use crate::forecast::{Forecast, forecast};
use crate::journal::{check_folder, prepare_folder, write_run_json};
use crate::memory::peak_rss_bytes;
use crate::optim::{self, Method};
use crate::run::{conclude, train};
use crate::setup::{Bench, set_up};
use crate::task::{BUILTIN, Loss, Sizes, Splits, Task};

use words::{duration, human_count, parts, short, summary};

/// Fine-tunes language models with forward passes alone, or with as little backpropagation as one asks for.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, args_override_self = true)]
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
    /// Say what a run would take, memory by part and time: tried on one and two blocks, no weights are read
    Plan(TrainArgs),
    #[command(args_override_self = true)]
    /// Score a model on a task's evaluation split
    Eval(EvalArgs),
    /// List the tasks, or print one's file to start a task of your own from
    Tasks(TasksArgs),
}

#[derive(Debug, Args)]
struct TrainArgs {
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
        Ok(Cli::parse_from(args.map(dashed).collect::<Result<Vec<_>>>()?))
    }

    /// Does what was asked.
    pub fn run(self) -> Result<()> {
        let quiet = self.quiet;
        match self.verb {
            Verb::Train(args) => planned(args, |plan, as_json| train_plan(plan, as_json, quiet)),
            Verb::Plan(args) => planned(args, plan_plan),
            Verb::Eval(args) => eval_verb(args, quiet),
            Verb::Tasks(args) => tasks_verb(args),
        }
    }
}

/// Checks what was typed, and does `work` with it on the threads that it asks for.
fn planned(args: TrainArgs, work: impl FnOnce(Plan, bool) -> Result<()> + Send) -> Result<()> {
    let file = match &args.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| usage!("cannot read --config {}: {e}", path.display()))?;
            Knobs::from_toml(&text, &path.display().to_string())?
        }
        None if args.knobs.common.model.is_none() && args.knobs.common.task.is_none() => {
            Knobs::from_toml(DEFAULT_JOB, "configs/reviews.toml")?
        }
        None => Knobs::default(),
    };
    let knobs = file.overlaid(&args.knobs)?;
    let threads = knobs.common.threads;
    let plan = Plan::check(knobs)?;
    on_threads(threads, || work(plan, args.json))
}

/// A run with everything open but its weights, and what it will take.
struct Prospect {
    method: &'static Method,
    task: Task,
    outline: Bench,
    examples: Splits<Example>,
    forecast: Forecast,
}

/// What is cheap to check comes before what is large to read.
fn prospect(plan: &Plan) -> Result<Prospect> {
    let method = optim::method(&plan.optimizer)?;
    method.check(&plan.settings)?;
    let task = Task::open(&plan.inputs.task)?;
    let rows = task.splits(&task.data(plan.inputs.data.as_deref())?, plan.sizes(), plan.inputs.train_set_seed)?;
    let (mut outline, sizes) = Bench::outline(&plan.inputs)?;
    let examples = outline.encode_splits(&rows, plan.batch_size)?;
    drop(rows);
    let forecast = forecast(plan, &task, &mut outline, &sizes, &examples)?;
    Ok(Prospect { method, task, outline, examples, forecast })
}

fn plan_plan(plan: Plan, as_json: bool) -> Result<()> {
    let Prospect { forecast, .. } = prospect(&plan)?;
    if as_json {
        return say(&serde_json::to_string(&forecast)?);
    }
    let Forecast { memory, seconds_per_step, seconds_per_snapshot, seconds, .. } = forecast;
    let snapshot = if seconds_per_snapshot > 0.0 {
        format!(", {} a look at the training set", duration(seconds_per_snapshot))
    } else {
        String::new()
    };
    say(&format!(
        "model    {} with {} in {} blocks\n\
         memory   {}\n\
         time     {} a step{snapshot}; {} for {} steps and their evaluations",
        plan.inputs.model,
        human_count(forecast.num_weights),
        forecast.num_blocks,
        parts(&memory),
        duration(seconds_per_step),
        duration(seconds),
        plan.max_steps,
    ))
}

fn train_plan(mut plan: Plan, as_json: bool, quiet: bool) -> Result<()> {
    check_folder(&plan)?;
    let Prospect { method, task, outline, examples, forecast } = prospect(&plan)?;
    let mut bench = outline.load(&plan.inputs)?;
    let mut optimizer = set_up(&mut plan, &mut bench, examples.train.len())?;
    prepare_folder(&plan.output_dir)?;
    let definition = format!(
        "{}: {}; {}  [{}]",
        method.name,
        optimizer.rule.definition(),
        optimizer.estimator.definition(),
        method.source
    );
    let data = json!({
        "train": examples.train.len(),
        "dev": examples.dev.len(),
        "eval": examples.eval.len(),
        "max_length": bench.max_length,
    });
    write_run_json(&plan, &definition, &bench.model, data, &std::env::args().collect::<Vec<_>>())?;

    tracing::info!(
        "zotune {}  {definition}; lr {} {}",
        env!("CARGO_PKG_VERSION"),
        plan.learning_rate.map_or(String::new(), short),
        plan.lr_scheduler_type.name(),
    );
    describe_model(&plan.inputs, &bench);
    tracing::info!(
        "task    {}: {} train, {} dev, {} eval (seed {}); {}, batch {}",
        task.name,
        examples.train.len(),
        examples.dev.len(),
        examples.eval.len(),
        plan.inputs.train_set_seed,
        loss_name(task.loss),
        plan.batch_size,
    );
    tracing::info!("run     {}", plan.output_dir.display());

    let style = "{pos:>8}/{len} [{bar:20}] {msg}  {eta_precise} left";
    let bar = progress_bar(plan.max_steps, quiet, style)?;
    let results = train(&plan, &task, &mut bench, &mut optimizer, &examples, bar)?;
    let comparison = forecast.compare(&results);
    let mut all = serde_json::to_value(&results)?;
    all["forecast"] = serde_json::to_value(comparison)?;
    // A disk that is full by now takes nothing away from what was found.
    let written = conclude(&plan, &task, &all);
    say(&if as_json { all.to_string() } else { summary(&plan, &results, &comparison, examples.eval.len()) })?;
    written
}

fn eval_verb(args: EvalArgs, quiet: bool) -> Result<()> {
    let threads = args.common.threads;
    let inputs = Inputs::check(*args.common)?;
    on_threads(threads, || eval_inputs(inputs, args.json, args.dump.as_deref(), quiet))
}

fn eval_inputs(inputs: Inputs, as_json: bool, dump_to: Option<&Path>, quiet: bool) -> Result<()> {
    let task = Task::open(&inputs.task)?;
    let sizes = Sizes { num_eval: inputs.num_eval, ..Sizes::default() };
    let rows = task.eval_split(&task.data(inputs.data.as_deref())?, sizes, inputs.train_set_seed)?;
    if let Some(folder) = dump_to.and_then(Path::parent).filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
        return Err(usage!("--dump: there is no folder {}", folder.display()));
    }
    let mut bench = Bench::open(&inputs)?;
    let examples = bench.encode(&rows)?;
    describe_model(&inputs, &bench);
    tracing::info!("task    {}: {} eval (seed {})", task.name, examples.len(), inputs.train_set_seed);

    let start = Instant::now();
    let bar = progress_bar(examples.len() as u64, quiet, "{pos:>8}/{len} [{bar:20}] {eta_precise} left")?;
    let done = |n: usize| bar.set_position(n as u64);
    let found = evaluate(&bench.model, bench.params.settle()?, &examples, task.loss, inputs.eval_batch_size, done)?;
    bar.finish_and_clear();
    let dumped = dump_to.map_or(Ok(()), |path| dump(path, &found, &examples));
    let right = found.examples.iter().filter(|e| e.prediction == e.label).count();
    if as_json {
        say(&serde_json::to_string(&json!({
            "model": inputs.model,
            "task": task.name,
            "examples": examples.len(),
            "correct": right,
            "accuracy": found.accuracy,
            "loss": found.loss,
            "seconds": start.elapsed().as_secs_f64(),
            "peak_rss_bytes": peak_rss_bytes(),
        }))?)?;
    } else {
        say(&format!("accuracy {:.2} % ({right} of {})  loss {:.4}", 100.0 * found.accuracy, examples.len(), found.loss))?;
    }
    dumped
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

/// One JSON object an example: what was scored, and how.
fn dump(path: &Path, found: &Evaluation, examples: &[Example]) -> Result<()> {
    crate::files::write_whole(path, |out| {
        for (scored, example) in found.examples.iter().zip(examples) {
            let tokens: Vec<&[u32]> = example.candidates.iter().map(|c| c.tokens.as_slice()).collect();
            let line = json!({
                "index": scored.index,
                "label": scored.label,
                "prediction": scored.prediction,
                "scores": scored.scores,
                "tokens": tokens,
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    })
}

/// Runs `work` on a thread of the pool that it computes with: nothing is handed from one thread to another to begin.
fn on_threads(threads: Option<usize>, work: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let most = 4 * std::thread::available_parallelism().map_or(1, usize::from).max(16);
    if let Some(n) = threads.filter(|n| *n > most) {
        return Err(usage!("--threads {n}: more than {most} on this machine would only wait for each other"));
    }
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build().context("cannot start the threads")?;
    pool.install(work)
}

fn describe_model(inputs: &Inputs, bench: &Bench) {
    let threads = rayon::current_num_threads();
    tracing::info!(
        "model   {}  {} with {}, {} on the CPU ({threads} thread{}, {})",
        inputs.model,
        bench.model.kind(),
        human_count(bench.params.count()),
        inputs.dtype.dtype().as_str(),
        if threads == 1 { "" } else { "s" },
        crate::noise::instruction_set(),
    );
}

fn loss_name(loss: Loss) -> &'static str {
    match loss {
        Loss::Classification => "classification over the candidates",
        Loss::TeacherForcing => "teacher forcing on the right candidate",
    }
}

fn progress_bar(len: u64, quiet: bool, style: &str) -> Result<ProgressBar> {
    if quiet || !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    Ok(ProgressBar::new(len).with_style(ProgressStyle::with_template(style)?.progress_chars("=> ")))
}

/// To stdout; a reader that has gone away is no error of ours.
fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

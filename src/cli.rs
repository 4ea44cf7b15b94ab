//! The verbs: what is typed in, what is said back. Results go to stdout, everything else to stderr.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::config::{Common, DEFAULT_JOB, Inputs, Knobs, Plan, default_learning_rate};
use crate::data::Example;
use crate::error::nearest;
use crate::eval::{Evaluation, evaluate};
use crate::journal::{prepare_folder, write_run_json};
use crate::memory::{human, peak_rss_bytes};
use crate::optim;
use crate::run::{Bench, Results, train};
use crate::task::{BUILTIN, Loss, Task};

/// Fine-tunes language models with forward passes alone.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// Say only what went wrong
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(args_override_self = true)]
    /// Fine-tune a model; with nothing else said, a built-in one on built-in film reviews, in about a minute
    Train(TrainArgs),
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
    pub fn from_args(args: impl Iterator<Item = String>) -> Self {
        Cli::parse_from(args.map(|arg| match arg.strip_prefix("--") {
            Some(flag) => {
                let (name, value) = flag.split_at(flag.find('=').unwrap_or(flag.len()));
                format!("--{}{value}", name.replace('_', "-"))
            }
            None => arg,
        }))
    }

    /// Does what was asked.
    pub fn run(self) -> Result<()> {
        let quiet = self.quiet;
        match self.verb {
            Verb::Train(args) => train_verb(args, quiet),
            Verb::Eval(args) => eval_verb(args, quiet),
            Verb::Tasks(args) => tasks_verb(args),
        }
    }
}

fn train_verb(args: TrainArgs, quiet: bool) -> Result<()> {
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
    on_threads(threads, || train_plan(plan, args.json, quiet))
}

fn train_plan(mut plan: Plan, as_json: bool, quiet: bool) -> Result<()> {
    let method = optim::method(&plan.optimizer)?;
    let mut bench = Bench::open(&plan.inputs)?;
    let examples = bench.examples(&plan)?;
    let learning_rate = *plan.learning_rate.get_or_insert(default_learning_rate(bench.params.count()));
    prepare_folder(&plan.output_dir, plan.overwrite_output_dir)?;
    let definition = format!("{} ({}): {}", method.name, method.source, method.definition);
    write_run_json(&plan.output_dir, &plan, &definition, &bench.model, &std::env::args().collect::<Vec<_>>())?;

    tracing::info!(
        "zotune {}  {} ({}): {}; eps {:e}, lr {learning_rate:.3e} {:?}, weight decay {}",
        env!("CARGO_PKG_VERSION"),
        method.name,
        method.source,
        method.definition,
        plan.zo_eps,
        plan.lr_scheduler_type,
        plan.weight_decay,
    );
    describe_model(&plan.inputs, &bench);
    tracing::info!(
        "task    {}: {} train, {} dev, {} eval (seed {}); {}, batch {}",
        bench.task.name,
        examples.train.len(),
        examples.dev.len(),
        examples.eval.len(),
        plan.inputs.train_set_seed,
        loss_name(bench.task.loss),
        plan.batch_size,
    );
    tracing::info!("run     {}", plan.output_dir.display());

    let style = "{pos:>8}/{len} [{bar:20}] {msg}  {eta_precise} left";
    let bar = progress_bar(plan.max_steps, quiet, style)?;
    let results = train(&plan, &mut bench, &examples, bar)?;
    let report = if as_json { serde_json::to_string(&results)? } else { summary(&plan, &results, examples.eval.len()) };
    say(&report)
}

fn eval_verb(args: EvalArgs, quiet: bool) -> Result<()> {
    let threads = args.common.threads;
    let inputs = Inputs::check(*args.common)?;
    on_threads(threads, || eval_inputs(inputs, args.json, args.dump.as_deref(), quiet))
}

fn eval_inputs(inputs: Inputs, as_json: bool, dump_to: Option<&Path>, quiet: bool) -> Result<()> {
    let mut bench = Bench::open(&inputs)?;
    let examples = bench.eval_examples(&inputs)?;
    describe_model(&inputs, &bench);
    tracing::info!("task    {}: {} eval (seed {})", bench.task.name, examples.len(), inputs.train_set_seed);

    let start = Instant::now();
    let bar = progress_bar(examples.len() as u64, quiet, "{pos:>8}/{len} [{bar:20}] {eta_precise} left")?;
    let done = |n: usize| bar.set_position(n as u64);
    let found = evaluate(&bench.model, bench.params.settle()?, &examples, bench.task.loss, inputs.eval_batch_size, done)?;
    bar.finish_and_clear();
    if let Some(path) = dump_to {
        dump(path, &found, &examples)?;
    }
    let right = found.examples.iter().filter(|e| e.prediction == e.label).count();
    if as_json {
        say(&serde_json::to_string(&json!({
            "model": inputs.model,
            "task": bench.task.name,
            "examples": examples.len(),
            "correct": right,
            "accuracy": found.accuracy,
            "loss": found.loss,
            "seconds": start.elapsed().as_secs_f64(),
            "peak_rss_bytes": peak_rss_bytes(),
        }))?)
    } else {
        say(&format!("accuracy {:.2} % ({right} of {})  loss {:.4}", 100.0 * found.accuracy, examples.len(), found.loss))
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
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0)).build().context("cannot start the threads")?;
    pool.install(work)
}

fn describe_model(inputs: &Inputs, bench: &Bench) {
    tracing::info!(
        "model   {}  {} with {:.1} M parameters, {} on the CPU ({} threads, {})",
        inputs.model,
        bench.model.kind(),
        bench.params.count() as f64 / 1e6,
        inputs.dtype.dtype().as_str(),
        rayon::current_num_threads(),
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

/// What happened, where it lies, and what a person would type next.
fn summary(plan: &Plan, results: &Results, num_eval: usize) -> String {
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    let folder = plan.output_dir.display();
    let totals = &results.totals;
    let rest = results.peak_rss_bytes.saturating_sub((results.weights_bytes + totals.activation_peak_bytes) as u64);
    let next = if plan.inputs.task == "reviews" {
        format!("zotune train --model {} --task sst2 --data SST-2    (GLUE's folder with train.tsv and dev.tsv)", plan.inputs.model)
    } else {
        let data = plan.inputs.data.as_ref().map_or(String::new(), |d| format!(" --data {}", d.display()));
        format!("zotune eval --model {folder} --task {}{data}", plan.inputs.task)
    };
    format!(
        "accuracy on {num_eval} sentences it never saw: {} -> {}   (loss {:.4} -> {:.4}; the weights of step {}, best on dev)\n\
         took     {} steps in {:.0} s ({:.1} ms a step: forwards {:.1}, walks {:.1}); {} function evaluations, {:.0} tokens a step\n\
         memory   peak {} = weights {} + activations {} + the rest {}\n\
         run      {folder}: model.safetensors, loss.svg, trainer_log.jsonl, all_results.json, run.json\n\
         next     {next}",
        percent(results.untrained_eval_accuracy),
        percent(results.eval_accuracy),
        results.untrained_eval_loss,
        results.eval_loss,
        results.best_step,
        results.steps,
        totals.train_seconds,
        1e3 * totals.seconds_per_step,
        1e3 * totals.forward_seconds_per_step,
        1e3 * totals.walk_seconds_per_step,
        totals.function_evaluations,
        totals.tokens_per_step,
        human(results.peak_rss_bytes),
        human(results.weights_bytes as u64),
        human(totals.activation_peak_bytes as u64),
        human(rest),
    )
}

/// To stdout; a reader that has gone away is no error of ours.
fn say(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e).context("cannot write to stdout"),
        _ => Ok(()),
    }
}

//! `train` and `plan`: a job from what was typed to what it left.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::words::{duration, human_count, parts, short, summary, trained};
use super::{JobArgs, TrainArgs, describe_model, load, on_threads, progress_bar, say};
use crate::config::{DEFAULT_JOB, Knobs, Plan, Tuned};
use crate::data::{Batches, Shown};
use crate::error::{Differs, Interrupted, NotFinite, Usage};
use crate::folder;
use crate::forecast::{Forecast, forecast};
use crate::optim;
use crate::params::Span;
use crate::run::{Job, conclude, go_on, train};
use crate::setup::{Bench, set_up};
use crate::stop::Stop;
use crate::task::{Loss, Metric, Task};
use crate::trajectory::{Data, Header, Log, Trajectory};

pub fn train_verb(args: TrainArgs, quiet: bool) -> Result<()> {
    let TrainArgs { resume, job } = args;
    match resume {
        None => planned(job, |plan, as_json| begin(plan, as_json, quiet)),
        Some(run) => {
            let given = given(&job, Knobs::default())?;
            on_threads(given.common.threads, || resume_run(&run, &given, job.json, quiet))
        }
    }
}

pub fn plan_verb(args: JobArgs) -> Result<()> {
    planned(args, forecast_plan)
}

/// What was typed: a file, or where none is named `default`, with flags on top.
fn given(args: &JobArgs, default: Knobs) -> Result<Knobs> {
    let file = match &args.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| usage!("cannot read --config {}: {e}", path.display()))?;
            Knobs::from_toml(&text, &path.display().to_string())?
        }
        None => default,
    };
    file.overlaid(&args.knobs)
}

/// Checks what was typed, and does `work` with it on the threads that it asks for.
fn planned(args: JobArgs, work: impl FnOnce(Plan, bool) -> Result<()> + Send) -> Result<()> {
    let common = &args.knobs.common;
    let default = match common.model.is_none() && common.task.is_none() && common.data.is_none() {
        true => Knobs::from_toml(DEFAULT_JOB, "configs/reviews.toml")?,
        false => Knobs::default(),
    };
    let mut knobs = given(&args, default)?;
    let begun = Trajectory::fill_in(&mut knobs.common)?;
    if begun.is_adapter() {
        if knobs.tuned != Tuned::default() && knobs.tuned.clone().checked()? != begun {
            return Err(usage!(
                "--trajectory: it is an adapter's, which is trained further as it is; say nothing else of what is trained"
            ));
        }
        knobs.tuned = begun;
    }
    let threads = knobs.common.threads;
    let plan = Plan::check(knobs)?;
    on_threads(threads, || work(plan, args.json))
}

/// A run with everything open but its weights, and what it will take. What is cheap to check comes before what is large to
/// read.
fn prospect(mut plan: Plan) -> Result<(Job, Bench, Forecast, Shown)> {
    optim::method(&plan.optimizer)?.check(&plan.settings)?;
    let task = Task::of(plan.inputs.task.as_deref(), plan.inputs.data.as_deref())?;
    let rows = task.splits(&task.data(plan.inputs.data.as_deref())?, plan.sizes(), plan.inputs.train_set_seed)?;
    let (mut outline, sizes) = Bench::outline(&plan.inputs)?;
    // A branch moves; the run is from this commit.
    plan.inputs.revision = outline.commit.clone();
    let examples = outline.encode_splits(&rows, plan.batch_size)?;
    let first = Batches::first(rows.train.len(), plan.seed);
    let shown = Shown::of(&rows.train[first], &examples.train[first], &outline.tokenizer);
    tracing::debug!("{shown}");
    drop(rows);
    let forecast = forecast(&plan, &task, &mut outline, &sizes, &examples)?;
    Ok((Job { plan, task, examples }, outline, forecast, shown))
}

fn forecast_plan(plan: Plan, as_json: bool) -> Result<()> {
    let (Job { plan, .. }, _, forecast, _) = prospect(plan)?;
    if as_json {
        return say(&serde_json::to_string(&forecast)?);
    }
    let Forecast { memory, seconds_per_step, seconds_per_snapshot, seconds, .. } = forecast;
    let snapshot = if seconds_per_snapshot > 0.0 {
        format!(", {} a look at the training set", duration(seconds_per_snapshot))
    } else {
        String::new()
    };
    let trained = trained(&plan.inputs)
        .map_or(String::new(), |what| format!("trained  {what}: {}\n", human_count(forecast.num_trained)));
    say(&format!(
        "model    {} with {} in {} blocks\n{trained}\
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

/// A new run.
fn begin(plan: Plan, as_json: bool, quiet: bool) -> Result<()> {
    folder::check_run(&plan)?;
    let (mut job, outline, forecast, shown) = prospect(plan)?;
    let mut bench = load(outline, &job.plan.inputs, quiet)?;
    let mut optimizer = set_up(&mut job.plan, &mut bench, job.examples.train.len())?;
    let method = optim::method(&job.plan.optimizer)?;
    let definition = format!(
        "{}: {}; {}  [{}]",
        method.name,
        optimizer.rule.definition(),
        optimizer.estimator.definition(),
        method.source
    );
    let data = Data::new(&job.examples, bench.max_length);
    let header = Header::new(&job.plan, &definition, &job.task, &bench.model, &mut bench.params, data)?;
    let mut log = folder::begin(&job.plan, header, &shown, &command())?;
    describe(&job, &bench, &log);
    let results = train_to_the_end(&job, &mut bench, &mut optimizer, &mut log, quiet)?;
    finish(&job, results, forecast, as_json)
}

/// A run that was begun by another process.
fn resume_run(run: &Path, given: &Knobs, as_json: bool, quiet: bool) -> Result<()> {
    let mut log = Log::resume(run)?;
    let known = log.trajectory().plan();
    let plan = known.clone().resumed(given, run)?;
    let finished = log.trajectory().done.is_some() && plan.max_steps == known.max_steps;
    let results = std::fs::read(run.join("all_results.json")).ok().filter(|_| finished);
    let results: Option<Value> = results.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if let Some(results) = &results {
        match log.trajectory().check_kept(run) {
            Ok(()) => {
                tracing::info!("{} has made all of its {} steps; --max-steps gives it more", run.display(), plan.max_steps);
                return if as_json { say(&results.to_string()) } else { Ok(()) };
            }
            Err(lost) => tracing::warn!("the weights that {} has left are made again: {lost:#}", run.display()),
        }
    }
    let (mut job, outline, forecast, _) = prospect(plan)?;
    let mut bench = load(outline, &job.plan.inputs, quiet)?;
    bench.begin_adapter(&job.plan)?;
    let header = &log.trajectory().header;
    header.check_base(&mut bench.params)?;
    header.check_function(&bench.model, Some(&job.task))?;
    Data::new(&job.examples, bench.max_length).check(&header.data)?;
    if !header.replays && header.instruction_set != crate::simd::instruction_set() {
        tracing::warn!(
            "the run began on {} and goes on on {}: first-order gradients come out otherwise in their last bits",
            header.instruction_set,
            crate::simd::instruction_set()
        );
    }
    let mut optimizer = set_up(&mut job.plan, &mut bench, job.examples.train.len())?;
    if job.plan.max_steps > known.max_steps {
        log.extend(job.plan.max_steps)?;
        job.plan.stages = log.trajectory().stages.clone();
    }
    log.set_fsync(job.plan.fsync);
    folder::go_on(&job.plan, log.trajectory().steps(), &command())?;
    describe(&job, &bench, &log);
    let found = train_to_the_end(&job, &mut bench, &mut optimizer, &mut log, quiet)?;
    match results {
        None => finish(&job, found, forecast, as_json),
        // Nothing is new but that the weights are there: what was measured stands.
        Some(results) => {
            let written = conclude(&job.plan, &job.task, &results);
            if as_json {
                say(&results.to_string())?;
            }
            written
        }
    }
}

fn command() -> Vec<String> {
    std::env::args().collect()
}

/// What a person should know before it starts.
fn describe(job: &Job, bench: &Bench, log: &Log) {
    let Job { plan, task, examples } = job;
    tracing::info!(
        "zotune {}  {}; lr {} {}",
        env!("CARGO_PKG_VERSION"),
        log.trajectory().header.method,
        plan.learning_rate.map_or(String::new(), short),
        plan.lr_scheduler_type.name(),
    );
    describe_model(&plan.inputs, bench);
    if let Some(what) = trained(&plan.inputs) {
        let count = human_count(bench.params.count_over(Span::Trained));
        tracing::info!("trained {what}: {count}");
    }
    tracing::info!(
        "task    {}: {} train, {} dev, {} eval ({}seed {}); {}, batch {}",
        task.name,
        examples.train.len(),
        examples.dev.len(),
        examples.eval.len(),
        task.whence(plan.inputs.data.as_deref()).map_or(String::new(), |files| format!("{files}, ")),
        plan.inputs.train_set_seed,
        loss_name(task),
        plan.batch_size,
    );
    if let Some(made) = &task.made {
        tracing::info!("        {made}");
    }
    tracing::info!("run     {}  (if it is stopped, {})", plan.output_dir.display(), go_on(plan));
}

/// Trains; an error that the run survives says how to go on.
fn train_to_the_end(
    job: &Job,
    bench: &mut Bench,
    optimizer: &mut optim::Optimizer,
    log: &mut Log,
    quiet: bool,
) -> Result<crate::run::Results> {
    let style = "{pos:>8}/{len} [{bar:20}] {msg}  {eta_precise} left";
    let bar = progress_bar(job.plan.max_steps, quiet, style)?;
    let trained = train(job, bench, optimizer, log, &Stop::listen()?, bar);
    trained.map_err(|error| {
        let own =
            error.chain().any(|e| e.is::<Interrupted>() || e.is::<NotFinite>() || e.is::<Differs>() || e.is::<Usage>());
        let step = log.trajectory().steps();
        if own {
            error
        } else {
            error.context(format!("stopped behind step {step}; once what is below is mended, {}", go_on(&job.plan)))
        }
    })
}

/// Leaves the results, and says them. A disk that is full by now takes nothing away from what was found.
fn finish(job: &Job, results: crate::run::Results, forecast: Forecast, as_json: bool) -> Result<()> {
    let comparison = forecast.compare(&results);
    let mut all = serde_json::to_value(&results)?;
    all["forecast"] = serde_json::to_value(comparison)?;
    let written = conclude(&job.plan, &job.task, &all);
    let num_eval = job.examples.eval.len();
    say(&if as_json { all.to_string() } else { summary(&job.plan, &results, &comparison, num_eval) })?;
    written
}

fn loss_name(task: &Task) -> &'static str {
    match (task.loss, task.metric) {
        (Loss::Classification, _) => "classification over the candidates",
        (Loss::TeacherForcing, Metric::Accuracy) => "teacher forcing on the right candidate",
        (Loss::TeacherForcing, Metric::Loss) => "teacher forcing on the completion",
    }
}

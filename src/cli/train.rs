//! `train` and `plan`: a job from what was typed to what it left.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::known::warn_of_base;
use super::words::{human_count, outlook, parts, short, summary, trained};
use super::{JobArgs, TrainArgs, describe_model, load, on_threads, progress_bar, say};
use crate::config::{DEFAULT_JOB, Knobs, Plan, Schedule, Tuned};
use crate::data::{Batches, Shown};
use crate::error::{Differs, Diverged, Interrupted, NotFinite, Usage, given as as_given};
use crate::files::free_bytes;
use crate::folder;
use crate::forecast::{Forecast, forecast};
use crate::memory::{human, machine_bytes};
use crate::optim;
use crate::pace::duration;
use crate::params::Span;
use crate::run::{Job, conclude, go_on, train};
use crate::setup::{Bench, set_up};
use crate::stop::Stop;
use crate::task::{Loss, Metric, Repeats, Task};
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

/// A run with everything open but its weights.
struct Prospect {
    job: Job,
    outline: Bench,
    /// What it will take.
    forecast: Forecast,
    /// The first example that it sees.
    shown: Shown,
    /// Rows that stand in several splits.
    repeats: Repeats,
}

/// Opens a run as far as is cheap. What is cheap to check comes before what is large to read.
fn prospect(mut plan: Plan) -> Result<Prospect> {
    optim::method(&plan.optimizer)?.check(&plan.settings)?;
    let data = plan.inputs.data.as_deref();
    let task = as_given(Task::of(plan.inputs.task.as_deref(), data))?;
    let files = as_given(task.data(data))?;
    let rows = as_given(task.splits(&files, plan.sizes(), plan.inputs.train_set_seed))?;
    let repeats = Repeats::of(&rows.train, &rows.dev, &rows.eval);
    let (mut outline, sizes) = Bench::outline(&plan.inputs)?;
    // A branch moves; the run is from this commit.
    plan.inputs.revision = outline.commit.clone();
    let examples = as_given(outline.encode_splits(&rows, plan.batch_size))?;
    let first = Batches::first(rows.train.len(), plan.seed);
    let shown = Shown::of(&rows.train[first], &examples.train[first], &outline.tokenizer);
    tracing::debug!("{shown}");
    warn_of_base(&plan.inputs, &task, &rows.eval);
    drop(rows);
    let forecast = forecast(&plan, &task, &mut outline, &sizes, &examples)?;
    Ok(Prospect { job: Job { plan, task, examples }, outline, forecast, shown, repeats })
}

/// Says so where rows of dev or evaluation are no news to whoever has seen the others.
fn warn_of_repeats(repeats: Repeats, job: &Job) {
    let Repeats { dev_in_train, eval_in_train, eval_in_dev } = repeats;
    let (dev, eval) = (job.examples.dev.len(), job.examples.eval.len());
    let mut said = Vec::new();
    if dev_in_train > 0 {
        said.push(format!("{dev_in_train} of the {dev} dev rows in train"));
    }
    if eval_in_train + eval_in_dev > 0 {
        said.push(format!("{eval_in_train} of the {eval} evaluation rows in train and {eval_in_dev} more in dev"));
    }
    if !said.is_empty() {
        let said = said.join(", ");
        tracing::warn!(
            "rows that stand word for word in two splits: {said}; scores are better for it than on rows that are new"
        );
    }
}

/// What of a run will not fit on this machine, for people.
fn misfits(forecast: &Forecast, plan: &Plan) -> Vec<String> {
    let mut said = Vec::new();
    let (peak, there) = (forecast.memory.peak_rss_bytes, machine_bytes());
    if let Some(there) = there.filter(|there| peak > *there) {
        said.push(format!("it will not fit into memory: {} are wanted, and this machine has {}", human(peak), human(there)));
    }
    let (wanted, free) = (forecast.disk_peak_bytes, free_bytes(&plan.output_dir));
    if let Some(free) = free.filter(|free| wanted > *free) {
        said.push(format!("it will not fit on the disk: {} are wanted, and {} are free", human(wanted), human(free)));
    }
    said
}

/// Says so before it is tried.
fn warn_of_misfits(forecast: &Forecast, plan: &Plan) {
    misfits(forecast, plan).iter().for_each(|said| tracing::warn!("plan    {said}"));
}

fn forecast_plan(plan: Plan, as_json: bool) -> Result<()> {
    let Prospect { job: Job { plan, .. }, forecast, .. } = prospect(plan)?;
    let misfits = misfits(&forecast, &plan);
    if as_json {
        let mut said = serde_json::to_value(forecast)?;
        said["machine_bytes"] = machine_bytes().into();
        said["disk_free_bytes"] = free_bytes(&plan.output_dir).into();
        said["fits"] = misfits.is_empty().into();
        return say(&said.to_string());
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
         time     {} a step{snapshot}; {} for {} steps and their evaluations\n\
         disk     {} in {}: {}{}{}",
        plan.inputs.model,
        human_count(forecast.num_weights),
        forecast.num_blocks,
        parts(&memory),
        duration(seconds_per_step),
        duration(seconds),
        plan.max_steps,
        human(forecast.disk_bytes),
        plan.output_dir.display(),
        disk_parts(&forecast),
        if misfits.is_empty() { "" } else { "\nbut      " },
        misfits.join("\n         "),
    ))
}

/// What takes the disk, for people.
fn disk_parts(forecast: &Forecast) -> String {
    let (kept, checkpoint, most) =
        (human(forecast.kept_bytes), human(forecast.checkpoint_bytes), human(forecast.disk_peak_bytes));
    match forecast.num_checkpoints {
        0 => format!("the best weights {kept}, and the log"),
        n => format!(
            "the best weights {kept}, {n} checkpoint{} of {checkpoint} (less where its weights are the best: the same file), and the log; \
             at most {most}, while another is written; --save-steps 0 leaves none",
            if n == 1 { "" } else { "s" },
        ),
    }
}

/// A new run.
fn begin(plan: Plan, as_json: bool, quiet: bool) -> Result<()> {
    folder::check_run(&plan)?;
    let Prospect { mut job, outline, forecast, shown, repeats } = prospect(plan)?;
    warn_of_misfits(&forecast, &job.plan);
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
    describe(&job, &bench, &log, &forecast, repeats);
    let results = train_to_the_end(&job, &mut bench, &mut optimizer, &mut log, quiet)?;
    finish(&job, results, forecast, repeats, as_json)
}

/// A run that was begun by another process.
fn resume_run(run: &Path, given: &Knobs, as_json: bool, quiet: bool) -> Result<()> {
    let mut log = Log::resume(run)?;
    let mut known = log.trajectory().plan();
    known.inputs = folder::inputs_of(log.trajectory(), run);
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
    let Prospect { mut job, outline, forecast, repeats, .. } = prospect(plan)?;
    warn_of_misfits(&forecast, &job.plan);
    let mut bench = load(outline, &job.plan.inputs, quiet)?;
    bench.begin_adapter(&job.plan)?;
    let header = &log.trajectory().header;
    // The model first: another one's tokenizer makes other examples of the same rows.
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
        warn_of_schedule(&job.plan, known.max_steps);
    }
    log.set_fsync(job.plan.fsync);
    folder::go_on(&job.plan, log.trajectory().steps(), &command())?;
    describe(&job, &bench, &log, &forecast, repeats);
    let found = train_to_the_end(&job, &mut bench, &mut optimizer, &mut log, quiet)?;
    match results {
        None => finish(&job, found, forecast, repeats, as_json),
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

/// Says so where a run that is made longer is not the one that would have been begun that long.
fn warn_of_schedule(plan: &Plan, then: u64) {
    if plan.lr_scheduler_type == Schedule::Constant {
        return;
    }
    let at = |step| short(plan.learning_rate_at(step));
    tracing::warn!(
        "resume  the learning rate falls along a {} to the last step: {} behind {then} of {then} steps, and now {} at step {}. A run begun \
         with --max-steps {} would have had other rates up to here, and other weights; with a constant rate they are the same",
        plan.lr_scheduler_type.name(),
        at(then),
        at(then + 1),
        then + 1,
        plan.max_steps
    );
}

fn command() -> Vec<String> {
    std::env::args().collect()
}

/// What a person should know before it starts.
fn describe(job: &Job, bench: &Bench, log: &Log, forecast: &Forecast, repeats: Repeats) {
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
    warn_of_repeats(repeats, job);
    tracing::info!("plan    {}", outlook(forecast, plan));
    tracing::info!("run     {}  (if it is stopped, {})", plan.output_dir.display(), go_on(plan));
}

/// Trains; an error that the run survives says how to go on.
fn train_to_the_end(
    job: &Job,
    bench: &mut Bench,
    optimizer: &mut optim::Optimizer,
    log: &mut Log,
    quiet: bool,
) -> Result<crate::results::Results> {
    // The journal says how long it will take, once it has made a step.
    let style = "{pos:>8}/{len} [{bar:20}] {msg}";
    let bar = progress_bar(job.plan.max_steps, quiet, style)?;
    let trained = train(job, bench, optimizer, log, &Stop::listen()?, bar);
    trained.map_err(|error| {
        let own = error.chain().any(|e| {
            e.is::<Interrupted>() || e.is::<NotFinite>() || e.is::<Diverged>() || e.is::<Differs>() || e.is::<Usage>()
        });
        let step = log.trajectory().steps();
        if own {
            error
        } else {
            error.context(format!("stopped behind step {step}; once what is below is mended, {}", go_on(&job.plan)))
        }
    })
}

/// Leaves the results, and says them. A disk that is full by now takes nothing away from what was found.
fn finish(job: &Job, results: crate::results::Results, forecast: Forecast, repeats: Repeats, as_json: bool) -> Result<()> {
    let comparison = forecast.compare(&results);
    let mut all = serde_json::to_value(&results)?;
    all["forecast"] = serde_json::to_value(comparison)?;
    all["repeated_rows"] = serde_json::to_value(repeats)?;
    let written = conclude(&job.plan, &job.task, &all);
    let num_eval = job.examples.eval.len();
    let said = || summary(&job.plan, &job.task, &results, &comparison, num_eval, repeats);
    say(&if as_json { all.to_string() } else { said() })?;
    written
}

fn loss_name(task: &Task) -> &'static str {
    match (task.loss, task.metric) {
        (Loss::Classification, _) => "classification over the candidates",
        (Loss::TeacherForcing, Metric::Accuracy) => "teacher forcing on the right candidate",
        (Loss::TeacherForcing, Metric::Loss) => "teacher forcing on the completion",
    }
}

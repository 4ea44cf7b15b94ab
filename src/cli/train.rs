//! `train` and `plan`: from options to results.

use std::path::Path;

use anyhow::Result;

use super::args::{JobArgs, TrainArgs};
use super::format::{human_count, loss_name, outlook, parts, steps, summary, trained};
use super::lab::{begin_lab, forecast_lab, train_lab};
use super::screen::{describe_model, load, on_threads, progress_bar, say, training_style};
use super::tracker::{EventSink, command, finish};
use crate::base::Stop;
use crate::base::files::free_bytes;
use crate::base::memory::{human, machine_bytes};
use crate::base::numbers::short;
use crate::config::run_config::DEFAULT_JOB;
use crate::config::{RawArgs, RunConfig};
use crate::data::task::Repeats;
use crate::params::ParamSet;
use crate::report::plot::draw_losses;
use crate::run::job::resume_command;
use crate::run::pace::duration;
use crate::run::rate_search::Surroundings;
use crate::run::{Forecast, Job, PlannedRun, Progress, Resumed, Run, Unfinished, folder, start};
use crate::zo::method;

pub fn train_verb(args: TrainArgs, quiet: bool) -> Result<()> {
    let TrainArgs { resume, job } = args;
    match resume {
        None => planned(job, |config, as_json| match config.lab.lab {
            Some(_) => begin_lab(config, as_json, quiet),
            None => begin(config, as_json, quiet),
        }),
        Some(run) => {
            let given = given(&job, RawArgs::default())?;
            on_threads(given.common.threads, || resume_run(&run, &given, job.json, quiet))
                .map_err(|error| blame_file(error, job.config.as_deref(), &job.knobs))
        }
    }
}

pub fn plan_verb(args: JobArgs) -> Result<()> {
    planned(args, |config, as_json| match config.lab.lab {
        Some(_) => forecast_lab(config, as_json),
        None => forecast_plan(config, as_json),
    })
}

/// The options: a --config file, or else `default`, overlaid with flags.
fn given(args: &JobArgs, default: RawArgs) -> Result<RawArgs> {
    let file = match &args.config {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|e| usage!("cannot read --config {}: {e}", path.display()))?;
            RawArgs::from_toml(&text, &path.display().to_string())?
        }
        None => default,
    };
    file.overlaid(&args.knobs)
}

/// Checks the options and runs `work` on the requested threads.
fn planned(args: JobArgs, work: impl FnOnce(RunConfig, bool) -> Result<()> + Send) -> Result<()> {
    let (file, flags) = (args.config.clone(), args.knobs.clone());
    planned_of(args, work).map_err(|error| blame_file(error, file.as_deref(), &flags))
}

/// Makes an error refer to its place in the --config file instead of a flag.
fn blame_file(error: anyhow::Error, file: Option<&Path>, flags: &RawArgs) -> anyhow::Error {
    let text = file.and_then(|file| Some((file, std::fs::read_to_string(file).ok()?)));
    match text {
        Some((file, text)) => flags.blame_file(error, &text, &file.display().to_string()),
        None => error,
    }
}

fn planned_of(args: JobArgs, work: impl FnOnce(RunConfig, bool) -> Result<()> + Send) -> Result<()> {
    let common = &args.knobs.common;
    let is_default = common.model.is_none() && common.task.is_none() && common.data.is_none();
    let default = match is_default && args.knobs.lab.lab.is_none() {
        true => RawArgs::from_toml(DEFAULT_JOB, "configs/reviews.toml")?,
        false => RawArgs::default(),
    };
    let raw = given(&args, default)?;
    let threads = raw.common.threads;
    let config = start::check_options(raw)?;
    on_threads(threads, || work(config, args.json))
}

/// Warns of rows that occur in other splits, among so many dev and evaluation rows.
pub(super) fn warn_of_repeats(repeats: Repeats, dev: usize, eval: usize) {
    let Repeats { dev_in_train, eval_in_train, eval_in_dev } = repeats;
    let mut said = Vec::new();
    if dev_in_train > 0 {
        said.push(format!("{dev_in_train} of {dev} dev rows are also in train"));
    }
    if eval_in_train > 0 {
        said.push(format!("{eval_in_train} of {eval} eval rows are also in train"));
    }
    if eval_in_dev > 0 {
        said.push(format!("{eval_in_dev} of {eval} eval rows are also in dev"));
    }
    if !said.is_empty() {
        tracing::warn!("duplicate rows: {}; the scores are therefore too good", said.join(", "));
    }
}

/// Warnings about memory and disk space that the run exceeds.
fn misfits(forecast: &Forecast, config: &RunConfig) -> Vec<String> {
    let mut said = Vec::new();
    let (peak, there) = (forecast.memory.peak_rss_bytes, machine_bytes());
    if let Some(there) = there.filter(|there| peak > *there) {
        said.push(format!("it does not fit into memory: it needs {}, and this machine has {}", human(peak), human(there)));
    }
    let free = free_bytes(&config.output_dir);
    said.extend(free.and_then(|free| disk_misfit(forecast.disk_bytes, forecast.disk_peak_bytes, free, fullest(forecast))));
    said
}

/// When a run needs the most disk space.
fn fullest(forecast: &Forecast) -> &'static str {
    if forecast.search_seconds > 0.0 { "during the search for a learning rate" } else { "while a checkpoint is replaced" }
}

/// The warning if a run that leaves `left` bytes, `most` at its peak, exceeds `free` bytes of disk space.
fn disk_misfit(left: u64, most: u64, free: u64, fullest: &str) -> Option<String> {
    let (wanted, there) = (if left > free { left } else { most }, human(free));
    match (left > free, most > free) {
        (true, _) => Some(format!("it does not fit on the disk: it needs {}, and {there} are free", human(wanted))),
        (_, true) => {
            Some(format!("it may not fit on the disk: it needs up to {} {fullest}, and {there} are free", human(wanted)))
        }
        _ => None,
    }
}

/// Warns before training of resources that the run exceeds.
fn warn_of_misfits(forecast: &Forecast, config: &RunConfig) {
    misfits(forecast, config).iter().for_each(|said| tracing::warn!("plan    {said}"));
}

fn forecast_plan(config: RunConfig, as_json: bool) -> Result<()> {
    let PlannedRun { job: Job { config, .. }, forecast, .. } = start::open(config)?;
    let misfits = misfits(&forecast, &config);
    if as_json {
        let mut said = serde_json::to_value(forecast)?;
        said["machine_bytes"] = machine_bytes().into();
        said["disk_free_bytes"] = free_bytes(&config.output_dir).into();
        said["fits"] = misfits.is_empty().into();
        return say(&said.to_string());
    }
    let Forecast { memory, seconds_per_step, seconds_per_snapshot, seconds, .. } = forecast;
    let snapshot = if seconds_per_snapshot > 0.0 {
        format!(", {} per snapshot (pass over the training set)", duration(seconds_per_snapshot))
    } else {
        String::new()
    };
    let search = match forecast.search_seconds {
        0.0 => String::new(),
        at_most => format!(", up to {} of it for the search for a learning rate", duration(at_most)),
    };
    let trained = trained(&config.inputs)
        .map_or(String::new(), |what| format!("trains   {what}: {}\n", human_count(forecast.num_trained)));
    say(&format!(
        "model    {} with {} in {} blocks\n{trained}\
         memory   {}\n\
         time     {} per step{snapshot}; {} for {} with evaluation{search}\n\
         disk     {} in {}: {}{}{}",
        config.inputs.model,
        human_count(forecast.num_weights),
        forecast.num_blocks,
        parts(&memory),
        duration(seconds_per_step),
        duration(seconds),
        steps(config.max_steps),
        human(forecast.disk_bytes),
        config.output_dir.display(),
        disk_parts(&forecast),
        if misfits.is_empty() { "" } else { "\nwarning  " },
        misfits.join("\n         "),
    ))
}

/// The parts of the disk space.
fn disk_parts(forecast: &Forecast) -> String {
    let (kept, checkpoint, most) =
        (human(forecast.kept_bytes), human(forecast.checkpoint_bytes), human(forecast.disk_peak_bytes));
    match forecast.num_checkpoints {
        0 => format!("best weights {kept}, log"),
        n => format!(
            "best weights {kept}, {}, log\n         \
             up to {most} {}; --save-steps 0 makes no checkpoints\n         \
             less if a checkpoint has the best weights (both are then one file)",
            if n == 1 { format!("1 checkpoint {checkpoint}") } else { format!("{n} checkpoints of {checkpoint} each") },
            fullest(forecast),
        ),
    }
}

/// Starts a new run.
fn begin(config: RunConfig, as_json: bool, quiet: bool) -> Result<()> {
    folder::check_run(&config)?;
    let planned = start::open(config)?;
    warn_of_misfits(&planned.forecast, &planned.job.config);
    if planned.job.config.searches_rate() {
        return search_and_train(planned, PlannedRun::begin_search, as_json, quiet);
    }
    train_to_the_end(
        planned.begin(&|opened, inputs| load(opened, inputs, quiet), &command())?,
        &Stop::listen()?,
        as_json,
        quiet,
    )
}

/// Resumes a run of another process.
fn resume_run(run: &Path, given: &RawArgs, as_json: bool, quiet: bool) -> Result<()> {
    let unfinished = match start::resume(run, given)? {
        Resumed::Unfinished(unfinished) => unfinished,
        Resumed::Searching(planned) => {
            warn_of_misfits(&planned.forecast, &planned.job.config);
            return search_and_train(*planned, PlannedRun::go_on_searching, as_json, quiet);
        }
        Resumed::Lab(unfinished) => return train_lab(unfinished.go_on(&command())?, as_json, quiet),
        Resumed::Finished(results) => {
            tracing::info!(
                "{} is finished ({}); to train longer, give a larger --max-steps",
                run.display(),
                steps(results["steps"].as_u64().unwrap_or_default())
            );
            return if as_json { say(&results.to_string()) } else { Ok(()) };
        }
    };
    warn_of_misfits(&unfinished.planned.forecast, &unfinished.planned.job.config);
    train_to_the_end(
        unfinished.go_on(&|opened, inputs| load(opened, inputs, quiet), &command())?,
        &Stop::listen()?,
        as_json,
        quiet,
    )
}

/// Finds the learning rate, then trains with it.
fn search_and_train(
    planned: PlannedRun,
    search: impl FnOnce(PlannedRun, &Surroundings) -> Result<Unfinished>,
    as_json: bool,
    quiet: bool,
) -> Result<()> {
    let (stop, command) = (Stop::listen()?, command());
    let load = |opened, inputs: &_| load(opened, inputs, quiet);
    let bar = progress_bar(planned.job.config.trial_steps(), quiet, training_style())?;
    let unfinished = search(planned, &Surroundings { load: &load, command: &command, stop: &stop, bar: &bar })?;
    train_to_the_end(unfinished.go_on(&load, &command)?, &stop, as_json, quiet)
}

/// Trains, writes the results and prints them. Results are printed even if the disk is full by then.
fn train_to_the_end(mut run: Run, stop: &Stop, as_json: bool, quiet: bool) -> Result<()> {
    describe(&run);
    // The journal estimates the remaining time after the first step.
    let bar = progress_bar(run.job.config.max_steps, quiet, training_style())?;
    let events = EventSink::begin(&run.job.config, &run.log)?;
    let results = run.train(stop, Progress { bar, on_line: events.on_line(), trial: None }).inspect_err(|_| {
        // The plot shows the progress so far; if it fails, the error of the run matters more.
        let _ = run.log.check_place().and_then(|()| draw(&run));
    })?;
    let (all, comparison) = run.account(&results)?;
    let written = finish(&run.job.config, || draw(&run), &events, &results, &all);
    let Job { config, task, examples } = &run.job;
    let said = || summary(config, task, &results, &comparison, examples.eval.len(), run.repeats);
    match (as_json, &run.earlier) {
        (true, _) => say(&all.to_string())?,
        (false, None) => say(&said())?,
        (false, Some(_)) => tracing::info!("the weights in {} are rebuilt", config.output_dir.display()),
    }
    written
}

/// Plots the run's log.
fn draw(run: &Run) -> Result<()> {
    let Job { config, task, .. } = &run.job;
    draw_losses(&config.output_dir, &format!("{}, {}", task.name, config.optimizer))
}

/// Logs the settings of the run before it starts.
fn describe(run: &Run) {
    let Run { job: Job { config, task, examples }, loaded, log, forecast, repeats, .. } = run;
    tracing::info!(
        "method  {} ({}), learning rate {} ({})",
        config.optimizer,
        method(&config.optimizer).map_or("", |method| method.source),
        config.learning_rate.map_or(String::new(), short),
        config.lr_scheduler_type.name(),
    );
    tracing::debug!("zotune {}, {}", env!("CARGO_PKG_VERSION"), log.trajectory().header.method);
    describe_model(&config.inputs, loaded);
    if let Some(what) = trained(&config.inputs) {
        let count = human_count(loaded.params.count_over(ParamSet::Trained));
        tracing::info!("trains  {what}: {count}");
    }
    tracing::info!(
        "data    {}: {} train, {} dev, {} eval rows ({}seed {})",
        task.name,
        examples.train.len(),
        examples.dev.len(),
        examples.eval.len(),
        task.describe_source(config.inputs.data.as_deref()).map_or(String::new(), |files| format!("{files}, ")),
        config.inputs.train_set_seed,
    );
    if let Some(made) = &task.made {
        tracing::info!("        {made}");
        tracing::info!("        to change this, write a task file: zotune tasks show sst2 > mine.toml");
    }
    tracing::info!("loss    {}, batch size {}", loss_name(task), config.batch_size);
    warn_of_repeats(*repeats, examples.dev.len(), examples.eval.len());
    tracing::info!("plan    {}", outlook(forecast, config));
    tracing::info!("run     {}  (after a stop, {})", config.output_dir.display(), resume_command(config));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_for_a_moment_alone_may_not_fit() {
        const MIB: u64 = 1 << 20;
        let said = |free| disk_misfit(21 * MIB, 31 * MIB, free * MIB, "while a checkpoint is replaced").unwrap_or_default();
        assert_eq!(said(31), "");
        assert_eq!(
            said(24),
            "it may not fit on the disk: it needs up to 31 MiB while a checkpoint is replaced, and 24 MiB are free"
        );
        assert_eq!(said(20), "it does not fit on the disk: it needs 21 MiB, and 20 MiB are free");
    }
}

//! Runs of labs: `train --lab` and `plan --lab`.

use anyhow::Result;

use super::format::{human_count, parts, steps};
use super::screen::{progress_bar, say, training_style};
use super::tracker::{EventSink, command, finish};
use crate::base::Stop;
use crate::base::memory::human;
use crate::base::numbers::{short, significant};
use crate::base::text::shell_quoted;
use crate::config::RunConfig;
use crate::device::cpu::simd;
use crate::labs::table::kind;
use crate::params::ParamSet;
use crate::report::plot::draw_losses;
use crate::run::job::resume_command;
use crate::run::pace::duration;
use crate::run::{LabRun, OpenedLab, Progress, Results, folder};

/// Starts a new run of a lab.
pub(super) fn begin_lab(config: RunConfig, as_json: bool, quiet: bool) -> Result<()> {
    folder::check_run(&config)?;
    train_lab(OpenedLab::open(config)?.begin(&command())?, as_json, quiet)
}

/// Trains, writes the results and prints them.
pub(super) fn train_lab(mut run: LabRun, as_json: bool, quiet: bool) -> Result<()> {
    let config = run.opened.config.clone();
    let name = config.lab.lab.clone().unwrap_or_default();
    describe(&run, &name)?;
    let (stop, bar) = (Stop::listen()?, progress_bar(config.max_steps, quiet, training_style())?);
    let events = EventSink::begin(&config, &run.log)?;
    let draw = || draw_losses(&config.output_dir, &format!("{name}, {}", config.optimizer));
    let results = run.train(&stop, Progress { bar, on_line: events.on_line(), trial: None }).inspect_err(|_| {
        let _ = draw();
    })?;
    let all = run.account(&results)?;
    let written = finish(&config, draw, &events, &results, &all);
    say(&if as_json { all.to_string() } else { summary(&config, &results) })?;
    written
}

/// Prints the forecast of a lab's run.
pub(super) fn forecast_lab(config: RunConfig, as_json: bool) -> Result<()> {
    let (name, max_steps, place) = (config.lab.lab.clone().unwrap_or_default(), config.max_steps, config.output_dir.clone());
    let forecast = OpenedLab::open(config)?.forecast()?;
    if as_json {
        return say(&serde_json::to_string(&forecast)?);
    }
    say(&format!(
        "lab      {name} with {} variables\nmemory   {}\ntime     {} per step; {} for {} with evaluation\ndisk     {} in {}",
        human_count(forecast.num_trained),
        parts(&forecast.memory),
        duration(forecast.seconds_per_step),
        duration(forecast.seconds),
        steps(max_steps),
        human(forecast.disk_bytes),
        place.display(),
    ))
}

/// Logs the settings of the run before it starts.
fn describe(run: &LabRun, name: &str) -> Result<()> {
    let OpenedLab { config, lab, params } = &run.opened;
    tracing::info!("lab     {name}  [{}]", kind(name)?.source);
    tracing::info!("method  {}", run.log.trajectory().header.method);
    let threads = rayon::current_num_threads();
    tracing::info!(
        "trains  {} variables in {}, learning rate {} ({} thread{}, {})",
        human_count(params.count_over(ParamSet::Trained)),
        config.inputs.dtype.dtype().as_str(),
        config.learning_rate.map_or(String::new(), short),
        threads,
        if threads == 1 { "" } else { "s" },
        simd::instruction_set(),
    );
    let data = lab.data();
    if data.train > 1 {
        tracing::info!("data    {} train, {} dev, {} eval examples", data.train, data.dev, data.eval);
    }
    tracing::info!("run     {}  (after a stop, {})", config.output_dir.display(), resume_command(config));
    Ok(())
}

/// The results for people.
fn summary(config: &RunConfig, results: &Results) -> String {
    let accuracy = match (results.untrained_eval_accuracy, results.eval_accuracy) {
        (Some(before), Some(after)) => format!(", accuracy {:.2} % -> {:.2} %", 100.0 * before, 100.0 * after),
        _ => String::new(),
    };
    let totals = &results.totals;
    format!(
        "loss     {} -> {}{accuracy}   (best step {} of {}, by dev loss)\n\
         time     {} in {}, {} loss evaluations\n\
         memory   {}\n\
         run      {}: loss.svg, trainer_log.jsonl, all_results.json, run.json, trajectory.bin\n\
         next     zotune report {}",
        significant(results.untrained_eval_loss),
        significant(results.eval_loss),
        results.best_step,
        results.steps,
        steps(results.steps),
        duration(totals.train_seconds),
        totals.function_evaluations,
        parts(&results.memory),
        config.output_dir.display(),
        shell_quoted(&config.output_dir.to_string_lossy()),
    )
}

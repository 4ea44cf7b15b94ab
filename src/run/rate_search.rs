//! The search for a learning rate: trials from the same start, of which the best goes on as the run.
//!
//! A trial is an ordinary run with the whole config and a rate of its own, in a folder within the run's, stopped after a
//! few steps. The trials so far are in the run's run.json, so a killed search goes on where it was. The best trial moves
//! up into the run's folder and is resumed there: its bits are those of a run that was given its rate.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::ProgressBar;
use serde_json::Value;

use super::folder;
use super::job::{Job, resume_command, with_resume_command};
use super::loaded::LoadedModel;
use super::progress::Progress;
use super::rates::{self, TriedRate};
use super::session::Session;
use super::setup::{language_task, set_up};
use super::start::{Load, PlannedRun, Unfinished, new_header};
use super::train::steps;
use super::trajectory::{Log, Scored, Trajectory};
use crate::base::{Diverged, Interrupted, NotFinite, Stop};
use crate::config::RunConfig;
use crate::zo::{Order, Workload, methods};

/// What a search needs beside the run.
pub struct Surroundings<'a> {
    /// Reads the weights of an opened model.
    pub load: Load<'a>,
    /// The command, for run.json.
    pub command: &'a [String],
    /// The request to stop.
    pub stop: &'a Stop,
    /// Shows the steps of a trial.
    pub bar: &'a ProgressBar,
}

impl PlannedRun {
    /// Begins a run in its folder, which [`folder::check_run`] allowed, by a search for its learning rate. Returns the
    /// run with the best rate, stopped at the end of its trial. Says what each trial gave. Fails with [`Diverged`] if
    /// all rates do.
    pub fn begin_search(self, with: &Surroundings) -> Result<Unfinished> {
        let locked = folder::begin_search(&self.job.config, with.command)?;
        self.search(locked, with)
    }

    /// The same for a search that another process began.
    pub fn go_on_searching(self, with: &Surroundings) -> Result<Unfinished> {
        let locked = Log::lock(&self.job.config.output_dir)?;
        self.search(locked, with)
    }

    fn search(self, locked: File, with: &Surroundings) -> Result<Unfinished> {
        let PlannedRun { mut job, opened, mut forecast, example, repeats } = self;
        let run = job.config.output_dir.clone();
        let shown = serde_json::to_value(&example)?;
        let mut search = Search { job: &job, run: &run, example: shown, with, opened: Some(opened) };
        let rate = search.run(forecast.learning_rate).map_err(|error| explain(error, &job.config))?;
        let opened = match search.opened {
            Some(opened) => opened,
            None => LoadedModel::open_meta(&job.config.inputs)?.0,
        };
        // Locks the log of the trial that moved up in place of the empty one.
        let log = Log::resume(&run)?;
        drop(locked);
        // What is left.
        forecast.seconds -= std::mem::take(&mut forecast.search_seconds);
        job.config = RunConfig { learning_rate: Some(rate), overwrite_output_dir: false, ..job.config };
        let planned = PlannedRun { job, opened, forecast, example, repeats };
        Ok(Unfinished { log, earlier: None, planned })
    }
}

struct Search<'a> {
    job: &'a Job,
    run: &'a Path,
    example: Value,
    with: &'a Surroundings<'a>,
    /// The model without its weights, until a trial has taken it.
    opened: Option<LoadedModel>,
}

impl Search<'_> {
    /// Makes the trials that are left and moves the best one up. Returns its rate.
    fn run(&mut self, default: f64) -> Result<f64> {
        let Search { run, job, .. } = *self;
        let mut tried = folder::tried_rates(run).unwrap_or_default();
        let chosen = match tried.iter().find(|trial| trial.chosen) {
            Some(chosen) => chosen.learning_rate,
            None => {
                tracing::info!(
                    "rates   up to {} learning rates are tried for {} steps each; the one with the lowest dev loss goes on  (after \
                     a stop, {})",
                    rates::MOST_TRIALS,
                    job.config.trial_steps(),
                    resume_command(&job.config)
                );
                tried.iter().for_each(say);
                while let Some(rate) = rates::next(&tried, default) {
                    let best = rates::best(&tried).map(|trial| trial.learning_rate);
                    // Of the others the list is enough.
                    folder::clear_trials(run, &[best.unwrap_or(rate), rate])?;
                    let trial = self.trial(rate, best)?;
                    say(&trial);
                    tried.push(trial);
                    folder::write_tried(run, &tried)?;
                }
                self.choose(&mut tried)?
            }
        };
        folder::clear_trials(run, &[chosen])?;
        folder::move_up(run, chosen)?;
        tracing::info!("rates   the run goes on with {chosen:e}");
        Ok(chosen)
    }

    /// Writes down which trial goes on; returns its rate.
    fn choose(&self, tried: &mut [TriedRate]) -> Result<f64> {
        let Some(chosen) = rates::best(tried).map(|trial| trial.learning_rate) else {
            let least = tried.iter().map(|trial| trial.learning_rate).fold(f64::INFINITY, f64::min);
            return Err(Diverged(format!(
                "the run diverged with each of the {} learning rates that were tried; give one below {least:e} by `learning_rate`{}",
                tried.len(),
                if methods::method(&self.job.config.optimizer)?.order == Order::First { "" } else { ", or a smaller `zo_eps`" }
            ))
            .into());
        };
        tried.iter_mut().for_each(|trial| trial.chosen = trial.learning_rate == chosen);
        // Its own run.json first: it replaces the other.
        folder::write_tried(&folder::trial_folder(self.run, chosen), tried)?;
        folder::write_tried(self.run, tried)?;
        Ok(chosen)
    }

    /// Makes or finishes the trial of a rate. `best` is the best rate so far, if there is one.
    fn trial(&mut self, rate: f64, best: Option<f64>) -> Result<TriedRate> {
        let Search { job, run, with, .. } = *self;
        let place = folder::trial_folder(run, rate);
        let mut config = trial_config(&job.config, rate, place.clone());
        let last = config.trial_steps();
        // One that a kill left without a whole header has not begun.
        let known = Log::resume(&place).inspect_err(|error| tracing::debug!("{error:#}")).ok();
        if let Some(log) = known.as_ref().filter(|log| is_over(&config, log.trajectory())) {
            return Ok(tried(rate, log.trajectory(), false));
        }
        with.stop.check(String::new)?;
        // Loaded anew, as another process would: there are never two copies of the weights.
        let opened = match self.opened.take() {
            Some(opened) => opened,
            None => LoadedModel::open_meta(&config.inputs)?.0,
        };
        let mut loaded = (with.load)(opened, &config.inputs)?;
        let mut optimizer = set_up(&mut config, &mut loaded, job.examples.train.len())?;
        let mut log = match known {
            Some(mut log) => {
                let workload = language_task(&config, &job.task, &loaded.model, &job.examples, loaded.max_length);
                log.trajectory().header.check_continues(&mut loaded.params, &workload)?;
                folder::go_on(&mut config, &mut log, with.command)?;
                log
            }
            None => {
                let mut header = new_header(&config, job, &mut loaded, &optimizer)?;
                header.config.output_dir = run.into();
                folder::begin(&config, header, &self.example, with.command)?
            }
        };
        if let Some([untrained, dev]) =
            best.filter(|_| log.trajectory().untrained.is_none()).and_then(|best| first_scores(run, best))
        {
            // All trials have the same start.
            log.untrained(untrained)?;
            log.dev(dev)?;
        }
        let workload = language_task(&config, &job.task, &loaded.model, &job.examples, loaded.max_length);
        let progress = Progress { bar: with.bar.clone(), on_line: None, trial: Some(last) };
        let mut session =
            Session::open(&config, &workload, &mut loaded.params, &mut optimizer, &mut log, with.stop, progress)?;
        let made = steps(&mut session, workload.problem().as_mut());
        drop(session);
        with.bar.finish_and_clear();
        match made {
            Ok(()) => Ok(tried(rate, log.trajectory(), false)),
            Err(error) if is_of_the_rate(&error) => Ok(tried(rate, log.trajectory(), true)),
            Err(error) => Err(error),
        }
    }
}

fn trial_config(config: &RunConfig, rate: f64, place: PathBuf) -> RunConfig {
    RunConfig { learning_rate: Some(rate), output_dir: place, overwrite_output_dir: true, ..config.clone() }
}

/// Whether a trial needs no further step: it is scored after its last, or stopped early.
fn is_over(config: &RunConfig, log: &Trajectory) -> bool {
    log.dev.contains_key(&config.trial_steps()) || config.stops_early(log, log.steps()).is_some()
}

/// The scores before the first step, on the evaluation split and on dev, in the trial of a rate.
fn first_scores(run: &Path, rate: f64) -> Option<[Scored; 2]> {
    let log = Trajectory::open(&folder::trial_folder(run, rate)).ok()?;
    Some([log.untrained?, *log.dev.get(&0)?])
}

/// What a trial gave.
fn tried(rate: f64, log: &Trajectory, diverged: bool) -> TriedRate {
    let last = log.dev.last_key_value().map(|(_, scored)| *scored).filter(|scored| !diverged && scored.loss.is_finite());
    TriedRate {
        learning_rate: rate,
        step: log.steps(),
        untrained_dev_loss: log.dev.get(&0).map_or(f64::NAN, |scored| scored.loss),
        dev_loss: last.map(|scored| scored.loss),
        dev_accuracy: last.and_then(|scored| scored.accuracy),
        chosen: false,
    }
}

fn say(trial: &TriedRate) {
    let TriedRate { learning_rate, step, untrained_dev_loss, .. } = trial;
    match trial.dev_loss {
        Some(loss) => {
            tracing::info!("        {learning_rate:<8e} dev loss {untrained_dev_loss:.4} -> {loss:.4} after {step} steps");
        }
        None => tracing::info!("        {learning_rate:<8e} diverged after {step} steps"),
    }
}

/// Whether the rate of a trial may be the cause of its error.
fn is_of_the_rate(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.is::<NotFinite>() || e.is::<Diverged>())
}

/// Adds how to go on with the search to an error in it.
fn explain(mut error: anyhow::Error, config: &RunConfig) -> anyhow::Error {
    if let Some(Interrupted { say, .. }) = error.downcast_mut() {
        *say = format!("stopped during the search for a learning rate; {}", resume_command(config));
    }
    with_resume_command(error, "stopped during the search for a learning rate", config)
}

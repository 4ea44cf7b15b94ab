//! Runs the cells of a sweep, those that are not finished, each as a process of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use indicatif::ProgressBar;

use super::children::{Ended, Watcher, Work, run};
use super::memory::side_by_side;
use super::plan::PlannedCell;
use super::progress::Progress;
use super::rounds::{better_half, budgets, check};
use super::standing::Standing;
use crate::base::Stop;
use crate::base::files;
use crate::base::memory::{human, machine_bytes};
use crate::base::text::listed;
use crate::run::folder::is_locked;
use crate::run::pace::duration;
use crate::run::trajectory::version;

/// How a sweep is run.
pub struct Orders<'a> {
    /// The most cells side by side.
    pub jobs: usize,
    /// The threads to share out.
    pub threads: usize,
    /// Whether settings are halved, and in how many rounds at most.
    pub halving: Option<Option<u32>>,
    /// The command that starts or continues the run of a cell.
    pub command: &'a dyn Fn(&Launch) -> Command,
    /// The request to stop.
    pub stop: &'a Stop,
    /// Shows the cells that run.
    pub bar: ProgressBar,
}

/// A process that trains a cell.
pub struct Launch<'a> {
    /// The cell's config file.
    pub config: &'a Path,
    /// Its run folder.
    pub folder: &'a Path,
    /// Whether its run has begun.
    pub resume: bool,
    /// Whether the folder has what a process left that was killed before its run began.
    pub overwrite: bool,
    /// The number of steps, if it is not the config's or, of a run that has begun, the run's.
    pub max_steps: Option<u64>,
    /// Its share of the threads; None: all.
    pub threads: Option<usize>,
}

/// A cell after the sweep.
#[derive(Clone, Debug)]
pub struct CellEnd {
    /// How far its run is; None: it has not begun.
    pub standing: Option<Standing>,
    /// Why its last process failed.
    pub failure: Option<String>,
    /// The step after which halving left it; None: it was to come to its last step.
    pub left_after: Option<u64>,
}

/// Runs the cells to their ends, or as far as halving lets them. Fails if a signal stops it, after the children have saved, or if a
/// folder holds another run; a cell that fails does not.
pub fn conduct(cells: &[PlannedCell], orders: &Orders) -> Result<Vec<CellEnd>> {
    if let Some(rounds) = orders.halving {
        check(cells, rounds)?;
    }
    let mut conductor = Conductor { cells, orders, ends: Vec::new() };
    for cell in cells {
        conductor.wait_for_others(cell)?;
        conductor.ends.push(CellEnd { standing: cell.standing()?, failure: None, left_after: None });
    }
    conductor.say_what_is_there();
    let rows = settings_by_row(cells);
    let budgets_of = |row: &Vec<Vec<usize>>| {
        let config = &cells[row[0][0]].config;
        match orders.halving {
            Some(rounds) => budgets(config.max_steps, config.eval_steps, row.len(), rounds),
            None => vec![config.max_steps],
        }
    };
    let mut rows: Vec<(Vec<u64>, Vec<Vec<usize>>)> = rows.into_iter().map(|row| (budgets_of(&row), row)).collect();
    let num_rounds = rows.iter().map(|(budgets, _)| budgets.len()).max().unwrap_or(0);
    for round in 0..num_rounds {
        let going = rows.iter().filter_map(|(budgets, settings)| Some((*budgets.get(round)?, settings)));
        let due: Vec<(usize, u64)> =
            going.flat_map(|(steps, settings)| settings.iter().flatten().map(move |cell| (*cell, steps))).collect();
        if num_rounds > 1 {
            tracing::info!("round   {} of {num_rounds}: {} cells", round + 1, due.len());
        }
        conductor.run(&due)?;
        for (budgets, settings) in &mut rows {
            let Some(steps) = budgets.get(round).filter(|_| round + 1 < budgets.len()) else { continue };
            conductor.halve(settings, *steps);
        }
    }
    Ok(conductor.ends)
}

/// The cells by row of the table and by setting, in their order.
pub fn settings_by_row(cells: &[PlannedCell]) -> Vec<Vec<Vec<usize>>> {
    let all: Vec<usize> = (0..cells.len()).collect();
    let rows = together(all, |i| cells[i].cell.row.as_str());
    rows.into_iter().map(|row| together(row, |i| cells[i].cell.setting.as_str())).collect()
}

/// Those with the same key, in the order in which the keys come.
fn together<'a>(all: Vec<usize>, key: impl Fn(usize) -> &'a str) -> Vec<Vec<usize>> {
    let mut parts: Vec<Vec<usize>> = Vec::new();
    for i in all {
        match parts.iter_mut().find(|part| key(part[0]) == key(i)) {
            Some(part) => part.push(i),
            None => parts.push(vec![i]),
        }
    }
    parts
}

struct Conductor<'a> {
    cells: &'a [PlannedCell],
    orders: &'a Orders<'a>,
    ends: Vec<CellEnd>,
}

impl Conductor<'_> {
    /// Waits while another process writes in a cell's folder: a child of a sweep that was killed is about to save and stop.
    fn wait_for_others(&self, cell: &PlannedCell) -> Result<()> {
        let mut said = false;
        while is_locked(cell.folder()) {
            self.orders.stop.check(|| "stopped before a cell was started".into())?;
            if !std::mem::replace(&mut said, true) {
                tracing::info!("        another process still writes in {}; waiting for it", cell.folder().display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn num_finished(&self) -> usize {
        let is_finished = |(cell, end): &(&PlannedCell, &CellEnd)| {
            end.standing.as_ref().is_some_and(|standing| standing.is_finished(cell.config.max_steps))
        };
        self.cells.iter().zip(&self.ends).filter(is_finished).count()
    }

    fn say_what_is_there(&self) {
        let finished = self.num_finished();
        let begun = self.ends.iter().filter(|end| end.standing.is_some()).count() - finished;
        let new = self.ends.len() - begun - finished;
        tracing::info!("cells   {}: {finished} finished, {begun} begun, {new} new", self.ends.len());
        let this = version();
        let made_by = |end: &CellEnd| end.standing.as_ref().map(|standing| standing.made_by.clone());
        let others: BTreeSet<String> = self.ends.iter().filter_map(made_by).filter(|made_by| *made_by != this).collect();
        if !others.is_empty() {
            let others = others.iter().map(String::as_str);
            tracing::warn!(
                "some of these cells were begun by zotune {}, and this is {this}; if the versions compute differently, the table \
                 compares that too",
                listed(others)
            );
        }
    }

    /// Runs each of these cells up to so many steps, if it is not there yet.
    fn run(&mut self, due: &[(usize, u64)]) -> Result<()> {
        let is_there = |cell: usize, steps: u64| {
            let standing = self.ends[cell].standing.as_ref();
            standing.is_some_and(|standing| match steps == self.cells[cell].config.max_steps {
                true => standing.is_finished(steps),
                false => standing.has_reached(steps),
            })
        };
        let due: Vec<(usize, u64)> = due.iter().copied().filter(|(cell, steps)| !is_there(*cell, *steps)).collect();
        if due.is_empty() {
            return Ok(());
        }
        let at_once = self.fitting(&due);
        let share = (self.orders.threads / at_once).max(1);
        let mut all = Vec::new();
        for (cell, steps) in &due {
            all.push(self.work(*cell, *steps, (at_once > 1).then_some(share))?);
        }
        let progress = Progress::new(self.orders.bar.clone(), all.len());
        let mut watcher = Report { cells: self.cells, progress, ends: &mut self.ends, failed: None };
        run(all, at_once, self.orders.stop, &mut watcher);
        let failed = watcher.failed.take();
        self.orders.stop.check(|| {
            format!(
                "stopped; {} of {} cells are finished, and the same command continues the others",
                self.num_finished(),
                self.cells.len()
            )
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// How many of these cells may run side by side.
    fn fitting(&self, due: &[(usize, u64)]) -> usize {
        let jobs = self.orders.jobs.min(due.len()).max(1);
        let peaks = due.iter().filter_map(|(cell, _)| Some(self.cells[*cell].cost?.peak_rss_bytes));
        let peaks: Vec<u64> = peaks.collect();
        let fit = side_by_side(jobs, &peaks, machine_bytes());
        if fit < jobs {
            tracing::warn!(
                "only {fit} of {jobs} cells run side by side: one takes up to {}, and this machine has {}",
                human(peaks.iter().copied().max().unwrap_or_default()),
                human(machine_bytes().unwrap_or_default())
            );
        }
        fit
    }

    fn work(&self, cell: usize, steps: u64, share: Option<usize>) -> Result<Work> {
        let planned = &self.cells[cell];
        let (folder, standing) = (planned.folder(), self.ends[cell].standing.as_ref());
        let config = beside(folder, "toml");
        files::write_bytes(&config, planned.config_file()?.as_bytes())?;
        let then = standing.map_or(planned.config.max_steps, |standing| standing.max_steps);
        let is_longer = standing.is_some() && steps > then;
        let is_shorter = standing.is_none() && steps < then;
        let command = (self.orders.command)(&Launch {
            config: &config,
            folder,
            resume: standing.is_some(),
            overwrite: standing.is_none() && folder.exists(),
            max_steps: (is_longer || is_shorter).then_some(steps),
            threads: planned.threads.or(share),
        });
        Ok(Work { cell, command, log: beside(folder, "log") })
    }

    /// Leaves the worse half of a row's settings after a round of so many steps.
    fn halve(&mut self, settings: &mut Vec<Vec<usize>>, steps: u64) {
        let mean = |cells: &Vec<usize>| -> Option<(f64, f64)> {
            let losses = cells.iter().map(|cell| {
                let end = &self.ends[*cell];
                end.standing.as_ref().filter(|standing| standing.has_reached(steps))?.dev_losses(steps)
            });
            let losses = losses.collect::<Option<Vec<_>>>()?;
            let count = losses.len() as f64;
            Some((losses.iter().map(|l| l.0).sum::<f64>() / count, losses.iter().map(|l| l.1).sum::<f64>() / count))
        };
        let kept = better_half(&settings.iter().map(mean).collect::<Vec<_>>());
        let mut place = 0;
        settings.retain(|cells| {
            let stays = kept.contains(&place);
            place += 1;
            if !stays {
                cells.iter().for_each(|cell| self.ends[*cell].left_after = Some(steps));
            }
            stays
        });
    }
}

/// A file beside a cell's folder.
pub fn beside(folder: &Path, ending: &str) -> PathBuf {
    let mut name = folder.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{ending}"));
    folder.with_file_name(name)
}

/// Reads what the children have come to, and says it.
struct Report<'a> {
    cells: &'a [PlannedCell],
    progress: Progress,
    ends: &'a mut [CellEnd],
    /// The first error in reading what a child has come to.
    failed: Option<anyhow::Error>,
}

impl Report<'_> {
    fn read(&mut self, cell: usize) {
        match self.cells[cell].standing() {
            Ok(standing) => self.ends[cell].standing = standing,
            Err(error) => drop(self.failed.get_or_insert(error)),
        }
    }
}

impl Watcher for Report<'_> {
    fn started(&mut self, cell: usize) {
        self.progress.started(&self.cells[cell].cell.name);
    }

    fn ended(&mut self, ended: Ended) {
        let Ended { cell, failure, seconds } = ended;
        self.read(cell);
        let said = match (&failure, &self.ends[cell].standing) {
            (Some(why), _) => format!("failed: {why}"),
            (None, Some(standing)) => {
                let loss = standing.dev_losses(standing.steps).map_or(f64::NAN, |losses| losses.0);
                let of = match standing.is_finished(self.cells[cell].config.max_steps) {
                    true => String::new(),
                    false => format!(" after {} of {} steps", standing.steps, self.cells[cell].config.max_steps),
                };
                format!("dev loss {loss:.4}{of}, {}", duration(seconds))
            }
            (None, None) => "ended without a run".into(),
        };
        self.ends[cell].failure = failure;
        self.progress.ended(&self.cells[cell].cell.name, Some(&said));
    }

    fn stopped(&mut self, cell: usize) {
        self.read(cell);
        self.progress.ended(&self.cells[cell].cell.name, None);
    }
}

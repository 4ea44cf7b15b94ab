//! `sweep`: a grid of runs, each a process of its own, and the table of what came of them.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};

use super::args::{SweepArgs, SweepOptions};
use super::screen::{check_threads, progress_bar, say};
use crate::base::Stop;
use crate::base::files::free_bytes;
use crate::base::memory::{human, machine_bytes};
use crate::base::text::shell_quoted;
use crate::run::pace::duration;
use crate::sweep::choice::{Row, rows};
use crate::sweep::conduct::{CellEnd, Launch};
use crate::sweep::options::Setting;
use crate::sweep::plan::{Cost, Forecaster};
use crate::sweep::table::table;
use crate::sweep::{Cell, Orders, PlannedCell, SweepFile, SweepFolder, cells_folder, conduct, file, folder, grid, plan};

pub fn sweep_verb(args: SweepArgs, quiet: bool) -> Result<()> {
    let mut file = SweepFile::open(&args.file)?;
    file.select(&args.options.only)?;
    let place = folder::place(&file, args.options.knobs.output_dir.clone());
    run_sweep(file, place, &args.options, &Stop::listen()?, quiet)?.failures
}

/// What a sweep came to.
pub(super) struct SweepEnd {
    /// The run folders of its cells, in order.
    pub(super) cells: Vec<PathBuf>,
    /// The error that names the cells that failed, if any did.
    pub(super) failures: Result<()>,
}

/// Runs all groups of a sweep in the folder `place`, and prints its table.
pub(super) fn run_sweep(file: SweepFile, place: PathBuf, args: &SweepOptions, stop: &Stop, quiet: bool) -> Result<SweepEnd> {
    let jobs = args.jobs.unwrap_or(1);
    if jobs == 0 {
        return Err(usage!("--jobs 0: it must be at least 1"));
    }
    let typed = file::typed(&args.knobs)?;
    let (cells, in_order) = (grid::cells(&file, &typed)?, grid::cells(&file.with_all_groups()?, &typed)?);
    folder::check(&place)?;

    let threads = rayon::current_num_threads();
    let at_once = jobs.min(cells.len()).max(1);
    let share = args.knobs.common.threads.unwrap_or((threads / at_once).max(1));
    let forecaster = |cell: &Cell| forecast(cell, share);
    let forecaster: Option<Forecaster> = if at_once > 1 || args.dry_run { Some(&forecaster) } else { None };
    let mut proceed = || stop.check(|| "stopped before a cell was started".into());
    let planned = plan::plan(cells, &place, forecaster, &mut proceed)?;
    planned.iter().try_for_each(|planned| check_threads("--threads ", planned.threads))?;
    let cells = planned.iter().map(|planned| planned.folder().to_path_buf()).collect();
    if args.dry_run {
        list(&planned, at_once, args.json)?;
        return Ok(SweepEnd { cells, failures: Ok(()) });
    }
    let folder = SweepFolder::claim(place, &file, in_order.iter().map(|cell| cell.name.as_str()))?;
    tracing::info!("sweep   {}, from {}", folder.path.display(), file.place);
    let bar = progress_bar(0, quiet, "{pos:>8}/{len} [{bar:20}] {elapsed_precise}  running: {msg}")?;
    let orders = Orders { jobs, threads, halving: args.halving, command: &command, stop, bar };
    let ends = conduct(&planned, &orders)?;
    let rows = rows(&planned, &ends);
    let text = table(&rows);
    let written = folder.write_table(&text);
    if args.json {
        say(&as_json(&folder, &planned, &ends, &rows).to_string())?;
    } else {
        say(&format!("{}\n\nruns     {}", text.trim_end(), shell_quoted(&cells_folder(&folder.path).to_string_lossy())))?;
    }
    tracing::info!("table   {}", written?.display());
    Ok(SweepEnd { cells, failures: failures(&planned, &ends) })
}

/// What a cell with this share of the threads costs, by the forecast of another process.
fn forecast(cell: &Cell, share: usize) -> Result<Cost> {
    let mut command = program();
    command.args(["--quiet", "plan", "--json", &format!("--threads={share}")]);
    if !cell.settings.iter().any(|setting| setting.option == "lab") {
        // A model is named, for without one `plan` takes the rest of the built-in run's settings too.
        command.arg("--model=opt-mini");
    }
    for Setting { option, value, .. } in &cell.settings {
        let value = value.as_str().map_or(value.to_string(), String::from);
        command.arg(format!("--{option}={value}"));
    }
    let output = command.output().context("cannot start a process that forecasts a cell")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(anyhow!("its forecast failed: {}", said.trim().trim_start_matches("error: ")));
    }
    serde_json::from_slice(&output.stdout).context("a forecast that cannot be read")
}

/// The command that trains a cell.
fn command(launch: &Launch) -> Command {
    let mut command = program();
    let with = |flag: &str, value: &std::ffi::OsStr| {
        let mut arg = OsString::from(flag);
        arg.push(value);
        arg
    };
    command.arg("train");
    match launch.resume {
        true => command.arg(with("--resume=", launch.folder.as_os_str())),
        false => {
            command.arg(with("--config=", launch.config.as_os_str())).arg(with("--output-dir=", launch.folder.as_os_str()))
        }
    };
    if launch.overwrite {
        command.arg("--overwrite-output-dir");
    }
    if let Some(steps) = launch.max_steps {
        command.arg(format!("--max-steps={steps}"));
    }
    if let Some(threads) = launch.threads {
        command.arg(format!("--threads={threads}"));
    }
    command
}

/// This program, even if its file has been replaced since it was started: all cells are made by one version.
fn program() -> Command {
    let name = std::env::args_os().next().unwrap_or("zotune".into());
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(name);
        command
    }
    #[cfg(not(target_os = "linux"))]
    Command::new(std::env::current_exe().unwrap_or(name.into()))
}

/// The error that names the cells that failed, if any did.
fn failures(planned: &[PlannedCell], ends: &[CellEnd]) -> Result<()> {
    const MOST: usize = 10;
    let failed: Vec<String> = planned
        .iter()
        .zip(ends)
        .filter_map(|(planned, end)| Some(format!("\n  {}: {}", planned.cell.name, end.failure.as_ref()?)))
        .collect();
    let more = if failed.len() > MOST { format!("\n  and {} more", failed.len() - MOST) } else { String::new() };
    match failed.len() {
        0 => Ok(()),
        n => Err(anyhow!(
            "{n} of {} cells failed (the same command tries them again):{}{more}",
            planned.len(),
            failed[..n.min(MOST)].concat()
        )),
    }
}

fn as_json(folder: &SweepFolder, planned: &[PlannedCell], ends: &[CellEnd], rows: &[Row]) -> Value {
    let failed =
        planned.iter().zip(ends).filter_map(|(planned, end)| Some((planned.cell.name.clone(), end.failure.clone()?.into())));
    json!({
        "output_dir": folder.path,
        "chosen_by": "dev_loss",
        "reported_on": "evaluation split",
        "rows": rows,
        "failed": failed.collect::<serde_json::Map<String, Value>>(),
    })
}

/// Lists the cells with their forecasts.
fn list(planned: &[PlannedCell], at_once: usize, as_json: bool) -> Result<()> {
    let standings = planned.iter().map(PlannedCell::standing).collect::<Result<Vec<_>>>()?;
    let state = |i: usize| match &standings[i] {
        None => "new".into(),
        Some(standing) if standing.is_finished(planned[i].config.max_steps) => "finished".into(),
        Some(standing) => format!("at step {} of {}", standing.steps, planned[i].config.max_steps),
    };
    if as_json {
        let cell = |(i, planned): (usize, &PlannedCell)| json!({ "name": planned.cell.name, "state": state(i), "forecast": planned.cost });
        return say(&Value::from(planned.iter().enumerate().map(cell).collect::<Vec<_>>()).to_string());
    }
    let width = planned.iter().map(|planned| planned.cell.name.chars().count()).max().unwrap_or(0);
    let (mut text, mut seconds, mut disk) = (String::new(), 0.0, 0);
    for (i, planned) in planned.iter().enumerate() {
        let Some(cost) = planned.cost else { continue };
        let left = standings[i]
            .as_ref()
            .map_or(planned.config.max_steps, |standing| planned.config.max_steps.saturating_sub(standing.steps));
        seconds += cost.seconds * left as f64 / planned.config.max_steps as f64;
        disk += if standings[i].is_none() { cost.disk_bytes } else { 0 };
        text += &format!(
            "{:<width$}  {:<22}  {:>9}  {:>9}\n",
            planned.cell.name,
            state(i),
            human(cost.peak_rss_bytes),
            duration(cost.seconds),
        );
    }
    let place = planned.first().map(PlannedCell::folder);
    let free = place.and_then(free_bytes).filter(|free| *free < disk);
    let warning =
        free.map_or(String::new(), |free| format!("\nwarning  it does not fit on the disk, where {} are free", human(free)));
    let machine = machine_bytes().map_or(String::new(), |bytes| format!(" of the machine's {}", human(bytes)));
    let peak = planned.iter().filter_map(|planned| Some(planned.cost?.peak_rss_bytes)).max().unwrap_or(0);
    say(&format!(
        "{text}\n{} cells: {} to train, {at_once} at a time; a cell takes up to {}{machine}; {} on disk{warning}",
        planned.len(),
        duration(seconds / at_once as f64),
        human(peak),
        human(disk),
    ))
}

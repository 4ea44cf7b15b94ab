//! The folder of a run: whether it may be written, what to remove of an earlier run, and run.json.

use std::fs::{DirEntry, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::checkpoint;
use super::rates::TriedRate;
use crate::base::files;
use crate::base::text::shell_quoted;
use crate::config::{Inputs, RunConfig};
use crate::device::cpu::simd;
use crate::model::Model;
use crate::model::save::kept_file;
use crate::run::trajectory::record::FILE;
use crate::run::trajectory::{Header, Log, Trajectory};
use crate::zo::Data;

/// What came out of a run; the last file that a run writes, so that a run with it is finished.
pub const RESULTS: &str = "all_results.json";

/// Files of a run beside its model, log and checkpoints. Overwriting a folder removes these and no other files; the
/// weights stay until the first new ones replace them.
const LEFT_BY_A_RUN: [&str; 4] = ["run.json", "trainer_log.jsonl", RESULTS, "loss.svg"];

/// The folder of TensorBoard's event files in a run's folder, and the beginning of their names.
pub const EVENTS: &str = "tensorboard";

/// See [`EVENTS`].
pub const EVENT_FILE: &str = "events.out.tfevents.";

/// The beginning of the names of a search's folders; the rate follows.
const TRIAL: &str = "learning-rate-";

/// The list of trials in run.json.
const SEARCH: &str = "learning_rate_search";

/// Whether a run may write to its folder; changes nothing.
pub fn check_run(config: &RunConfig) -> Result<()> {
    check(&config.output_dir, config.overwrite_output_dir, &config.inputs.places())
}

/// Whether `folder` may be written; changes nothing.
///
/// A folder with content is refused without `overwrite`; in any case if it contains a path in `read`, or a symbolic
/// link, which writing would follow. The error is a usage error.
pub fn check(folder: &Path, overwrite: bool, read: &[&Path]) -> Result<()> {
    let place = folder.display();
    if !overwrite {
        check_empty(folder)?;
    }
    let covers = |input: &&&Path| matches!((folder.canonicalize(), input.canonicalize()), (Ok(out), Ok(input)) if input.starts_with(&out));
    if let Some(input) = read.iter().find(covers) {
        return Err(usage!(
            "`output_dir` {place}: {} is an input of this run and would be overwritten; choose another folder",
            input.display()
        ));
    }
    let link = std::fs::read_dir(folder).into_iter().flatten().flatten().find(|entry| entry.path().is_symlink());
    if let Some(link) = link.map(|entry| entry.path()) {
        let target = std::fs::read_link(&link).unwrap_or_default();
        return Err(usage!(
            "{} is a link to {}, which would be overwritten; choose another `output_dir`",
            link.display(),
            target.display()
        ));
    }
    Ok(())
}

/// Fails if the folder contains anything but an empty log, which is only a lock.
fn check_empty(folder: &Path) -> Result<()> {
    let place = folder.display();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(usage!("`output_dir` {place}: {e}")),
    };
    let is_lock = |entry: &DirEntry| entry.file_name() == FILE && entry.metadata().is_ok_and(|file| file.len() == 0);
    if entries.flatten().any(|entry| !is_lock(&entry)) {
        let others = match folder.join(FILE).is_file() {
            true => {
                let run = shell_quoted(&folder.to_string_lossy());
                format!("add `overwrite_output_dir`, or continue the run in it with `resume {run}`")
            }
            false => "or add `overwrite_output_dir`".into(),
        };
        return Err(usage!("`output_dir` {place} is not empty; choose another folder, {others}"));
    }
    Ok(())
}

/// Creates the run folder that [`check_run`] allowed, locks it, removes the files of an earlier run, and writes the
/// log's header and run.json with one `example`. Fails before removing anything if another process trains there, or has
/// since the check.
pub fn begin(config: &RunConfig, header: Header, example: &Value, command: &[String]) -> Result<Log> {
    let folder = &config.output_dir;
    let place = folder.display();
    std::fs::create_dir_all(folder).map_err(|e| usage!("cannot make the run folder {place}: {e}"))?;
    let locked = Log::lock(folder)?;
    if !config.overwrite_output_dir {
        check_empty(folder)?;
    }
    clear(folder, config.inputs.is_adapted())?;
    let log = Log::begin(locked, folder, header, config.fsync)?;
    let header = &log.trajectory().header;
    let mut run = session(0, command);
    run["config"] = serde_json::to_value(config)?;
    run["method"] = header.method.as_str().into();
    run["data"] = serde_json::to_value(&header.data)?;
    run["example"] = example.clone();
    run["model"] = json!({ "source": config.inputs.model, "commit": config.inputs.revision, "sha256": header.model });
    write_run(folder, &run)?;
    Ok(log)
}

/// Removes the files of an earlier run except its log and the weights file of the kind now written (`adapted`: an
/// adapter's).
fn clear(folder: &Path, adapted: bool) -> Result<()> {
    for name in LEFT_BY_A_RUN.into_iter().chain(Model::companions()) {
        files::remove(&folder.join(name))?;
    }
    // The weights file of the other kind.
    files::remove(&folder.join(kept_file(!adapted)))?;
    let events = folder.join(EVENTS);
    clear_events(&events)?;
    // Other files in it stay.
    let _ = std::fs::remove_dir(events);
    clear_trials(folder, &[])?;
    checkpoint::clear(folder, None)
}

/// Begins a search for the learning rate of a run in the folder that [`check_run`] allowed: locks it by an empty log,
/// removes the files of an earlier run, and writes run.json.
pub(super) fn begin_search(config: &RunConfig, command: &[String]) -> Result<File> {
    let folder = &config.output_dir;
    std::fs::create_dir_all(folder).map_err(|e| usage!("cannot make the run folder {}: {e}", folder.display()))?;
    let locked = Log::lock(folder)?;
    if !config.overwrite_output_dir {
        check_empty(folder)?;
    }
    clear(folder, config.inputs.is_adapted())?;
    locked.set_len(0)?;
    let mut run = session(0, command);
    run["config"] = serde_json::to_value(config)?;
    run[SEARCH] = json!([]);
    write_run(folder, &run)?;
    Ok(locked)
}

/// The config of the run in a folder that still searches for its learning rate, with paths relative to the current
/// directory; None if there is no such run.
pub(super) fn searching(folder: &Path) -> Option<RunConfig> {
    let has_log = folder.join(FILE).metadata().is_ok_and(|log| log.len() > 0);
    tried_rates(folder).filter(|_| !has_log)?;
    run_of(folder).map(|(_, config)| config)
}

/// The trials that the run.json of a folder lists, if the run searched for its learning rate.
pub(super) fn tried_rates(folder: &Path) -> Option<Vec<TriedRate>> {
    serde_json::from_value(read_run(folder)?.get(SEARCH)?.clone()).ok()
}

/// Writes the trials into the run.json of a folder.
pub(super) fn write_tried(folder: &Path, tried: &[TriedRate]) -> Result<()> {
    let mut run = read_run(folder).with_context(|| format!("{} has no run.json", folder.display()))?;
    run[SEARCH] = serde_json::to_value(tried)?;
    write_run(folder, &run)
}

/// The folder of the trial of a rate.
pub(super) fn trial_folder(run: &Path, rate: f64) -> PathBuf {
    run.join(format!("{TRIAL}{rate:e}"))
}

/// Removes the folders of trials but those of the rates in `kept`.
pub(super) fn clear_trials(run: &Path, kept: &[f64]) -> Result<()> {
    for entry in std::fs::read_dir(run)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(rate) = name.strip_prefix(TRIAL).and_then(|rate| rate.parse::<f64>().ok()) else { continue };
        if path.is_dir() && !kept.contains(&rate) {
            std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Makes the trial of a rate the run of the folder that it lies in: its files move up, its log the last, so that a kill
/// leaves either a search whose move is to be finished or the run. The lists of trials in both run.json say that it was
/// chosen.
pub(super) fn move_up(run: &Path, rate: f64) -> Result<()> {
    let trial = trial_folder(run, rate);
    let up = |name: &std::ffi::OsStr| {
        std::fs::rename(trial.join(name), run.join(name))
            .with_context(|| format!("cannot move {} to {}", trial.join(name).display(), run.display()))
    };
    let entries = std::fs::read_dir(&trial).with_context(|| trial.display().to_string())?;
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).filter(|name| name != FILE).collect();
    names.iter().try_for_each(|name| up(name))?;
    files::sync_folder(run)?;
    up(FILE.as_ref())?;
    files::sync_folder(run)?;
    clear_trials(run, &[])
}

/// Removes the event files in a folder, if it exists.
pub fn clear_events(folder: &Path) -> Result<()> {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let events = names.filter(|name| name.to_string_lossy().starts_with(EVENT_FILE));
    events.into_iter().try_for_each(|name| files::remove(&folder.join(name)))
}

/// A lock on a folder that a model is written to outside a run, held until dropped. The lock is an empty log; dropping
/// removes it, and the folder if it was created here and is empty.
pub struct Claim {
    folder: PathBuf,
    log: File,
    made: bool,
}

impl Claim {
    /// Locks a folder that [`check`] allowed, creating it if needed. Fails if another process writes there, or has
    /// since the check.
    pub fn new(folder: &Path, overwrite: bool) -> Result<Self> {
        let made = !folder.exists();
        std::fs::create_dir_all(folder).map_err(|e| usage!("cannot make {}: {e}", folder.display()))?;
        let claim = Claim { folder: folder.into(), log: Log::lock(folder)?, made };
        if !overwrite {
            check_empty(folder)?;
        }
        Ok(claim)
    }

    /// Removes the files of an earlier run except the weights file of the kind written next (`adapted`: an adapter's).
    pub fn clear(&self, adapted: bool) -> Result<()> {
        clear(&self.folder, adapted)?;
        Ok(self.log.set_len(0)?)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let path = self.folder.join(FILE);
        if self.log.metadata().is_ok_and(|log| log.len() == 0) && files::is_at(&self.log, &path) {
            let _ = std::fs::remove_file(path);
        }
        if self.made {
            // Fails if the folder has content.
            let _ = std::fs::remove_dir(&self.folder);
        }
    }
}

/// Whether a process writes in a run folder now.
pub fn is_locked(folder: &Path) -> bool {
    let Ok(log) = File::open(folder.join(FILE)) else { return false };
    matches!(log.try_lock_shared(), Err(std::fs::TryLockError::WouldBlock))
}

/// The run.json of a folder, if it is a JSON object.
fn read_run(folder: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(folder.join("run.json")).ok()?).ok().filter(Value::is_object)
}

/// The run that wrote `place`, its folder or one of its checkpoints: the run's folder, and its config when it was last
/// started or resumed, with paths relative to the current directory.
pub fn run_of(place: &Path) -> Option<(PathBuf, RunConfig)> {
    let is_checkpoint = place.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-"));
    let above = place.parent().map(|run| if run.as_os_str().is_empty() { Path::new(".") } else { run });
    let folder = above.filter(|_| is_checkpoint).unwrap_or(place).to_path_buf();
    let run = read_run(&folder)?;
    let mut config: RunConfig = serde_json::from_value(run["config"].clone()).ok()?;
    let last = run["resumed"].as_array().and_then(|sessions| sessions.last()).unwrap_or(&run);
    if let Some(typed_in) = last["directory"].as_str() {
        config.inputs = config.inputs.typed_in(Path::new(typed_in));
    }
    Some((folder, config))
}

/// The data record in the run.json of `folder`.
pub fn data_of(folder: &Path) -> Option<Data> {
    serde_json::from_value(read_run(folder)?["data"].take()).ok()
}

/// The inputs of a run from its log, with paths relative to the current directory: run.json records the directory they
/// were typed in.
pub fn inputs_of(trajectory: &Trajectory, place: &Path) -> Inputs {
    let inputs = trajectory.header.config.inputs.clone();
    match read_run(place).as_ref().and_then(|run| run["directory"].as_str()) {
        Some(typed_in) => inputs.typed_in(Path::new(typed_in)),
        None => inputs,
    }
}

/// Goes on with a run: extends the log to the config's `max_steps`, if that is more or the run had stopped early, and
/// records the process in run.json. The results of a finished run stay until a longer one replaces them.
pub fn go_on(config: &mut RunConfig, log: &mut Log, command: &[String]) -> Result<()> {
    let then = log.trajectory().max_steps;
    let steps = log.trajectory().steps();
    let had_stopped =
        log.trajectory().done.is_some() && steps < then && config.stops_early(log.trajectory(), steps).is_none();
    if config.max_steps > then || had_stopped {
        log.extend(config.max_steps)?;
        config.stages = log.trajectory().stages.clone();
    }
    if config.max_steps > then {
        config.warn_of_schedule(then);
    }
    log.set_fsync(config.fsync);
    let (folder, step) = (&config.output_dir, log.trajectory().steps());
    checkpoint::clear(folder, Some(step))?;
    // A kill may have left the empty one of the trial that became this run.
    clear_trials(folder, &[])?;
    let mut run = read_run(folder).unwrap_or_else(|| json!({}));
    run["config"] = serde_json::to_value(&*config)?;
    match run["resumed"].as_array_mut() {
        Some(sessions) => sessions.push(session(step, command)),
        None => run["resumed"] = json!([session(step, command)]),
    }
    write_run(folder, &run)
}

/// Gives the finished run in a folder another name in reports.
pub(super) fn rename(folder: &Path, name: &str) -> Result<()> {
    let mut run = read_run(folder).with_context(|| format!("{} has no run.json", folder.display()))?;
    run["config"]["run_name"] = name.into();
    write_run(folder, &run)
}

/// The results of a run, once it is finished. Those of before an extension stay until there are new ones, and are none of its own.
pub fn results_of(folder: &Path, trajectory: &Trajectory) -> Option<Value> {
    trajectory.done.as_ref()?;
    let results: Value = serde_json::from_slice(&std::fs::read(folder.join(RESULTS)).ok()?).ok()?;
    (results["steps"].as_u64() == Some(trajectory.steps())).then_some(results)
}

/// Writes all_results.json, which says that the run is finished.
pub fn finish(config: &RunConfig, all: &Value) -> Result<()> {
    files::write_bytes(&config.output_dir.join(RESULTS), &serde_json::to_vec_pretty(all)?)
}

fn write_run(folder: &Path, run: &Value) -> Result<()> {
    files::write_bytes(&folder.join("run.json"), &serde_json::to_vec_pretty(run)?)
}

/// The run.json entry of a process that trains from after `step` on: its command, versions, machine and environment.
fn session(step: u64, command: &[String]) -> Value {
    let variables = ["RAYON_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RUST_LOG", "NO_COLOR", simd::VARIABLE];
    let environment: serde_json::Map<String, Value> =
        variables.iter().filter_map(|v| Some((v.to_string(), std::env::var(v).ok()?.into()))).collect();
    json!({
        "from_step": step,
        "command": command,
        "directory": std::env::current_dir().unwrap_or_default(),
        "versions": { "zotune": env!("CARGO_PKG_VERSION"), "commit": env!("ZOTUNE_COMMIT"), "rustc": env!("ZOTUNE_RUSTC") },
        "machine": {
            "os": std::env::consts::OS,
            "cpu": cpu_name(),
            "instruction_set": simd::instruction_set(),
            "threads": rayon::current_num_threads(),
        },
        "environment": environment,
    })
}

fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name.to_string()));
    name.unwrap_or(std::env::consts::ARCH.into())
}

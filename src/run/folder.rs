//! A run's folder: whether it may be written, what an older run leaves there, and run.json.

use std::fs::{DirEntry, File};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::checkpoint;
use crate::base::files;
use crate::base::text::shell_quoted;
use crate::config::{Inputs, RunConfig};
use crate::device::cpu::simd;
use crate::model::Model;
use crate::model::save::kept_file;
use crate::run::trajectory::record::FILE;
use crate::run::trajectory::{Header, Log, Trajectory};
use crate::zo::Data;

/// What a run leaves in its folder beside its model, its log and its checkpoints; an overwritten folder loses these and nothing else.
/// The weights stay until the first of the new ones take their place.
const LEFT_BY_A_RUN: [&str; 4] = ["run.json", "trainer_log.jsonl", "all_results.json", "loss.svg"];

/// Whether a run may write into its folder; touches nothing.
pub fn check_run(plan: &RunConfig) -> Result<()> {
    check(&plan.output_dir, plan.overwrite_output_dir, &plan.inputs.places())
}

/// Whether `folder` may be written; touches nothing.
///
/// One that is not empty is refused unless it is to be overwritten, and always if something that is `read` is it or lies in it, or if a
/// file in it is a link, which would be written through.
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

/// Fails where there is anything in the folder but a log in which nothing is written: its lock.
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

/// Makes the run folder, once [`check_run`] has allowed it, takes its lock, removes the files of an older run, and begins
/// the trajectory and run.json, which keeps one `example`. Fails before anything is removed if another process trains there, or did
/// since it was checked.
pub fn begin(plan: &RunConfig, header: Header, example: &Value, command: &[String]) -> Result<Log> {
    let folder = &plan.output_dir;
    let place = folder.display();
    std::fs::create_dir_all(folder).map_err(|e| usage!("cannot make the run folder {place}: {e}"))?;
    let locked = Log::lock(folder)?;
    if !plan.overwrite_output_dir {
        check_empty(folder)?;
    }
    clear(folder, plan.inputs.is_adapted())?;
    let log = Log::begin(locked, folder, header, plan.fsync)?;
    let header = &log.trajectory().header;
    let mut run = session(0, command);
    run["config"] = serde_json::to_value(plan)?;
    run["method"] = header.method.as_str().into();
    run["data"] = serde_json::to_value(&header.data)?;
    run["example"] = example.clone();
    run["model"] = json!({ "source": plan.inputs.model, "commit": plan.inputs.revision, "sha256": header.model });
    files::write_bytes(&folder.join("run.json"), &serde_json::to_vec_pretty(&run)?)?;
    Ok(log)
}

/// Removes what an older run has left, but for its log and the weights that are to be written over: an adapter's or a model's.
fn clear(folder: &Path, adapted: bool) -> Result<()> {
    for name in LEFT_BY_A_RUN.into_iter().chain(Model::companions()) {
        remove(&folder.join(name))?;
    }
    // Of the two kinds of weights the one that is not written now.
    remove(&folder.join(kept_file(!adapted)))?;
    checkpoint::clear(folder, None)
}

/// A folder that a model is written to which is no run's: until this is dropped no run begins in it and nobody else writes there. What
/// locks it is an empty log, removed at the end, and so is the folder if nothing came into it.
pub struct Claim {
    folder: PathBuf,
    log: File,
    made: bool,
}

impl Claim {
    /// Of a folder that [`check`] has allowed. Fails if another process writes there, or did since.
    pub fn new(folder: &Path, overwrite: bool) -> Result<Self> {
        let made = !folder.exists();
        std::fs::create_dir_all(folder).map_err(|e| usage!("cannot make {}: {e}", folder.display()))?;
        let claim = Claim { folder: folder.into(), log: Log::lock(folder)?, made };
        if !overwrite {
            check_empty(folder)?;
        }
        Ok(claim)
    }

    /// Removes what an older run has left there, but for the weights that are written over next: an adapter's or a model's.
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
            // Fails where something is in it.
            let _ = std::fs::remove_dir(&self.folder);
        }
    }
}

/// The object that a folder's run.json is, if there is one.
fn read_run(folder: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(folder.join("run.json")).ok()?).ok().filter(Value::is_object)
}

/// What run.json says of the run that has left what is in `place`, its folder or a checkpoint: the run's folder, and its config as it
/// was when it last went on, with its paths as they are from here.
pub fn run_of(place: &Path) -> Option<(PathBuf, RunConfig)> {
    let is_checkpoint = place.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-"));
    let above = place.parent().map(|run| if run.as_os_str().is_empty() { Path::new(".") } else { run });
    let folder = above.filter(|_| is_checkpoint).unwrap_or(place).to_path_buf();
    let run = read_run(&folder)?;
    let mut plan: RunConfig = serde_json::from_value(run["config"].clone()).ok()?;
    let last = run["resumed"].as_array().and_then(|sessions| sessions.last()).unwrap_or(&run);
    if let Some(typed_in) = last["directory"].as_str() {
        plan.inputs = plan.inputs.typed_in(Path::new(typed_in));
    }
    Some((folder, plan))
}

/// What run.json says of the examples of the run in `folder`.
pub fn data_of(folder: &Path) -> Option<Data> {
    serde_json::from_value(read_run(folder)?["data"].take()).ok()
}

/// The inputs of a run as its log has them, with their paths as they are from here: run.json says in which folder they were typed.
pub fn inputs_of(trajectory: &Trajectory, place: &Path) -> Inputs {
    let inputs = trajectory.header.config.inputs.clone();
    match read_run(place).as_ref().and_then(|run| run["directory"].as_str()) {
        Some(typed_in) => inputs.typed_in(Path::new(typed_in)),
        None => inputs,
    }
}

/// Notes in run.json that the run goes on behind `step`, and as what. What a finished run left stays until a longer one writes its own.
pub fn go_on(plan: &RunConfig, step: u64, command: &[String]) -> Result<()> {
    let folder = &plan.output_dir;
    checkpoint::clear(folder, Some(step))?;
    let mut run = read_run(folder).unwrap_or_else(|| json!({}));
    run["config"] = serde_json::to_value(plan)?;
    match run["resumed"].as_array_mut() {
        Some(sessions) => sessions.push(session(step, command)),
        None => run["resumed"] = json!([session(step, command)]),
    }
    files::write_bytes(&folder.join("run.json"), &serde_json::to_vec_pretty(&run)?)
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// A process that made steps of a run, from behind `step` on: what it was asked, what program it was, on what machine.
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

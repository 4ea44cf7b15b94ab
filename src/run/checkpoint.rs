//! Checkpoints of a run: `checkpoint-STEP`, a model or adapter folder that other programs can load, with the state of
//! the method and the journal in `state.safetensors`. Written under another name, synced and renamed, so a folder of
//! that name is complete.
//!
//! A zeroth-order run can be rebuilt from its trajectory alone; checkpoints save the time of the replay.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::journal::Journal;
use crate::base::hash::sha256;
use crate::base::{Digest, files};
use crate::params::digest::trained_digests;
use crate::params::file;
use crate::params::{Params, Slot, Visit};
use crate::run::trajectory::Log;
use crate::zo::{Optimizer, Workload};

const PREFIX: &str = "checkpoint-";

const STATE: &str = "state.safetensors";

/// The state of a run at a step, borrowed to be written or read.
pub struct TrainState<'a> {
    /// The problem, which reads and writes the weights' files.
    pub workload: &'a dyn Workload,
    /// The weights.
    pub params: &'a mut Params,
    /// The method, with its state.
    pub optimizer: &'a mut Optimizer,
    /// The totals, and what is not logged yet.
    pub journal: &'a mut Journal,
    /// The log; a checkpoint belongs to one step of one run.
    pub log: &'a Log,
    /// The step whose weights are in the model file of the run's folder.
    pub kept: u64,
}

impl TrainState<'_> {
    fn visit(&mut self, visit: &mut Visit) -> Result<()> {
        self.optimizer.visit(visit)?;
        self.journal.visit(&mut |name, slot| visit(&format!("journal.{name}"), slot))
    }

    /// Writes the checkpoint of `step` into a run folder, then removes older ones until `limit` are left. (One of a
    /// later step failed verification and is written again when the run reaches it.)
    pub fn save(&mut self, run: &Path, step: u64, limit: usize) -> Result<()> {
        let place = run.join(format!("{PREFIX}{step}"));
        let beside = place.with_extension("partial");
        let written = self.write(run, &beside, step).and_then(|()| {
            // An existing folder of this step failed verification; replace it.
            remove(&place)?;
            fs::rename(&beside, &place)?;
            files::sync_folder(run)
        });
        let undone = written.inspect_err(|_| drop(fs::remove_dir_all(&beside)));
        undone.with_context(|| format!("cannot write {}", place.display()))?;
        remove_outdated(run, step, limit)
    }

    fn write(&mut self, run: &Path, folder: &Path, step: u64) -> Result<()> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir(folder)?;
        // Copied from the run's folder, as the run began: the base model's files may have changed since.
        for name in self.workload.companions().into_iter().filter(|name| run.join(name).is_file()) {
            files::copy_whole(&run.join(name), &folder.join(name))?;
        }
        let weights = self.params.settle()?;
        // Equal weights share one file by a hard link, where supported. Weights files are replaced, never rewritten in
        // place.
        let file = self.workload.weights_file();
        if self.kept != step || fs::hard_link(run.join(file), folder.join(file)).is_err() {
            self.workload.save(weights, folder)?;
        }
        let digest = Digest::of_digests(&trained_digests(weights)?);
        self.journal.sync()?;
        self.write_state(&folder.join(STATE), &facts(self.log, step, digest)?)?;
        files::sync_folder(folder)
    }

    /// Writes the state as a safetensors file: one visit for the header, one for the data.
    fn write_state(&mut self, path: &Path, facts: &Facts) -> Result<()> {
        let mut tensors = Vec::new();
        let mut offset = 0;
        self.visit(&mut |name, mut slot| {
            let dtype = match slot {
                Slot::F32(_) => Dtype::F32,
                Slot::Bf16(_) => Dtype::BF16,
                Slot::F16(_) => Dtype::F16,
                Slot::F64(_) => Dtype::F64,
                Slot::U64(_) => Dtype::U64,
            };
            let bytes = slot.bytes().len();
            let data_offsets = (offset, offset + bytes);
            offset += bytes;
            tensors.push((name.to_string(), TensorInfo { dtype, shape: vec![8 * bytes / dtype.bitsize()], data_offsets }));
            Ok(())
        })?;
        let header = file::header(&Metadata::new(Some(facts.clone()), tensors)?)?;
        files::write_whole(path, |out| {
            out.write_all(&header)?;
            self.visit(&mut |_, mut slot| Ok(out.write_all(slot.bytes())?))
        })?;
        let hash = sha256(&mut File::open(path)?)?;
        files::write_bytes(&path.with_extension("sha256"), format!("{hash}  {STATE}\n").as_bytes())
    }

    /// Restores the newest valid checkpoint up to step `last` and returns its step; without one returns 0 and changes
    /// nothing.
    pub fn restore(&mut self, run: &Path, last: u64) -> Result<u64> {
        for (step, folder) in all(run).into_iter().rev().filter(|(step, _)| *step <= last) {
            match check(&folder, step, self.workload, self.params, self.log) {
                Ok(()) => {
                    self.params.settle()?;
                    self.workload.restore(self.params, &folder)?;
                    self.read_state(&folder.join(STATE)).with_context(|| folder.display().to_string())?;
                    return Ok(step);
                }
                Err(e) => tracing::warn!("{} is skipped: {e:#}", folder.display()),
            }
        }
        Ok(0)
    }

    fn read_state(&mut self, path: &Path) -> Result<()> {
        let mut file = File::open(path)?;
        let (metadata, start) = file::read_header(&mut file)?;
        self.visit(&mut |name, mut slot| {
            let info = metadata.info(name).ok_or_else(|| anyhow!("{STATE} has no {name}; it is from another method"))?;
            let (from, to) = info.data_offsets;
            if !slot.resize(to - from) {
                bail!("{STATE}: {name} has {} bytes, not {}", to - from, slot.bytes().len());
            }
            file.seek(SeekFrom::Start(start + from as u64))?;
            Ok(file.read_exact(slot.bytes())?)
        })
    }
}

/// The metadata of a checkpoint.
type Facts = HashMap<String, String>;

/// The metadata of the checkpoint of `step` with these trained weights.
fn facts(log: &Log, step: u64, weights: Digest) -> Result<Facts> {
    let trajectory = log.checksum(step).with_context(|| format!("the trajectory does not reach step {step}"))?;
    let facts = [
        ("format", "zotune".into()),
        ("step", step.to_string()),
        ("trajectory", format!("{trajectory:08x}")),
        ("weights", weights.to_string()),
    ];
    Ok(facts.map(|(key, value): (&str, String)| (key.to_string(), value)).into())
}

/// Verifies that a checkpoint is undamaged and belongs to this step of this run.
fn check(folder: &Path, step: u64, workload: &dyn Workload, params: &Params, log: &Log) -> Result<()> {
    let state = folder.join(STATE);
    let said = fs::read_to_string(state.with_extension("sha256"))?;
    let mut file = File::open(&state)?;
    if said.split_whitespace().next() != Some(sha256(&mut file)?.as_str()) {
        bail!("{STATE} is damaged");
    }
    file.seek(SeekFrom::Start(0))?;
    let (metadata, _) = file::read_header(&mut file)?;
    let empty = Facts::new();
    let said = metadata.metadata().as_ref().unwrap_or(&empty);
    let weights = said.get("weights").and_then(|digest| Digest::try_from(digest.clone()).ok());
    let weights = weights.with_context(|| format!("{STATE} does not say which weights it belongs to"))?;
    let due = facts(log, step, weights)?;
    if let Some((key, due)) = due.iter().find(|(key, due)| said.get(*key) != Some(*due)) {
        let found = said.get(key).map_or("nothing", String::as_str);
        bail!("{STATE} is from another run or step: its {key} is {found}, not {due}");
    }
    let stored = workload.stored(params, folder)?;
    log.trajectory().check_stored(&stored, weights).with_context(|| format!("{} is damaged", workload.weights_file()))
}

/// The checkpoints of a run folder, oldest first.
fn all(run: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(run).into_iter().flatten().flatten();
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok();
    let mut found: Vec<(u64, PathBuf)> = entries.filter_map(|e| Some((step(&e.path())?, e.path()))).collect();
    found.sort();
    found
}

/// The step of the newest checkpoint up to `last`.
pub fn newest(run: &Path, last: u64) -> Option<u64> {
    all(run).into_iter().map(|(step, _)| step).filter(|step| *step <= last).max()
}

/// Removes the oldest checkpoints before `step`, until `limit` are left, counting that of `step`.
pub fn remove_outdated(run: &Path, step: u64, limit: usize) -> Result<()> {
    for checkpoint in outdated(run, step, limit) {
        remove(&checkpoint).with_context(|| format!("cannot remove {}", checkpoint.display()))?;
    }
    Ok(())
}

/// The oldest checkpoints before `step`, so many that `limit` are left, counting that of `step`.
fn outdated(run: &Path, step: u64, limit: usize) -> impl Iterator<Item = PathBuf> {
    let mut old = all(run);
    old.retain(|(other, _)| *other < step);
    old.truncate((old.len() + 1).saturating_sub(limit));
    old.into_iter().map(|(_, checkpoint)| checkpoint)
}

/// Removes a checkpoint, if it exists. It is renamed first, so that a partly removed one does not keep the name.
fn remove(checkpoint: &Path) -> Result<()> {
    if !checkpoint.exists() {
        return Ok(());
    }
    let leaving = checkpoint.with_extension("old");
    if leaving.exists() {
        fs::remove_dir_all(&leaving)?;
    }
    fs::rename(checkpoint, &leaving)?;
    Ok(fs::remove_dir_all(&leaving)?)
}

/// Removes partly written and partly removed checkpoints, and those after step `known`: the log may lose its last
/// records in a power failure. None removes all.
pub fn clear(run: &Path, known: Option<u64>) -> Result<()> {
    for entry in fs::read_dir(run)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(step) = name.strip_prefix(PREFIX) else { continue };
        let half = [".partial", ".old"].into_iter().find_map(|end| step.strip_suffix(end));
        let Ok(number) = half.unwrap_or(step).parse::<u64>() else { continue };
        if let (None, Some(known)) = (half, known.filter(|known| number > *known)) {
            tracing::warn!("{} is removed: the log ends at step {known}, so its step is computed again", path.display());
        }
        if half.is_some() || known.is_none_or(|known| number > known) {
            fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A damaged checkpoint of a later step does not displace the one just written.
    #[test]
    fn what_was_just_written_is_never_outdated() -> Result<()> {
        let run = tempfile::tempdir()?;
        for step in [4, 8, 12, 30, 100] {
            fs::create_dir(run.path().join(format!("checkpoint-{step}")))?;
        }
        for (step, limit, expected) in
            [(12, 1, &[4, 8][..]), (12, 2, &[4]), (12, 3, &[]), (100, 2, &[4, 8, 12]), (4, 1, &[])]
        {
            let expected: Vec<_> = expected.iter().map(|n| run.path().join(format!("checkpoint-{n}"))).collect();
            assert_eq!(outdated(run.path(), step, limit).collect::<Vec<_>>(), expected, "{step}, {limit}");
        }
        Ok(())
    }
}

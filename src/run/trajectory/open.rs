//! Opening a trajectory: a run folder, its log, or an exported file; and the settings it imposes on a run that starts
//! from it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::record::FILE;
use super::steps::Trajectory;
use super::{export, framing};
use crate::config::{Common, Inputs, TrainableArgs};

impl Trajectory {
    /// Reads a run folder's log, a log, or a file that [`export`] wrote.
    pub fn open(place: &Path) -> Result<Self> {
        let path = if place.is_dir() { place.join(FILE) } else { place.to_path_buf() };
        let bytes = std::fs::read(&path).map_err(|e| usage!("{}: cannot read the trajectory: {e}", path.display()))?;
        let (trajectory, torn) = Self::read(&bytes).with_context(|| path.display().to_string())?;
        if let Some(torn) = torn {
            tracing::warn!("{}: {torn}", path.display());
        }
        Ok(trajectory)
    }

    /// The log of the run that wrote `place`, its folder or a checkpoint, if there is one.
    pub fn beside(place: &Path) -> Option<Result<Self>> {
        let is_checkpoint = place.file_name().is_some_and(|name| name.to_string_lossy().starts_with("checkpoint-"));
        let folder = if is_checkpoint { place.join("..") } else { place.to_path_buf() };
        folder.join(FILE).metadata().is_ok_and(|log| log.len() > 0).then(|| Self::open(&folder))
    }

    /// Warns if the trajectory in `place` is not that of a finished run.
    pub fn warn_if_part(&self, place: &Path) {
        if self.done.is_none() {
            let (place, steps, of) = (place.display(), self.steps(), self.max_steps);
            let why = match steps == of {
                true => "the run was stopped before its last evaluation",
                false => "the run was stopped, has diverged or is still running",
            };
            tracing::warn!("{place}: the log ends at step {steps} of {of}: {why}, or the log is incomplete");
        }
    }

    /// Parses a log or a file that [`export`] wrote. For a log with an incomplete tail, returns the valid records and a
    /// warning. Any other damage is an error.
    pub fn read(bytes: &[u8]) -> Result<(Self, Option<String>)> {
        if export::is_shared(bytes) {
            return Ok((export::read(bytes)?, None));
        }
        let (trajectory, whole) = framing::read(bytes)?;
        Ok((trajectory, whole.torn(bytes)))
    }

    /// Fills in what the trajectory named in `common` imposes: the precision, the adapter it started from, and its
    /// commit if the same model is named without one. Returns the adapter that it created, if any.
    pub fn fill_in(common: &mut Common) -> Result<TrainableArgs> {
        let Some(place) = &common.trajectory else { return Ok(TrainableArgs::default()) };
        let trajectory = Self::open(place)?;
        trajectory.check_replays()?;
        let Inputs { dtype: then, adapter, tuned, model, revision, .. } = trajectory.header.config.inputs;
        if common.revision.is_none() && common.model.as_ref() == Some(&model) {
            common.revision = revision;
        }
        if let Some(other) = common.dtype.filter(|dtype| *dtype != then) {
            return Err(usage!(
                "`dtype` {}: the run was trained in {}, and its weights can only be rebuilt in that",
                other.dtype().as_str(),
                then.dtype().as_str()
            ));
        }
        common.dtype = Some(then);
        if adapter.is_some() {
            common.adapter = common.adapter.take().or(adapter);
        }
        Ok(if tuned.is_adapter() { tuned } else { TrainableArgs::default() })
    }

    /// The trajectory of the model that a run's adapter was trained on, if there is one.
    pub fn to_base(inputs: &Inputs) -> Option<&PathBuf> {
        let place = inputs.trajectory.as_ref().filter(|_| inputs.is_adapted())?;
        // One that produces the adapter itself is already in it.
        let leads_to_adapter = |place| Self::open(place).is_ok_and(|then| then.header.config.inputs.is_adapted());
        (!leads_to_adapter(place)).then_some(place)
    }
}

//! The run that a model or adapter comes from: its task, data, split and precision, and which rows it has seen.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::base::Digest;
use crate::base::text::shell_quoted;
use crate::config::{Common, Inputs, Precision, RunConfig};
use crate::data::task::{Files, PromptedRow, Repeats, Sizes, Task};
use crate::run::folder;
use crate::run::trajectory::Trajectory;
use crate::zo::Data;

/// How the rows to score relate to the run's.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rows {
    /// The run's own.
    Own,
    /// Unknown: an exported trajectory does not record where its rows were.
    Unnamed,
    /// Other rows.
    Other,
}

/// The run that a model or an adapter comes from.
pub struct PriorRun {
    /// Its folder.
    pub folder: PathBuf,
    config: RunConfig,
    /// Its record of its examples.
    data: Option<Data>,
    rows: Rows,
    /// Whether the scored rows are drawn as the run's evaluation split was.
    same_split: bool,
    /// Settings given that differ from the run's.
    pub differences: Vec<String>,
}

impl PriorRun {
    /// Finds the run behind the model, adapter or trajectory in `common`, and fills in from it what `common` leaves
    /// open. None if no run is found.
    pub fn fill_in(common: &mut Common) -> Result<Option<Self>> {
        let Some(RunRecord { place: folder, mut config, data, is_file }) =
            find_run(&common.adapter, &common.trajectory, common.model.as_deref())
        else {
            return Ok(None);
        };
        check_has_model(&config, &folder)?;
        let then = &config.inputs;
        if let Some(model) = &common.model {
            check_is_model(model)?;
        } else {
            then.check_began_here()?;
            common.model = Some(then.model.clone());
            common.trajectory = common.trajectory.take().or_else(|| Trajectory::to_base(then).cloned());
        }
        if common.model.as_ref() == Some(&then.model) && common.revision.is_none() {
            common.revision = then.revision.clone();
        }
        match (&common.task, &common.data) {
            (None, None) => (common.task, common.data) = (then.task.clone(), then.data.clone()),
            (Some(task), None) if Some(task) == then.task.as_ref() => common.data = then.data.clone(),
            // A file holds own rows; a folder holds the task's.
            (None, Some(data)) if data.is_dir() => common.task = then.task.clone(),
            _ => {}
        }
        if common.task.is_none() && common.data.is_none() {
            return Err(usage!(
                "{} does not record its training data; say with `data` or `task` which rows to score",
                folder.display()
            ));
        }
        let rows = match are_rows_of(then, &common.task, &common.data) {
            true => Rows::Own,
            false if is_file && then.data.is_none() && common.task == then.task => Rows::Unnamed,
            false => Rows::Other,
        };
        let mut differences = Vec::new();
        if has_rows(then) && rows == Rows::Other {
            let named = |task: &Option<String>, data: &Option<PathBuf>| {
                let data = data.as_ref().map(|data| data.display().to_string());
                let named: Vec<String> = task.iter().cloned().chain(data).collect();
                named.join(", ")
            };
            let now = named(&common.task, &common.data);
            differences.push(format!("data {now} (run: {})", named(&then.task, &then.data)));
        }
        let mut differ = |option: &str, now: Option<String>, then: Option<String>| {
            if now != then {
                let said = |value: Option<String>| value.unwrap_or("default".into());
                differences.push(format!("`{option} {}` (run: {})", said(now), said(then)));
            }
        };
        let dtype = *common.dtype.get_or_insert(then.dtype);
        let name = |dtype: Precision| Some(dtype.dtype().as_str().to_string());
        differ("dtype", name(dtype), name(then.dtype));
        common.bos_id = common.bos_id.or(then.bos_id);
        common.max_length = common.max_length.or(then.max_length);
        let text = |n: Option<usize>| n.map(|n| n.to_string());
        differ("bos_id", text(common.bos_id.map(|id| id as usize)), text(then.bos_id.map(|id| id as usize)));
        differ("max_length", text(common.max_length), text(then.max_length));
        if rows == Rows::Own {
            common.num_eval = common.num_eval.or(then.num_eval);
            let seed = *common.train_set_seed.get_or_insert(then.train_set_seed);
            differ("num_eval", text(common.num_eval), text(then.num_eval));
            differ("train_set_seed", text(Some(seed as usize)), text(Some(then.train_set_seed as usize)));
        }
        let seed = common.train_set_seed.unwrap_or_default();
        let same_split = rows == Rows::Own && common.num_eval == then.num_eval && seed == then.train_set_seed;
        if rows == Rows::Unnamed {
            config.inputs.data = common.data.clone();
        }
        Ok(Some(PriorRun { folder, config, data, rows, same_split, differences }))
    }

    /// Compares the rows to score with the run's evaluation rows, as far as it records them.
    pub fn compare(&mut self, rows: &[PromptedRow]) {
        let then = self.data.as_ref().and_then(|data| data.eval_rows);
        let same = then.map(|then| then == digest([rows]));
        match (self.rows, same) {
            (Rows::Own, Some(false)) if self.same_split => {
                self.differences.push("evaluation rows (the data or the task file has changed)".into());
            }
            (Rows::Unnamed, Some(true)) => self.same_split = true,
            (Rows::Unnamed, Some(false)) => self.differences.push("evaluation rows".into()),
            _ => {}
        }
    }

    /// How many of the `rows` to score are among the run's training or dev rows, word for word. None if unknown, or if
    /// the run's rows would have to be downloaded and others are scored.
    pub fn count_repeats(&self, task: &Task, rows: &[PromptedRow]) -> Result<Option<Repeats>> {
        let then = &self.config.inputs;
        if !has_rows(then) {
            return Ok(None);
        }
        let is_other = self.rows == Rows::Other;
        let other = if is_other { Some(Task::of(then.task.as_deref(), then.data.as_deref())?) } else { None };
        let task = other.as_ref().unwrap_or(task);
        let files = task.data(then.data.as_deref())?;
        if is_other && matches!(files, Files::Hub(None)) {
            return Ok(None);
        }
        let digest_then = self.data.as_ref().and_then(|data| data.train_rows);
        if self.rows == Rows::Unnamed && digest_then.is_none() {
            return Ok(None);
        }
        let (train, dev) = task.train_and_dev(&files, self.config.sizes(), then.train_set_seed)?;
        if digest_then.is_some_and(|then| then != digest([&train[..], &dev])) {
            bail!("the rows that it was trained on are not there any more: the data or the task's file has changed since");
        }
        Ok(Some(Repeats::of(&train, &dev, rows)))
    }

    /// The sizes of the run's splits if its own rows are scored; otherwise none is set.
    pub fn sizes(&self) -> Sizes {
        if self.rows == Rows::Other { Sizes::default() } else { self.config.sizes() }
    }

    /// Logs the run and the differences from it.
    pub fn describe(&self) {
        let own = match self.rows {
            _ if !self.differences.is_empty() => format!("differs from the run: {}", self.differences.join("; ")),
            Rows::Own => "same task, data, split and dtype as in the run".into(),
            Rows::Unnamed if self.same_split => "same evaluation rows and dtype as in the run".into(),
            Rows::Unnamed => {
                "same dtype as in the run; it does not record where its data were, so they may be others".into()
            }
            Rows::Other => "same dtype as in the run; it does not record its training data".into(),
        };
        tracing::info!("run     {}: {own}", self.folder.display());
    }
}

/// The record that a run left.
struct RunRecord {
    place: PathBuf,
    config: RunConfig,
    data: Option<Data>,
    /// Whether it is a trajectory rather than a run folder.
    is_file: bool,
}

/// The run of the adapter, else of the trajectory, else of the model.
fn find_run(adapter: &Option<PathBuf>, trajectory: &Option<PathBuf>, model: Option<&str>) -> Option<RunRecord> {
    let by_run = |place: &Path| {
        let (place, config) = folder::run_of(place)?;
        let data = folder::data_of(&place);
        Some(RunRecord { place, config, data, is_file: false })
    };
    let of_trajectory = |place: &PathBuf| {
        let header = || {
            let then = Trajectory::open(place).ok()?;
            Some(RunRecord { place: place.clone(), config: then.config(), data: Some(then.header.data), is_file: true })
        };
        by_run(place).or_else(header)
    };
    let adapted = adapter.as_ref().and_then(|place| by_run(place));
    adapted.or_else(|| of_trajectory(trajectory.as_ref()?)).or_else(|| by_run(Path::new(model?)))
}

/// The digest of these rows, split by split.
fn digest<const N: usize>(splits: [&[PromptedRow]; N]) -> Digest {
    Digest::of_digests(&splits.into_iter().flatten().map(PromptedRow::digest).collect::<Vec<_>>())
}

/// Refuses a run folder that holds an adapter as a model; the error says what to give instead.
pub fn check_is_model(name: &str) -> Result<()> {
    let place = Path::new(name);
    let Some((_, config)) = folder::run_of(place) else { return Ok(()) };
    check_has_model(&config, place)?;
    if !config.inputs.is_adapted() || place.join("config.json").exists() {
        return Ok(());
    }
    let (base, place) = (shell_quoted(&config.inputs.model), shell_quoted(name));
    Err(usage!("{place} is an adapter; give the base model too: `model {base}` `adapter {place}`"))
}

/// Refuses the run of a lab, which has no language model.
pub fn check_has_model(config: &RunConfig, place: &Path) -> Result<()> {
    match &config.lab.lab {
        Some(lab) => Err(usage!("{} is a run of the lab {lab}, which has no language model", place.display())),
        None => Ok(()),
    }
}

/// Whether the run records what it was trained on; an exported trajectory does not record the path of own rows.
fn has_rows(then: &Inputs) -> bool {
    then.task.is_some() || then.data.is_some()
}

/// Whether `task` and `data` are the run's.
fn are_rows_of(then: &Inputs, task: &Option<String>, data: &Option<PathBuf>) -> bool {
    let place = |data: &Option<PathBuf>| data.as_ref().map(|data| data.canonicalize().unwrap_or(data.clone()));
    *task == then.task && place(data) == place(&then.data)
}

/// Warns if the evaluation `rows` were seen by the run whose output is now trained further.
pub fn warn_of_base(inputs: &Inputs, task: &Task, rows: &[PromptedRow]) {
    let Some(RunRecord { place: folder, config, data, .. }) =
        find_run(&inputs.adapter, &inputs.trajectory, Some(&inputs.model))
    else {
        return;
    };
    let own = are_rows_of(&config.inputs, &inputs.task, &inputs.data);
    let rows_are = if own { Rows::Own } else { Rows::Other };
    let known = PriorRun { folder, config, data, rows: rows_are, same_split: false, differences: Vec::new() };
    match known.count_repeats(task, rows) {
        Ok(Some(repeats)) => warn_of_seen(&known.folder, repeats, rows.len()),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!("cannot tell whether {} was trained on the evaluation rows: {error:#}", known.folder.display())
        }
    }
}

/// Warns how many of the `count` rows scored were seen by the run in `folder`, if any.
pub fn warn_of_seen(folder: &Path, repeats: Repeats, count: usize) {
    let Repeats { eval_in_train, eval_in_dev, .. } = repeats;
    let run = folder.display();
    let said = match (eval_in_train, eval_in_dev) {
        (0, 0) => return,
        (0, m) => format!("{m} of {count} evaluation rows were in the dev data of {run}"),
        (n, 0) => format!("{n} of {count} evaluation rows were in the training data of {run}"),
        (n, m) => format!("{n} of {count} evaluation rows were in the training data of {run}, {m} in its dev data"),
    };
    tracing::warn!("{said}; the score is therefore too good");
}

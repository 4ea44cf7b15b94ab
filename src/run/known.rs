//! What `eval` knows of a model that a run has left: the run's task, data, split and precision, and which rows it has seen.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::base::Digest;
use crate::base::text::shell_quoted;
use crate::config::{Common, Inputs, Precision, RunConfig};
use crate::data::task::{Files, PromptedRow, Repeats, Task};
use crate::run::folder;
use crate::run::trajectory::Trajectory;
use crate::zo::Data;

/// The rows that are scored, as far as their names tell.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rows {
    /// The run's own.
    Own,
    /// A file that was handed on does not hold where its rows lay: these may be they.
    Unnamed,
    /// Others.
    Other,
}

/// The run that has left a model or an adapter.
pub struct Known {
    /// Its folder.
    pub folder: PathBuf,
    plan: RunConfig,
    /// What it says of its examples.
    data: Option<Data>,
    rows: Rows,
    /// Whether the rows that are scored are drawn as the run drew its evaluation split.
    same_split: bool,
    /// What was typed that the run has otherwise.
    pub differences: Vec<String>,
}

impl Known {
    /// The run that has left what is to be scored, if one has; and what was typed, with what the run knows where nothing was.
    pub fn fill_in(common: &mut Common) -> Result<Option<Self>> {
        let Some(Left { place: folder, mut plan, data, is_file }) =
            left_by(&common.adapter, &common.trajectory, common.model.as_deref())
        else {
            return Ok(None);
        };
        let then = &plan.inputs;
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
            // A file is rows of one's own, a folder the task's.
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
            differences.push(format!("rows of {now} (the run's: {})", named(&then.task, &then.data)));
        }
        let mut differ = |flag: &str, now: Option<String>, then: Option<String>| {
            if now != then {
                let said = |value: Option<String>| value.unwrap_or("the default".into());
                differences.push(format!("--{flag} {} (the run's: {})", said(now), said(then)));
            }
        };
        let dtype = *common.dtype.get_or_insert(then.dtype);
        let name = |dtype: Precision| Some(dtype.dtype().as_str().to_string());
        differ("dtype", name(dtype), name(then.dtype));
        common.bos_id = common.bos_id.or(then.bos_id);
        common.max_length = common.max_length.or(then.max_length);
        let text = |n: Option<usize>| n.map(|n| n.to_string());
        differ("bos-id", text(common.bos_id.map(|id| id as usize)), text(then.bos_id.map(|id| id as usize)));
        differ("max-length", text(common.max_length), text(then.max_length));
        if rows == Rows::Own {
            common.num_eval = common.num_eval.or(then.num_eval);
            let seed = *common.train_set_seed.get_or_insert(then.train_set_seed);
            differ("num-eval", text(common.num_eval), text(then.num_eval));
            differ("train-set-seed", text(Some(seed as usize)), text(Some(then.train_set_seed as usize)));
        }
        let seed = common.train_set_seed.unwrap_or_default();
        let same_split = rows == Rows::Own && common.num_eval == then.num_eval && seed == then.train_set_seed;
        if rows == Rows::Unnamed {
            plan.inputs.data = common.data.clone();
        }
        Ok(Some(Known { folder, plan, data, rows, same_split, differences }))
    }

    /// Compares the rows that are to be scored with those that the run had, as far as it says.
    pub fn compare(&mut self, rows: &[PromptedRow]) {
        let then = self.data.as_ref().and_then(|data| data.eval_rows);
        let same = then.map(|then| then == digest([rows]));
        match (self.rows, same) {
            (Rows::Own, Some(false)) if self.same_split => {
                self.differences.push("the evaluation rows: the data or the task's file has changed since".into());
            }
            (Rows::Unnamed, Some(true)) => self.same_split = true,
            (Rows::Unnamed, Some(false)) => self.differences.push("the evaluation rows".into()),
            _ => {}
        }
    }

    /// How many of the `rows` that are to be scored are the run's training or dev rows, word for word. None where its rows are on
    /// the hub and others are scored: nothing is fetched that nobody named.
    pub fn seen(&self, task: &Task, rows: &[PromptedRow]) -> Result<Option<Repeats>> {
        let then = &self.plan.inputs;
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
        let (train, dev) = task.train_and_dev(&files, self.plan.sizes(), then.train_set_seed)?;
        if digest_then.is_some_and(|then| then != digest([&train[..], &dev])) {
            bail!("the rows that it was trained on are not there any more: the data or the task's file has changed since");
        }
        Ok(Some(Repeats::of(&train, &dev, rows)))
    }

    /// Says what the run says, and what is otherwise.
    pub fn describe(&self) {
        let own = match self.rows {
            _ if !self.differences.is_empty() => format!("other than the run's: {}", self.differences.join("; ")),
            Rows::Own => "its task, data, split and precision".into(),
            Rows::Unnamed if self.same_split => "its evaluation rows and precision".into(),
            Rows::Unnamed => {
                "its precision; it does not hold where its rows lay, so whether these are they is not known".into()
            }
            Rows::Other => "its precision; on which rows it was trained it does not say".into(),
        };
        tracing::info!("run     {}: {own}", self.folder.display());
    }
}

/// What a run has left.
struct Left {
    place: PathBuf,
    plan: RunConfig,
    data: Option<Data>,
    /// Whether it is a file: one that was handed on.
    is_file: bool,
}

/// The run that has left an adapter, else a trajectory, else a model.
fn left_by(adapter: &Option<PathBuf>, trajectory: &Option<PathBuf>, model: Option<&str>) -> Option<Left> {
    let by_run = |place: &Path| {
        let (place, plan) = folder::run_of(place)?;
        let data = folder::data_of(&place);
        Some(Left { place, plan, data, is_file: false })
    };
    let walked = |place: &PathBuf| {
        let header = || {
            let then = Trajectory::open(place).ok()?;
            Some(Left { place: place.clone(), plan: then.config(), data: Some(then.header.data), is_file: true })
        };
        by_run(place).or_else(header)
    };
    let adapted = adapter.as_ref().and_then(|place| by_run(place));
    adapted.or_else(|| walked(trajectory.as_ref()?)).or_else(|| by_run(Path::new(model?)))
}

/// Of these rows, split by split.
fn digest<const N: usize>(splits: [&[PromptedRow]; N]) -> Digest {
    Digest::of_digests(&splits.into_iter().flatten().map(PromptedRow::digest).collect::<Vec<_>>())
}

/// Refuses the name of a folder in which a run has left an adapter, and says what to type: where its base model is from here is known.
pub fn check_is_model(name: &str) -> Result<()> {
    let place = Path::new(name);
    let Some((_, plan)) = folder::run_of(place) else { return Ok(()) };
    if !plan.inputs.is_adapted() || place.join("config.json").exists() {
        return Ok(());
    }
    let (base, place) = (shell_quoted(&plan.inputs.model), shell_quoted(name));
    Err(usage!("{place} is an adapter; give the base model too: `model {base}` `adapter {place}`"))
}

/// Whether it is known what a run was trained on; a file that was handed on does not name rows of one's own.
fn has_rows(then: &Inputs) -> bool {
    then.task.is_some() || then.data.is_some()
}

/// Whether a run's own rows are named.
fn are_rows_of(then: &Inputs, task: &Option<String>, data: &Option<PathBuf>) -> bool {
    let place = |data: &Option<PathBuf>| data.as_ref().map(|data| data.canonicalize().unwrap_or(data.clone()));
    *task == then.task && place(data) == place(&then.data)
}

/// Says how many of the evaluation `rows` a run has seen that has left what is to be trained further.
pub fn warn_of_base(inputs: &Inputs, task: &Task, rows: &[PromptedRow]) {
    let Some(Left { place: folder, plan, data, .. }) = left_by(&inputs.adapter, &inputs.trajectory, Some(&inputs.model))
    else {
        return;
    };
    let own = are_rows_of(&plan.inputs, &inputs.task, &inputs.data);
    let rows_are = if own { Rows::Own } else { Rows::Other };
    let known = Known { folder, plan, data, rows: rows_are, same_split: false, differences: Vec::new() };
    match known.seen(task, rows) {
        Ok(Some(repeats)) => warn_of_seen(&known.folder, repeats, rows.len()),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!("cannot tell whether {} was trained on the evaluation rows: {error:#}", known.folder.display())
        }
    }
}

/// Says how many of `count` scored rows are not new to the run in `folder`, if any.
pub fn warn_of_seen(folder: &Path, repeats: Repeats, count: usize) {
    let Repeats { eval_in_train, eval_in_dev, .. } = repeats;
    let dev = match eval_in_dev {
        0 => String::new(),
        n => format!("{n} among its dev rows, by which its weights were chosen"),
    };
    let train = match eval_in_train {
        0 => String::new(),
        n => format!("{n} stand word for word among the rows that {} was trained on", folder.display()),
    };
    let both: Vec<String> = [train, dev].into_iter().filter(|said| !said.is_empty()).collect();
    if !both.is_empty() {
        tracing::warn!("of the {count} evaluation rows {}: the score is not that of rows it never saw", both.join(" and "));
    }
}

//! Shared by `eval` and `probe`: the run behind a model, the rows, the bar, the lines of an accuracy.

use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};

use super::args::DrawnArgs;
use super::flags::with_flags;
use super::format::worth;
use super::screen::{check_new, progress_bar};
use crate::base::files;
use crate::baselines::Judgement;
use crate::config::{Common, Inputs};
use crate::data::task::{Files, Loss, PromptedRow, Repeats, Sizes, Task};
use crate::run::Pace;
use crate::run::known::{PriorRun, warn_of_seen};
use crate::run::pace::roughly;
use crate::run::trajectory::Trajectory;

/// The checked inputs, and the run that the model comes from.
pub(super) fn inputs_of(mut common: Common) -> Result<(Inputs, Option<PriorRun>)> {
    let run = PriorRun::fill_in(&mut common)?;
    let tuned = Trajectory::fill_in(&mut common)?;
    Ok((Inputs { tuned, ..Inputs::check(common)? }, run))
}

/// The sizes of the splits: as given, else as in the run.
pub(super) fn sizes_of(inputs: &Inputs, drawn: DrawnArgs, run: Option<&PriorRun>) -> Sizes {
    let then = run.map_or(Sizes::default(), PriorRun::sizes);
    let (num_train, num_dev) = (drawn.num_train.or(then.num_train), drawn.num_dev.or(then.num_dev));
    Sizes { num_train, num_dev, num_eval: inputs.num_eval }
}

/// Fails if the file of --dump cannot be new.
pub(super) fn check_dump(path: Option<&Path>) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    match path.parent().filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
        Some(folder) => Err(usage!("--dump: the folder {} does not exist", folder.display())),
        None => check_new("--dump", path),
    }
}

/// Runs `work` on `count` rows; it reports how many are done, which a bar or lines show.
pub(super) fn with_bar<T>(
    count: usize,
    quiet: bool,
    work: impl FnOnce(&mut dyn FnMut(usize) -> Result<()>) -> Result<T>,
) -> Result<T> {
    let bar = progress_bar(count as u64, quiet, "{pos:>8}/{len} [{bar:20}] {eta_precise} left")?;
    let mut pace = Pace::new(0, count as u64);
    let found = work(&mut |n: usize| {
        bar.set_position(n as u64);
        if let Some(left) = pace.due(n as u64).filter(|_| bar.is_hidden()) {
            tracing::info!("  {n:>6}/{count}  {} left", roughly(left));
        }
        Ok(())
    });
    bar.finish_and_clear();
    found
}

/// An accuracy with the loss called `loss_name`, and what it is worth, in two lines.
pub(super) fn accuracy_lines(task: &Task, judgement: &Judgement, count: usize, loss_name: &str) -> String {
    let Judgement { loss, accuracy, answers } = judgement;
    let (share, right, worth) = (100.0 * accuracy, answers.correct, worth(task, answers));
    format!("accuracy {share:.2} % ({right} of {count})  {loss_name} {loss:.4}\n         {worth}")
}

/// What the cross-entropy over the classes is called beside the task's own loss.
pub(super) fn class_loss(task: &Task) -> &'static str {
    if task.loss == Loss::Classification { "loss" } else { "cross-entropy over the classes" }
}

/// Merges the fields of an object into another.
pub(super) fn merge(to: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (to, from) {
        to.extend(from);
    }
}

/// What a result says of the run that the model comes from.
pub(super) fn of_run(run: &PriorRun, repeats: Option<Repeats>) -> Result<Value> {
    Ok(json!({
        "run": serde_json::to_value(&run.folder)?,
        "other_than_the_run": run.differences.iter().map(|said| with_flags(said)).collect::<Vec<_>>(),
        "rows_trained_on": repeats.map(|found| found.eval_in_train),
        "rows_of_dev": repeats.map(|found| found.eval_in_dev),
    }))
}

/// Logs how the rows relate to the run that the model comes from.
pub(super) fn seen_by(run: &mut PriorRun, task: &Task, rows: &[PromptedRow]) -> Option<Repeats> {
    run.compare(rows);
    run.describe();
    match run.count_repeats(task, rows) {
        Ok(Some(repeats)) => {
            warn_of_seen(&run.folder, repeats, rows.len());
            return Some(repeats);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!("cannot tell whether the run was trained on these rows: {error:#}"),
    }
    None
}

/// Logs how many of the rows `zotune train` would train on, if they are local.
pub(super) fn say_repeats(inputs: &Inputs, sizes: Sizes, task: &Task, files: &Files, rows: &[PromptedRow]) {
    if matches!(files, Files::Hub(_)) {
        return;
    }
    // An error in the other splits does not concern these rows.
    let Ok((train, dev)) = task.train_and_dev(files, sizes, inputs.train_set_seed) else { return };
    let Repeats { eval_in_train, eval_in_dev, .. } = Repeats::of(&train, &dev, rows);
    let (both, count) = (eval_in_train + eval_in_dev, rows.len());
    if both > 0 {
        tracing::info!("        duplicate rows: {both} of {count} are also in the training or dev split of these data");
    }
}

/// Writes one JSON object per line.
pub(super) fn dump(path: &Path, lines: impl Iterator<Item = Value>) -> Result<()> {
    files::write_whole(path, |out| {
        for line in lines {
            writeln!(out, "{line}")?;
        }
        Ok(())
    })
}

//! `eval`: the score of a model on a task.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::args::EvalArgs;
use super::flags::with_flags;
use super::format::worth;
use super::screen::{check_new, describe_model, load, on_threads, progress_bar, say};
use crate::base::errors::given;
use crate::base::files;
use crate::base::memory::peak_rss_bytes;
use crate::config::Inputs;
use crate::data::Example;
use crate::data::task::{Files, PromptedRow, Repeats, Sizes, Task};
use crate::prompt::Evaluation;
use crate::prompt::evaluate::evaluate;
use crate::run::known::{PriorRun, warn_of_seen};
use crate::run::pace::roughly;
use crate::run::trajectory::Trajectory;
use crate::run::{LoadedModel, Pace};

pub fn eval_verb(mut args: EvalArgs, quiet: bool) -> Result<()> {
    let threads = args.common.threads;
    let run = PriorRun::fill_in(&mut args.common)?;
    let tuned = Trajectory::fill_in(&mut args.common)?;
    let inputs = Inputs { tuned, ..Inputs::check(*args.common)? };
    on_threads(threads, || eval_inputs(inputs, run, args.json, args.dump.as_deref(), quiet))
}

fn eval_inputs(inputs: Inputs, mut run: Option<PriorRun>, as_json: bool, dump_to: Option<&Path>, quiet: bool) -> Result<()> {
    let task = given(Task::of(inputs.task.as_deref(), inputs.data.as_deref()))?;
    let sizes = Sizes { num_eval: inputs.num_eval, ..Sizes::default() };
    let files = given(task.data(inputs.data.as_deref()))?;
    let rows = given(task.eval_split(&files, sizes, inputs.train_set_seed))?;
    if let Some(folder) = dump_to.and_then(Path::parent).filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
        return Err(usage!("--dump: the folder {} does not exist", folder.display()));
    }
    if let Some(path) = dump_to {
        check_new("--dump", path)?;
    }
    let opened = LoadedModel::open_meta(&inputs)?.0;
    let start = Instant::now();
    let mut loaded = load(opened, &inputs, quiet)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let examples = given(loaded.encode(&rows))?;
    describe_model(&inputs, &loaded);
    let source = task.describe_source(inputs.data.as_deref()).map_or(String::new(), |files| format!("{files}, "));
    tracing::info!("data    {}: {} eval rows ({source}seed {})", task.name, examples.len(), inputs.train_set_seed);
    let repeats = match &mut run {
        Some(run) => seen_by(run, &task, &rows),
        None => {
            say_repeats(&inputs, &task, &files, &rows);
            None
        }
    };

    let start = Instant::now();
    let bar = progress_bar(examples.len() as u64, quiet, "{pos:>8}/{len} [{bar:20}] {eta_precise} left")?;
    let mut pace = Pace::new(0, examples.len() as u64);
    let done = |n: usize| {
        bar.set_position(n as u64);
        if let Some(left) = pace.due(n as u64).filter(|_| bar.is_hidden()) {
            tracing::info!("  {n:>6}/{}  {} left", examples.len(), roughly(left));
        }
        Ok(())
    };
    let found = evaluate(&loaded.model, loaded.params.settle()?, &examples, task.loss, inputs.eval_batch_size, done)?;
    bar.finish_and_clear();
    let dumped = dump_to.map_or(Ok(()), |path| dump(path, &found, &examples));
    let perplexity = found.loss.exp();
    if as_json {
        let mut result = json!({
            "model": inputs.model,
            "task": task.name,
            "examples": examples.len(),
            "loss": found.loss,
            "load_seconds": load_seconds,
            "seconds": start.elapsed().as_secs_f64(),
            "peak_rss_bytes": peak_rss_bytes(),
        });
        match &found.answers {
            Some(answers) => {
                result["accuracy"] = found.accuracy.into();
                merge(&mut result, serde_json::to_value(answers)?);
            }
            None => result["perplexity"] = perplexity.into(),
        }
        if let Some(run) = &run {
            result["run"] = serde_json::to_value(&run.folder)?;
            result["other_than_the_run"] = run.differences.iter().map(|said| with_flags(said)).collect();
            result["rows_trained_on"] = repeats.map(|found| found.eval_in_train).into();
            result["rows_of_dev"] = repeats.map(|found| found.eval_in_dev).into();
        }
        say(&result.to_string())?;
    } else {
        say(&match &found.answers {
            Some(answers) => {
                let share = 100.0 * found.accuracy.unwrap_or_default();
                let (right, count) = (answers.correct, examples.len());
                let worth = worth(&task, answers);
                format!("accuracy {share:.2} % ({right} of {count})  loss {:.4}\n         {worth}", found.loss)
            }
            None => format!("loss {:.4}  perplexity {perplexity:.2}  ({} examples)", found.loss, examples.len()),
        })?;
    }
    dumped
}

/// Merges the fields of an object into another.
fn merge(to: &mut Value, from: Value) {
    if let (Value::Object(to), Value::Object(from)) = (to, from) {
        to.extend(from);
    }
}

/// Logs how the rows relate to the run that the model comes from.
fn seen_by(run: &mut PriorRun, task: &Task, rows: &[PromptedRow]) -> Option<Repeats> {
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
fn say_repeats(inputs: &Inputs, task: &Task, files: &Files, rows: &[PromptedRow]) {
    let sizes = Sizes { num_eval: inputs.num_eval, ..Sizes::default() };
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

/// Writes one JSON object per example: its tokens and scores.
fn dump(path: &Path, found: &Evaluation, examples: &[Example]) -> Result<()> {
    files::write_whole(path, |out| {
        for (scored, example) in found.examples.iter().zip(examples) {
            let tokens: Vec<&[u32]> = example.candidates.iter().map(|c| c.tokens.as_slice()).collect();
            let mut line = json!({ "index": scored.index, "scores": scored.scores, "tokens": tokens });
            if found.accuracy.is_some() {
                (line["label"], line["prediction"]) = (scored.label.into(), scored.prediction.into());
            }
            writeln!(out, "{line}")?;
        }
        Ok(())
    })
}

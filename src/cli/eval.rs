//! `eval`: the score of a model on a task.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};

use super::args::{DrawnArgs, EvalArgs};
use super::scored::{
    accuracy_lines, check_dump, class_loss, dump, inputs_of, merge, of_run, say_repeats, seen_by, sizes_of, with_bar,
};
use super::screen::{describe_model, load, on_threads, say};
use crate::base::errors::given;
use crate::base::memory::peak_rss_bytes;
use crate::baselines::calibration::CONTENT_FREE;
use crate::baselines::{Calibrated, Calibration, Demonstrations, Judgement};
use crate::config::Inputs;
use crate::data::Example;
use crate::data::task::{Files, PromptedRow, Sizes, Task};
use crate::prompt::Evaluation;
use crate::prompt::evaluate::evaluate;
use crate::run::LoadedModel;
use crate::run::known::PriorRun;

/// What is asked for beside the inputs.
struct Wanted {
    calibrate: Calibration,
    num_fewshot: usize,
    drawn: DrawnArgs,
    as_json: bool,
    dump_to: Option<PathBuf>,
    quiet: bool,
}

pub fn eval_verb(args: EvalArgs, quiet: bool) -> Result<()> {
    let EvalArgs { common, calibrate, num_fewshot, drawn, json: as_json, dump: dump_to } = args;
    let threads = common.threads;
    let (inputs, run) = inputs_of(*common)?;
    let wanted = Wanted { calibrate, num_fewshot, drawn, as_json, dump_to, quiet };
    on_threads(threads, || eval_inputs(inputs, run, wanted))
}

fn eval_inputs(inputs: Inputs, mut run: Option<PriorRun>, wanted: Wanted) -> Result<()> {
    let task = given(Task::of(inputs.task.as_deref(), inputs.data.as_deref()))?;
    check_wanted(&wanted, &task)?;
    let sizes = sizes_of(&inputs, wanted.drawn, run.as_ref());
    let files = given(task.data(inputs.data.as_deref()))?;
    let rows = given(task.eval_split(&files, sizes, inputs.train_set_seed))?;
    let mut shown_rows = given(training_rows(&wanted, &inputs, &task, &files, sizes))?;
    let training_rows = shown_rows.split_off(wanted.num_fewshot);
    let demonstrations = Demonstrations::of(&shown_rows);
    let fitted_rows = given(calibration_rows(wanted.calibrate, training_rows, &task, &files))?;
    check_dump(wanted.dump_to.as_deref())?;
    let opened = LoadedModel::open_meta(&inputs)?.0;
    let start = Instant::now();
    let mut loaded = load(opened, &inputs, wanted.quiet)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let examples = given(loaded.encode(&demonstrations.before(&rows)))?;
    let fitted_examples = given(loaded.encode(&demonstrations.before(&fitted_rows)))?;
    describe_model(&inputs, &loaded);
    let source = task.describe_source(inputs.data.as_deref()).map_or(String::new(), |files| format!("{files}, "));
    tracing::info!("data    {}: {} eval rows ({source}seed {})", task.name, examples.len(), inputs.train_set_seed);
    if wanted.num_fewshot > 0 {
        tracing::info!("        {} before each prompt, with right answers", counted(wanted.num_fewshot));
    }
    let repeats = match &mut run {
        Some(run) => seen_by(run, &task, &rows),
        None => {
            say_repeats(&inputs, sizes, &task, &files, &rows);
            None
        }
    };

    let start = Instant::now();
    let mut evaluated = |examples: &[Example]| {
        let weights = loaded.params.settle()?;
        with_bar(examples.len(), wanted.quiet, |done| {
            evaluate(&loaded.model, weights, examples, task.loss, inputs.eval_batch_size, done)
        })
    };
    let found = evaluated(&examples)?;
    let calibrated = match wanted.calibrate {
        Calibration::None => None,
        kind => Some(Calibrated::of(kind, &evaluated(&fitted_examples)?.examples, &found.examples)),
    };
    let dumped = wanted.dump_to.as_deref().map_or(Ok(()), |path| {
        dump(path, (0..examples.len()).map(|i| dumped_row(i, &found, &examples, calibrated.as_ref())))
    });
    let perplexity = found.loss.exp();
    if wanted.as_json {
        let mut result = json!({
            "model": inputs.model,
            "task": task.name,
            "examples": examples.len(),
            "num_fewshot": wanted.num_fewshot,
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
        if let Some(calibrated) = &calibrated {
            result["calibration"] = serde_json::to_value(calibrated)?;
        }
        if let Some(run) = &run {
            merge(&mut result, of_run(run, repeats)?);
        }
        say(&result.to_string())?;
    } else {
        say(&match found.answers {
            Some(answers) => {
                let uncalibrated = Judgement { loss: found.loss, accuracy: found.accuracy.unwrap_or_default(), answers };
                accuracy_lines(&task, &uncalibrated, examples.len(), "loss")
            }
            None => format!("loss {:.4}  perplexity {perplexity:.2}  ({} examples)", found.loss, examples.len()),
        })?;
        calibrated.map_or(Ok(()), |calibrated| say(&calibrated_lines(&task, &calibrated)))?;
    }
    dumped
}

/// Fails if the task has no classes to shift or no answers to choose from, or if training rows are asked for that nothing reads.
fn check_wanted(wanted: &Wanted, task: &Task) -> Result<()> {
    let DrawnArgs { num_train, num_dev } = wanted.drawn;
    let asked = [("num_train", num_train), ("num_dev", num_dev)].into_iter().find(|(_, size)| size.is_some());
    if wanted.num_fewshot > 0 {
        task.check_choices("`num_fewshot`")?;
    }
    match (asked, wanted.calibrate) {
        (Some((name, _)), Calibration::None | Calibration::ContentFree) if wanted.num_fewshot == 0 => {
            Err(usage!("`{name}` has no effect here: only `calibrate threshold` and `num_fewshot` read training rows"))
        }
        (_, Calibration::None) => Ok(()),
        (_, kind) => task.classes(&format!("`calibrate {}`", kind.name())).map(drop),
    }
}

/// The training rows, at least those that stand before a prompt; none if nothing reads them.
fn training_rows(wanted: &Wanted, inputs: &Inputs, task: &Task, files: &Files, sizes: Sizes) -> Result<Vec<PromptedRow>> {
    if wanted.num_fewshot == 0 && wanted.calibrate != Calibration::Threshold {
        return Ok(Vec::new());
    }
    let (train, _) = task.train_and_dev(files, sizes, inputs.train_set_seed)?;
    if wanted.num_fewshot > train.len() {
        return Err(usage!("`num_fewshot` {}: the training split has {} only", wanted.num_fewshot, counted(train.len())));
    }
    Ok(train)
}

fn counted(rows: usize) -> String {
    format!("{rows} training row{}", if rows == 1 { "" } else { "s" })
}

/// The rows that the shifts are found on: none, the training rows that no prompt shows, or rows without content.
fn calibration_rows(kind: Calibration, train: Vec<PromptedRow>, task: &Task, files: &Files) -> Result<Vec<PromptedRow>> {
    match kind {
        Calibration::None => Ok(Vec::new()),
        Calibration::Threshold => {
            task.check_every_class(&train)?;
            Ok(train)
        }
        Calibration::ContentFree => CONTENT_FREE.iter().map(|text| task.content_free(files, text)).collect(),
    }
}

/// The shifts, where they come from, and the result with them.
fn calibrated_lines(task: &Task, calibrated: &Calibrated) -> String {
    let Calibrated { kind, shifts, fitted_on, train_accuracy, judgement, examples } = calibrated;
    let shifted = shifts.0.iter().enumerate().map(|(class, shift)| format!("{} {shift:+.4}", task.answer(class)));
    let shifted = shifted.collect::<Vec<_>>().join(", ");
    let origin = match train_accuracy {
        Some([before, after]) => {
            let (before, after) = (100.0 * before, 100.0 * after);
            format!("the best on {fitted_on} training rows, where the accuracy goes from {before:.1} to {after:.1} %")
        }
        None => {
            format!("from prompts with {} in place of the text", CONTENT_FREE.map(|text| format!("{text:?}")).join(", "))
        }
    };
    let result = accuracy_lines(task, judgement, examples.len(), class_loss(task));
    format!("shifts   {shifted}\n         {}: {origin}\n{result}", kind.name())
}

/// A row's tokens and scores.
fn dumped_row(i: usize, found: &Evaluation, examples: &[Example], calibrated: Option<&Calibrated>) -> Value {
    let scored = &found.examples[i];
    let tokens: Vec<&[u32]> = examples[i].candidates.iter().map(|c| c.tokens.as_slice()).collect();
    let mut line = json!({ "index": scored.index, "scores": scored.scores, "tokens": tokens });
    if found.accuracy.is_some() {
        (line["label"], line["prediction"]) = (scored.label.into(), scored.prediction.into());
    }
    if let Some(shifted) = calibrated.map(|calibrated| &calibrated.examples[i]) {
        line["calibrated_scores"] = shifted.scores.clone().into();
        line["calibrated_prediction"] = shifted.prediction.into();
    }
    line
}

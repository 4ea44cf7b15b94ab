//! `probe`: a linear probe on the last state of a model that is not trained.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::args::{DrawnArgs, ProbeArgs};
use super::scored::{accuracy_lines, check_dump, class_loss, dump, inputs_of, merge, of_run, seen_by, sizes_of, with_bar};
use super::screen::{describe_model, load, on_threads, say};
use super::train::warn_of_repeats;
use crate::base::errors::given;
use crate::base::memory::{human, peak_rss_bytes};
use crate::baselines::probe::Tried;
use crate::baselines::{Features, Probe};
use crate::config::Inputs;
use crate::data::Example;
use crate::data::task::{Repeats, Task};
use crate::prompt::Scored;
use crate::run::LoadedModel;
use crate::run::known::PriorRun;
use crate::run::pace::duration;

/// What is asked for beside the inputs.
struct Wanted {
    drawn: DrawnArgs,
    as_json: bool,
    dump_to: Option<PathBuf>,
    quiet: bool,
}

pub fn probe_verb(args: ProbeArgs, quiet: bool) -> Result<()> {
    let ProbeArgs { common, drawn, json: as_json, dump: dump_to } = args;
    let threads = common.threads;
    let (inputs, run) = inputs_of(*common)?;
    on_threads(threads, || probe_inputs(inputs, run, Wanted { drawn, as_json, dump_to, quiet }))
}

fn probe_inputs(inputs: Inputs, mut run: Option<PriorRun>, wanted: Wanted) -> Result<()> {
    let task = given(Task::of(inputs.task.as_deref(), inputs.data.as_deref()))?;
    let classes = task.classes("a probe")?;
    let sizes = sizes_of(&inputs, wanted.drawn, run.as_ref());
    let files = given(task.data(inputs.data.as_deref()))?;
    let rows = given(task.splits(&files, sizes, inputs.train_set_seed))?;
    task.check_every_class(&rows.train)?;
    check_dump(wanted.dump_to.as_deref())?;
    let opened = LoadedModel::open_meta(&inputs)?.0;
    let start = Instant::now();
    let mut loaded = load(opened, &inputs, wanted.quiet)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let examples = given(loaded.encode_splits(&rows, 1))?;
    describe_model(&inputs, &loaded);
    let (num_train, num_dev, num_eval) = (rows.train.len(), rows.dev.len(), rows.eval.len());
    let source = task.describe_source(inputs.data.as_deref()).map_or(String::new(), |files| format!("{files}, "));
    tracing::info!(
        "data    {}: {num_train} train, {num_dev} dev, {num_eval} eval rows ({source}seed {})",
        task.name,
        inputs.train_set_seed
    );
    let repeats = run.as_mut().and_then(|run| seen_by(run, &task, &rows.eval));
    warn_of_repeats(Repeats::of(&rows.train, &rows.dev, &rows.eval), num_dev, num_eval);

    let start = Instant::now();
    let all = num_train + num_dev + num_eval;
    let weights = loaded.params.settle()?;
    let [train, dev, eval] = with_bar(all, wanted.quiet, |done| {
        let mut before = 0;
        let mut features = |examples: &[Example]| {
            let found = Features::of(&loaded.model, weights, examples, inputs.eval_batch_size, |n| done(before + n));
            before += examples.len();
            found
        };
        Ok([features(&examples.train)?, features(&examples.dev)?, features(&examples.eval)?])
    })?;
    let feature_seconds = start.elapsed().as_secs_f64();
    let bytes = 4 * all * train.width;
    tracing::info!("states  {all} of {} numbers, {}, in {}", train.width, human(bytes as u64), duration(feature_seconds));
    let start = Instant::now();
    let probe = Probe::of(&train, &dev, &eval, classes)?;
    let fit_seconds = start.elapsed().as_secs_f64();

    let dumped = wanted.dump_to.as_deref().map_or(Ok(()), |path| {
        let line = |row: &Scored| {
            json!({ "index": row.index, "scores": row.scores, "label": row.label, "prediction": row.prediction })
        };
        dump(path, probe.examples.iter().map(line))
    });
    if wanted.as_json {
        let mut result = json!({
            "model": inputs.model,
            "task": task.name,
            "train_rows": num_train,
            "dev_rows": num_dev,
            "examples": num_eval,
            "features": train.width,
            "feature_bytes": bytes,
            "load_seconds": load_seconds,
            "feature_seconds": feature_seconds,
            "fit_seconds": fit_seconds,
            "peak_rss_bytes": peak_rss_bytes(),
        });
        merge(&mut result, serde_json::to_value(&probe)?);
        if let Some(run) = &run {
            merge(&mut result, of_run(run, repeats)?);
        }
        say(&result.to_string())?;
    } else {
        say(&format!(
            "{}\n{}\n\
             time     {} for the states, {} for {} fits; peak memory {}",
            accuracy_lines(&task, &probe.judgement, num_eval, class_loss(&task)),
            tried(&probe),
            duration(feature_seconds),
            duration(fit_seconds),
            probe.tried.len(),
            human(peak_rss_bytes())
        ))?;
    }
    dumped
}

/// The penalties with their dev losses, and which was chosen.
fn tried(probe: &Probe) -> String {
    let said = |tried: &Tried| {
        let chosen = if tried.l2 == probe.l2 { ", chosen" } else { "" };
        format!("{} ({:.4}{chosen})", tried.l2, tried.dev_loss)
    };
    let all = probe.tried.iter().map(said).collect::<Vec<_>>().join(", ");
    let end = if probe.is_at_the_end() { "; the chosen one is the first or the last of those tried" } else { "" };
    format!("l2       {all}\n         each with its dev loss{end}")
}

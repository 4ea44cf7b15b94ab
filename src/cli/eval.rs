//! `eval`: a model's score on a task.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::{EvalArgs, describe_model, load, on_threads, progress_bar, say};
use crate::config::Inputs;
use crate::data::Example;
use crate::eval::{Evaluation, evaluate};
use crate::memory::peak_rss_bytes;
use crate::setup::Bench;
use crate::task::{Sizes, Task};
use crate::trajectory::Trajectory;

pub fn eval_verb(mut args: EvalArgs, quiet: bool) -> Result<()> {
    let threads = args.common.threads;
    let tuned = Trajectory::fill_in(&mut args.common)?;
    let inputs = Inputs { tuned, ..Inputs::check(*args.common)? };
    on_threads(threads, || eval_inputs(inputs, args.json, args.dump.as_deref(), quiet))
}

fn eval_inputs(inputs: Inputs, as_json: bool, dump_to: Option<&Path>, quiet: bool) -> Result<()> {
    let task = Task::open(&inputs.task)?;
    let sizes = Sizes { num_eval: inputs.num_eval, ..Sizes::default() };
    let rows = task.eval_split(&task.data(inputs.data.as_deref())?, sizes, inputs.train_set_seed)?;
    if let Some(folder) = dump_to.and_then(Path::parent).filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
        return Err(usage!("--dump: there is no folder {}", folder.display()));
    }
    let outline = Bench::outline(&inputs)?.0;
    let start = Instant::now();
    let mut bench = load(outline, &inputs, quiet)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let examples = bench.encode(&rows)?;
    describe_model(&inputs, &bench);
    tracing::info!("task    {}: {} eval (seed {})", task.name, examples.len(), inputs.train_set_seed);

    let start = Instant::now();
    let bar = progress_bar(examples.len() as u64, quiet, "{pos:>8}/{len} [{bar:20}] {eta_precise} left")?;
    let done = |n: usize| {
        bar.set_position(n as u64);
        Ok(())
    };
    let found = evaluate(&bench.model, bench.params.settle()?, &examples, task.loss, inputs.eval_batch_size, done)?;
    bar.finish_and_clear();
    let dumped = dump_to.map_or(Ok(()), |path| dump(path, &found, &examples));
    let right = found.examples.iter().filter(|e| e.prediction == e.label).count();
    if as_json {
        say(&serde_json::to_string(&json!({
            "model": inputs.model,
            "task": task.name,
            "examples": examples.len(),
            "correct": right,
            "accuracy": found.accuracy,
            "loss": found.loss,
            "load_seconds": load_seconds,
            "seconds": start.elapsed().as_secs_f64(),
            "peak_rss_bytes": peak_rss_bytes(),
        }))?)?;
    } else {
        say(&format!("accuracy {:.2} % ({right} of {})  loss {:.4}", 100.0 * found.accuracy, examples.len(), found.loss))?;
    }
    dumped
}

/// One JSON object an example: what was scored, and how.
fn dump(path: &Path, found: &Evaluation, examples: &[Example]) -> Result<()> {
    crate::files::write_whole(path, |out| {
        for (scored, example) in found.examples.iter().zip(examples) {
            let tokens: Vec<&[u32]> = example.candidates.iter().map(|c| c.tokens.as_slice()).collect();
            let line = json!({
                "index": scored.index,
                "label": scored.label,
                "prediction": scored.prediction,
                "scores": scored.scores,
                "tokens": tokens,
            });
            writeln!(out, "{line}")?;
        }
        Ok(())
    })
}

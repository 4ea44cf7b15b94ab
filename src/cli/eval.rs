//! `eval`: a model's score on a task.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::{EvalArgs, check_new, describe_model, load, on_threads, progress_bar, say};
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
    let task = Task::of(inputs.task.as_deref(), inputs.data.as_deref())?;
    let sizes = Sizes { num_eval: inputs.num_eval, ..Sizes::default() };
    let rows = task.eval_split(&task.data(inputs.data.as_deref())?, sizes, inputs.train_set_seed)?;
    if let Some(folder) = dump_to.and_then(Path::parent).filter(|f| !f.as_os_str().is_empty() && !f.is_dir()) {
        return Err(usage!("--dump: there is no folder {}", folder.display()));
    }
    if let Some(path) = dump_to {
        check_new("--dump", path)?;
    }
    let outline = Bench::outline(&inputs)?.0;
    let start = Instant::now();
    let mut bench = load(outline, &inputs, quiet)?;
    let load_seconds = start.elapsed().as_secs_f64();
    let examples = bench.encode(&rows)?;
    describe_model(&inputs, &bench);
    let whence = task.whence(inputs.data.as_deref()).map_or(String::new(), |files| format!("{files}, "));
    tracing::info!("task    {}: {} eval ({whence}seed {})", task.name, examples.len(), inputs.train_set_seed);

    let start = Instant::now();
    let bar = progress_bar(examples.len() as u64, quiet, "{pos:>8}/{len} [{bar:20}] {eta_precise} left")?;
    let done = |n: usize| {
        bar.set_position(n as u64);
        Ok(())
    };
    let found = evaluate(&bench.model, bench.params.settle()?, &examples, task.loss, inputs.eval_batch_size, done)?;
    bar.finish_and_clear();
    let dumped = dump_to.map_or(Ok(()), |path| dump(path, &found, &examples));
    let (right, perplexity) = (found.examples.iter().filter(|e| e.prediction == e.label).count(), found.loss.exp());
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
        match found.accuracy {
            Some(accuracy) => (result["correct"], result["accuracy"]) = (right.into(), accuracy.into()),
            None => result["perplexity"] = perplexity.into(),
        }
        say(&result.to_string())?;
    } else {
        say(&match found.accuracy {
            Some(share) => {
                format!("accuracy {:.2} % ({right} of {})  loss {:.4}", 100.0 * share, examples.len(), found.loss)
            }
            None => format!("loss {:.4}  perplexity {perplexity:.2}  ({} examples)", found.loss, examples.len()),
        })?;
    }
    dumped
}

/// One JSON object an example: what was scored, and how.
fn dump(path: &Path, found: &Evaluation, examples: &[Example]) -> Result<()> {
    crate::files::write_whole(path, |out| {
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

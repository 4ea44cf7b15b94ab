//! A short run of a small model, and everything that it leaves.

use std::path::Path;

use anyhow::{Context, Result};
use candle_core::DType;
use serde_json::Value;
use zotune::run::trajectory::Trajectory;

use super::Llama;

/// Steps of a run by [`RUN`].
pub const STEPS: u64 = 60;

pub const RUN: &str = "--model model --task reviews --num-train 40 --num-dev 100 --num-eval 10 --batch-size 4 \
                   --max-steps 60 --eval-steps 6 --logging-steps 4 --learning-rate 3e-3 --fsync never --threads 1";

/// A folder with a model that starts in no time, and a run of it with everything often.
pub fn workplace() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let sizes = Llama { vocab: 4096, hidden: 8, inner: 16, layers: 2, heads: 2, kv_heads: 1, tied: true };
    let (model, _) = sizes.write(DType::F32)?;
    let place = folder.path().join("model");
    std::fs::create_dir(&place)?;
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(model.path().join(name), place.join(name))?;
    }
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::write(place.join(name), zotune::model::builtin::OPT_MINI.read(name)?.context("built in")?)?;
    }
    Ok(folder)
}

/// The names in a folder, sorted; none if it does not exist.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub fn json(path: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(path).with_context(|| path.display().to_string())?)?)
}

/// Everything that a run leaves and that is not time, memory or place.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub weights: Vec<u8>,
    pub values: Vec<Vec<u32>>,
    pub scores: Vec<Value>,
    pub log: Vec<Value>,
    pub results: Vec<Value>,
    pub state: Vec<(String, Vec<u8>)>,
}

pub fn outcome(run: &Path) -> Result<Outcome> {
    let trajectory = Trajectory::open(run)?;
    let values = |step| trajectory.values(step).into_iter().flatten().map(|v: &f32| v.to_bits()).collect();
    let results = json(&run.join("all_results.json"))?;
    let counted =
        ["best_step", "dev_loss", "dev_accuracy", "eval_loss", "eval_accuracy", "untrained_eval_loss", "train_loss"];
    let counted = counted.into_iter().chain(["function_evaluations", "forwards", "backwards", "tokens_per_step"]);
    let log = std::fs::read_to_string(run.join("trainer_log.jsonl"))?;
    let timeless = |line: &str| -> Result<Value> {
        let mut line: Value = serde_json::from_str(line)?;
        for key in ["seconds", "rss_peak_bytes"] {
            line.as_object_mut().context("a line is an object")?.remove(key);
        }
        Ok(line)
    };
    let mut state = Vec::new();
    let last = run.join(format!("checkpoint-{STEPS}"));
    if last.exists() {
        let bytes = std::fs::read(last.join("state.safetensors"))?;
        let tensors = safetensors::SafeTensors::deserialize(&bytes)?;
        // The last three counts are bytes held.
        let kept = |name: &str, data: &[u8]| data[..data.len() - if name == "journal.counts" { 24 } else { 0 }].to_vec();
        state = tensors.iter().map(|(name, t)| (name.to_string(), kept(name, t.data()))).collect();
        state.push(("model.safetensors".into(), std::fs::read(last.join("model.safetensors"))?));
        state.sort();
    }
    Ok(Outcome {
        weights: std::fs::read(run.join("model.safetensors"))?,
        values: (1..=trajectory.steps()).map(values).collect(),
        scores: vec![
            serde_json::to_value(&trajectory.dev)?,
            serde_json::to_value(&trajectory.done)?,
            serde_json::to_value(trajectory.untrained)?,
        ],
        log: log.lines().map(timeless).collect::<Result<_>>()?,
        results: counted.map(|key| results[key].clone()).collect(),
        state,
    })
}

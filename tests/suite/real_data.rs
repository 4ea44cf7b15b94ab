//! Checks on real data and real models, where they are at hand: token ids and candidate scores against transformers.

use anyhow::Result;
use serde_json::Value;
use zotune::config::{Common, Inputs};
use zotune::data::task::{Sizes, Task};
use zotune::prompt::evaluate::evaluate;
use zotune::run::LoadedModel;

use crate::support::{numbers, shared, skipped, tokens};

#[test]
fn opt_mini_scores_sst2_and_copa_as_transformers_does() -> Result<()> {
    agrees_with_transformers("opt-mini", "opt-mini")
}

/// ZOTUNE_SMOLLM2 names a folder with SmolLM2-135M-Instruct in Hugging Face layout, f32.
#[test]
fn smollm2_scores_sst2_and_copa_as_transformers_does() -> Result<()> {
    let Ok(folder) = std::env::var("ZOTUNE_SMOLLM2") else {
        skipped("ZOTUNE_SMOLLM2 names no folder with SmolLM2-135M-Instruct");
        return Ok(());
    };
    agrees_with_transformers("smollm2-135m", &folder)
}

/// ZOTUNE_SMOLLM2_GGUF names the GGUF file that the folder's weights were opened from.
#[test]
fn a_gguf_file_scores_sst2_and_copa_as_transformers_does() -> Result<()> {
    let Ok(file) = std::env::var("ZOTUNE_SMOLLM2_GGUF") else {
        skipped("ZOTUNE_SMOLLM2_GGUF names no GGUF file of SmolLM2-135M-Instruct");
        return Ok(());
    };
    agrees_with_transformers("smollm2-135m", &file)
}

fn agrees_with_transformers(name: &str, model: &str) -> Result<()> {
    let Some(reference) = shared("reference/numbers.json") else { return Ok(()) };
    let reference: Value = serde_json::from_slice(&std::fs::read(reference)?)?;
    for (name_of_task, data) in [("sst2", "data/SST-2"), ("copa", "data/COPA")] {
        let Some(data) = shared(data) else { return Ok(()) };
        let expected = &reference["models"][name][name_of_task];
        let common =
            Common { model: Some(model.into()), task: Some(name_of_task.into()), data: Some(data), ..Common::default() };
        let inputs = Inputs::check(common)?;
        let task = Task::of(inputs.task.as_deref(), None)?;
        let mut bench = LoadedModel::open(&inputs)?;
        let examples = bench.encode(&task.eval_split(&task.data(inputs.data.as_deref())?, Sizes::default(), 0)?)?;
        assert_eq!(examples.len() as u64, expected["examples"].as_u64().unwrap());
        let found = evaluate(&bench.model, bench.params.settle()?, &examples, task.loss, 16, |_| Ok(()))?;
        assert!(
            (found.accuracy.unwrap() - expected["accuracy"].as_f64().unwrap()).abs() < 1e-9,
            "{name_of_task}: {:?}",
            found.accuracy
        );
        let rows = expected["first_rows"].as_array().unwrap();
        for (row, (example, scored)) in rows.iter().zip(examples.iter().zip(&found.examples)) {
            for (candidate, expected) in example.candidates.iter().zip(row["tokens"].as_array().unwrap()) {
                assert_eq!(candidate.tokens, tokens(expected), "{name_of_task}: {}", row["prompt"]);
            }
            let lengths: Vec<f64> = example.candidates.iter().map(|c| c.option_len as f64).collect();
            assert_eq!(lengths, numbers(&row["option_len"]), "{name_of_task}: {}", row["prompt"]);
            for (score, expected) in scored.scores.iter().zip(numbers(&row["scores"])) {
                assert!((score - expected).abs() < 1e-4, "{name_of_task}: {score}, not {expected}");
            }
        }
        assert_eq!(rows.len(), 12);
    }
    Ok(())
}

/// MeZO's sizes: SST-2 1,000 / 500 / 872, COPA 300 / 100 / 100, RTE 1,000 / 500 / 277, CB 150 / 100 / 56, WSC 54 / 500 / 104.
#[test]
fn every_task_splits_its_real_data_as_mezo_does() -> Result<()> {
    for (task, data, sizes) in [
        ("sst2", "data/SST-2", (1000, 500, 872)),
        ("copa", "data/COPA", (300, 100, 100)),
        ("rte", "data/RTE", (1000, 500, 277)),
        ("cb", "data/CB", (150, 100, 56)),
        ("wsc", "data/WSC", (54, 500, 104)),
    ] {
        let Some(data) = shared(data) else { return Ok(()) };
        let task = zotune::data::task::Task::open(task)?;
        let found = task.splits(&task.data(Some(&data))?, Default::default(), 0)?;
        assert_eq!((found.train.len(), found.dev.len(), found.eval.len()), sizes, "{}", task.name);
    }
    Ok(())
}

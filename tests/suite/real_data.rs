//! Checks on real data and real models, where they are at hand: token ids and candidate scores against transformers.

use anyhow::Result;
use serde_json::Value;
use zotune::config::{Common, Inputs};
use zotune::eval::evaluate;
use zotune::run::Bench;

use crate::support::{numbers, shared, tokens};

#[test]
fn opt_mini_scores_sst2_and_copa_as_transformers_does() -> Result<()> {
    let Some(reference) = shared("reference/numbers.json") else { return Ok(()) };
    let reference: Value = serde_json::from_slice(&std::fs::read(reference)?)?;
    for (task, data) in [("sst2", "data/SST-2"), ("copa", "data/COPA")] {
        let Some(data) = shared(data) else { return Ok(()) };
        let expected = &reference["models"]["opt-mini"][task];
        let common = Common { task: Some(task.into()), data: Some(data), ..Common::default() };
        let inputs = Inputs::check(common)?;
        let mut bench = Bench::open(&inputs)?;
        let examples = bench.eval_examples(&inputs)?;
        assert_eq!(examples.len() as u64, expected["examples"].as_u64().unwrap());
        let found = evaluate(&bench.model, bench.params.settle()?, &examples, bench.task.loss, 16, |_| ())?;
        assert!((found.accuracy - expected["accuracy"].as_f64().unwrap()).abs() < 1e-9, "{task}: {}", found.accuracy);
        let rows = expected["first_rows"].as_array().unwrap();
        for (row, (example, scored)) in rows.iter().zip(examples.iter().zip(&found.examples)) {
            for (candidate, expected) in example.candidates.iter().zip(row["tokens"].as_array().unwrap()) {
                assert_eq!(candidate.tokens, tokens(expected), "{task}: {}", row["prompt"]);
            }
            let lengths: Vec<f64> = example.candidates.iter().map(|c| c.option_len as f64).collect();
            assert_eq!(lengths, numbers(&row["option_len"]), "{task}: {}", row["prompt"]);
            for (score, expected) in scored.scores.iter().zip(numbers(&row["scores"])) {
                assert!((score - expected).abs() < 1e-4, "{task}: {score}, not {expected}");
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
        let task = zotune::task::Task::open(task)?;
        let found = task.splits(&task.data(Some(&data))?, Default::default(), 0)?;
        assert_eq!((found.train.len(), found.dev.len(), found.eval.len()), sizes, "{}", task.name);
    }
    Ok(())
}

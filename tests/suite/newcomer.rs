//! What a newcomer meets: rows that were trained on, rates that are too high, names from elsewhere, and what is said of each.

#![cfg(unix)]

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zotune::config::{Common, Inputs};
use zotune::data::task::{Sizes, Task};
use zotune::run::LoadedModel;
use zotune::zo::score::wilson;

use crate::support::rows::{json_of, write};
use crate::support::{RUN, done, stderr, workplace};

/// A longer run under a schedule says what it is; the last checkpoint is not the same weights twice.
#[test]
fn a_run_under_a_schedule_that_is_made_longer_says_that_it_is_another() -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let folder = workplace()?;
    let place = folder.path();
    for (schedule, says) in [("cosine", true), ("linear", true), ("constant", false)] {
        done(
            place,
            &format!("train {RUN} --max-steps 8 --eval-steps 4 --lr-scheduler-type {schedule} --output-dir {schedule}"),
        )?;
        let output = done(place, &format!("train --resume {schedule} --max-steps 12"))?;
        let said = stderr(&output);
        assert_eq!(
            said.contains(&format!("resume  {schedule} schedule up to --max-steps: the learning rate was ")),
            says,
            "{said}"
        );
        assert_eq!(said.contains("the result is not that of a run started with --max-steps 12"), says, "{said}");
    }
    // The best step is a checkpoint: its weights are one file, and a run that goes on makes another of it.
    let results: Value = serde_json::from_slice(&std::fs::read(place.join("constant/all_results.json"))?)?;
    let best = results["best_step"].as_u64().context("best")?;
    let inode = |name: String| -> Result<u64> { Ok(place.join(name).metadata()?.ino()) };
    done(place, &format!("train {RUN} --max-steps {best} --eval-steps 4 --lr-scheduler-type constant --output-dir best"))?;
    let checkpoint = format!("best/checkpoint-{best}/model.safetensors");
    assert_eq!(
        inode("best/model.safetensors".into())?,
        inode(checkpoint.clone())?,
        "the same weights are twice on the disk"
    );
    let before = std::fs::read(place.join(&checkpoint))?;
    let output = done(place, &format!("train --resume best --max-steps {} --save-total-limit 9", best + 4))?;
    assert!(stderr(&output).contains(&format!("resume  continuing after step {best}")), "{}", stderr(&output));
    assert!(std::fs::read(place.join(&checkpoint))? == before, "a checkpoint changed with the run's model");
    done(place, &format!("eval --model {} --num-eval 4", checkpoint.trim_end_matches("/model.safetensors")))?;
    Ok(())
}

#[test]
fn a_plan_counts_snapshots_and_the_disk_and_says_what_will_not_fit() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let plan = |words: &str| -> Result<Value> { json_of(&done(place, &format!("plan {RUN} {words} --json"))?) };
    let found = plan("--optimizer mezo-svrg --num-train 160 --max-steps 100 --snapshot-steps 10 --eval-steps 1000")?;
    let seconds = |key: &str| found[key].as_f64().context(key.to_string());
    // 160 rows are 40 batches, each looked at twice; a step looks at one four times.
    let (step, snapshot) = (seconds("seconds_per_step")?, seconds("seconds_per_snapshot")?);
    assert!(snapshot > 4.0 * step, "a snapshot of {snapshot} s beside a step of {step} s");
    let whole = 90.0 * step + 10.0 * snapshot;
    assert!(seconds("seconds")? > 0.99 * whole, "{found}");

    // Weights, once more in each checkpoint, with two moments in f32.
    let plain = plan("--optimizer zo-adamm --save-total-limit 2")?;
    let weights = plain["weights_bytes"].as_u64().context("bytes")?;
    assert_eq!((&plain["kept_bytes"], &plain["checkpoint_bytes"]), (&weights.into(), &(3 * weights).into()));
    assert_eq!((&plain["num_checkpoints"], &plain["fits"]), (&2.into(), &true.into()));
    assert!(plain["disk_bytes"].as_u64() > Some(7 * weights) && plain["disk_peak_bytes"].as_u64() > Some(10 * weights));
    let output = done(place, &format!("train {RUN} --optimizer zo-adamm --save-total-limit 2 --output-dir run --json"))?;
    let size = |name: &str| -> Result<u64> { Ok(place.join("run").join(name).metadata()?.len()) };
    let state = size("checkpoint-60/state.safetensors")?;
    assert!((2 * weights..2 * weights + 20_000).contains(&state), "{state} bytes of state for {weights} of weights");
    assert!(size("model.safetensors")? < weights + 10_000);
    assert!(stderr(&output).contains("plan    ") && stderr(&output).contains(" for 60 steps with evaluation; peak memory "));
    assert!(stderr(&output).contains(" s left"), "nobody says how long it takes where no bar does: {}", stderr(&output));
    assert_eq!(plan("--save-steps 0")?["num_checkpoints"], 0);

    // What stands beside an adapter's weights is larger than they are, and in each checkpoint too.
    std::fs::create_dir(place.join("wordy"))?;
    crate::support::copy_all(&place.join("model"), &place.join("wordy"))?;
    let vocab = std::fs::read_to_string(place.join("model/vocab.json"))?;
    std::fs::write(place.join("wordy/vocab.json"), format!("{}{vocab}", " ".repeat(1 << 20)))?;
    let words = format!("{RUN} --model wordy --lora-r 2 --save-total-limit 2");
    let said = json_of(&done(place, &format!("plan {words} --json"))?)?["disk_bytes"].as_u64().context("bytes")?;
    done(place, &format!("train {words} --output-dir lora"))?;
    let sizes = |folder: &str| -> Result<u64> {
        let entries = std::fs::read_dir(place.join(folder))?;
        let files = entries.map(|entry| entry?.metadata()).filter(|file| file.as_ref().is_ok_and(|file| file.is_file()));
        files.map(|file| Ok(file?.len())).sum()
    };
    let left = sizes("lora")? + sizes("lora/checkpoint-54")? + sizes("lora/checkpoint-60")?;
    assert!(left > 3 << 20 && (left..left + (400 << 10)).contains(&said), "{left} bytes are left, and {said} were said");

    // More than any machine has: the same model with very many wide blocks.
    let config = place.join("model/config.json");
    let mut wide: Value = serde_json::from_slice(&std::fs::read(&config)?)?;
    std::fs::create_dir(place.join("wide"))?;
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::copy(place.join("model").join(name), place.join("wide").join(name))?;
    }
    for (key, value) in
        [("hidden_size", 2048), ("intermediate_size", 8192), ("num_attention_heads", 8), ("num_key_value_heads", 8)]
    {
        wide[key] = value.into();
    }
    wide["num_hidden_layers"] = 8_000.into();
    std::fs::write(place.join("wide/config.json"), wide.to_string())?;
    let words = "plan --model wide --task reviews --num-train 8 --num-dev 2 --num-eval 2 --batch-size 2 --max-steps 2";
    let output = done(place, words)?;
    let said = String::from_utf8(output.stdout.clone())?;
    assert!(
        said.contains("warning  it does not fit into memory: it needs ") && said.contains("and this machine has "),
        "{said}"
    );
    assert!(stderr(&output).contains("for a model of this size this takes a while"), "{}", stderr(&output));
    Ok(())
}

#[test]
fn dev_and_evaluation_are_told_apart_and_results_say_what_they_are_of() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let output = done(place, &format!("train {RUN} --max-steps 6 --output-dir run --json"))?;
    let results = json_of(&output)?;
    for (key, value) in [("output_dir", "run"), ("task", "reviews"), ("model", "model"), ("optimizer", "zo-sgd")] {
        assert_eq!(results[key], value, "{results}");
    }
    assert_eq!((&results["seed"], &results["train_set_seed"]), (&0.into(), &0.into()));
    let log = std::fs::read_to_string(place.join("run/trainer_log.jsonl"))?;
    assert!(!log.contains("eval_"), "{log}");
    let lines: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let best = results["best_step"].as_u64().context("best")?;
    let line = lines.iter().find(|line| line["step"] == best).context("the best step's line")?;
    assert_eq!((&line["dev_loss"], &line["dev_accuracy"]), (&results["dev_loss"], &results["dev_accuracy"]));
    // A log as earlier versions wrote it is gone on with.
    std::fs::write(place.join("run/trainer_log.jsonl"), log.replace("dev_", "eval_"))?;
    done(place, "train --resume run --max-steps 12")?;
    let whole = std::fs::read_to_string(place.join("run/trainer_log.jsonl"))?;
    assert_eq!(whole.lines().filter(|line| line.contains("_loss\"")).count(), 1 + 2, "{whole}");
    let svg = std::fs::read_to_string(place.join("run/loss.svg"))?;
    assert!(svg.matches("<circle").count() >= 3, "{svg}");
    Ok(())
}

/// A completion longer than the model takes is cut on the right, and counted; what was cut before is as it was.
#[test]
fn a_long_completion_is_cut_and_counted() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let words = |n: usize| (0..n).map(|i| format!(" film {i}")).collect::<String>();
    let mut rows: Vec<Value> = (0..40).map(|i| json!({ "prompt": format!("A: {i}"), "completion": words(3) })).collect();
    rows[7] = json!({ "prompt": "A long one:", "completion": words(400) });
    rows[9] = json!({ "prompt": words(400), "completion": words(400) });
    rows[11] = json!({ "prompt": words(400), "completion": words(3) });
    write(&place.join("long.jsonl"), &rows)?;
    let inputs = Inputs::check(Common { max_length: Some(32), ..Common::default() })?;
    let bench = LoadedModel::open(&inputs)?;
    let task = Task::of(None, Some(&place.join("long.jsonl")))?;
    let splits = task.splits(&task.data(None)?, Sizes { num_dev: Some(1), num_eval: Some(1), ..Sizes::default() }, 0)?;
    for row in splits.train.iter().chain(&splits.dev).chain(&splits.eval) {
        let example = &bench.encode(std::slice::from_ref(row))?[0];
        let [candidate] = &example.candidates[..] else { panic!("{example:?}") };
        let (prompt, whole) = (bench.tokenizer.encode(&row.prompt)?, bench.tokenizer.encode(&row.answered[0])?);
        let (before, scored) = candidate.tokens.split_at(candidate.tokens.len() - candidate.option_len);
        match row.index {
            // The whole prompt, and as much of the completion as there is room for; no end, for it does not end there.
            7 => assert_eq!((before, scored), (&prompt[..], &whole[prompt.len()..32])),
            // Half of each: the first token and the prompt's last ones.
            9 => {
                assert_eq!((before[0], &before[1..]), (whole[0], &prompt[prompt.len() - 15..]));
                assert_eq!(scored, &whole[prompt.len()..prompt.len() + 16]);
            }
            11 => assert_eq!(scored, [&whole[prompt.len()..], &[2]].concat()),
            _ => assert_eq!(candidate.tokens, [&whole[..], &[2]].concat()),
        }
        assert_eq!((example.shortened, example.cut), ([7, 9].contains(&row.index), [7, 9, 11].contains(&row.index)));
    }
    let output = done(
        place,
        "train --model model --data long.jsonl --max-length 32 --num-dev 1 --num-eval 1 --batch-size 4 --max-steps 1 --output-dir run",
    )?;
    let trained = splits.train.iter().filter(|row| [7, 9].contains(&row.index)).count();
    let expected =
        format!("train: {trained} of 38 completions do not fit into 32 tokens with their prompts; their end was cut");
    assert!(trained > 0 && stderr(&output).contains(&expected), "{}", stderr(&output));
    Ok(())
}

/// The ends of Wilson's interval are where the share is 1.96 standard errors away: (p - x)^2 n = z^2 x (1 - x).
#[test]
fn an_accuracy_says_what_it_is_worth() -> Result<()> {
    let z = 1.959_963_984_540_054f64;
    for (right, count) in [(8, 10), (145, 200), (1, 7), (640, 872)] {
        let (p, n) = (f64::from(right) / f64::from(count), f64::from(count));
        let (low, high) = wilson(right as usize, count as usize);
        assert!(low < p && p < high);
        for x in [low, high] {
            assert!(((p - x).powi(2) * n - z * z * x * (1.0 - x)).abs() < 1e-12, "{right} of {count}: {x}");
        }
    }
    assert!(wilson(0, 5).0 == 0.0 && wilson(5, 5).1 == 1.0 && wilson(0, 5).1 > 0.4);

    // A model that knows nothing gives every row the same answer.
    let folder = workplace()?;
    let place = folder.path();
    let row = |i: usize| json!({ "text": "the same", "label": if i % 10 < 7 { "good" } else { "bad" } });
    std::fs::create_dir(place.join("data"))?;
    write(&place.join("data/train.jsonl"), &(0..20).map(row).collect::<Vec<_>>())?;
    write(&place.join("data/test.jsonl"), &(0..10).map(row).collect::<Vec<_>>())?;
    let found = json_of(&done(place, "eval --model model --data data --json")?)?;
    let only = found["only_answer"].as_u64().context("one answer")?;
    assert_eq!((&found["majority_share"], &found["majority_answer"]), (&0.7.into(), &1.into()));
    assert_eq!(found["correct"], if only == 1 { 7 } else { 3 });
    assert_eq!(found["accuracy_low"].as_f64(), Some(wilson(if only == 1 { 7 } else { 3 }, 10).0));
    let said = String::from_utf8(done(place, "eval --model model --data data")?.stdout)?;
    let name = ["\"bad\"", "\"good\""][only as usize];
    assert!(
        said.contains("95 % interval (Wilson) ") && said.contains(&format!("the model chose {name} for every row")),
        "{said}"
    );
    assert!(said.contains("always choosing \"good\" gives 70.0 %"), "{said}");
    let run = done(place, "train --model model --data data --batch-size 4 --max-steps 1 --output-dir run")?;
    assert!(String::from_utf8(run.stdout)?.contains("always choosing \"good\" gives 70.0 %"));
    let results: Value = serde_json::from_slice(&std::fs::read(place.join("run/all_results.json"))?)?;
    assert_eq!(results["eval_answers"]["majority_share"], 0.7);
    Ok(())
}

/// MeZO's published flags ask for 1,000 evaluation rows of SST-2, which has 872.
#[test]
fn more_evaluation_rows_than_there_are_are_all_of_them() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    std::fs::create_dir(place.join("data"))?;
    for (name, rows) in [("train", 60), ("dev", 23)] {
        let rows: String = (0..rows).map(|i| format!("a film of number {i}\t{}\n", i % 2)).collect();
        std::fs::write(place.join(format!("data/{name}.tsv")), format!("sentence\tlabel\n{rows}"))?;
    }
    let published = "--task_name sst2 --data data --num_train 30 --num_dev 20 --num_eval 1000 --train_set_seed 0 --learning_rate 1e-6 \
                     --zo_eps 1e-3 --per_device_train_batch_size 16 --lr_scheduler_type constant --max_steps 1 --eval_steps 1";
    let output = done(place, &format!("train --model model {published} --output_dir run --json"))?;
    assert!(
        stderr(&output).contains("--num-eval 1000: data/dev.tsv has only 23 rows; all of them are used"),
        "{}",
        stderr(&output)
    );
    assert_eq!(json_of(&done(place, "eval --model run --json")?)?["examples"], 23);
    Ok(())
}

//! Rows that a model was trained on: `eval` knows them, and says what has changed.

#![cfg(unix)]

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zotune::data::task::{Repeats, Sizes, Task};

use crate::support::rows::{fails, json_of, labelled, write};
use crate::support::{done, stderr, workplace, zotune};

/// The run's own rows and precision are scored where nothing else is said; what is otherwise is said, and so is what it has seen.
#[test]
fn a_run_is_scored_on_its_own_rows_and_what_it_has_seen_is_said() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    write(&place.join("mine.jsonl"), &labelled(60))?;
    write(&place.join("other.jsonl"), &labelled(90)[50..])?;
    let small = "--batch-size 8 --max-steps 3 --learning-rate 1e-3 --save-steps 3";
    let output =
        done(place, &format!("train --model model --data mine.jsonl --dtype bf16 --train-set-seed 3 {small} --json"))?;
    let results = json_of(&output)?;
    let run = results["output_dir"].as_str().context("the folder")?.to_string();
    assert_eq!(run, "runs/mine-model-zo-sgd-0");
    let scored = |words: &str| -> Result<(Value, String)> {
        let output = done(place, &format!("eval {words} --json"))?;
        Ok((json_of(&output)?, stderr(&output)))
    };
    let (own, said) = scored(&format!("--model {run}"))?;
    assert_eq!((&own["loss"], &own["accuracy"]), (&results["eval_loss"], &results["eval_accuracy"]));
    assert_eq!((&own["rows_trained_on"], &own["rows_of_dev"], &own["examples"]), (&0.into(), &0.into(), &6.into()));
    assert!(
        said.contains("same task, data, split and dtype as in the run") && !said.contains("evaluation rows were in"),
        "{said}"
    );
    // So is a checkpoint of it, and from another folder.
    let (checkpoint, _) = scored(&format!("--model {run}/checkpoint-3"))?;
    assert_eq!((&checkpoint["examples"], checkpoint["run"].as_str()), (&6.into(), Some(run.as_str())));
    std::fs::create_dir(place.join("elsewhere"))?;
    let there = zotune(&place.join("elsewhere"), &format!("eval --model ../{run} --json")).output()?;
    assert_eq!(json_of(&there)?["loss"], own["loss"], "{}", stderr(&there));

    // The whole file: the run's splits of 48, 6 and 6 rows.
    let (all, said) = scored(&format!("--model {run} --num-eval 60"))?;
    assert_eq!((&all["rows_trained_on"], &all["rows_of_dev"]), (&48.into(), &6.into()), "{said}");
    assert!(said.contains("differs from the run: --num-eval 60 (run: default)"), "{said}");
    assert!(
        said.contains("48 of 60 evaluation rows were in the training data of runs/mine-model-zo-sgd-0, 6 in its dev data;"),
        "{said}"
    );
    // Another seed, counted by hand.
    let (seed, said) = scored(&format!("--model {run} --train-set-seed 0 --data mine.jsonl"))?;
    let task = Task::of(None, Some(&place.join("mine.jsonl")))?;
    let files = task.data(None)?;
    let (trained, dev) = task.train_and_dev(&files, Sizes::default(), 3)?;
    let rows = task.eval_split(&files, Sizes::default(), 0)?;
    let among =
        |of: &[zotune::data::task::PromptedRow]| rows.iter().filter(|row| of.iter().any(|o| o.index == row.index)).count();
    assert_eq!((&seed["rows_trained_on"], &seed["rows_of_dev"]), (&among(&trained).into(), &among(&dev).into()), "{said}");
    assert!(among(&trained) > 0 && said.contains("--train-set-seed 0 (run: 3)"), "{said}");
    // Another file, ten of whose forty rows the run has; and other precision.
    let (other, said) = scored(&format!("--model {run} --data other.jsonl --num-eval 40 --dtype f32"))?;
    let common = other["rows_trained_on"].as_u64().context("n")? + other["rows_of_dev"].as_u64().context("n")?;
    let eval: Vec<usize> = task.eval_split(&files, Sizes::default(), 3)?.iter().map(|row| row.index).collect();
    assert_eq!(common as usize, (50..60).filter(|i| !eval.contains(i)).count(), "{said}");
    assert!(said.contains("data other.jsonl (run: mine.jsonl)") && said.contains("--dtype f32 (run: bf16)"), "{said}");
    // What is trained further has seen what it was trained on before; a trajectory knows what it is of.
    let further = "--batch-size 8 --max-steps 1 --output-dir further";
    let output = done(place, &format!("train --model {run} --data mine.jsonl {further}"))?;
    let expected = format!("{} of 6 evaluation rows were in the training data of runs/mine-model-zo-sgd-0", among(&trained));
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    let plain = done(place, &format!("train --model model --data mine.jsonl {further} --overwrite-output-dir"))?;
    assert!(!stderr(&plain).contains("evaluation rows were in"), "{}", stderr(&plain));
    done(place, &format!("export {run} --trajectory mine.zot"))?;
    // (Where its author's rows lie it does not.)
    assert!(fails(place, "eval --trajectory mine.zot", 2)?.contains("mine.zot does not record its training data;"));
    let (walked, said) = scored("--trajectory mine.zot --data mine.jsonl --train-set-seed 3")?;
    assert_eq!((&walked["loss"], &walked["rows_trained_on"]), (&own["loss"], &0.into()));
    assert!(said.contains("same evaluation rows and dtype as in the run"), "{said}");
    let (others, said) = scored("--trajectory mine.zot --data other.jsonl")?;
    assert_eq!((&others["rows_trained_on"], &others["other_than_the_run"][0]), (&Value::Null, &"evaluation rows".into()));
    assert!(said.contains("differs from the run: evaluation rows\n"), "{said}");
    assert_eq!(scored(&format!("--trajectory {run}"))?.0["loss"], own["loss"]);
    // An adapter's run knows its model too.
    let lora = done(place, &format!("train --model model --data mine.jsonl --lora-r 2 {small} --output-dir lora --json"))?;
    assert_eq!(scored("--adapter lora")?.0["loss"], json_of(&lora)?["eval_loss"]);
    // Data that are gone are named.
    std::fs::rename(place.join("mine.jsonl"), place.join("gone.jsonl"))?;
    assert!(fails(place, &format!("eval --model {run}"), 2)?.contains("--data mine.jsonl: there is no such file"));
    let (_, said) = scored(&format!("--model {run} --data gone.jsonl"))?;
    assert!(said.contains("cannot tell whether the run was trained on these rows"), "{said}");
    Ok(())
}

/// A data file that was written anew since the run is not the run's, whatever it is called; what was not changed is told from what was.
#[test]
fn rows_that_have_changed_since_the_run_are_not_its_own() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let rows = labelled(60);
    let file = place.join("mine.jsonl");
    write(&file, &rows)?;
    done(place, "train --model model --data mine.jsonl --batch-size 8 --max-steps 2 --output-dir run")?;
    let scored = || -> Result<(Value, String)> {
        let output = done(place, "eval --model run --json")?;
        Ok((json_of(&output)?, stderr(&output)))
    };
    let changed = "evaluation rows (the data or the task file has changed)";
    // The same rows in another order, of which the run was trained on most.
    write(&file, &rows.iter().rev().cloned().collect::<Vec<_>>())?;
    let (found, said) = scored()?;
    assert_eq!((&found["rows_trained_on"], &found["other_than_the_run"]), (&Value::Null, &json!([changed])), "{said}");
    assert!(said.contains(&format!("run: differs from the run: {changed}")) && !said.contains("same task"), "{said}");
    assert!(said.contains("cannot tell whether the run was trained on these rows: the rows that it was trained on"));
    let further = "train --model run --data mine.jsonl --batch-size 8 --max-steps 1 --output-dir further";
    assert!(
        stderr(&done(place, further)?)
            .contains("cannot tell whether run was trained on the evaluation rows: the rows that it was trained on")
    );
    // One evaluation row alone: the others are counted.
    let task = Task::of(None, Some(&file))?;
    write(&file, &rows)?;
    let row = task.eval_split(&task.data(None)?, Sizes::default(), 0)?[0].index;
    let mut edited = rows.clone();
    edited[row]["text"] = "another film".into();
    write(&file, &edited)?;
    let (found, said) = scored()?;
    assert_eq!((&found["rows_trained_on"], &found["other_than_the_run"]), (&0.into(), &json!([changed])), "{said}");
    // As they were.
    write(&file, &rows)?;
    let (found, said) = scored()?;
    assert_eq!((&found["rows_trained_on"], &found["other_than_the_run"]), (&0.into(), &json!([])), "{said}");
    assert!(said.contains("same task, data, split and dtype as in the run"), "{said}");
    // An older log has no digests of rows, and reads as before.
    crate::support::edit(&place.join("run"), "run.json", |run| {
        run["data"].as_object_mut().unwrap().retain(|key, _| !key.ends_with("_rows"));
    })?;
    write(&file, &edited)?;
    assert_eq!(scored()?.0["rows_trained_on"], 0);
    Ok(())
}

/// A file that was handed on does not hold where its rows lay, and has their digest: the same rows are the run's.
#[test]
fn rows_of_a_trajectory_that_was_handed_on_are_known_by_their_digest() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    crate::support::copy_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/reviews"), &place.join("reviews"))?;
    let words = "--model model --task reviews --data reviews --num-eval 20";
    done(place, &format!("train {words} --num-dev 20 --max-steps 2 --output-dir run"))?;
    done(place, "export run --trajectory run.zot")?;
    let said = stderr(&done(place, &format!("eval {words} --trajectory run.zot"))?);
    assert!(said.contains("run     run.zot: same evaluation rows and dtype as in the run"), "{said}");
    let said = stderr(&done(place, &format!("eval {words} --trajectory run.zot --num-eval 21"))?);
    assert!(said.contains("run     run.zot: differs from the run: evaluation rows\n"), "{said}");
    Ok(())
}

/// Rows that stand in two splits are counted at the start, and nobody calls them unseen.
#[test]
fn rows_in_two_splits_are_said() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let rows = labelled(40);
    write(&place.join("mine.jsonl"), &[&rows[..], &rows[..]].concat())?;
    let task = Task::of(None, Some(&place.join("mine.jsonl")))?;
    let splits = task.splits(&task.data(None)?, Sizes::default(), 0)?;
    // Of two rows of one text one is n, the other n + 40.
    let text = |rows: &[zotune::data::task::PromptedRow]| -> Vec<usize> { rows.iter().map(|row| row.index % 40).collect() };
    let (train, dev, eval) = (text(&splits.train), text(&splits.dev), text(&splits.eval));
    let both = |a: &[usize], b: &[usize]| a.iter().filter(|row| b.contains(row)).count();
    let found = Repeats::of(&splits.train, &splits.dev, &splits.eval);
    let in_dev = eval.iter().filter(|row| dev.contains(row) && !train.contains(row)).count();
    assert_eq!(found, Repeats { dev_in_train: both(&dev, &train), eval_in_train: both(&eval, &train), eval_in_dev: in_dev });
    assert!(found.eval_in_train > 0 && found.dev_in_train > 0);
    let output = done(place, "train --model model --data mine.jsonl --batch-size 8 --max-steps 1 --output-dir run")?;
    let said = format!(
        "duplicate rows: {} of 8 dev rows are also in train, {} of 8 eval rows are also in train",
        found.dev_in_train, found.eval_in_train
    );
    assert!(stderr(&output).contains(&said), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout)?;
    let repeated = found.eval_in_train + found.eval_in_dev;
    let results: Value = serde_json::from_slice(&std::fs::read(place.join("run/all_results.json"))?)?;
    assert_eq!(results["repeated_rows"]["eval_in_train"], found.eval_in_train);
    assert!(printed.contains(&format!("on 8 examples, {repeated} of which are also in train or dev: ")), "{printed}");
    let plain = done(place, "eval --model model --data mine.jsonl")?;
    let said = format!("duplicate rows: {repeated} of 8 are also in the training or dev split of these data");
    assert!(stderr(&plain).contains(&said), "{}", stderr(&plain));
    // Rows of one text and different labels are different rows.
    let opposite =
        |row: &Value| json!({ "text": row["text"], "label": if row["label"] == "good" { "bad" } else { "good" } });
    write(&place.join("mine.jsonl"), &[&rows[..], &rows.iter().map(opposite).collect::<Vec<_>>()].concat())?;
    let output = done(place, "train --model model --data mine.jsonl --batch-size 8 --max-steps 1 --output-dir other")?;
    assert!(!stderr(&output).contains("duplicate rows"), "{}", stderr(&output));
    Ok(())
}

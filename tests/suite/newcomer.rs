//! What a newcomer meets: rows that were trained on, rates that are too high, names from elsewhere, and what is said of each.

#![cfg(unix)]

use std::path::Path;
use std::process::Output;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zotune::config::{Common, Inputs};
use zotune::data::task::{Repeats, Sizes, Task};
use zotune::run::LoadedModel;
use zotune::run::trajectory::Trajectory;
use zotune::zo::score::wilson;

use crate::survival::{RUN, done, stderr, workplace, zotune};

const LABELS: [&str; 2] = ["good", "bad"];

fn write(path: &Path, rows: &[Value]) -> Result<()> {
    Ok(std::fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>())?)
}

fn labelled(n: usize) -> Vec<Value> {
    (0..n).map(|i| json!({ "text": format!("a film of number {i}"), "label": LABELS[i % 2] })).collect()
}

fn fails(place: &Path, words: &str, code: i32) -> Result<String> {
    let output = zotune(place, words).output()?;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{words}: {said}");
    assert!(!said.contains("panicked"), "{words}: {said}");
    Ok(said)
}

fn json_of(output: &Output) -> Result<Value> {
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn values(run: &Path) -> Result<Vec<Vec<u32>>> {
    let trajectory = Trajectory::open(run)?;
    let bits = |step| trajectory.values(step).into_iter().flatten().map(|v: &f32| v.to_bits()).collect();
    Ok((1..=trajectory.steps()).map(bits).collect())
}

/// It stops at the same step whether it is resumed or not, and goes on where it is told to, along the same steps.
#[test]
fn a_run_that_has_diverged_stops_and_says_so() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    for method in ["zo-sgd", "sgd"] {
        let words = format!(
            "train {RUN} --model opt-mini --num-dev 20 --optimizer {method} --learning-rate 1 --max-steps 40 --eval-steps 5"
        );
        let said = fails(place, &format!("{words} --output-dir stops"), 4)?;
        let steps = values(&place.join("stops"))?;
        assert!((10..40).contains(&steps.len()), "{method}: {} steps, {said}", steps.len());
        for expected in [
            &format!("error: the run diverged at step {}: the training loss was above", steps.len()),
            &format!("in 10 of the last {} steps", steps.len().min(20)),
            "stops holds the weights from before training",
            "try --learning-rate 1e-1 (a tenth); to continue anyway: --stop-if-diverged=false",
        ] {
            assert!(said.contains(expected), "{method}: {said} does not say {expected}");
        }
        assert!(!place.join("stops/all_results.json").exists());
        let svg = std::fs::read_to_string(place.join("stops/loss.svg"))?;
        assert!(svg.contains("at the top: losses of "), "a curve that left the picture says so: {svg}");
        // Resumed it ends where it ended, and so does a run that was cut before.
        assert_eq!(fails(place, "train --resume stops", 4)?.lines().last(), said.lines().last());
        assert!(values(&place.join("stops"))? == steps);
        done(place, &format!("{words} --max-steps 6 --output-dir cut"))?;
        fails(place, "train --resume cut --max-steps 40", 4)?;
        assert!(values(&place.join("cut"))? == steps, "{method}: a run that was cut");

        done(place, &format!("{words} --stop-if-diverged=false --output-dir goes"))?;
        let all = values(&place.join("goes"))?;
        assert!(all.len() == 40 && all[..steps.len()] == steps, "{method}: the rule changes no step");
        done(place, "train --resume stops --stop-if-diverged=false")?;
        assert!(values(&place.join("stops"))? == all, "{method}: resumed to go on");
        for run in ["stops", "cut", "goes"] {
            std::fs::remove_dir_all(place.join(run))?;
        }
    }
    Ok(())
}

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
    assert!(said.contains("its task, data, split and precision") && !said.contains("word for word"), "{said}");
    // So is a checkpoint of it, and from another folder.
    let (checkpoint, _) = scored(&format!("--model {run}/checkpoint-3"))?;
    assert_eq!((&checkpoint["examples"], checkpoint["run"].as_str()), (&6.into(), Some(run.as_str())));
    std::fs::create_dir(place.join("elsewhere"))?;
    let there = zotune(&place.join("elsewhere"), &format!("eval --model ../{run} --json")).output()?;
    assert_eq!(json_of(&there)?["loss"], own["loss"], "{}", stderr(&there));

    // The whole file: the run's splits of 48, 6 and 6 rows.
    let (all, said) = scored(&format!("--model {run} --num-eval 60"))?;
    assert_eq!((&all["rows_trained_on"], &all["rows_of_dev"]), (&48.into(), &6.into()), "{said}");
    assert!(said.contains("other than the run's: --num-eval 60 (the run's: the default)"), "{said}");
    assert!(said.contains("of the 60 evaluation rows 48 stand word for word among the rows that runs/mine"), "{said}");
    // Another seed, counted by hand.
    let (seed, said) = scored(&format!("--model {run} --train-set-seed 0 --data mine.jsonl"))?;
    let task = Task::of(None, Some(&place.join("mine.jsonl")))?;
    let files = task.data(None)?;
    let (trained, dev) = task.train_and_dev(&files, Sizes::default(), 3)?;
    let rows = task.eval_split(&files, Sizes::default(), 0)?;
    let among =
        |of: &[zotune::data::task::PromptedRow]| rows.iter().filter(|row| of.iter().any(|o| o.index == row.index)).count();
    assert_eq!((&seed["rows_trained_on"], &seed["rows_of_dev"]), (&among(&trained).into(), &among(&dev).into()), "{said}");
    assert!(among(&trained) > 0 && said.contains("--train-set-seed 0 (the run's: 3)"), "{said}");
    // Another file, ten of whose forty rows the run has; and other precision.
    let (other, said) = scored(&format!("--model {run} --data other.jsonl --num-eval 40 --dtype f32"))?;
    let common = other["rows_trained_on"].as_u64().context("n")? + other["rows_of_dev"].as_u64().context("n")?;
    let eval: Vec<usize> = task.eval_split(&files, Sizes::default(), 3)?.iter().map(|row| row.index).collect();
    assert_eq!(common as usize, (50..60).filter(|i| !eval.contains(i)).count(), "{said}");
    assert!(
        said.contains("rows of other.jsonl (the run's: mine.jsonl)") && said.contains("--dtype f32 (the run's: bf16)"),
        "{said}"
    );
    // What is trained further has seen what it was trained on before; a trajectory knows what it is of.
    let further = "--batch-size 8 --max-steps 1 --output-dir further";
    let output = done(place, &format!("train --model {run} --data mine.jsonl {further}"))?;
    let expected =
        format!("{} stand word for word among the rows that runs/mine-model-zo-sgd-0 was trained on", among(&trained));
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
    let plain = done(place, &format!("train --model model --data mine.jsonl {further} --overwrite-output-dir"))?;
    assert!(!stderr(&plain).contains("word for word"), "{}", stderr(&plain));
    done(place, &format!("export {run} --trajectory mine.zot"))?;
    // (Where its author's rows lie it does not.)
    assert!(fails(place, "eval --trajectory mine.zot", 2)?.contains("mine.zot does not record its training data;"));
    let (walked, said) = scored("--trajectory mine.zot --data mine.jsonl --train-set-seed 3")?;
    assert_eq!((&walked["loss"], &walked["rows_trained_on"]), (&own["loss"], &0.into()));
    assert!(said.contains("its evaluation rows and precision"), "{said}");
    let (others, said) = scored("--trajectory mine.zot --data other.jsonl")?;
    assert_eq!(
        (&others["rows_trained_on"], &others["other_than_the_run"][0]),
        (&Value::Null, &"the evaluation rows".into())
    );
    assert!(said.contains("other than the run's: the evaluation rows"), "{said}");
    assert_eq!(scored(&format!("--trajectory {run}"))?.0["loss"], own["loss"]);
    // An adapter's run knows its model too.
    let lora = done(place, &format!("train --model model --data mine.jsonl --lora-r 2 {small} --output-dir lora --json"))?;
    assert_eq!(scored("--adapter lora")?.0["loss"], json_of(&lora)?["eval_loss"]);
    // Data that are gone are named.
    std::fs::rename(place.join("mine.jsonl"), place.join("gone.jsonl"))?;
    assert!(fails(place, &format!("eval --model {run}"), 2)?.contains("--data mine.jsonl: there is no such file"));
    let (_, said) = scored(&format!("--model {run} --data gone.jsonl"))?;
    assert!(said.contains("whether the run was trained on these rows cannot be told"), "{said}");
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
    let changed = "the evaluation rows: the data or the task's file has changed since";
    // The same rows in another order, of which the run was trained on most.
    write(&file, &rows.iter().rev().cloned().collect::<Vec<_>>())?;
    let (found, said) = scored()?;
    assert_eq!((&found["rows_trained_on"], &found["other_than_the_run"]), (&Value::Null, &json!([changed])), "{said}");
    assert!(said.contains(&format!("run: other than the run's: {changed}")) && !said.contains("its task"), "{said}");
    assert!(said.contains("whether the run was trained on these rows cannot be told: the rows that it was trained on"));
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
    assert!(said.contains("its task, data, split and precision"), "{said}");
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
    crate::run_folder::copy_all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks/reviews"), &place.join("reviews"))?;
    let words = "--model model --task reviews --data reviews --num-eval 20";
    done(place, &format!("train {words} --num-dev 20 --max-steps 2 --output-dir run"))?;
    done(place, "export run --trajectory run.zot")?;
    let said = stderr(&done(place, &format!("eval {words} --trajectory run.zot"))?);
    assert!(said.contains("run     run.zot: its evaluation rows and precision"), "{said}");
    let said = stderr(&done(place, &format!("eval {words} --trajectory run.zot --num-eval 21"))?);
    assert!(said.contains("run     run.zot: other than the run's: the evaluation rows"), "{said}");
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
        "{} of the 8 dev rows in train, {} of the 8 evaluation rows in train",
        found.dev_in_train, found.eval_in_train
    );
    assert!(stderr(&output).contains(&said), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout)?;
    let repeated = found.eval_in_train + found.eval_in_dev;
    let results: Value = serde_json::from_slice(&std::fs::read(place.join("run/all_results.json"))?)?;
    assert_eq!(results["repeated_rows"]["eval_in_train"], found.eval_in_train);
    assert!(
        printed.contains(&format!("on 8 examples ({repeated} of them also in train or dev, word for word)")),
        "{printed}"
    );
    let plain = done(place, "eval --model model --data mine.jsonl")?;
    let said = format!("{repeated} of the 8 rows stand word for word in its training or dev split too");
    assert!(stderr(&plain).contains(&said), "{}", stderr(&plain));
    // Rows of one text and different labels are different rows.
    let opposite =
        |row: &Value| json!({ "text": row["text"], "label": if row["label"] == "good" { "bad" } else { "good" } });
    write(&place.join("mine.jsonl"), &[&rows[..], &rows.iter().map(opposite).collect::<Vec<_>>()].concat())?;
    let output = done(place, "train --model model --data mine.jsonl --batch-size 8 --max-steps 1 --output-dir other")?;
    assert!(!stderr(&output).contains("word for word"), "{}", stderr(&output));
    Ok(())
}

/// What a command says on a terminal.
fn on_a_terminal(place: &Path, words: &str) -> Result<String> {
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: openpty fills two numbers; each is owned once.
    let (ours, theirs) = unsafe {
        anyhow::ensure!(
            libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null_mut(), &raw const size as *mut _)
                == 0,
            "no terminal"
        );
        (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    };
    let reader = std::thread::spawn(move || {
        let (mut said, mut some) = (Vec::new(), [0; 4096]);
        let mut terminal = std::fs::File::from(ours);
        // Where nobody has the other end any more, reading fails.
        while let Ok(n @ 1..) = terminal.read(&mut some) {
            said.extend_from_slice(&some[..n]);
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    let status = {
        let mut command = zotune(place, words);
        command.env("TERM", "xterm").stdout(std::process::Stdio::null()).stderr(theirs);
        command.status()?
    };
    let said = reader.join().unwrap();
    anyhow::ensure!(status.success(), "{words}: {said}");
    Ok(said)
}

/// The bar says how long a run will take when it knows.
#[test]
fn a_bar_that_knows_nothing_yet_says_nothing() -> Result<()> {
    let folder = workplace()?;
    let said = on_a_terminal(
        folder.path(),
        &format!("train {RUN} --learning-rate 1e-5 --max-steps 3000 --eval-steps 1500 --save-steps 0 --output-dir run"),
    )?;
    assert!(said.contains("scoring the untrained model"), "{said}");
    assert!(!said.contains("00:00:00") && said.contains("s left"), "{said}");
    Ok(())
}

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
            said.contains(&format!("the learning rate follows a {schedule} schedule, which ends at the last step")),
            says,
            "{said}"
        );
        assert_eq!(
            said.contains("A run started with --max-steps 12 would have had other rates before this step"),
            says,
            "{said}"
        );
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
    assert!(stderr(&output).contains(&format!("resume  after step {best}")), "{}", stderr(&output));
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
    assert!(stderr(&output).contains("plan    ") && stderr(&output).contains(" for 60 steps and their evaluations; peak "));
    assert!(stderr(&output).contains(" s left"), "nobody says how long it takes where no bar does: {}", stderr(&output));
    assert_eq!(plan("--save-steps 0")?["num_checkpoints"], 0);

    // What stands beside an adapter's weights is larger than they are, and in each checkpoint too.
    std::fs::create_dir(place.join("wordy"))?;
    crate::run_folder::copy_all(&place.join("model"), &place.join("wordy"))?;
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
    assert!(said.contains("but      it will not fit into memory: ") && said.contains("and this machine has "), "{said}");
    assert!(stderr(&output).contains("of a model of this size that takes a while"), "{}", stderr(&output));
    Ok(())
}

#[test]
fn names_from_elsewhere_and_mistyped_places_are_met_with_what_is_meant() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for (flag, meant) in [
        ("--steps 5", "there is no --steps: did you mean --max-steps?"),
        ("--iters=5", "there is no --iters: did you mean --max-steps?"),
        (
            "--epochs 3",
            "there is no --epochs: did you mean --max-steps? An epoch is the training rows divided by --batch-size",
        ),
        ("--num_train_epochs 3", "there is no --num-train-epochs: did you mean --max-steps? An epoch"),
        ("--bs 4", "there is no --bs: did you mean --batch-size?"),
        ("--bf16", "there is no --bf16: did you mean --dtype bf16?"),
    ] {
        for verb in ["train", "plan"] {
            let said = fails(place, &format!("{verb} {flag}"), 2)?;
            assert!(said.starts_with("error: ") && said.contains(meant), "{said} does not say {meant}");
        }
    }
    assert!(fails(place, "eval --steps 3", 2)?.contains("unexpected argument '--steps'"));
    // What others call it, taken.
    done(place, &format!("train {RUN} --lr 1e-3 --max-steps 1 --output-dir short"))?;
    std::fs::write(place.join("a.toml"), "epochs = 3\n")?;
    assert!(
        fails(place, "train --config a.toml", 2)?
            .contains("a.toml, line 1: there is no option \"epochs\": did you mean --max-steps? An epoch")
    );

    // A folder that was mistyped, beside those that are there; nobody is reachable where the hub is.
    std::fs::create_dir_all(place.join("out/mine"))?;
    let mut mistyped = zotune(place, "eval --model out/nosuch --task reviews");
    let output = mistyped.env("HF_HUB_OFFLINE", "1").env("HF_HOME", place.join("cache")).output()?;
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("--model out/nosuch: there is no such folder in out, which has mine;"),
        "{}",
        stderr(&output)
    );

    let mut mistyped = zotune(place, "eval --model opt-mini --adapter out/nosuch --task reviews");
    let output = mistyped.env("HF_HUB_OFFLINE", "1").env("HF_HOME", place.join("cache")).output()?;
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("--adapter out/nosuch: there is no such folder in out, which has mine;"),
        "{}",
        stderr(&output)
    );

    // Three rows, of which one is left.
    write(&place.join("three.jsonl"), &labelled(3))?;
    let said = fails(place, "train --model model --data three.jsonl", 2)?;
    let expected = "--batch-size 16 (the default): there is only 1 training row (1 dev, 1 eval); use --batch-size 1 or less";
    assert!(said.contains(expected), "{said}");

    // Mistakes in data are mistakes, whichever verb meets them.
    std::fs::write(place.join("bad.jsonl"), "{\"text\": \"a\", \"label\": 1}\nnonsense\n")?;
    for verb in ["train", "plan", "eval"] {
        assert!(
            fails(place, &format!("{verb} --model model --data bad.jsonl"), 2)?
                .contains("bad.jsonl, line 2: not a JSON object")
        );
    }
    Ok(())
}

/// Another model is called another model, though its tokenizer makes other examples.
#[test]
fn a_run_goes_on_from_another_folder_and_not_with_another_model() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    write(&place.join("mine.jsonl"), &labelled(40))?;
    let train = "train --model model --data mine.jsonl --dtype bf16 --batch-size 4 --learning-rate 1e-3 --eval-steps 2";
    done(place, &format!("{train} --max-steps 4 --output-dir run"))?;
    done(place, &format!("{train} --max-steps 8 --output-dir whole"))?;
    let said = fails(place, "train --resume run --max-steps 8 --model opt-mini", 6)?;
    assert!(said.contains("base model") && !said.contains("--data"), "{said}");
    // What was named relatively is found from where the run stands, by whoever asks.
    let elsewhere = place.join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    let there = |words: &str| done(&elsewhere, words);
    there("train --resume ../run --max-steps 6")?;
    done(place, "train --resume run --max-steps 8")?;
    assert!(std::fs::read(place.join("run/model.safetensors"))? == std::fs::read(place.join("whole/model.safetensors"))?);
    let replayed = String::from_utf8(there("replay ../run --output-dir replayed --to-step 3")?.stdout)?;
    let next = replayed.lines().find_map(|line| line.strip_prefix("next     zotune ")).context("next")?;
    assert!(next.contains("--dtype bf16") && next.contains("mine.jsonl"), "{replayed}");
    there(next)?;
    Ok(())
}

/// One name means one split, in every file.
/// A mistake is named where it stands: in the file and its line, not as a flag that nobody typed; and as the flag that was.
#[test]
fn mistakes_are_named_where_they_stand() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for (text, flags, expected) in [
        ("# rates\nlearning_rate = 0", "", "m.toml, line 2: learning_rate 0: it must be"),
        ("lr = 0", "", "m.toml, line 1: lr 0: it must be"),
        ("lr = 0", "--learning-rate 0", "--learning-rate 0: it must be"),
        (
            "max-steps = 2\nbatch_size = 301",
            "",
            "m.toml, line 2: batch_size 301: there are only 300 training rows (100 dev, 200 eval); use batch_size = 300 or less",
        ),
        ("lora_alpha = 2", "", "m.toml, line 1: lora_alpha needs lora_r"),
        (
            "max_steps = 2\noptimizer = 'mezo'",
            "",
            "m.toml, line 2: optimizer: there is no method \"mezo\": MeZO's method is zo-sgd",
        ),
        ("max_steps = 2\n[train]\nlr = 1", "", "m.toml, line 2: [train] begins a section, but options are set outside"),
        ("learning_rate = 1\nmax_steps = 2\nlearning-rate = 2", "", "m.toml, line 3: learning_rate is set twice"),
    ] {
        std::fs::write(place.join("m.toml"), text)?;
        for verb in ["train", "plan"] {
            let said = fails(place, &format!("{verb} --model model --task reviews --config m.toml {flags}"), 2)?;
            assert!(said.starts_with(&format!("error: {expected}")), "{said} does not say {expected}");
        }
    }
    for flag in ["--num-directions", "--seed", "--warmup-steps", "--bos-id", "--fsync", "--train-set-seed", "--max-steps"] {
        let said = fails(place, &format!("train --model model {flag} -1"), 2)?;
        assert!(said.contains(&format!("{flag} -1: it must be a whole number")), "{said}");
    }
    let said = fails(place, "train --model model --learning-rate -1", 2)?;
    assert!(said.contains("--learning-rate -1"), "{said}");
    let said = fails(place, "train --model model --prefix-tuning --num-prefix 5000", 2)?;
    assert!(said.contains("--num-prefix 5000: the model supports at most 256 tokens, so there is no room"), "{said}");
    let said = fails(place, "export model --merge --output-dir merged", 2)?;
    assert!(said.contains("model: there is no adapter in it to merge"), "{said}");
    Ok(())
}

/// A run that has come to nothing says what it leaves and which rate to try; what was made of its log says why it is short.
#[test]
fn a_run_that_came_to_nothing_says_what_is_left() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for (flags, begins) in [
        ("--learning-rate 1e30 --eval-steps 40", "error: the loss is not finite at step 2 (direction seed "),
        ("--learning-rate 1e30 --eval-steps 1", "error: after step 1 (direction seed "),
        (
            "--learning-rate 1e4 --max-steps 40 --eval-steps 40",
            "error: the run diverged at step 11: the training loss was above",
        ),
    ] {
        let said = fails(place, &format!("train {RUN} --num-dev 20 {flags} --output-dir run"), 4)?;
        assert!(said.contains(begins), "{said} does not say {begins}");
        for expected in ["run holds the weights from before training", "try --learning-rate 1e"] {
            assert!(said.contains(expected), "{flags}: {said} does not say {expected}");
        }
        assert_eq!(said.contains("in 10 of the last 11 steps"), begins.contains("diverged"), "{said}");
        assert!(place.join("run/loss.svg").is_file(), "{flags}");
        if begins.contains("diverged") {
            let said = stderr(&done(place, "export run --trajectory run.zot")?);
            assert!(
                said.contains("the log ends at step 11 of 40 (the run was stopped, has diverged or is still running"),
                "{said}"
            );
        }
        std::fs::remove_dir_all(place.join("run"))?;
    }
    // A replay that cannot be says so before anything is read.
    done(place, &format!("train {RUN} --max-steps 4 --optimizer adamw --lora-r 2 --output-dir lora"))?;
    let said = fails(place, "replay lora --output-dir again", 2)?;
    assert!(said.contains("its best weights are in adapter_model.safetensors") && !said.contains("model   model"), "{said}");
    Ok(())
}

/// What is said to be typed next works where it is said, whichever folder the run was begun in.
#[test]
fn what_is_said_to_be_typed_works_from_here() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    write(&place.join("mine.jsonl"), &labelled(40))?;
    let (runs, here) = (place.join("runs"), place.join("deep/down"));
    std::fs::create_dir(&runs)?;
    std::fs::create_dir_all(&here)?;
    let train = "train --model ../model --data ../mine.jsonl --batch-size 8 --max-steps 2";
    done(&runs, &format!("{train} --output-dir whole"))?;
    done(&runs, &format!("{train} --lora-r 2 --output-dir lora"))?;
    let next = |words: &str| -> Result<String> {
        let said = String::from_utf8(done(&here, words)?.stdout)?;
        let command = said.lines().find_map(|line| line.strip_prefix("next     zotune ")).context(said.clone())?.to_string();
        assert!(!command.contains("runs/../"), "{command}");
        done(&here, &command).with_context(|| command.clone())?;
        Ok(command)
    };
    next("export ../../runs/whole --trajectory whole.zot")?;
    next("replay ../../runs/whole --output-dir replayed")?;
    next("export ../../runs/lora --merge --output-dir merged")?;
    let said = fails(&here, "eval --model ../../runs/lora", 2)?;
    let (_, flags) = said.trim().split_once("give the base model too: ").context(said.clone())?;
    done(&here, &format!("eval {flags}"))?;
    let said = fails(&here, &format!("train --model ../../runs/lora --data {}", place.join("mine.jsonl").display()), 2)?;
    assert!(said.contains(flags), "{said}");
    let said = fails(&here, "export ../../runs/lora", 2)?;
    assert!(said.contains("--trajectory FILE, or with --merge a model: --merge --output-dir FOLDER"), "{said}");
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
        format!("train: {trained} of 38 completions leave no room for a prompt in 32 tokens and were cut on the right");
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
    assert!(said.contains("95 % interval (Wilson) ") && said.contains(&format!("every row was given {name}")), "{said}");
    assert!(said.contains("\"good\", the most frequent answer, would be right in 70.0 %"), "{said}");
    let run = done(place, "train --model model --data data --batch-size 4 --max-steps 1 --output-dir run")?;
    assert!(String::from_utf8(run.stdout)?.contains("the most frequent answer, would be right in 70.0 %"));
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

/// Results of one command are not another's: a stand-in for the program writes down what it was asked.
#[test]
fn the_scripts_key_a_result_by_everything_that_made_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = folder.path();
    let executable = |name: &str, text: &str| -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = place.join(name);
        std::fs::write(&path, text)?;
        Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))?)
    };
    let program = "#!/bin/sh\necho \"$@\" >> asked\nwhile [ $# -gt 0 ]; do [ \"$1\" = --output-dir ] && folder=$2; shift; done\n\
                   mkdir -p \"$folder\"; echo '{}' > \"$folder/all_results.json\"\n";
    executable("zotune", program)?;
    // In the place of what prints the table: the folders that it is shown.
    executable("python3", "#!/bin/sh\necho \"$@\"\n")?;
    std::fs::write(place.join("data.jsonl"), "{}\n")?;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR"));
    let run = |words: &str| -> Result<Output> {
        let path = format!("{}:{}", place.display(), std::env::var("PATH")?);
        let words: Vec<&str> = words.split_whitespace().map(|w| if w == "_" { "0 1" } else { w }).collect();
        let mut command = std::process::Command::new("bash");
        command.arg(scripts.join(words[0])).args(&words[1..]).current_dir(place);
        Ok(command.env("PATH", path).env("ZOTUNE", place.join("zotune")).output()?)
    };
    let asked = || std::fs::read_to_string(place.join("asked")).map_or(0, |text| text.lines().count());
    let tune = |words: &str| -> Result<String> {
        let output = run(&format!("scripts/tune.sh zo-sgd {words}"))?;
        assert!(output.status.success(), "{}", stderr(&output));
        Ok(String::from_utf8(output.stdout)?)
    };
    let first = tune("8 1e-4 --task sst2")?;
    assert_eq!((asked(), tune("8 1e-4 --task sst2")? == first, asked()), (1, true, 1), "the same again is not begun again");
    for (n, other) in ["8 1e-4 --task rte", "9 1e-4 --task sst2", "8 1e-4 --task sst2 --data data.jsonl"].iter().enumerate()
    {
        assert_ne!(tune(other)?, first, "{other}");
        assert_eq!(asked(), n + 2, "{other}");
    }
    std::fs::write(place.join("data.jsonl"), "{}\n{}\n")?;
    tune("8 1e-4 --task sst2 --data data.jsonl")?;
    assert_eq!(asked(), 5, "data of the same name that are others");
    executable("zotune", &format!("{program}# another build\n"))?;
    assert_ne!(tune("8 1e-4 --task sst2")?, first, "another program");

    // Of methods side by side: a folder of another command is refused by name.
    std::fs::create_dir_all(place.join("configs/methods"))?;
    std::fs::write(place.join("configs/methods/zo-sgd.toml"), "max_steps = 1\n")?;
    let compare = |words: &str| run(&format!("scripts/compare_methods.sh out zo-sgd _ {words}"));
    let before = asked();
    for (words, success, runs) in [("--task sst2", true, 2), ("--task sst2", true, 2), ("--task rte", false, 2)] {
        let output = compare(words)?;
        assert_eq!((output.status.success(), asked() - before), (success, runs), "{words}: {}", stderr(&output));
        assert_eq!(stderr(&output).contains("out/zo-sgd-0 was made by another command"), !success, "{}", stderr(&output));
    }
    std::fs::write(place.join("configs/methods/zo-sgd.toml"), "max_steps = 2\n")?;
    assert!(!compare("--task sst2")?.status.success(), "another config of the same name");
    Ok(())
}

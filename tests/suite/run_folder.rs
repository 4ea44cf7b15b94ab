//! What lies in a run's folder is the run's: checkpoints of another run or step, damaged weights, and a second run in one folder.

#![cfg(unix)]

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::support::{RUN, copy_all, done, json, names, outcome, says, stderr, workplace, zotune};

/// Turns a bit of a tensor over in a safetensors file.
pub(crate) fn damage(file: &Path, tensor: &str) -> Result<()> {
    let mut bytes = std::fs::read(file)?;
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes)?;
    let (from, _) = metadata.info(tensor).with_context(|| tensor.to_string())?.data_offsets;
    bytes[8 + header + from] ^= 1;
    Ok(std::fs::write(file, bytes)?)
}

/// The trained weights and results of a run that is resumed for its last steps, and what it said.
fn resumed(place: &Path, run: &str) -> Result<(Vec<u8>, Vec<serde_json::Value>, String)> {
    let said = stderr(&done(place, &format!("train --resume {run} --max-steps 36"))?);
    let end = outcome(&place.join(run))?;
    Ok((end.weights, end.results, said))
}

/// A checkpoint under another step's name, or out of another run's folder, is left out by name, and the run ends as if it were not
/// there. (Steps with a first-order gradient are computed again.)
#[test]
fn a_checkpoint_is_of_one_step_of_one_run() -> Result<()> {
    for method in ["zo-sgd", "r-adazo --learning-rate 1e-3", "adamw --learning-rate 1e-3", "vamo --learning-rate 1e-3"] {
        let folder = workplace()?;
        let place = folder.path();
        let words = format!("train {RUN} --max-steps 24 --save-steps 12 --save-total-limit 9 --optimizer {method}");
        done(place, &format!("{words} --output-dir run"))?;
        done(place, &format!("{words} --seed 1 --output-dir other"))?;
        let [run, other] = ["run", "other"].map(|name| place.join(name));
        for name in ["renamed", "mixed", "swapped"] {
            copy_all(&run, &place.join(name))?;
        }
        let (weights, results, said) = resumed(place, "run")?;
        assert!(said.contains("resume  continuing after step 24") && !said.contains("skipped"), "{method}: {said}");

        std::fs::remove_dir_all(place.join("renamed/checkpoint-24"))?;
        std::fs::rename(place.join("renamed/checkpoint-12"), place.join("renamed/checkpoint-24"))?;
        let renamed = resumed(place, "renamed")?;
        assert!(renamed.2.contains("is from another run or step: its "), "{method}: {}", renamed.2);
        assert!((renamed.0, renamed.1) == (weights.clone(), results.clone()), "{method}: a checkpoint under another name");

        std::fs::remove_dir_all(place.join("mixed/checkpoint-24"))?;
        copy_all(&other.join("checkpoint-24"), &place.join("mixed/checkpoint-24"))?;
        let mixed = resumed(place, "mixed")?;
        assert!(mixed.2.contains("is from another run or step: its trajectory is"), "{method}: {}", mixed.2);
        assert!((mixed.0, mixed.1) == (weights, results), "{method}: another run's checkpoint");

        // With another run's log the folder is that run, and none of its checkpoints are.
        std::fs::copy(other.join("trajectory.bin"), place.join("swapped/trajectory.bin"))?;
        let swapped = resumed(place, "swapped")?;
        assert!(swapped.2.contains("is from another run or step: its trajectory is"), "{method}: {}", swapped.2);
        let (weights, results, _) = resumed(place, "other")?;
        assert!((swapped.0, swapped.1) == (weights, results), "{method}: another run's log");
    }
    Ok(())
}

/// A run that is killed after it wrote a checkpoint and before it removed an older one removes it when it goes on, even if it writes no
/// other.
#[test]
fn an_outdated_checkpoint_is_removed_by_the_run_that_goes_on() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    done(place, &format!("train {RUN} --max-steps 24 --save-steps 12 --save-total-limit 2 --output-dir run"))?;
    done(place, "train --resume run --max-steps 26 --save-steps 0 --save-total-limit 1")?;
    let left = |step: u64| place.join(format!("run/checkpoint-{step}")).exists();
    assert_eq!((1..=26).filter(|step| left(*step)).collect::<Vec<_>>(), [24]);
    Ok(())
}

/// all_results.json is written last: a process that is killed, or that fails, before the other files are there leaves a run that another
/// one finishes.
#[test]
fn a_run_is_finished_once_all_its_files_are_there() -> Result<()> {
    let folder = workplace()?;
    let (place, run) = (folder.path(), folder.path().join("run"));
    for words in [
        format!("{RUN} --report-to tensorboard"),
        "--lab quadratic --learning-rate 1e-3 --max-steps 20 --eval-steps 10".into(),
    ] {
        done(place, &format!("train {words} --output-dir run --overwrite-output-dir"))?;
        let whole = names(&run);
        let (picture, results) = (run.join("loss.svg"), run.join("all_results.json"));
        std::fs::remove_file(&results)?;
        std::fs::remove_file(&picture)?;
        std::fs::create_dir(&picture)?;
        says(place, "train --resume run", 1, "cannot write run/loss.svg")?;
        assert!(!results.exists(), "{words}");
        std::fs::remove_dir(&picture)?;
        done(place, "train --resume run")?;
        assert_eq!(names(&run), whole, "{words}");
        assert!(stderr(&done(place, "train --resume run")?).contains("run is finished"), "{words}");
        // The results of before an extension are not those of the longer run.
        let before = std::fs::read(&results)?;
        done(place, "train --resume run --max-steps 80")?;
        std::fs::write(&results, before)?;
        done(place, "train --resume run")?;
        assert_eq!(json(&results)?["steps"], 80, "{words}");
    }
    Ok(())
}

/// Frozen weights that are damaged in a checkpoint, or in the run's own model, are seen; the end is the undisturbed run's.
#[test]
fn damage_to_frozen_weights_is_seen() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let words = format!("train {RUN} --max-steps 24 --save-steps 12 --save-total-limit 9 --tune last:1");
    done(place, &format!("{words} --output-dir run"))?;
    copy_all(&place.join("run"), &place.join("hurt"))?;
    let frozen = "model.layers.0.mlp.up_proj.weight";
    for stored in ["checkpoint-12", "checkpoint-24", "."] {
        damage(&place.join("hurt").join(stored).join("model.safetensors"), frozen)?;
    }
    let (weights, results, _) = resumed(place, "run")?;
    let hurt = resumed(place, "hurt")?;
    let damaged = format!("{frozen} is frozen, but it differs from what the run started with");
    assert!(
        hurt.2.contains("model.safetensors does not hold the weights of step") && hurt.2.matches(&damaged).count() > 1,
        "{}",
        hurt.2
    );
    assert!((hurt.0, hurt.1) == (weights, results));
    Ok(())
}

/// Runs that begin at once in one folder: one of them runs, the others are refused, and nothing of its is removed.
#[test]
fn of_runs_that_begin_at_once_in_one_folder_one_runs() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let words = format!("train {RUN} --max-steps 1 --eval-steps 1 --num-dev 2 --num-eval 2");
    done(place, &format!("{words} --output-dir alone"))?;
    let alone = outcome(&place.join("alone"))?;
    for round in 0..4 {
        let run = format!("at-once-{round}");
        let start =
            |_| zotune(place, &format!("{words} --output-dir {run}")).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let processes: Vec<_> = (0..4).map(start).collect::<std::io::Result<_>>()?;
        let outputs: Vec<_> = processes.into_iter().map(|p| p.wait_with_output()).collect::<std::io::Result<_>>()?;
        let codes: Vec<_> = outputs.iter().map(|o| o.status.code()).collect();
        assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
        for output in outputs.iter().filter(|o| !o.status.success()) {
            let said = stderr(output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert!(said.contains("is not empty") || said.contains("another process is writing"), "{said}");
        }
        assert!(outcome(&place.join(&run))? == alone, "round {round}");
    }
    Ok(())
}

/// Nothing that is read is written over, whatever it is to the run, and nothing is overwritten unasked.
#[test]
fn what_is_read_is_not_written_over() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let words = format!("train {RUN} --max-steps 2 --eval-steps 2 --num-dev 2 --num-eval 2 --save-steps 2");
    done(place, &format!("{words} --output-dir a"))?;
    done(place, &format!("{words} --lora-r 2 --output-dir lora"))?;
    done(place, "export a --trajectory mine.zot")?;
    copy_all(&place.join("a"), &place.join("linked"))?;
    std::fs::remove_file(place.join("linked/model.safetensors"))?;
    std::os::unix::fs::symlink(place.join("model/model.safetensors"), place.join("linked/model.safetensors"))?;
    std::fs::create_dir(place.join("kept"))?;
    std::fs::rename(place.join("mine.zot"), place.join("kept/mine.zot"))?;
    std::fs::write(place.join("mine.jsonl"), "{\"text\": \"a\"}\n".repeat(40))?;
    let before = |name: &str| std::fs::read(place.join(name));
    let files =
        ["a/checkpoint-2/model.safetensors", "lora/adapter_model.safetensors", "kept/mine.zot", "model/model.safetensors"];
    let kept: Vec<_> = files.into_iter().chain(["mine.jsonl"]).map(before).collect::<std::io::Result<_>>()?;

    let over = "--output-dir a --overwrite-output-dir";
    let on_model = "--task reviews --num-train 8 --batch-size 4 --max-steps 1";
    for (command, said) in [
        (format!("train --model a/checkpoint-2 {on_model} {over}"), "a/checkpoint-2 is an input of this run"),
        (format!("train --model a {on_model} {over}"), "a is an input of this run"),
        (
            format!("train --model model --adapter lora {on_model} --output-dir lora --overwrite-output-dir"),
            "lora is an input of this run",
        ),
        (
            format!("train --model model --trajectory kept/mine.zot {on_model} --output-dir kept --overwrite-output-dir"),
            "mine.zot is an input of this run",
        ),
        (format!("train --model model {on_model} --output-dir linked --overwrite-output-dir"), "is a link to "),
        ("replay a --output-dir a --overwrite-output-dir".into(), "is an input of this run"),
        ("replay kept/mine.zot --output-dir kept --overwrite-output-dir".into(), "kept/mine.zot is an input of this run"),
        ("replay a --output-dir linked --overwrite-output-dir".into(), "is a link to "),
        ("export lora --merge --output-dir lora --overwrite-output-dir".into(), "is an input of this run"),
        ("export a --trajectory kept/mine.zot".into(), "--trajectory kept/mine.zot: it exists already"),
        ("export a --trajectory a/trajectory.bin".into(), "it exists already"),
        ("eval --model model --data mine.jsonl --dump mine.jsonl".into(), "--dump mine.jsonl: it exists already"),
    ] {
        let output = zotune(place, &command).output()?;
        assert_eq!(output.status.code(), Some(2), "{command}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{command}: {}", stderr(&output));
    }
    let after: Vec<_> = files.into_iter().chain(["mine.jsonl"]).map(before).collect::<std::io::Result<_>>()?;
    assert!(kept == after);
    // A folder within the one that is read is another.
    done(place, "replay a --output-dir a/step-1 --to-step 1")?;
    Ok(())
}

/// Processes that write one file at once: it is one of theirs, whole.
#[test]
fn of_files_that_are_written_at_once_one_is_there_whole() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("file");
    for _ in 0..20 {
        std::thread::scope(|scope| {
            let write = |n: u8| {
                let path = &path;
                scope.spawn(move || {
                    let mut rest = 50;
                    zotune::base::files::write_whole(path, |out| {
                        while rest > 0 {
                            out.write_all(&[n; 40_000])?;
                            rest -= 1;
                        }
                        Ok(())
                    })
                })
            };
            let writers: Vec<_> = (1..=4).map(write).collect();
            writers.into_iter().try_for_each(|writer| writer.join().unwrap())
        })?;
        let bytes = std::fs::read(&path)?;
        assert!(
            bytes.len() == 2_000_000 && bytes.iter().all(|byte| *byte == bytes[0]),
            "a mixture of {} bytes",
            bytes.len()
        );
        assert_eq!(std::fs::read_dir(folder.path())?.count(), 1, "nothing is left beside it");
    }
    Ok(())
}

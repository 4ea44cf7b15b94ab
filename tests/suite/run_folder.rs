//! What lies in a run's folder is the run's: checkpoints of another run or step, damaged weights, and a second run in one folder.

#![cfg(unix)]

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::survival::{RUN, done, outcome, stderr, workplace, zotune};

fn copy_all(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry?.file_name()));
        if from.is_dir() { copy_all(&from, &to)? } else { std::fs::copy(from, to).map(drop)? }
    }
    Ok(())
}

/// Turns a bit of a tensor over in a safetensors file.
fn damage(file: &Path, tensor: &str) -> Result<()> {
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
        assert!(said.contains("resume  behind step 24") && !said.contains("left out"), "{method}: {said}");

        std::fs::remove_dir_all(place.join("renamed/checkpoint-24"))?;
        std::fs::rename(place.join("renamed/checkpoint-12"), place.join("renamed/checkpoint-24"))?;
        let renamed = resumed(place, "renamed")?;
        assert!(renamed.2.contains("is of another run or step: its "), "{method}: {}", renamed.2);
        assert!((renamed.0, renamed.1) == (weights.clone(), results.clone()), "{method}: a checkpoint under another name");

        std::fs::remove_dir_all(place.join("mixed/checkpoint-24"))?;
        copy_all(&other.join("checkpoint-24"), &place.join("mixed/checkpoint-24"))?;
        let mixed = resumed(place, "mixed")?;
        assert!(mixed.2.contains("is of another run or step: its trajectory is"), "{method}: {}", mixed.2);
        assert!((mixed.0, mixed.1) == (weights, results), "{method}: another run's checkpoint");

        // With another run's log the folder is that run, and none of its checkpoints are.
        std::fs::copy(other.join("trajectory.bin"), place.join("swapped/trajectory.bin"))?;
        let swapped = resumed(place, "swapped")?;
        assert!(swapped.2.contains("is of another run or step: its trajectory is"), "{method}: {}", swapped.2);
        let (weights, results, _) = resumed(place, "other")?;
        assert!((swapped.0, swapped.1) == (weights, results), "{method}: another run's log");
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
    let damaged = format!("{frozen}, which is frozen, is not as the run began with it");
    assert!(hurt.2.contains("model.safetensors is not that of step") && hurt.2.matches(&damaged).count() > 1, "{}", hurt.2);
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
            assert!(said.contains("is not empty") || said.contains("another process is training"), "{said}");
        }
        assert!(outcome(&place.join(&run))? == alone, "round {round}");
    }
    Ok(())
}

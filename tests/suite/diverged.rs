//! Runs that come to nothing: when they stop, and what they say.

#![cfg(unix)]

use std::path::Path;

use anyhow::Result;
use zotune::run::trajectory::Trajectory;

use crate::support::rows::fails;
use crate::support::{RUN, done, stderr, workplace};

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
        assert!(svg.contains("top edge: losses of "), "a curve that left the picture says so: {svg}");
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

/// A run that has come to nothing says what it leaves and which rate to try; what was made of its log says why it is short.
#[test]
fn a_run_that_came_to_nothing_says_what_is_left() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for (flags, begins) in [
        ("--learning-rate 1e30 --eval-steps 40", "error: the loss is not finite at step 2 (direction seed "),
        ("--learning-rate 1e30 --eval-steps 1", "error: after step 1 (direction seed "),
        (
            "--learning-rate 1 --max-steps 40 --eval-steps 40",
            "error: the run diverged at step 12: the training loss was above",
        ),
    ] {
        let said = fails(place, &format!("train {RUN} --model opt-mini --num-dev 20 {flags} --output-dir run"), 4)?;
        assert!(said.contains(begins), "{said} does not say {begins}");
        for expected in ["run holds the weights from before training", "try --learning-rate 1e"] {
            assert!(said.contains(expected), "{flags}: {said} does not say {expected}");
        }
        assert_eq!(said.contains("in 10 of the last 12 steps"), begins.contains("diverged"), "{said}");
        assert!(place.join("run/loss.svg").is_file(), "{flags}");
        if begins.contains("diverged") {
            let said = stderr(&done(place, "export run --trajectory run.zot")?);
            assert!(
                said.contains("the log ends at step 12 of 40: the run was stopped, has diverged or is still running"),
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

//! Runs whose learning rate is searched for.

#![cfg(unix)]

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zotune::run::trajectory::Trajectory;

use crate::support::rows::fails;
use crate::support::{Outcome, RUN, done, json, names, outcome, stderr, workplace, zotune};

/// A run of 120 steps, so that a trial has 24: a twentieth, 20 at least, and up to the next evaluation.
const LONG: &str = "--max-steps 120 --save-steps 8";

/// A rate, and the dev loss after its trial.
type Trial = (f64, Option<f64>);

/// The trials that a run made, and the rate that was chosen.
fn search(run: &Path) -> Result<(Vec<Trial>, f64)> {
    let results = json(&run.join("all_results.json"))?;
    let kept = json(&run.join("run.json"))?;
    ensure!(results["learning_rate_search"] == kept["learning_rate_search"], "run.json and all_results.json differ");
    let trials = kept["learning_rate_search"].as_array().context("a list of trials")?;
    let rate = |trial: &Value| trial["learning_rate"].as_f64().context("a rate");
    let chosen = trials.iter().filter(|trial| trial["chosen"] == true).map(rate).collect::<Result<Vec<_>>>()?;
    ensure!(chosen.len() == 1 && results["learning_rate"] == chosen[0], "{chosen:?}");
    let trials =
        trials.iter().map(|trial| Ok((rate(trial)?, trial["dev_loss"].as_f64()))).collect::<Result<Vec<Trial>>>()?;
    Ok((trials, chosen[0]))
}

/// The search takes the rate whose own run has the lowest dev loss after the steps of a trial, and the run is then that run.
#[test]
fn the_rate_with_the_lowest_dev_loss_goes_on_and_the_run_is_the_one_with_that_rate() -> Result<()> {
    for method in ["zo-sgd", "adamw --save-steps 0", "r-adazo --lora-r 2"] {
        let folder = workplace()?;
        let place = folder.path();
        let words = format!("{RUN} {LONG} --optimizer {method}");
        let found = done(place, &format!("train {words} --learning-rate auto --output-dir found"))?;
        let (trials, chosen) = search(&place.join("found"))?;
        assert!((3..=5).contains(&trials.len()), "{trials:?}");
        let said = String::from_utf8_lossy(&found.stdout).into_owned() + &stderr(&found);
        assert!(said.contains("rates    ") && said.contains(", chosen"), "{said}");

        let mut lowest = (f64::INFINITY, 0.0);
        for (i, (rate, loss)) in trials.iter().enumerate() {
            let run = format!("given-{i}");
            let given = zotune(place, &format!("train {words} --learning-rate {rate} --output-dir {run}")).output()?;
            let log = Trajectory::open(&place.join(&run))?;
            let at_24 = log.dev.get(&24).map(|scored| scored.loss).filter(|_| log.steps() > 24);
            assert_eq!(at_24, *loss, "{method}, {rate}: {}", stderr(&given));
            let loss = loss.unwrap_or(f64::INFINITY);
            if loss < lowest.0 {
                lowest = (loss, *rate);
            }
            if *rate == chosen {
                ensure!(same_run(place, "found", &run)?, "{method}: not the run with {rate}");
                assert_eq!(names(&place.join("found")), names(&place.join(&run)), "{method}");
            }
        }
        assert_eq!(lowest.1, chosen, "{method}: {trials:?}");
        assert!(
            stderr(&done(place, "train --resume found --learning-rate auto")?).contains("found is finished (120 steps)")
        );
        if method == "zo-sgd" {
            done(place, "replay found --output-dir replayed")?;
            let [a, b] = ["found", "replayed"].map(|run| std::fs::read(place.join(run).join("model.safetensors")));
            assert!(a? == b?);
            done(place, "export found --trajectory found.zot")?;
            done(place, "eval --model found --quiet")?;
        }
    }
    Ok(())
}

/// Whether two runs have the same bits: weights, function values, scores, log and results.
fn same_run(place: &Path, a: &str, b: &str) -> Result<bool> {
    let adapted = place.join(a).join("adapter_model.safetensors").exists();
    let file = if adapted { "adapter_model.safetensors" } else { "model.safetensors" };
    let [weights_a, weights_b] = [a, b].map(|run| std::fs::read(place.join(run).join(file)));
    if adapted {
        let dev = |run: &str| anyhow::Ok(Trajectory::open(&place.join(run))?.dev);
        return Ok(weights_a? == weights_b? && dev(a)? == dev(b)?);
    }
    Ok(weights_a? == weights_b? && outcome(&place.join(a))? == outcome(&place.join(b))?)
}

/// Where a search is when it is killed.
fn moment(run: &Path) -> String {
    let trials = names(run).into_iter().filter(|name| name.starts_with("learning-rate-"));
    let steps = |name: String| {
        let log = std::fs::read(run.join(&name).join("trajectory.bin")).unwrap_or_default();
        Trajectory::read(&log).map_or(0, |(log, _)| log.steps())
    };
    trials.map(|name| format!("{name} {}", steps(name.clone()))).collect::<Vec<_>>().join(", ")
}

/// Killed by SIGKILL again and again, in trials and between them, and resumed: the bits of a search that nobody disturbed, and
/// the same list of trials.
#[test]
fn a_search_that_is_killed_goes_on_to_the_same_bits() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let words = format!("train {RUN} {LONG} --learning-rate auto");
    done(place, &format!("{words} --output-dir whole"))?;
    let whole: Outcome = outcome(&place.join("whole"))?;
    let tried = search(&place.join("whole"))?;
    let (run, mut random, mut moments) = (place.join("killed"), 7, Vec::new());
    while moments.len() < 24 {
        if run.exists() {
            std::fs::remove_dir_all(&run)?;
        }
        loop {
            let begun = run.join("run.json").exists();
            let words = if begun {
                "train --resume killed".into()
            } else {
                format!("{words} --output-dir killed --overwrite-output-dir")
            };
            let mut process = zotune(place, &words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
            random = zotune::direction::seed::mix(random + 1);
            // Later each time, so that a slow machine comes to an end too.
            std::thread::sleep(Duration::from_micros((random & 0x7_ffff) + 10_000 * moments.len() as u64));
            if process.try_wait()?.is_none() {
                process.kill()?;
                process.wait()?;
                moments.push(moment(&run));
                continue;
            }
            let output = process.wait_with_output()?;
            ensure!(output.status.success(), "zotune {words}: {}", stderr(&output));
            break;
        }
        ensure!(outcome(&run)? == whole && search(&run)? == tried, "another end after {moments:?}");
        assert_eq!(names(&run), names(&place.join("whole")));
    }
    let in_trials = moments.iter().filter(|moment| !moment.is_empty()).count();
    println!("{moments:?}");
    assert!(in_trials > 3, "{moments:?}");
    Ok(())
}

/// The move of the best trial into the run's folder, broken off after each of its renames.
#[test]
fn a_move_that_is_broken_off_is_finished() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    done(place, &format!("train {RUN} {LONG} --learning-rate auto --output-dir whole"))?;
    let whole = outcome(&place.join("whole"))?;
    let (_, chosen) = search(&place.join("whole"))?;
    let (run, trial) = (place.join("whole"), format!("learning-rate-{chosen:e}"));
    // The run is put back to before its move, by hand: all its files are its trial's, and its log is empty.
    let back = |moved: usize| -> Result<()> {
        let names: Vec<String> = names(&run).into_iter().filter(|name| *name != "trajectory.bin").collect();
        std::fs::create_dir(run.join(&trial))?;
        let kept = std::fs::read(run.join("run.json"))?;
        for name in names.iter().skip(moved).chain([&"trajectory.bin".to_string()]) {
            std::fs::rename(run.join(name), run.join(&trial).join(name))?;
        }
        std::fs::write(run.join("run.json"), kept)?;
        Ok(std::fs::write(run.join("trajectory.bin"), "")?)
    };
    for moved in 0..names(&run).len() {
        back(moved)?;
        done(place, "train --resume whole")?;
        ensure!(outcome(&run)? == whole, "after {moved} renames");
        ensure!(!run.join(&trial).exists());
    }
    // A log that moved, and the empty folder of its trial.
    std::fs::create_dir(run.join(&trial))?;
    done(place, "train --resume whole --max-steps 130")?;
    ensure!(!run.join(&trial).exists());
    Ok(())
}

#[test]
fn what_a_search_cannot_do_is_refused_by_name() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let said = fails(place, &format!("train {RUN} --learning-rate auto"), 2)?;
    assert!(
        said.contains("--learning-rate auto tries rates") && said.contains("--max-steps 100 or more; the run has 60"),
        "{said}"
    );
    let said = fails(place, &format!("train {RUN} --learning-rate fast"), 2)?;
    assert!(said.contains("it must be a finite number, or auto"), "{said}");
    // Every rate diverges where the loss of every displaced point is far too high.
    let hopeless = format!("train {RUN} {LONG} --learning-rate auto --zo-eps 1 --model opt-mini --output-dir hopeless");
    let output = zotune(place, &hopeless).output()?;
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let said = stderr(&output);
    assert!(said.contains("diverged with each of the 5 learning rates") && said.contains("--learning-rate"), "{said}");
    let again = zotune(place, "train --resume hopeless").output()?;
    assert_eq!(again.status.code(), Some(4), "{}", stderr(&again));
    // What trials depend on stays as it was until the search is over.
    let said = fails(place, "train --resume hopeless --max-steps 130", 2)?;
    assert!(said.contains("--max-steps 130: the run still searches"), "{said}");
    // A new run takes the folder, and leaves nothing of the search.
    done(place, &format!("train {RUN} --output-dir hopeless --overwrite-output-dir"))?;
    assert!(!names(&place.join("hopeless")).iter().any(|name| name.starts_with("learning-rate-")));
    Ok(())
}

/// A forecast counts the steps of the trials.
#[test]
fn a_plan_counts_the_trials() -> Result<()> {
    let folder = workplace()?;
    let plan = |rate: &str| -> Result<Value> {
        let words = format!("plan {RUN} {LONG} --learning-rate {rate} --json");
        Ok(serde_json::from_slice(&done(folder.path(), &words)?.stdout)?)
    };
    let (given, auto) = (plan("1e-3")?, plan("auto")?);
    let seconds = |plan: &Value, key: &str| plan[key].as_f64().context("seconds");
    // Four trials of 24 steps more than 120 steps, and their evaluations.
    let beside = seconds(&auto, "seconds")? - 216.0 * seconds(&auto, "seconds_per_step")?;
    assert!(beside > 0.0 && seconds(&given, "seconds")? > 120.0 * seconds(&given, "seconds_per_step")?);
    assert_eq!(given["learning_rate"], 1e-3);
    assert!(auto["disk_peak_bytes"].as_u64() > given["disk_peak_bytes"].as_u64(), "{auto} {given}");
    Ok(())
}

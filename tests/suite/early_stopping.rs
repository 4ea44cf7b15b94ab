//! Runs that end before their last step, and what a run says of itself when it learns nothing.

use anyhow::{Result, ensure};

use crate::support::rows::fails;
use crate::support::{RUN, done, json, outcome, stderr, workplace};

/// No dev loss is lower by 10, so a run of patience 3 ends with its third evaluation: alone, killed before its last record,
/// and resumed. Told to wait longer it goes on along the steps of a run that never waited.
#[test]
fn a_run_that_stops_early_ends_there_and_can_go_on() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let patient = "--early-stopping-patience 3 --early-stopping-threshold 10";
    let said = stderr(&done(place, &format!("train {RUN} {patient} --output-dir early"))?);
    assert!(said.contains("stopped early, at step 18 of 60"), "{said}");
    let early = outcome(&place.join("early"))?;
    let results = json(&place.join("early/all_results.json"))?;
    assert_eq!((results["steps"].as_u64(), results["stopped_early"].as_bool()), (Some(18), Some(true)));
    assert!(place.join("early/checkpoint-18").exists());

    // The last record, without which the run is not finished.
    let log = place.join("early/trajectory.bin");
    let bytes = std::fs::read(&log)?;
    std::fs::write(&log, &bytes[..bytes.len() - 1])?;
    done(place, "train --resume early")?;
    ensure!(outcome(&place.join("early"))? == early, "resumed before its last record");
    let said = stderr(&done(place, "train --resume early")?);
    assert!(said.contains("early is finished (18 steps)"), "{said}");

    done(place, &format!("train {RUN} --output-dir whole"))?;
    let whole = outcome(&place.join("whole"))?;
    done(place, "train --resume early --early-stopping-patience 100")?;
    ensure!(outcome(&place.join("early"))? == whole, "told to wait longer");
    Ok(())
}

#[test]
fn bad_early_stopping_is_refused() -> Result<()> {
    let folder = workplace()?;
    let said = fails(folder.path(), &format!("train {RUN} --early-stopping-patience 0"), 2)?;
    assert!(said.contains("--early-stopping-patience 0: it must be at least 1"), "{said}");
    let said = fails(folder.path(), &format!("train {RUN} --early-stopping-patience 1 --early-stopping-threshold -1"), 2)?;
    assert!(said.contains("--early-stopping-threshold -1: it must be 0 or greater"), "{said}");
    let said = fails(folder.path(), &format!("train {RUN} --early-stopping-threshold 0.1"), 2)?;
    assert!(said.contains("--early-stopping-threshold 0.1 has no effect without --early-stopping-patience"), "{said}");
    Ok(())
}

/// The end of a run names a rate that was too small for its steps, and a step too small for f32 while it happens.
#[test]
fn a_run_that_does_not_learn_says_why() -> Result<()> {
    let folder = workplace()?;
    let small = done(folder.path(), &format!("train {RUN} --learning-rate 1e-12 --output-dir small"))?;
    let said = String::from_utf8_lossy(&small.stdout).into_owned();
    assert!(
        said.contains("changed less than its noise") && said.contains("--learning-rate 1e-12 is probably too small"),
        "{said}"
    );
    let still = done(folder.path(), &format!("train {RUN} --zo-eps 1e-30 --output-dir still"))?;
    let said = stderr(&still);
    assert!(said.contains("the gradient was exactly 0 in the last 20 steps") && said.contains("--zo-eps"), "{said}");
    Ok(())
}

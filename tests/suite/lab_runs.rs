//! Labs on the command line, and their curves against an independent NumPy program.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zotune::base::Stop;
use zotune::config::{RawArgs, RunConfig};
use zotune::run::alignment::{Alignment, compare};
use zotune::run::log_line::read_log_so_far;
use zotune::run::{OpenedLab, Progress, folder};

use crate::support::{call, done, fixture_json, numbers, says, stderr, zotune};

/// Trains a lab in a folder, with the settings of the fixture.
fn train(reference: &Value, lab: &str, optimizer: &str, learning_rate: f64, folder: &Path) -> Result<()> {
    let number = |name: &str| reference[name].as_f64().unwrap();
    let toml = format!(
        "lab = \"{lab}\"\noptimizer = \"{optimizer}\"\nlearning_rate = {learning_rate:?}\ndimension = {}\nmax_steps = {}\nseed = {}\n\
         eval_steps = {every}\nlogging_steps = {every}\nsave_steps = 0\nnum_directions = {}\nzo_eps = {:?}\n\
         distribution = \"sphere\"\nperturbation_mode = \"one-side\"\n",
        number("dimension"),
        number("max_steps"),
        number("seed"),
        number("num_directions"),
        number("zo_eps"),
        every = number("every"),
    );
    let mut config = RunConfig::check(RawArgs::from_toml(&toml, "a test")?)?;
    config.output_dir = folder.into();
    let mut run = OpenedLab::open(config)?.begin(&[])?;
    let results = run.train(&Stop::default(), Progress::hidden())?;
    let all = run.account(&results)?;
    folder::finish(&run.opened.config, &all)
}

/// Every rule on every function: the losses along the way, and R-AdaZO's estimates and moments beside those of true gradients
/// (scripts/reference_labs.py). Function values of 20 to 20,000 are f32 in the log, and a slope divides their difference by
/// 0.005, so the curves agree to a few thousandths.
#[test]
fn curves_and_alignments_are_those_of_an_independent_program() -> Result<()> {
    let (reference, place) = (fixture_json("labs.json")?, tempfile::tempdir()?);
    let near = |what: &str, found: f64, expected: f64, tolerance: f64| {
        ensure!((found - expected).abs() <= tolerance * expected.abs(), "{what}: {found} is not {expected}");
        Ok(())
    };
    let mut compared = 0;
    for (lab, rules) in reference["runs"].as_object().context("runs")? {
        for (rule, expected) in rules.as_object().context("rules")? {
            let (what, folder) = (format!("{lab}, {rule}"), place.path().join(format!("{lab}-{rule}")));
            train(&reference, lab, rule, expected["learning_rate"].as_f64().context("a rate")?, &folder)?;
            let losses: Vec<f64> = read_log_so_far(&folder)?.0.iter().filter_map(|line| line.dev_loss).collect();
            let expected_losses = numbers(&expected["losses"]);
            ensure!(losses.len() == expected_losses.len(), "{what}: {} losses", losses.len());
            near(&what, losses[0], expected_losses[0], 1e-6)?;
            for (found, expected) in losses.iter().zip(&expected_losses) {
                near(&what, *found, *expected, 1e-2)?;
                compared += 1;
            }
            let Some(expected) = expected["alignment"].as_array() else { continue };
            let found = compare(&folder)?;
            ensure!(found.len() == expected.len(), "{what}: {} comparisons", found.len());
            for (
                Alignment {
                    gradient_cosine, moment_cosine, error_of_squared_moment: m, error_of_squared_gradient: g, ..
                },
                row,
            ) in found.into_iter().zip(expected)
            {
                for (found, expected) in [gradient_cosine, moment_cosine, m, g].into_iter().zip(numbers(row)) {
                    near(&what, found, expected, 2e-2)?;
                }
            }
        }
    }
    ensure!(compared == 4 * 5 * 7, "{compared}");
    Ok(())
}

const TRAIN: &str = "train --lab quadratic --dimension 50 --learning-rate 1e-2 --max-steps 40 --eval-steps 10 --threads 1";

#[test]
fn a_lab_is_trained_extended_and_reported_on_the_command_line() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    done(at, &format!("{TRAIN} --output-dir whole"))?;
    done(at, &format!("{TRAIN} --output-dir cut --max-steps 20"))?;
    done(at, "train --resume cut --max-steps 40")?;
    let weights = |run: &str| std::fs::read(at.join(run).join("model.safetensors"));
    assert_eq!(weights("whole")?, weights("cut")?, "a run in two parts is another");
    done(at, &format!("{TRAIN} --output-dir lower --seed 1"))?;
    let output = done(at, "report whole lower --to-loss 90%,1e-30 --json")?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let targets = report["groups"][0]["targets"].as_array().context("targets")?;
    assert_eq!((&targets[0]["reached_by"], targets[0]["cost"].is_object()), (&2.into(), true));
    assert_eq!(targets[1], serde_json::json!({ "reached_by": 0, "median_steps": null, "cost": null }));
    // f = |x|^2 / 2, so the norm of its gradient is sqrt(2 f).
    for line in read_log_so_far(&at.join("whole"))?.0.iter().filter(|line| line.dev_loss.is_some()) {
        let (norm, expected) = (line.gradient_norm.context("a norm")?, (2.0 * line.dev_loss.unwrap()).sqrt());
        assert!((norm - expected).abs() < 1e-6 * expected, "step {}: {norm}, not {expected}", line.step);
    }
    let text = std::fs::read_to_string(at.join("report/table.md"))?;
    assert!(text.contains("not reached") && text.contains("90 % of the loss before training"), "{text}");
    // A name may come after the run.
    for run in ["whole", "lower"] {
        done(at, &format!("train --resume {run} --run-name mine"))?;
    }
    let report: Value = serde_json::from_slice(&done(at, "report whole lower --json")?.stdout)?;
    assert_eq!(report["groups"][0]["group"], "mine");
    Ok(())
}

/// The mean of |x|^2 / 2 is d / 2 over N(0, I) and d / 6 over [-1, 1)^d.
#[test]
fn a_start_is_drawn_from_the_distribution_that_is_asked_for() -> Result<()> {
    let folder = tempfile::tempdir()?;
    for (start, mean) in [("gaussian", 5000.0), ("uniform", 10_000.0 / 6.0)] {
        let words = "--lab quadratic --optimizer zo-sgd --learning-rate 1e-3 --max-steps 1 --eval-steps 1 --json";
        let output = done(folder.path(), &format!("train {words} --start {start} --output-dir {start}"))?;
        let results: Value = serde_json::from_slice(&output.stdout)?;
        let loss = results["untrained_eval_loss"].as_f64().context("a loss")?;
        // Its standard deviation is 71 and 15.
        ensure!((loss - mean).abs() < 0.06 * mean, "{start}: {loss}, not near {mean}");
    }
    Ok(())
}

/// The whole experiment in small: the sweep that is built in, its report, and the comparison of its runs with true gradients.
#[test]
fn an_experiment_is_a_sweep_and_its_report() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    done(at, "lab moments --dimension 40 --max-steps 100 --seed 0 --output-dir labs")?;
    let page = std::fs::read_to_string(at.join("labs/moments/report/report.html"))?;
    assert!(page.contains("cos(m, true gradient)"));
    assert!(at.join("labs/moments/report/moment-cosine-by-steps.svg").is_file());
    assert!(!at.join("labs/moments/report/moment-cosine-by-seconds.svg").is_file());
    says(at, "lab momnts", 2, "did you mean \"moments\"?")?;

    // Groups are selected in each part, and keep their names in its report.
    let small = "--dimension 20 --max-steps 100 --seed 0 --output-dir labs";
    done(at, &format!("lab synthetic --only zo-adamm,r-adazo {small}"))?;
    for part in ["quadratic", "cubic", "levy", "rosenbrock"] {
        let table = std::fs::read_to_string(at.join(format!("labs/{part}/report/table.md")))?;
        let names: Vec<&str> = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next()).collect();
        assert!(names.starts_with(&["method", "zo-adamm", "r-adazo"]), "{part}: {names:?}");
    }
    says(at, "lab synthetic --only zo-adam", 2, "there is no group \"zo-adam\": did you mean \"zo-adamm\"?")?;

    // An extended run is compared anew, up to its end.
    done(at, "lab moments --dimension 40 --max-steps 200 --seed 0 --output-dir labs")?;
    let compared = std::fs::read_to_string(at.join("labs/moments/cells/beta1-0.1/alignment.jsonl"))?;
    let last: Value = serde_json::from_str(compared.lines().last().context("a line")?)?;
    assert_eq!(last["step"], 200);
    Ok(())
}

/// Options go to the parts that they are about, before any of them runs; a report that was cut off is written again.
#[test]
fn an_experiment_checks_all_its_parts_and_mends_its_report() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    for (words, expected) in [
        ("attack --num-eval 100 --data nowhere", "--num-eval does not apply to the lab attack"),
        ("quadratic --run-name mine", "--run-name: the runs of configs/labs/quadratic.toml have the names of their groups"),
        ("levy --dimension 99999999999999", "--dimension 99999999999999: it takes"),
    ] {
        says(at, &format!("lab {words} --output-dir labs"), 2, expected)?;
    }
    assert!(!at.join("labs").exists(), "a refused experiment leaves nothing");

    // The group is that of one part; the others are left out.
    let listed = call(at, &["lab", "least-squares", "--only", "alpha 0.01", "--seed", "0", "--dry-run", "--json"])?;
    let cells: Vec<Value> = serde_json::from_slice(&listed.stdout)?;
    let names: Vec<&str> = cells.iter().filter_map(|cell| cell["name"].as_str()).collect();
    assert!(names.len() == 1 && names[0].starts_with("alpha_0.01"), "{names:?}");

    // At one rate some groups have the same settings, and are told apart by their names.
    let small = "lab quadratic --dimension 20 --max-steps 20 --seed 0 --learning-rate 1e-3 --output-dir labs";
    done(at, small)?;
    let report = at.join("labs/quadratic/report");
    let rows = std::fs::read_to_string(report.join("table.csv"))?;
    assert!(["r-adazo,", "r-adazo tuned,"].iter().all(|name| rows.lines().any(|line| line.starts_with(name))), "{rows}");
    std::fs::remove_file(report.join("report.html"))?;
    std::fs::remove_file(report.join("table.md"))?;
    done(at, small)?;
    assert!(report.join("report.html").is_file() && report.join("table.md").is_file());
    // Runs of other dimensions in the same folder do not compare, and the new ones are reported on alone.
    let mixed = "lab quadratic --max-steps 20 --seed 0 --output-dir mixed";
    done(at, &format!("{mixed} --dimension 20 --only r-adazo"))?;
    let other = done(at, &format!("{mixed} --dimension 30 --only zo-sgd"))?;
    // Cells that fail leave the other parts alone.
    let output = zotune(at, "lab synthetic --only zo-sgd --dimension 20 --max-steps 40 --seed 0 --lr 1e9 --output-dir far")
        .output()?;
    assert!(output.status.code() == Some(1) && at.join("far/rosenbrock/table.md").is_file(), "{}", stderr(&output));
    // A cosine with an estimate of 0 is no number, in the file and in the report.
    let tiny = "lab moments --dimension 40 --max-steps 20 --logging-steps 10 --zo-eps 1e-30 --seed 0 --output-dir tiny";
    done(at, tiny)?;
    done(at, tiny)?;
    assert!(stderr(&other).contains("the report is on the runs of this call alone"), "{}", stderr(&other));
    Ok(())
}

#[test]
fn what_a_lab_does_not_have_is_refused_by_name() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = folder.path();
    for (words, expected) in [
        ("--lab quadratc --lr 1", "there is no lab of this name: did you mean \"quadratic\"?"),
        ("--lab levy", "--lab levy: a lab has no default learning rate"),
        ("--lab levy --lr auto", "a lab has no search for a learning rate"),
        ("--lab levy --lr 1 --model opt-mini", "--model does not apply to the lab levy; its own options are --dimension"),
        ("--lab levy --lr 1 --lora-r 4", "--lora-r does not apply to the lab levy"),
        ("--lab levy --lr 1 --batch-size 4", "--batch-size does not apply to the lab levy"),
        ("--lab least-squares --lr 1 --start uniform", "--start does not apply to the lab least-squares"),
        ("--lab levy --lr 1 --dimension 0", "--dimension 0: a function in R^d needs 2 variables or more"),
        ("--lab levy --lr 1 --optimizer sgd --fo-params last:1", "--fo-params last:1: a lab has no blocks"),
        ("--dimension 4", "--dimension is an option of labs; give --lab too"),
    ] {
        says(at, &format!("train {words}"), 2, expected)?;
    }
    let nameless = call(at, &["train", "--lab", "levy", "--lr", "1", "--run-name", "two\nlines"])?;
    assert_eq!((nameless.status.code(), stderr(&nameless).contains("it must be a name on one line")), (Some(2), true));
    assert_eq!(std::fs::read_dir(at)?.count(), 0, "a refused run leaves nothing");
    done(at, &format!("{TRAIN} --output-dir run"))?;
    for verb in ["eval --model run", "train --model run", "replay run --output-dir out", "export run --trajectory run.zot"] {
        says(at, verb, 2, "run is a run of the lab quadratic, which has no language model")?;
    }
    Ok(())
}

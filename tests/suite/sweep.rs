//! Sweeps: the grid of a file, and cells that end with the bits of runs that were typed one by one, whatever happened to them.

#![cfg(unix)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use zotune::config::LearningRate;
use zotune::run::trajectory::Trajectory;
use zotune::sweep::{Cell, SweepFile, file, grid};

use crate::support::{call, done, json, outcome, says, stderr, workplace, zotune};

fn cells(text: &str) -> Result<Vec<Cell>> {
    grid::cells(&SweepFile::parse(text, "my.toml")?, &[])
}

/// A sweep of the small model: two rates of two methods, two seeds.
const SWEEP: &str = r#"model = "model"
task = "reviews"
num_train = 40
num_dev = 20
num_eval = 10
batch_size = 4
max_steps = 24
eval_steps = 6
logging_steps = 4
fsync = "never"
threads = 1
seeds = [0, 3]

[[group]]
name = "sgd"
learning_rate = [3e-3, 1e-4]

[[group]]
name = "r-adazo"
optimizer = "r-adazo"
learning_rate = [
    3e-3,
    1e-4,
]
"#;

/// Its cells.
const CELLS: [&str; 8] = [
    "sgd-lr3e-3-seed0",
    "sgd-lr3e-3-seed3",
    "sgd-lr1e-4-seed0",
    "sgd-lr1e-4-seed3",
    "r-adazo-lr3e-3-seed0",
    "r-adazo-lr3e-3-seed3",
    "r-adazo-lr1e-4-seed0",
    "r-adazo-lr1e-4-seed3",
];

const TYPED: &str = "--model model --task reviews --num-train 40 --num-dev 20 --num-eval 10 --batch-size 4 --max-steps 24 --eval-steps 6 \
                     --logging-steps 4 --fsync never --threads 1";

/// Each of these cells ended as a run of the same options does that is typed alone and never disturbed.
fn same_as_by_hand(place: &Path, sweep: &str, names: &[&str]) -> Result<()> {
    for name in names {
        let (method, rest) = name.split_once("-lr").context("a rate")?;
        let (rate, seed) = rest.split_once("-seed").context("a seed")?;
        let method = if method == "sgd" { "zo-sgd" } else { method };
        let words = format!("--optimizer {method} --learning-rate {rate} --seed {seed} --output-dir by-hand/{name}");
        done(place, &format!("train {TYPED} {words} --overwrite-output-dir"))?;
        let (cell, alone) =
            (outcome(&place.join(sweep).join("cells").join(name))?, outcome(&place.join("by-hand").join(name))?);
        ensure!(cell == alone, "{name}:\n{:?}\n{:?}", cell.results, alone.results);
    }
    Ok(())
}

/// Against a list that was written by hand.
#[test]
fn a_grid_is_every_combination_and_groups_lie_over_what_is_common() -> Result<()> {
    let all = cells(
        "lr = [1e-4, 3e-4]\nbatch-size = 8\nseeds = [1, 0]\nzo_eps = [1e-3]\n\n[[group]]\nname = \"a\"\noptimizer = \"r-adazo\"\n\n\
         [[group]]\nname = \"b\"\nlearning_rate = 1e-2\nseeds = [7]\nzo_eps = 1e-2\n",
    )?;
    let names: Vec<&str> = all.iter().map(|cell| cell.name.as_str()).collect();
    assert_eq!(
        names,
        ["a-lr1e-4-eps1e-3-seed1", "a-lr1e-4-eps1e-3-seed0", "a-lr3e-4-eps1e-3-seed1", "a-lr3e-4-eps1e-3-seed0", "b-seed7"]
    );
    let told = |cell: &Cell| -> Result<_> {
        let raw = cell.raw()?;
        Ok((raw.optimizer, raw.learning_rate, raw.batch_size, raw.seed, raw.settings.zo_eps))
    };
    assert_eq!(told(&all[2])?, (Some("r-adazo".into()), Some(LearningRate::Fixed(3e-4)), Some(8), Some(1), Some(1e-3)));
    assert_eq!(told(&all[4])?, (None, Some(LearningRate::Fixed(1e-2)), Some(8), Some(7), Some(1e-2)));
    // A flag goes over every value of a list, in the file and in its groups.
    let file = SweepFile::parse("lr = [1e-4, 3e-4]\nseeds = [0, 1]\n[[group]]\nname = \"a\"\nlr = [1.0, 2.0]\n", "my.toml")?;
    let flags = zotune::config::RawArgs::from_toml("lr = 5.0\nseed = 4", "flags")?;
    let all = grid::cells(&file, &file::typed(&flags)?)?;
    assert_eq!(all.len(), 1);
    assert_eq!(
        (all[0].name.as_str(), all[0].raw()?.learning_rate, all[0].raw()?.seed),
        ("a", Some(LearningRate::Fixed(5.0)), Some(4))
    );
    // What a cell's config file says is what the cell is.
    let again = zotune::config::RawArgs::from_toml(&all[0].config_file(&[("max_steps", 9.into())])?, "cell")?;
    assert_eq!((again.learning_rate, again.seed, again.max_steps), (Some(LearningRate::Fixed(5.0)), Some(4), Some(9)));
    // Methods, tasks and lengths give rows of their own; what is chosen by the dev loss does not.
    let all = cells("optimizer = [\"zo-sgd\", \"r-adazo\"]\nmax_steps = [5, 6]\nlr = [1.0, 2.0]\nseeds = [0, 1]")?;
    let rows: std::collections::BTreeSet<_> = all.iter().map(|cell| (cell.row.clone(), cell.setting.clone())).collect();
    assert_eq!((all.len(), rows.len()), (16, 8));
    assert!(rows.contains(&("r-adazo, steps 6".into(), "lr 2".into())), "{rows:?}");
    Ok(())
}

/// A search chooses another rate for each seed, so its cells would be no one setting.
#[test]
fn a_sweep_searches_for_no_rate() -> Result<()> {
    let folder = workplace()?;
    std::fs::write(
        folder.path().join("auto.toml"),
        "model = \"model\"\ntask = \"reviews\"\nlearning_rate = [1e-3, \"auto\"]\n",
    )?;
    says(
        folder.path(),
        "sweep auto.toml",
        2,
        "auto.toml, line 3: learning_rate auto: a sweep compares the rates that its file lists",
    )?;
    ensure!(!folder.path().join("runs").exists());
    Ok(())
}

#[test]
fn a_mistake_in_a_sweep_file_is_named_with_its_line() {
    for (text, expected) in [
        ("seeds = [0]\nlearning_rte = [1e-4, 2e-4]", "my.toml, line 2: there is no option \"learning_rte\": did you mean"),
        (
            "[[group]]\nname = \"a\"\n\n[[group]]\nname = \"b\"\noptimiser = \"zo-sgd\"",
            "my.toml, line 6: there is no option \"optimiser\"",
        ),
        ("seed = 1\nseedz = [1, 2]", "my.toml, line 2: there is no option \"seedz\": did you mean \"seeds\"?"),
        ("[[groups]]\nname = \"a\"", "my.toml, line 1: [[groups]] is not known: did you mean \"group\"?"),
        ("[group]\nname = \"a\"", "my.toml, line 1: write [[group]]"),
        ("lr = 1.0\n\n[[group]]\nlr = 2.0", "my.toml, line 3: this group has no name"),
        (
            "learning_rate = [\n  1e-4,\n  \"fast\",\n]",
            "my.toml, line 3: learning_rate: \"fast\": it must be a number, or \"auto\"",
        ),
        ("lr = [[1e-4], [2e-4]]", "my.toml, line 1: lr: a list in a list"),
        ("batch_size = []", "my.toml, line 1: batch_size: the list is empty"),
        ("seeds = []", "my.toml, line 1: seeds: the list is empty"),
        ("seeds = 3", "my.toml, line 1: seeds: it must be a list"),
        ("seed = 3\nseeds = [3]", "my.toml, line 2: seed is set twice (seeds is a list of seed)"),
        ("lr = 1.0\nlearning_rate = [1.0]", "my.toml, line 2: learning_rate is set twice"),
        ("lr = [1e-4,\n0.0001]", "my.toml, line 2: lr: 0.0001 is there twice; these cells would overwrite each other"),
        ("[[group]]\nname = \"a\"\n[[group]]\nname = \"A\"", "my.toml, line 3: a group above is called \"a\" too"),
        ("overwrite_output_dir = true", "my.toml, line 1: overwrite_output_dir: a sweep overwrites no cell"),
        ("[[group]]\nname = \"a\"\noutput_dir = \"x\"", "my.toml, line 3: output_dir: a group has no folder"),
        ("output_dir = [\"a\", \"b\"]", "my.toml, line 1: output_dir: it must be one folder"),
        ("lr = ", "my.toml: TOML parse error at line 1"),
    ] {
        let error = cells(text).expect_err(text);
        assert!(error.to_string().starts_with(expected), "{text:?}: {error}");
        assert_eq!(zotune::base::errors::exit_code(&error), 2);
    }
    let wide: String = ["zeta", "beta1", "beta2", "zo_eps", "lr"]
        .map(|name| format!("{name} = [{}]\n", (1..=9).map(|i| format!("0.{i}")).collect::<Vec<_>>().join(", ")))
        .concat();
    assert!(cells(&wide).unwrap_err().to_string().contains("more than 10000 cells"));
    let mut groups = SweepFile::parse("[[group]]\nname = \"r-adazo\"\n", "my.toml").unwrap();
    let error = groups.select(&["r-adzo".into()]).unwrap_err().to_string();
    assert!(error.contains("there is no group \"r-adzo\" in my.toml: did you mean \"r-adazo\"?"), "{error}");
}

/// Errors that come to light only when a cell is put together name the line too, before anything is written.
#[test]
fn all_cells_are_checked_before_the_first_one_runs() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for (more, expected) in [
        (
            "[[group]]\nname = \"last\"\nlearning_rate = [1e-4, -1.0]\n",
            "my.toml, line 27: learning_rate -1: it must be greater",
        ),
        ("[[group]]\nname = \"last\"\nmomentum = 0.5\n", "my.toml, line 27: momentum does not apply to zo-sgd"),
        (
            "[[group]]\nname = \"last\"\noptimizer = \"r-adzo\"\n",
            "my.toml, line 27: optimizer: there is no method \"r-adzo\"",
        ),
        (
            "[[group]]\nname = \"last\"\nbatch_size = 50\n",
            "my.toml, line 27: batch_size 50: there are only 40 training rows",
        ),
        ("[[group]]\nname = \"last\"\nmodel = \"./modle\"\n", "my.toml, line 27: model ./modle: there is no such folder"),
        ("[[group]]\nname = \"last\"\ntune = \"last:9\"\n", "my.toml, line 27: tune last:9: the model has only 2 blocks"),
    ] {
        std::fs::write(place.join("my.toml"), format!("{SWEEP}{more}"))?;
        says(place, "sweep my.toml", 2, expected)?;
        assert!(!place.join("runs").exists(), "{more}");
    }
    std::fs::write(place.join("my.toml"), SWEEP)?;
    says(place, "sweep my.toml --jobs 0", 2, "--jobs 0")?;
    says(place, "sweep my.toml --only sgd,r-adzo", 2, "--only: there is no group \"r-adzo\"")?;
    says(
        place,
        "sweep my.toml --halving --lr-scheduler-type cosine",
        2,
        "--lr-scheduler-type cosine: under a schedule that falls",
    )?;
    says(
        place,
        "sweep my.toml --halving --early-stopping-patience 1",
        2,
        "--early-stopping-patience: early stopping counts anew",
    )?;
    says(place, "sweep nowhere.toml", 2, "cannot read the sweep file nowhere.toml")?;
    // Nothing of others is written into.
    says(place, "sweep my.toml --output-dir model", 2, "--output-dir model is not empty, and no sweep has been there")?;
    done(place, "sweep my.toml --dry-run")?;
    std::fs::remove_dir_all(place.join("runs")).ok();
    assert_eq!(std::fs::read_dir(place)?.count(), 2, "the model and the file");
    Ok(())
}

/// What a listing says a cell takes is what `plan` says of it alone, also after a larger one.
#[test]
fn a_dry_run_forecasts_each_cell_as_plan_does() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let common = "max_steps = 30\nnum_train = 40\nnum_dev = 20\nnum_eval = 10\nbatch_size = 4\n";
    let small = "model = \"model\"\ntask = \"reviews\"\nsave_steps = 0\n";
    let groups = format!("[[group]]\nname = \"large\"\noptimizer = \"adamw\"\n\n[[group]]\nname = \"small\"\n{small}");
    std::fs::write(place.join("my.toml"), format!("{common}\n{groups}"))?;
    std::fs::write(place.join("large.toml"), format!("{common}optimizer = \"adamw\"\n"))?;
    std::fs::write(place.join("small.toml"), format!("{common}{small}"))?;
    let cells: Value = serde_json::from_slice(&done(place, "sweep my.toml --dry-run --json")?.stdout)?;
    assert!(!place.join("runs").exists());
    for (i, name) in ["large", "small"].into_iter().enumerate() {
        let alone: Value = serde_json::from_slice(&done(place, &format!("plan --config {name}.toml --json"))?.stdout)?;
        let (said, state) = (&cells[i]["forecast"], &cells[i]["state"]);
        assert_eq!((&cells[i]["name"], state), (&name.into(), &"new".into()));
        assert_eq!(said["disk_bytes"], alone["disk_bytes"], "{name}");
        let [said, alone] = [said, &alone].map(|forecast| forecast["peak_rss_bytes"].as_f64().unwrap_or_default());
        assert!(said > 0.0 && (said / alone - 1.0).abs() < 0.1, "{name}: {said} and {alone}");
    }
    Ok(())
}

/// The sum of the steps that are in the logs of a sweep.
fn steps(sweep: &Path) -> u64 {
    let entries = std::fs::read_dir(sweep.join("cells")).into_iter().flatten().flatten();
    let logs = entries.filter_map(|entry| std::fs::read(entry.path().join("trajectory.bin")).ok());
    logs.filter_map(|bytes| Trajectory::read(&bytes).ok()).map(|(trajectory, _)| trajectory.steps()).sum()
}

/// Starts a sweep and waits until so many steps more are in its logs.
fn until(place: &Path, words: &str, more: u64) -> Result<Child> {
    let before = steps(&place.join("runs/my"));
    let mut sweep = zotune(place, words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    while steps(&place.join("runs/my")) < before + more {
        ensure!(sweep.try_wait()?.is_none(), "it ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(sweep)
}

/// Stopped, killed, gone on with: each cell ends as if it had been typed alone. Finished cells are not run again.
#[test]
fn a_sweep_that_is_stopped_and_killed_ends_with_the_bits_of_runs_by_hand() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    std::fs::write(place.join("my.toml"), SWEEP)?;
    let stopped = until(place, "sweep my.toml --jobs 2", 2)?;
    // To the whole of it, as a terminal does: the children are out of its reach.
    let group = Command::new("kill").args(["-INT", &stopped.id().to_string()]).status()?;
    ensure!(group.success());
    let stopped = stopped.wait_with_output()?;
    assert_eq!(stopped.status.code(), Some(130), "{}", stderr(&stopped));
    assert!(stderr(&stopped).contains("the same command continues the others"), "{}", stderr(&stopped));
    // No child is left behind that still writes.
    let there = steps(&place.join("runs/my"));
    std::thread::sleep(Duration::from_millis(100));
    assert!(there > 0 && there == steps(&place.join("runs/my")) && there < 8 * 24);

    let mut killed = until(place, "sweep my.toml", 30)?;
    killed.kill()?;
    killed.wait()?;
    assert!(steps(&place.join("runs/my")) < 8 * 24);
    let ended = done(place, "sweep my.toml --jobs 2")?;
    let said = stderr(&ended);
    assert!(said.contains("cells   8: ") && !said.contains("cells   8: 0 finished, 0 begun"), "{said}");
    same_as_by_hand(place, "runs/my", &CELLS)?;

    let files = |ending: &str| -> Result<Vec<Vec<u8>>> {
        CELLS.iter().map(|name| Ok(std::fs::read(place.join(format!("runs/my/cells/{name}{ending}")))?)).collect()
    };
    let (logs, runs) = (files(".log")?, files("/run.json")?);
    let again = done(place, "sweep my.toml --json")?;
    assert!(stderr(&again).contains("cells   8: 8 finished, 0 begun, 0 new"), "{}", stderr(&again));
    assert!(logs == files(".log")? && runs == files("/run.json")?, "a finished cell was run again");
    the_table_is_that_of_the_results(place, &serde_json::from_slice(&again.stdout)?)?;
    the_order_is_that_of_the_file(place)
}

/// In reports the groups come as in the file, which a sweep of one of them alone does not change.
fn the_order_is_that_of_the_file(place: &Path) -> Result<()> {
    let order = || std::fs::read_to_string(place.join("runs/my/cells/order.txt"));
    let all = order()?;
    assert_eq!(all.lines().collect::<Vec<_>>(), CELLS);
    std::fs::write(place.join("runs/my/cells/order.txt"), "gone\nsgd-lr1e-4-seed0\n")?;
    done(place, "sweep my.toml --only r-adazo")?;
    assert_eq!(order()?, format!("{all}gone\n"));
    let report: Value = serde_json::from_slice(&done(place, "report runs/my --json")?.stdout)?;
    let groups: Vec<_> = report["groups"].as_array().unwrap().iter().map(|row| row["group"].as_str().unwrap()).collect();
    assert!(groups.is_sorted_by_key(|group| !group.starts_with("sgd")), "{groups:?}");
    Ok(())
}

/// The chosen setting has the lowest mean dev loss, computed here from the cells' all_results.json.
fn the_table_is_that_of_the_results(place: &Path, told: &Value) -> Result<()> {
    assert_eq!((&told["chosen_by"], &told["reported_on"]), (&"dev_loss".into(), &"evaluation split".into()));
    for (row, name) in [(0, "sgd"), (1, "r-adazo")] {
        let row = &told["rows"][row];
        assert_eq!(row["name"], name);
        let mut means = Vec::new();
        for rate in ["3e-3", "1e-4"] {
            let results =
                |seed: u64| json(&place.join(format!("runs/my/cells/{name}-lr{rate}-seed{seed}/all_results.json")));
            let (first, second) = (results(0)?, results(3)?);
            let mean = |key: &str| (first[key].as_f64().unwrap() + second[key].as_f64().unwrap()) / 2.0;
            means.push([mean("dev_loss"), mean("eval_loss"), mean("eval_accuracy")]);
        }
        let best = usize::from(means[1][0] < means[0][0]);
        assert_eq!(row["chosen"], best, "{row}");
        for (i, key) in ["dev_loss", "eval_loss", "eval_accuracy"].into_iter().enumerate() {
            let said = row["settings"][best][key]["mean"].as_f64().unwrap();
            assert!((said - means[best][i]).abs() < 1e-12, "{key}: {said} {means:?}");
        }
    }
    let table = std::fs::read_to_string(place.join("runs/my/table.md"))?;
    assert!(table.starts_with("Chosen by dev loss") && table.contains("Reported on the evaluation split"), "{table}");
    Ok(())
}

/// Halving gives each setting a quarter of the steps, the better half goes on, and those that come to the end have the bits of runs
/// that were never interrupted. Without halving the rest is then trained to its end too.
#[test]
fn halving_continues_the_better_half_exactly() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let text = SWEEP.split("[[group]]").next().unwrap_or_default().to_string()
        + "[[group]]\nname = \"sgd\"\nlearning_rate = [3e-3, 1e-4, 1e-5, 1e-9]\n";
    std::fs::write(place.join("my.toml"), text)?;
    let ended = done(place, "sweep my.toml --halving --jobs 2 --json")?;
    let told: Value = serde_json::from_slice(&ended.stdout)?;
    let settings = told["rows"][0]["settings"].as_array().context("settings")?;
    let mut steps: Vec<u64> = settings.iter().filter_map(|tried| tried["steps"].as_u64()).collect();
    let chosen = told["rows"][0]["chosen"].as_u64().context("one is chosen")? as usize;
    assert_eq!(steps[chosen], 24);
    // Which are left follows from the dev losses in the logs.
    let loss = |tried: &Value, step: u64| -> Result<f64> {
        let cells = tried["cells"].as_array().context("cells")?;
        let losses = cells.iter().map(|cell| {
            let place = place.join("runs/my/cells").join(cell.as_str().context("a name")?);
            Ok(Trajectory::open(&place)?.best(step).context("a score")?.1.loss)
        });
        Ok(losses.collect::<Result<Vec<_>>>()?.iter().sum())
    };
    let first: Vec<f64> = settings.iter().map(|tried| loss(tried, 6)).collect::<Result<_>>()?;
    let worst_kept = (0..4).filter(|i| steps[*i] > 6).map(|i| first[i]).fold(0.0, f64::max);
    assert!((0..4).filter(|i| steps[*i] == 6).all(|i| first[i] >= worst_kept), "{first:?} {steps:?}");
    steps.sort_unstable();
    assert_eq!(steps, [6, 6, 12, 24]);
    let names: Vec<&str> = settings[chosen]["cells"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(names.len(), 2);
    same_as_by_hand(place, "runs/my", &names)?;

    done(place, "sweep my.toml --jobs 2")?;
    let all = settings.iter().flat_map(|tried| tried["cells"].as_array().into_iter().flatten().filter_map(Value::as_str));
    same_as_by_hand(place, "runs/my", &all.collect::<Vec<_>>())
}

/// A cell that fails is named with its error, and the others end.
#[test]
fn a_cell_that_fails_does_not_stop_the_others() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let text = SWEEP.replace("seeds = [0, 3]", "seed = 0").replace("[3e-3, 1e-4]", "[1e30, 1e-4]");
    let text = text.replace("model = \"model\"", "model = \"opt-mini\"");
    std::fs::write(place.join("my.toml"), text)?;
    for _ in 0..2 {
        let output = call(place, &["sweep", "my.toml"])?;
        let (said, table) = (stderr(&output), String::from_utf8(output.stdout.clone())?);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("error: 1 of 4 cells failed (the same command tries them again):"), "{said}");
        assert!(said.contains("\n  sgd-lr1e30: exit code 4: the loss is not finite at step"), "{said}");
        assert!(table.contains("1 of 1 failed") && table.contains("r-adazo"), "{table}");
    }
    for name in ["sgd-lr1e-4", "r-adazo-lr3e-3", "r-adazo-lr1e-4"] {
        assert!(place.join("runs/my/cells").join(name).join("all_results.json").exists(), "{name}");
    }
    Ok(())
}

/// What a cell was begun with is what goes on: another option under the same name, other data, a foreign folder are refused by name.
#[test]
fn a_cell_of_another_config_or_other_data_is_refused_and_kept() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let text = SWEEP.split("[[group]]").next().unwrap_or_default().replace("seeds = [0, 3]", "learning_rate = [3e-3]");
    let rows = |from: usize| {
        (from..from + 80).map(|i| format!("{{\"text\": \"film {i}\", \"label\": \"{}\"}}\n", i % 2)).collect::<String>()
    };
    std::fs::write(place.join("rows.jsonl"), rows(0))?;
    let text = text.replace("task = \"reviews\"", "data = \"rows.jsonl\"").replace("num_dev = 20", "num_dev = 8");
    let write = |text: &str| std::fs::write(place.join("my.toml"), text);
    write(&text)?;
    done(place, "sweep my.toml")?;
    let run = place.join("runs/my/cells/lr3e-3");
    let before = outcome(&run)?;
    let refused = |text: &str, expected: &str| -> Result<()> {
        write(text)?;
        says(place, "sweep my.toml", 2, "the cell lr3e-3 has been begun with something else: ")?;
        says(place, "sweep my.toml", 2, expected)?;
        assert!(outcome(&run)? == before);
        Ok(())
    };
    refused(&format!("{text}zo_eps = 1e-2\n"), "zo_eps was 0.001 and is 0.01")?;
    refused(&text.replace("max_steps = 24", "max_steps = 12"), "max_steps was 24 and is 12")?;
    refused(&text.replace("eval_steps = 6", "eval_steps = 12"), "eval_steps was 6 and is 12")?;
    refused(&format!("{text}optimizer = \"r-adazo\"\n"), "optimizer was \"zo-sgd\" and is \"r-adazo\"")?;
    std::fs::write(place.join("rows.jsonl"), rows(1))?;
    refused(&text, "the data differ from those of the run")?;
    std::fs::write(place.join("rows.jsonl"), rows(0))?;
    let weights = place.join("model/model.safetensors");
    let mut bytes = std::fs::read(&weights)?;
    *bytes.last_mut().context("a byte")? ^= 1;
    std::fs::write(&weights, &bytes)?;
    refused(&text, "the weights of model have changed since")?;
    *bytes.last_mut().context("a byte")? ^= 1;
    std::fs::write(&weights, &bytes)?;

    // What changes no result may change, and more values are more cells.
    write(&text.replace("logging_steps = 4", "logging_steps = 1").replace("[3e-3]", "[3e-3, 1e-4]"))?;
    let more = done(place, "sweep my.toml")?;
    assert!(stderr(&more).contains("cells   2: 1 finished, 0 begun, 1 new"), "{}", stderr(&more));
    assert!(outcome(&run)? == before);
    // More steps of the same run are those of a longer one.
    let longer = text.replace("max_steps = 24", "max_steps = 36");
    write(&longer)?;
    done(place, "sweep my.toml")?;
    done(place, "sweep my.toml --output-dir runs/anew")?;
    assert!(outcome(&run)? == outcome(&place.join("runs/anew/cells/lr3e-3"))?);

    // A run that stops early is finished.
    let early = "sweep my.toml --output-dir runs/early --learning-rate 1e-30 --early-stopping-patience 1";
    done(place, early)?;
    assert_eq!(json(&place.join("runs/early/cells/run/all_results.json"))?["steps"], 6);
    assert!(stderr(&done(place, early)?).contains("cells   1: 1 finished, 0 begun, 0 new"));

    std::fs::create_dir_all(place.join("runs/anew/cells/lr7"))?;
    std::fs::write(place.join("runs/anew/cells/lr7/notes"), "mine")?;
    write(&longer.replace("[3e-3]", "[3e-3, 7.0]"))?;
    says(place, "sweep my.toml --output-dir runs/anew", 2, "lr7 is not empty and is not a run")?;
    Ok(())
}

/// Every sweep file that comes with zotune: its cells check, and those of the methods are the configs of the methods.
#[test]
fn the_sweep_files_that_come_with_it_are_whole() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut counts = Vec::new();
    for entry in std::fs::read_dir(root.join("sweeps"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = SweepFile::open(&path)?;
        let cells = grid::cells(&file, &[])?;
        for cell in &cells {
            let config = zotune::config::RunConfig::check(cell.raw()?).with_context(|| format!("{name}: {}", cell.name))?;
            zotune::zo::methods::method(&config.optimizer)?.check(&config.settings)?;
        }
        counts.push((name, cells.len()));
    }
    counts.sort();
    println!("{counts:?}");
    let methods = zotune::zo::methods::METHODS.len();
    for (name, count) in [("methods.toml", 3 * methods), ("smollm2-methods.toml", 3 * methods)] {
        assert!(counts.contains(&(name.into(), count)), "{name}: {counts:?}");
    }
    let cells = grid::cells(&SweepFile::open(&root.join("sweeps/methods.toml"))?, &[])?;
    for method in zotune::zo::methods::METHODS {
        let own = std::fs::read_to_string(root.join("methods").join(method.name).with_extension("toml"))?;
        let own = serde_json::to_value(zotune::config::RawArgs::from_toml(&own, method.name)?)?;
        for cell in cells.iter().filter(|cell| cell.row == method.name) {
            let mut raw = serde_json::to_value(cell.raw()?)?;
            assert_eq!(raw["run_name"], method.name, "a cell is called after its group in reports");
            (raw["seed"], raw["threads"], raw["run_name"]) = (Value::Null, Value::Null, Value::Null);
            assert_eq!(raw, own, "{}", cell.name);
        }
        assert_eq!(cells.iter().filter(|cell| cell.row == method.name).count(), 3);
    }
    Ok(())
}

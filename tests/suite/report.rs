//! Reports of runs, mostly of runs that are written by hand, so that every number is known.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zotune::base::errors::exit_code;
use zotune::config::{RawArgs, RunConfig};
use zotune::report::curves::{Measure, of_run};
use zotune::report::{Goal, Report, Row, Spread, Target, TargetCost, as_text, written};
use zotune::run::log_line::LogLine;
use zotune::zo::SnapshotReport;

use crate::support::{RUN, copy_all, done, json, says, stderr, workplace, zotune};

/// A run folder that is written by hand. A line of its log has a step and the mean loss since the line before.
struct ByHand<'a> {
    settings: &'a str,
    log: &'a [(u64, f64)],
    /// What a step takes: function evaluations, backward passes, tokens, seconds.
    cost: (u64, u64, u64, f64),
    /// The training loss, eval loss and accuracy of a finished run.
    scores: Option<(f64, f64, f64)>,
}

const LOG: &[(u64, f64)] = &[(1, 0.25), (5, 1.0), (10, 0.75), (12, 0.5), (15, 0.5), (20, 0.375)];

/// A run whose log is [`LOG`], of 50 steps, so that its running mean is over 5.
const PLAIN: ByHand = ByHand { settings: "", log: LOG, cost: (2, 0, 10, 0.5), scores: None };

impl ByHand<'_> {
    fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let defaults = if self.settings.contains("max_steps") { "" } else { "max_steps = 50\n" };
        let config = RunConfig::check(RawArgs::from_toml(&format!("{defaults}{}", self.settings), "by hand")?)?;
        let record = json!({
            "command": ["zotune", "train", "--output-dir", folder],
            "config": config,
            "data": { "digest": "855d770317fa5334" },
            "model": { "sha256": { "model.safetensors": "eb46" } },
            "versions": { "zotune": "0.1.0", "commit": "0" },
            "machine": { "cpu": "a processor", "threads": 2 },
        });
        std::fs::write(folder.join("run.json"), record.to_string())?;
        let (evaluations, backwards, tokens, seconds) = self.cost;
        let untrained = json!({ "step": 0, "dev_loss": 2.0, "dev_accuracy": 0.5, "function_evaluations": 0, "forwards": 0,
            "backwards": 0, "tokens": 0, "seconds": 0.0, "rss_peak_bytes": 1 });
        let mut log = format!("{untrained}\n");
        for (step, loss) in self.log {
            let line = json!({ "step": step, "loss": loss, "dev_loss": loss, "dev_accuracy": 0.5,
                "function_evaluations": step * evaluations, "forwards": 0, "backwards": step * backwards,
                "tokens": step * tokens, "seconds": *step as f64 * seconds, "rss_peak_bytes": 1 });
            log += &format!("{line}\n");
        }
        std::fs::write(folder.join("trainer_log.jsonl"), log)?;
        if let Some((train, eval, accuracy)) = self.scores {
            let n = config.max_steps;
            let results = json!({ "steps": n, "train_loss": train, "eval_loss": eval, "eval_accuracy": accuracy,
                "untrained_eval_loss": 2.0, "untrained_eval_accuracy": 0.5, "function_evaluations": n * evaluations,
                "backwards": n * backwards, "tokens_per_step": tokens, "train_seconds": n as f64 * seconds,
                "weights_bytes": 10 << 20, "optimizer_state_bytes": 20 << 20, "snapshot_bytes": 0,
                "gradient_peak_bytes": 0, "activation_peak_bytes": 5 << 20, "noise_scratch_bytes": 1024,
                "rest_bytes": 7 << 20, "peak_rss_bytes": 42 << 20 });
            std::fs::write(folder.join("all_results.json"), results.to_string())?;
        }
        Ok(())
    }
}

fn of<P: AsRef<Path>>(folders: &[P], to_loss: Option<f64>, baseline: Option<&str>) -> Result<Report> {
    let goals: Vec<Goal> = to_loss.map(Goal::Loss).into_iter().collect();
    Report::of(&folders.iter().map(|f| f.as_ref().display().to_string()).collect::<Vec<_>>(), &goals, baseline)
}

fn one(mean: f64) -> Spread {
    Spread { mean, sd: None }
}

/// The running mean is over 5 steps: 0.75 at step 10, (3 x 0.75 + 2 x 0.5) / 5 = 0.65 at step 12, 0.5 at step 15. At step 1 it is
/// 0.25, but over one step only. Two micro-batches make a mini-batch, so four backward passes a step are two, or four evaluations.
#[test]
fn a_loss_is_reached_at_the_first_line_whose_running_mean_is_not_above_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let run = folder.path().join("run");
    let settings = "batch_size = 16\nmicro_batch_size = 8";
    ByHand { settings, cost: (2, 4, 10, 0.5), ..PLAIN }.write(&run)?;
    let at = |loss: f64| -> Result<Option<Target>> { Ok(of(&[&run], Some(loss), None)?.rows[0].targets.first().copied()) };
    let by_step = |step: f64| {
        let cost = TargetCost {
            steps: one(step),
            evaluations: one(6.0 * step),
            tokens: one(10.0 * step),
            seconds: one(0.5 * step),
            speed_up_evaluations: None,
            speed_up_seconds: None,
        };
        Some(Target { reached_by: 1, median_steps: Some(step), cost: Some(cost) })
    };
    assert_eq!(at(0.751)?, by_step(10.0));
    assert_eq!(at(0.651)?, by_step(12.0));
    assert_eq!(at(0.649)?, by_step(15.0));
    assert_eq!(at(0.5)?, by_step(15.0));
    assert_eq!(at(0.375)?, by_step(20.0));
    assert_eq!(at(0.374)?, Some(Target { reached_by: 0, median_steps: None, cost: None }));
    // The lowest that it reaches.
    assert_eq!(of(&[run], None, None)?.targets, [Goal::Loss(0.375)]);
    Ok(())
}

/// Three seeds of one method and two of another that takes half the evaluations and twice the time.
fn two_methods(folder: &Path) -> Result<PathBuf> {
    let sweep = folder.join("sweep");
    for (seed, scores) in [(0, (0.5, 0.60, 0.70)), (1, (0.6, 0.62, 0.72)), (2, (0.7, 0.64, 0.80))] {
        let settings = format!("optimizer = \"zo-sgd\"\nlearning_rate = 1e-4\nseed = {seed}");
        let run = ByHand { settings: &settings, scores: Some(scores), ..PLAIN };
        run.write(&sweep.join(format!("cells/zo-sgd-{seed}")))?;
    }
    for seed in [0, 1] {
        let settings = format!("optimizer = \"zo-sign\"\nlearning_rate = 1e-3\nseed = {seed}\nlogging_steps = {}", seed + 1);
        ByHand { settings: &settings, cost: (1, 0, 10, 1.0), scores: Some((0.5, 0.5, 0.5)), ..PLAIN }
            .write(&sweep.join(format!("cells/zo-sign-{seed}")))?;
    }
    Ok(sweep)
}

#[test]
fn seeds_are_one_row_with_mean_and_deviation() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sweep = two_methods(folder.path())?;
    let report = of(&[&sweep], Some(0.5), Some("zo-sgd"))?;
    let [sgd, sign] = &report.rows[..] else { panic!("{} rows", report.rows.len()) };
    assert_eq!((&*sgd.group, &sgd.seeds[..], &*sign.group, sign.finished), ("zo-sgd", &[0, 1, 2][..], "zo-sign", 2));
    assert_eq!((sgd.evaluations, sgd.tokens, sgd.seconds), (Some(100.0), Some(500.0), Some(25.0)));
    let near = |spread: Option<Spread>, mean: f64, sd: f64| {
        let found = spread.map(|s| ((s.mean - mean).abs() < 1e-12, (s.sd.unwrap() - sd).abs() < 1e-12));
        assert_eq!(found, Some((true, true)), "{spread:?} is not {mean} and {sd}");
    };
    near(sgd.train_loss, 0.6, 0.1);
    near(sgd.eval_loss, 0.62, 0.02);
    // Of 0.70, 0.72, 0.80: the mean 0.74, the squares 16, 4 and 36 in ten thousandths, over two.
    near(sgd.eval_accuracy, 0.74, 28e-4f64.sqrt());
    let speed_ups = |row: &Row| {
        let cost = row.targets[0].cost.unwrap();
        (cost.speed_up_evaluations, cost.speed_up_seconds)
    };
    assert_eq!((speed_ups(sgd), speed_ups(sign)), ((Some(1.0), Some(1.0)), (Some(2.0), Some(0.5))));
    let error = of(&[sweep], None, Some("zo-sng")).map(drop).unwrap_err();
    assert_eq!((exit_code(&error), error.to_string().contains("did you mean \"zo-sign\"?")), (2, true), "{error}");
    Ok(())
}

/// Runs below a folder come in the order that a sweep has written there, the others after them by path; named ones as named.
#[test]
fn the_cells_of_a_sweep_come_in_its_order() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sweep = two_methods(folder.path())?;
    let groups = |folders: &[&PathBuf]| -> Result<Vec<String>> {
        Ok(of(folders, None, None)?.rows.into_iter().map(|row| row.group).collect())
    };
    assert_eq!(groups(&[&sweep])?, ["zo-sgd", "zo-sign"]);
    std::fs::write(sweep.join("cells/order.txt"), "gone\nzo-sign-0\nzo-sign-1\nzo-sgd-1\n")?;
    assert_eq!(groups(&[&sweep])?, ["zo-sign", "zo-sgd"]);
    let [sgd, sign] = ["zo-sgd-0", "zo-sign-0"].map(|name| sweep.join("cells").join(name));
    assert_eq!(groups(&[&sgd, &sign])?, ["zo-sgd", "zo-sign"]);
    Ok(())
}

/// The same settings under two names are two groups; under one name, or on the same data, they are one run.
#[test]
fn the_same_settings_under_two_names_are_two_groups() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = |name: &str| folder.path().join(name);
    for (name, seed) in [("a", 0), ("b", 0), ("b", 1), ("a", 1)] {
        let settings = format!("optimizer = \"zo-sgd\"\nlearning_rate = 1e-4\nseed = {seed}\nrun_name = \"{name}\"");
        ByHand { settings: &settings, ..PLAIN }.write(&place(&format!("{name}{seed}")))?;
    }
    let report = of(&["a0", "b0", "b1", "a1"].map(place), None, None)?;
    let rows: Vec<_> = report.rows.iter().map(|row| (&*row.group, &row.seeds[..])).collect();
    assert_eq!(rows, [("a", &[0, 1][..]), ("b", &[0, 1][..])]);
    copy_all(&place("a0"), &place("copy"))?;
    let error = of(&["a0", "copy"].map(place), None, None).map(drop).unwrap_err();
    assert!(error.to_string().contains("so they are one run"), "{error}");
    Ok(())
}

/// Before every run has reached some loss, there is none that all of them reach; a folder that has lost its run.json is named.
#[test]
fn what_is_left_out_is_said() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sweep = two_methods(folder.path())?;
    std::fs::remove_file(sweep.join("cells/zo-sgd-2/run.json"))?;
    let report = of(&[&sweep], None, None)?;
    assert!(
        report.notes.iter().any(|note| note.contains("zo-sgd-2 is left out: it has a trainer_log.jsonl")),
        "{:?}",
        report.notes
    );
    assert_eq!(report.targets.len(), 1);
    ByHand { settings: "optimizer = \"zo-sgd\"\nlearning_rate = 1e-4\nseed = 9", log: &LOG[..1], ..PLAIN }
        .write(&sweep.join("cells/zo-sgd-9"))?;
    let report = of(&[&sweep], None, None)?;
    assert!(report.targets.is_empty());
    std::fs::create_dir(folder.path().join("begun"))?;
    std::fs::write(folder.path().join("begun/report.html.partial"), "")?;
    written::check(&folder.path().join("begun"), false)?;
    assert!(report.notes.iter().any(|note| note.contains("zo-sgd-9 has logged less than a tenth")), "{:?}", report.notes);
    Ok(())
}

/// A loss that a seed does not reach has no mean, in no table.
#[test]
fn what_is_not_reached_has_no_number() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let sweep = two_methods(folder.path())?;
    let settings = "optimizer = \"zo-sign\"\nlearning_rate = 1e-3\nseed = 2";
    ByHand { settings, log: &[(10, 1.0), (20, 0.9)], cost: (1, 0, 10, 1.0), scores: None }
        .write(&sweep.join("cells/zo-sign-late"))?;
    let report = of(&[&sweep], Some(0.5), Some("zo-sign"))?;
    let Target { reached_by, median_steps, cost } = report.rows[1].targets[0];
    assert_eq!((reached_by, cost), (2, None));
    assert!(median_steps.is_some(), "two of three reach it");
    assert!(report.notes.iter().any(|note| note.contains("zo-sign-late is not finished: its log ends at step 20 of 50")));
    let text = as_text(&report, 200);
    let line = text.lines().find(|line| line.starts_with("zo-sign") && line.contains("of 3")).context("its line")?;
    assert_eq!(line.matches("not reached").count(), 4, "{text}");
    written::write(&report, &sweep.join("report"))?;
    let csv = std::fs::read_to_string(sweep.join("report/table.csv"))?;
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let cell = |row: usize, name: &str| lines[row][lines[0].iter().position(|head| *head == name).unwrap()];
    assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{csv}");
    assert_eq!((cell(2, "target_reached_by"), cell(2, "target_function_evaluations_mean")), ("2", ""));
    // The baseline has no number, so there is no ratio to it.
    assert_eq!((cell(1, "target_function_evaluations_mean"), cell(1, "speed_up_function_evaluations")), ("30", ""));
    assert_eq!((cell(1, "eval_loss_mean"), cell(1, "weights_bytes")), ("0.62", "10485760"));
    // By default every run reaches the target: here the loss that the late one ends at.
    assert_eq!(of(&[sweep], None, None)?.targets, [Goal::Loss(0.9)]);
    Ok(())
}

/// Curves at unequal steps: a seed that logs at steps 4 and 8 is at step 6 half-way between.
#[test]
fn the_band_is_between_the_seeds() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = |name: &str| folder.path().join(name);
    // Ten steps, so the running mean is over one step: of a line, its loss.
    let run = |settings| ByHand { settings, cost: (2, 0, 10, 0.5), ..PLAIN };
    ByHand { log: &[(4, 1.0), (6, 0.7), (8, 0.5)], ..run("max_steps = 10\nseed = 0") }.write(&place("a"))?;
    ByHand { log: &[(4, 0.8), (8, 0.4)], ..run("max_steps = 10\nseed = 1") }.write(&place("b"))?;
    let report = of(&[place("a"), place("b")], None, None)?;
    written::write(&report, &place("report"))?;
    let svg = std::fs::read_to_string(place("report/train-loss-by-steps.svg"))?;
    let points = |class: &str| -> Result<Vec<[f64; 2]>> {
        let (_, rest) = svg.split_once(&format!("class=\"{class}\" points=\"")).context("no such curve")?;
        let numbers = |p: &str| p.split(',').map(|x| x.parse().unwrap()).collect::<Vec<f64>>();
        Ok(rest.split('"').next().unwrap().split(' ').map(numbers).map(|p| [p[0], p[1]]).collect())
    };
    let (line, band) = (points("line")?, points("band")?);
    // Means 0.9, 0.65 and 0.45; the highest 1.0, 0.7, 0.5; then from the right the lowest 0.4, 0.6, 0.8.
    let pixels_of_one = (line[0][1] - line[2][1]) / (0.9 - 0.45);
    let value = |point: &[f64; 2]| 0.9 + (point[1] - line[0][1]) / pixels_of_one;
    let close = |points: &[[f64; 2]], values: &[f64]| {
        assert_eq!(points.len(), values.len());
        points.iter().zip(values).for_each(|(p, v)| assert!((value(p) - v).abs() < 1e-3, "{} is not {v}", value(p)));
    };
    close(&line, &[0.9, 0.65, 0.45]);
    close(&band, &[1.0, 0.7, 0.5, 0.4, 0.6, 0.8]);
    assert!((line[1][0] - (line[0][0] + line[2][0]) / 2.0).abs() < 0.2);
    Ok(())
}

#[test]
fn runs_that_answer_other_questions_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = |name: &str| folder.path().join(name);
    for name in ["a", "b", "twin", "data", "model", "task", "drawn"] {
        PLAIN.write(&place(name))?;
    }
    ByHand { settings: "seed = 1", ..PLAIN }.write(&place("b"))?;
    ByHand { settings: "task = \"sst2\"", ..PLAIN }.write(&place("task"))?;
    ByHand { settings: "train_set_seed = 7", ..PLAIN }.write(&place("drawn"))?;
    let edit = |name: &str, change: fn(&mut Value)| -> Result<()> {
        let path = place(name).join("run.json");
        let mut record = json(&path)?;
        change(&mut record);
        Ok(std::fs::write(path, record.to_string())?)
    };
    edit("data", |record| record["data"]["digest"] = "other".into())?;
    edit("drawn", |record| record["data"]["digest"] = "other".into())?;
    edit("model", |record| record["model"]["sha256"]["model.safetensors"] = "other".into())?;
    assert_eq!(of(&[place("a"), place("b")], None, None)?.rows.len(), 1);
    for (other, said) in [
        ("twin", "the same seed (0)"),
        ("data", "the rows that they are trained and scored on"),
        ("drawn", "`train_set_seed` (0; 7)"),
        ("model", "the model, whose files have changed"),
        ("task", "the task (reviews; sst2)"),
    ] {
        let error = of(&[place("a"), place(other)], None, None).map(drop).unwrap_err();
        assert!(exit_code(&error) == 2 && error.to_string().contains(said), "{other}: {error:#}");
    }
    Ok(())
}

#[test]
fn logs_are_read_as_far_as_they_are_whole() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let place = |name: &str| folder.path().join(name);
    let log_of = |name: &str| place(name).join("trainer_log.jsonl");
    PLAIN.write(&place("torn"))?;
    let mut log = std::fs::read_to_string(log_of("torn"))?;
    log.truncate(log.len() - 10);
    std::fs::write(log_of("torn"), &log)?;
    let report = of(&[place("torn")], Some(0.5), None)?;
    assert!(report.notes.iter().any(|note| note.contains("torn: the last line of trainer_log.jsonl is not whole")));
    assert_eq!(report.groups.groups[0].runs[0].steps(), 15);

    let lines: Vec<&str> = log.lines().collect();
    std::fs::write(log_of("torn"), format!("{}\nx{}\n{}\n", lines[0], lines[1], lines[2]))?;
    let error = of(&[place("torn")], None, None).map(drop).unwrap_err();
    assert!(format!("{error:#}").contains("trainer_log.jsonl, line 2: expected"), "{error:#}");
    std::fs::write(log_of("torn"), format!("{}\n{}\n", lines[2], lines[1]))?;
    let error = of(&[place("torn")], None, None).map(drop).unwrap_err();
    assert!(format!("{error:#}").contains("line 2: step 1 follows step 5"), "{error:#}");

    // Without a log there is no curve, but there are other runs.
    PLAIN.write(&place("all/a"))?;
    PLAIN.write(&place("all/b"))?;
    std::fs::remove_file(log_of("all/b"))?;
    let report = of(&[place("all")], None, None)?;
    assert!(
        report.rows.len() == 1
            && report.notes.iter().any(|note| note.ends_with("b is left out: it has no trainer_log.jsonl"))
    );
    let at = folder.path();
    says(at, "report all/b", 2, "there is no run to report on: all/b is left out")?;
    says(at, "report all/c", 2, "\"all/c\": there is no such folder")?;
    says(at, "report all/c*", 2, "nothing matches this pattern")?;
    std::fs::create_dir(place("empty"))?;
    says(at, "report empty", 2, "neither it nor a folder below it has a run.json")?;
    says(at, "report all --to-loss nan", 2, "it must be a finite number")?;
    Ok(())
}

/// Names with characters of HTML, Markdown and CSV.
#[test]
fn odd_names_are_inert() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let odd = folder.path().join("a\"><script>alert(1)<|é");
    let lora = "lora_r = 4\nlora_target_modules = \"<b>&\\\"'|,x</script>\"";
    ByHand { settings: lora, scores: Some((0.5, 0.5, 0.5)), ..PLAIN }.write(&odd.join("b"))?;
    let other = "lora_r = 4\nlora_target_modules = \"q_proj\"";
    ByHand { settings: other, scores: Some((0.5, 0.5, 0.5)), ..PLAIN }.write(&odd.join("c"))?;
    let report = of(&[&odd], None, None)?;
    assert_eq!(report.rows[0].group, "lora target modules <b>&\"'|,x</script>");
    let place = odd.join("report");
    written::write(&report, &place)?;
    let page = std::fs::read_to_string(place.join("report.html"))?;
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (1, 1));
    assert!(!page.contains("<b>") && page.contains("a&quot;&gt;&lt;script&gt;alert(1)&lt;|é"));
    assert!(
        !page.contains("http://") || page.matches("http://").count() == page.matches("http://www.w3.org/2000/svg").count()
    );
    assert!(!page.contains("https://") && !page.contains(" src="));
    let mut count = 0;
    for entry in std::fs::read_dir(&place)? {
        let path = entry?.path();
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("svg") => {
                let svg = std::fs::read_to_string(&path)?;
                resvg::usvg::Tree::from_str(&svg, &resvg::usvg::Options::default())?;
                count += 1;
            }
            // The width is behind the signature and the name of the first chunk.
            Some("png") => {
                let png = std::fs::read(&path)?;
                assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png[16..20] == 1280u32.to_be_bytes(), "{}", path.display());
            }
            _ => {}
        }
    }
    assert_eq!(count, 3 * 4 + 1);
    let markdown = std::fs::read_to_string(place.join("table.md"))?;
    let row = markdown.lines().find(|line| line.contains("&lt;b>")).context("its row")?;
    assert!(row.contains("\\|,x&lt;/script>") && !row.contains("<b>"), "{row}");
    let csv = std::fs::read_to_string(place.join("table.csv"))?;
    assert!(csv.contains("\"lora target modules <b>&\"\"'|,x</script>\""), "{csv}");
    Ok(())
}

/// The binary over runs of its own: the files, a second time, and what is not overwritten.
#[test]
fn a_report_of_real_runs() -> Result<()> {
    let folder = workplace()?;
    let at = folder.path();
    for seed in [1, 2] {
        done(at, &format!("-q train {RUN} --save-steps 0 --seed {seed} --output-dir runs/cells/{seed}"))?;
    }
    let output = done(at, "report runs --to-loss 100")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("zo-sgd") && said.contains("2 of 2") && said.contains("runs/report/report.html"), "{said}");
    let results: Vec<Value> =
        [1, 2].iter().map(|n| json(&at.join(format!("runs/cells/{n}/all_results.json")))).collect::<Result<_>>()?;
    let number = |n: usize, key: &str| results[n][key].as_f64().unwrap();
    let again: Value = serde_json::from_slice(&done(at, "-q report runs/cells/* --output-dir runs/report --json")?.stdout)?;
    let group = &again["groups"][0];
    assert_eq!(group["seeds"], json!([1, 2]));
    let mean = (number(0, "eval_loss") + number(1, "eval_loss")) / 2.0;
    assert!((group["eval_loss"]["mean"].as_f64().unwrap() - mean).abs() < 1e-12);
    assert_eq!(group["evaluations"], json!(120.0));
    for name in ["train-loss-by-tokens.svg", "dev-accuracy-by-seconds.png", "memory.png", "table.md", "table.csv"] {
        assert!(at.join("runs/report").join(name).is_file(), "{name}");
    }
    // The running mean at the end is over the same steps as the run's own training loss, which it computes from every step.
    for run in &of(&[at.join("runs")], None, None)?.groups.groups[0].runs {
        let end = of_run(run, Measure::TrainLoss).last().map(|point| point.value).context("a point")?;
        let own = number(run.config.seed as usize - 1, "train_loss");
        assert!((end - own).abs() < 1e-6, "{end} is not {own}");
    }
    std::fs::create_dir(at.join("mine"))?;
    std::fs::write(at.join("mine/notes.txt"), "mine")?;
    says(at, "report runs --output-dir mine", 2, "--output-dir mine is not empty and holds no earlier report")?;
    done(at, "report runs --output-dir mine --overwrite")?;
    assert_eq!(std::fs::read_to_string(at.join("mine/notes.txt"))?, "mine");
    Ok(())
}

/// One request to the server at `address`.
/// Runs that stopped early are finished, and an event file makes no group of its own.
#[test]
fn an_early_end_is_an_end() -> Result<()> {
    let folder = workplace()?;
    let early = format!("train {RUN} --early-stopping-patience 3 --early-stopping-threshold 10");
    for (seed, more) in [(0, ""), (1, "--report-to tensorboard --save-steps 0")] {
        done(folder.path(), &format!("{early} --seed {seed} --output-dir runs/{seed} {more}"))?;
    }
    let report = of(&[folder.path().join("runs")], None, None)?;
    let [row] = &report.rows[..] else { anyhow::bail!("{:?}", report.rows) };
    assert_eq!((row.finished, row.steps, row.evaluations), (2, 18, Some(36.0)));
    assert!(row.eval_loss.is_some() && !report.notes.iter().any(|note| note.contains("not finished")), "{:?}", report.notes);
    Ok(())
}

fn get(address: &str, path: &str, host: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn a_watched_page_follows_the_log() -> Result<()> {
    let folder = tempfile::tempdir()?;
    PLAIN.write(&folder.path().join("run"))?;
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    says(folder.path(), &format!("report run --watch --port {port}"), 2, &format!("--port {port} is in use on 127.0.0.1"))?;

    let mut server =
        zotune(folder.path(), "report run --watch --port 0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let followed = (|| -> Result<()> {
        let mut line = String::new();
        BufReader::new(server.stdout.take().context("stdout")?).read_line(&mut line)?;
        let address = line.strip_prefix("http://").and_then(|rest| rest.split('/').next()).context(line.clone())?;
        let page = get(address, "/", address)?;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.contains("step 20 of 50"), "{page}");
        assert!(get(address, "/version", address)?.ends_with("\r\n\r\n1"));
        let log = folder.path().join("run/trainer_log.jsonl");
        let mut longer = std::fs::read_to_string(&log)?;
        longer += &longer.lines().last().context("a line")?.replace("\"step\":20", "\"step\":25");
        longer += "\n";
        std::fs::write(&log, longer)?;
        assert!(get(address, "/version", address)?.ends_with("\r\n\r\n2"));
        assert!(get(address, "/", address)?.contains("step 25 of 50"));
        // Nothing else is served, and nobody else's name.
        assert!(get(address, "/run.json", address)?.starts_with("HTTP/1.1 404"));
        assert!(get(address, "/", "elsewhere.example")?.starts_with("HTTP/1.1 403"));
        Ok(())
    })();
    server.kill()?;
    let output = server.wait_with_output()?;
    followed.with_context(|| stderr(&output))?;
    assert!(!folder.path().join("run/report").exists());
    Ok(())
}

/// docs/formats.md has every field of a line of the log, and no other.
#[test]
fn the_format_of_the_log_is_documented() -> Result<()> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/formats.md"))?;
    let x = Some(1.0);
    let snapshot = SnapshotReport { num_directions: 1, example_evaluations: 1, standard_error: x };
    // Every field is named, so that a new one does not compile without a row.
    let line = LogLine {
        step: 1,
        loss: x,
        loss_plus: x,
        loss_minus: x,
        projected_grad: x,
        first_order_norm: x,
        correction_norm: x,
        correction_ratio: x,
        snapshot: Some(snapshot),
        learning_rate: x,
        dev_loss: x,
        dev_accuracy: x,
        gradient_norm: x,
        function_evaluations: 1,
        forwards: 1,
        backwards: 1,
        tokens: 1,
        seconds: 1.0,
        rss_peak_bytes: 1,
    };
    let fields = serde_json::to_value(line)?;
    let names = |value: &Value| -> Vec<String> { value.as_object().unwrap().keys().cloned().collect() };
    let mut all = names(&fields);
    all.extend(names(&fields["snapshot"]).into_iter().map(|name| format!("snapshot.{name}")));
    let section =
        text.split("## trainer_log.jsonl").nth(1).context("its section")?.split("\n## ").next().unwrap_or_default();
    let mut rows: Vec<String> =
        section.lines().filter_map(|row| Some(row.strip_prefix("| `")?.split('`').next()?.into())).collect();
    all.sort();
    rows.sort();
    assert_eq!(rows, all);
    Ok(())
}

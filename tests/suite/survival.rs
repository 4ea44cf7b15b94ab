//! Runs that are killed, stopped, starved of disk, and gone on with: the same bits as if nothing had happened.

#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use candle_core::DType;
use serde_json::Value;
use zotune::base::Source;
use zotune::run::trajectory::Trajectory;

use crate::support::{Outcome, RUN, STEPS, done, json, outcome, says, skipped, stderr, workplace, zotune};

const EVERY: u64 = 6;
/// Where a process was when it was killed.
#[derive(Default, Debug)]
struct Met {
    kills: usize,
    in_a_write: usize,
    in_evaluation: usize,
    resumed: usize,
    /// Before a resumed process had come to a step of its own.
    in_resume: usize,
}

/// When to kill.
enum Moment {
    After(Duration),
    InCheckpoint,
    InEvaluation,
}

impl Moment {
    /// Waits for the moment and kills; false where the process ended before it came.
    fn kill(&self, process: &mut Child, run: &Path) -> Result<bool> {
        let start = Instant::now();
        let partial = |run: &Path| {
            let names = std::fs::read_dir(run).into_iter().flatten().flatten().map(|e| e.file_name());
            names.into_iter().any(|name| name.to_string_lossy().ends_with(".partial"))
        };
        loop {
            if process.try_wait()?.is_some() {
                return Ok(false);
            }
            let come = match self {
                Moment::After(time) => start.elapsed() >= *time,
                Moment::InCheckpoint => partial(run),
                Moment::InEvaluation => in_evaluation(run),
            };
            if come {
                process.kill()?;
                process.wait()?;
                return Ok(true);
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

/// Whether the log ends with a step whose evaluation is due and not there.
fn in_evaluation(run: &Path) -> bool {
    let bytes = std::fs::read(run.join("trajectory.bin")).unwrap_or_default();
    Trajectory::read(&bytes)
        .is_ok_and(|(t, _)| t.steps() > 0 && t.steps().is_multiple_of(EVERY) && !t.dev.contains_key(&t.steps()))
}

/// Runs to the end through `kills` kills, more than one run if it takes them, each resumed after each; every end is `unbroken`'s.
fn kill_and_resume(folder: &Path, words: &str, unbroken: &Outcome, kills: usize, seed: u64) -> Result<Met> {
    let mut met = Met::default();
    let mut random = seed;
    let run: PathBuf = folder.join("killed");
    while met.kills < kills {
        if run.exists() {
            std::fs::remove_dir_all(&run)?;
        }
        let mut logged: Vec<u8> = Vec::new();
        loop {
            random = zotune::direction::seed::mix(random + 1);
            let words = match Trajectory::open(&run) {
                Ok(_) => "train --resume killed --threads 1".to_string(),
                // Killed before it had begun.
                Err(_) => format!("train {words} --output-dir killed --overwrite-output-dir"),
            };
            let resumes = words.contains("--resume");
            met.resumed += usize::from(resumes);
            let mut process = zotune(folder, &words)
                .stdout(Stdio::null())
                .stderr(Stdio::from(std::fs::File::create(folder.join("said"))?))
                .spawn()?;
            let moment = match random % 8 {
                0 => Moment::InCheckpoint,
                1 => Moment::InEvaluation,
                _ => Moment::After(Duration::from_micros(random >> 8 & 0x3_ffff)),
            };
            let killed = if met.kills < kills { moment.kill(&mut process, &run)? } else { false };
            let status = process.wait()?;
            if !killed {
                ensure!(status.success(), "zotune {words}: {}", std::fs::read_to_string(folder.join("said"))?);
                break;
            }
            met.kills += 1;
            met.in_evaluation += usize::from(in_evaluation(&run));
            let names = std::fs::read_dir(&run).into_iter().flatten().flatten().map(|e| e.file_name());
            met.in_a_write += usize::from(names.into_iter().any(|n| n.to_string_lossy().ends_with(".partial")));
            // What was written down of a step is never written again: only the one in flight is computed a second time.
            let bytes = std::fs::read(run.join("trajectory.bin")).unwrap_or_default();
            if let (Ok((before, torn)), Ok(_)) = (Trajectory::read(&logged), Trajectory::read(&bytes)) {
                let torn_bytes = if torn.is_some() { 64 } else { 0 };
                let whole = logged.len().saturating_sub(torn_bytes);
                ensure!(bytes.len() >= whole && bytes[..whole] == logged[..whole], "after step {}", before.steps());
            }
            met.in_resume += usize::from(resumes && bytes.len() <= logged.len());
            logged = bytes;
        }
        let end = outcome(&run)?;
        ensure!(end == *unbroken, "another end:\n{:?}\n{:?}", end.results, unbroken.results);
    }
    Ok(met)
}

/// A hundred kills with SIGKILL in all, at random moments, inside checkpoints and inside evaluations: a hundred times the end of
/// the run that nobody disturbed. scripts/kill.sh does a hundred for each method.
#[test]
fn a_run_that_is_killed_a_hundred_times_ends_as_if_nothing_had_happened() -> Result<()> {
    let kills: usize = std::env::var("ZOTUNE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(17);
    let mut total = Met::default();
    for (i, method) in ["zo-sgd", "r-adazo", "vamo"].into_iter().enumerate() {
        for (save, checkpoints) in [("--save-steps 4 --save-total-limit 2", true), ("--save-steps 0", false)] {
            let folder = workplace()?;
            let rate = if method == "zo-sgd" { "" } else { "--learning-rate 1e-3" };
            let words = format!("{RUN} --optimizer {method} {save} {rate}");
            done(folder.path(), &format!("train {words} --output-dir unbroken"))?;
            let unbroken = outcome(&folder.path().join("unbroken"))?;
            assert_eq!(unbroken.values.len() as u64, STEPS);
            assert_eq!(!unbroken.state.is_empty(), checkpoints);
            let met = kill_and_resume(folder.path(), &words, &unbroken, kills, 100 * i as u64 + u64::from(checkpoints))
                .with_context(|| format!("{method}, {save}"))?;
            if std::env::var_os("ZOTUNE_KILLS").is_some() {
                eprintln!("{method}, {save}: {met:?}: every end the same");
            }
            total.kills += met.kills;
            total.in_a_write += met.in_a_write;
            total.in_evaluation += met.in_evaluation;
            total.resumed += met.resumed;
            total.in_resume += met.in_resume;
        }
    }
    assert!(
        total.kills >= 100 && total.in_a_write > 3 && total.in_evaluation > 3 && total.resumed > 50 && total.in_resume > 3,
        "{total:?}"
    );
    Ok(())
}

/// Half precision, state in half precision, snapshots of the training set in scalars: each stopped and gone on with.
#[test]
fn every_kind_of_run_is_stopped_by_signals_and_goes_on_to_the_same_bits() -> Result<()> {
    for (words, replays) in [
        ("--dtype bf16", true),
        ("--dtype f16 --optimizer r-adazo --state-dtype bf16 --learning-rate 1e-3", true),
        ("--optimizer mezo-svrg --num-directions 2", true),
        ("--optimizer zo-conservative --save-steps 0 --lr-scheduler-type cosine --warmup-steps 5", true),
        ("--optimizer meazo --perturbation-mode one-side --distribution sphere --num-directions 2", true),
        ("--optimizer sgd --fo-params last:1 --save-steps 7 --learning-rate 1e-3", false),
        ("--optimizer adamw --save-steps 5 --learning-rate 1e-3", false),
        ("--optimizer svrg --save-steps 0 --learning-rate 1e-3", false),
        ("--optimizer svrg --save-steps 7 --snapshot-steps 4 --dtype bf16 --learning-rate 1e-3", false),
    ] {
        let folder = workplace()?;
        let words = format!("{RUN} {words}");
        done(folder.path(), &format!("train {words} --output-dir unbroken"))?;
        let unbroken = outcome(&folder.path().join("unbroken"))?;
        let run = folder.path().join("stopped");
        for (turn, (signal, code)) in [(libc::SIGINT, 130), (libc::SIGTERM, 143)].into_iter().enumerate() {
            let words =
                if turn == 0 { format!("train {words} --output-dir stopped") } else { "train --resume stopped".into() };
            let steps = || Trajectory::open(&run).map_or(0, |t| t.steps());
            // Signals are heard from a process's first step on at the latest.
            let until = (15 + 20 * turn as u64).max(steps() + 1);
            let mut process = zotune(folder.path(), &words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
            while steps() < until && process.try_wait()?.is_none() {
                std::thread::sleep(Duration::from_micros(100));
            }
            if process.try_wait()?.is_none() {
                // SAFETY: the process is ours and has not been waited for.
                assert_eq!(unsafe { libc::kill(process.id() as i32, signal) }, 0);
            }
            let output = process.wait_with_output()?;
            let said = stderr(&output);
            if output.status.success() {
                continue; // It came to its end first.
            }
            assert_eq!(output.status.code(), Some(code), "{words}: {said}");
            assert!(said.contains("continue with: zotune train --resume stopped"), "{said}");
            assert!(said.lines().last().is_some_and(|l| l.starts_with("stopped after step ")), "{said}");
        }
        let output = done(folder.path(), "train --resume stopped --json")?;
        let said = stderr(&output);
        assert!(replays || !said.contains("replayed"), "{said}");
        assert!(outcome(&run)? == unbroken, "{words}");
    }
    Ok(())
}

#[test]
fn more_steps_can_be_asked_for_and_nothing_else_that_matters() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let all = format!("{RUN} --lr-scheduler-type linear --optimizer zo-adamm --learning-rate 1e-3");
    done(place, &format!("train {all} --max-steps 40 --output-dir grown"))?;
    for (words, expected) in [
        ("--learning-rate 1", "--learning-rate 1.0: the run uses 0.001"),
        ("--optimizer zo-sgd", "--optimizer \"zo-sgd\": the run uses \"zo-adamm\""),
        ("--zo-eps 1", "--zo-eps 1.0: the run uses 0.001"),
        ("--batch-size 5", "--batch-size 5: the run uses 4"),
        ("--num-dev 7", "--num-dev 7: the run uses 100"),
        ("--seed 1", "--seed 1: the run uses 0"),
        ("--max-steps 39", "--max-steps 39: the run has 40; it can only be increased"),
        ("--overwrite-output-dir", "--overwrite-output-dir"),
        ("--output-dir other", "--output-dir other"),
    ] {
        let output = zotune(place, &format!("train --resume grown {words}")).output()?;
        assert_eq!(output.status.code(), Some(2), "{words}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{words}: {}", stderr(&output));
    }
    // Nothing to do is no error.
    let output = done(place, "train --resume grown --json")?;
    assert!(stderr(&output).contains("grown is finished (40 steps)"), "{}", stderr(&output));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout)?["steps"], 40);
    done(place, "train --resume grown --max-steps 60 --save-steps 9 --eval-steps 6 --fsync every")?;
    let trajectory = Trajectory::open(&place.join("grown"))?;
    assert_eq!((trajectory.steps(), trajectory.max_steps), (60, 60));
    // Steps that were made keep the rate that they were made with: a replay of all of them ends where the run did.
    done(place, "replay grown --output-dir replayed --to-step 60")?;
    let [a, b] = ["grown/checkpoint-60", "replayed"].map(|f| std::fs::read(place.join(f).join("model.safetensors")));
    assert!(a? == b?);

    // With a constant rate, a run that was to be short is the beginning of a long one.
    done(place, &format!("train {RUN} --max-steps 31 --output-dir short"))?;
    done(place, "train --resume short --max-steps 60")?;
    done(place, &format!("train {RUN} --output-dir long"))?;
    let [short, long] = ["short", "long"].map(|run| Trajectory::open(&place.join(run)));
    let (short, long) = (short?, long?);
    // The newest checkpoint alone: --save-total-limit is 1.
    let kept = |step: u64| place.join(format!("grown/checkpoint-{step}")).exists();
    assert_eq!((1..=60).filter(|step| kept(*step)).collect::<Vec<_>>(), [60]);
    assert!((1..=60).all(|step| short.values(step) == long.values(step)));
    assert_eq!(short.dev[&60], long.dev[&60]);
    Ok(())
}

/// A finished run that is made longer begins from its last checkpoint, and what it left stays until there is something better: however
/// seldom it is scored, and with first-order gradients, which no log brings back.
#[test]
fn a_run_that_is_made_longer_loses_nothing() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for method in ["zo-sgd", "adamw"] {
        let run = place.join(method);
        done(place, &format!("train {RUN} --optimizer {method} --max-steps 31 --eval-steps 100000 --output-dir {method}"))?;
        let left = || ["model.safetensors", "all_results.json"].map(|file| std::fs::read(run.join(file)).ok());
        let before = left();
        assert_eq!(json(&run.join("all_results.json"))?["best_step"], 31, "{method}: the case that is asked about");
        let mut process = zotune(place, &format!("train --resume {method} --max-steps 100000"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        while Trajectory::open(&run).is_ok_and(|t| t.steps() < 34) && process.try_wait()?.is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // SAFETY: the process is ours and has not been waited for.
        assert_eq!(unsafe { libc::kill(process.id() as i32, libc::SIGINT) }, 0);
        let output = process.wait_with_output()?;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(130), "{method}: {said}");
        assert!(said.contains("resume  continuing after step 31") && !said.contains("rebuilt"), "{method}: {said}");
        assert!(before.iter().all(Option::is_some) && left() == before, "{method}: what the run had left is another");
        assert!(run.join("loss.svg").is_file());
    }
    Ok(())
}

#[test]
fn a_second_process_is_refused_until_the_first_is_gone() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let words = format!("train {RUN} --max-steps 100000 --output-dir run");
    let mut first = zotune(place, &words).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    while Trajectory::open(&place.join("run")).map_or(0, |t| t.steps()) < 3 {
        std::thread::sleep(Duration::from_millis(1));
    }
    for words in ["train --resume run".to_string(), format!("{words} --overwrite-output-dir")] {
        let output = zotune(place, &words).output()?;
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains("another process is writing in run"), "{}", stderr(&output));
    }
    // A run can be looked at while it goes.
    done(place, "export run --trajectory now.zot")?;
    first.kill()?;
    first.wait()?;
    let steps = Trajectory::open(&place.join("run"))?.steps();
    let mut second = zotune(place, "train --resume run").stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    while Trajectory::open(&place.join("run"))?.steps() <= steps {
        std::thread::sleep(Duration::from_millis(1));
        assert!(second.try_wait()?.is_none(), "the lock outlived its holder");
    }
    second.kill()?;
    second.wait()?;
    Ok(())
}

/// A file system that fills up in the middle of a run: files past a limit cannot grow, and where it can be had, a real one of
/// a few megabytes.
#[test]
fn a_disk_that_fills_up_ends_a_run_that_goes_on_when_there_is_space() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let binary = env!("CARGO_BIN_EXE_zotune");
    // 64 directions: the log is the file that outgrows the limit, at about a third of the way.
    let words = format!("{RUN} --num-directions 64 --max-steps 600 --eval-steps 600 --logging-steps 600 --save-steps 0");
    done(place, &format!("train {words} --output-dir unbroken"))?;
    let limited = format!("ulimit -f 160; exec {binary} train {words} --output-dir full");
    let output = Command::new("bash").args(["-c", &limited]).current_dir(place).output()?;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write full/trajectory.bin") && said.contains("zotune train --resume full"), "{said}");
    let stood = Trajectory::open(&place.join("full"))?.steps();
    assert!((100..600).contains(&stood), "{stood}");
    done(place, "train --resume full")?;
    let [a, b] = ["full", "unbroken"].map(|run| std::fs::read(place.join(run).join("model.safetensors")));
    assert!(a? == b?);

    // The weights, a checkpoint and half of another: the second one does not fit.
    let words = format!("{RUN} --save-steps 3 --save-total-limit 2 --output-dir small/run");
    let script = format!(
        "set -e; mkdir small; mount -t tmpfs -o size=640k tmpfs small; set +e
         {binary} train {words}; echo first $?; ls small/run; df -k small >&2
         {binary} train --resume small/run; echo second $?
         mount -o remount,size=4m small; {binary} train --resume small/run >&2; echo third $?
         cp -r small/run kept"
    );
    let output = Command::new("unshare").args(["-rm", "bash", "-c", &script]).current_dir(place).output();
    match output {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("first") => {
            let (told, said) = (String::from_utf8_lossy(&output.stdout).into_owned(), stderr(&output));
            assert!(told.contains("first 1") && told.contains("second 1") && told.contains("third 0"), "{told}{said}");
            assert!(said.contains("No space left on device") && said.contains("stopped after step "), "{said}");
            assert!(!told.contains(".partial"), "{told}");
            done(place, &format!("train {RUN} --output-dir roomy"))?;
            let [a, b] = ["kept", "roomy"].map(|run| std::fs::read(place.join(run).join("model.safetensors")));
            assert!(a? == b?);
        }
        _ => skipped("no file system of our own can be mounted here; the limit on files stands for it"),
    }
    Ok(())
}

#[test]
fn what_is_damaged_or_of_another_run_is_named() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    done(place, &format!("train {RUN} --output-dir run"))?;
    let says = |words: &str, code: i32, expected: &str| says(place, words, code, expected);
    // Another base model, by one bit of one weight.
    let stored = std::fs::read(place.join("model/model.safetensors"))?;
    std::fs::create_dir(place.join("other"))?;
    for name in ["config.json", "vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::copy(place.join("model").join(name), place.join("other").join(name))?;
    }
    let mut bytes = stored.clone();
    *bytes.last_mut().context("bytes")? ^= 1;
    std::fs::write(place.join("other/model.safetensors"), &bytes)?;
    says("replay run --model other --output-dir r", 6, "weight model.")?;
    says("train --resume run --max-steps 70 --model other", 6, "differs from that of the run's base model")?;
    assert!(!place.join("r").exists(), "something was written");
    // The same weights in another place will do.
    std::fs::write(place.join("other/model.safetensors"), &stored)?;
    done(place, "replay run --model other --output-dir r")?;
    assert!(std::fs::read(place.join("r/model.safetensors"))? == std::fs::read(place.join("run/model.safetensors"))?);
    says("replay run --output-dir r", 2, "r is not empty")?;
    says(
        "replay run --output-dir model --overwrite-output-dir",
        2,
        "model is an input of this run and would be overwritten",
    )?;
    says("replay run --output-dir s --to-step 61", 2, "--to-step 61: the trajectory has 60 steps")?;
    says("replay nowhere --output-dir s", 2, "nowhere: cannot read the trajectory")?;
    says("replay model --output-dir s", 2, "cannot read the trajectory")?;
    says("replay model/config.json --output-dir s", 1, "it is not a zotune trajectory")?;
    says("train --resume model", 2, "there is no trajectory.bin")?;
    says("export run --trajectory run/trajectory.bin", 2, "it exists already")?;
    says("export run --trajectory nowhere/a.zot", 2, "--trajectory nowhere/a.zot: its folder does not exist")?;
    says("export run --trajectory model/config.json", 2, "it exists already")?;
    done(place, "export run --trajectory a.zot")?;
    says(
        "eval --model model --task reviews --trajectory a.zot --dtype bf16",
        2,
        "--dtype bf16: the run was trained in f32",
    )?;
    says("eval --model other --task reviews --trajectory model", 2, "cannot read the trajectory")?;

    // A log that says other values than the run had: well formed, and found out at the first score behind them.
    let log = std::fs::read(place.join("run/trajectory.bin"))?;
    std::fs::create_dir(place.join("forged"))?;
    let forged = forge(&log, 20)?;
    std::fs::write(place.join("forged/trajectory.bin"), &forged)?;
    for expected in ["after step 24 the weights differ from the run's", "; at step 18 they were the same"] {
        says("replay forged --output-dir s --to-step 30", 6, expected)?;
    }
    done(place, "replay forged --output-dir s --to-step 18")?;
    // Damage.
    let mut damaged = log.clone();
    let middle = damaged.len() - 700;
    damaged[middle] ^= 16;
    std::fs::write(place.join("forged/trajectory.bin"), &damaged)?;
    says("replay forged --output-dir t", 1, "is damaged (byte ")?;
    says("train --resume forged", 1, "the record of step ")?;
    // A checkpoint that is damaged is left out, the one before it taken, or the log alone.
    done(place, "train --resume run --max-steps 66 --save-total-limit 5")?;
    let checkpoint = place.join("run/checkpoint-66/model.safetensors");
    let mut bytes = std::fs::read(&checkpoint)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&checkpoint, bytes)?;
    let output = done(place, "train --resume run --max-steps 67")?;
    assert!(stderr(&output).contains("checkpoint-66 is skipped: model.safetensors is damaged"), "{}", stderr(&output));
    assert!(stderr(&output).contains("replaying steps 61 to 66 from the log"), "{}", stderr(&output));
    // So are the best weights, if their file is lost: those of the step with the least loss on dev, whichever that is.
    std::fs::remove_file(place.join("run/model.safetensors"))?;
    done(place, "train --resume run --max-steps 68")?;
    assert_keeps_the_best(place, "run")?;
    // At this rate every step makes the model worse by far, so that the best weights are those from before the first.
    let words = format!("{RUN} --learning-rate 0.3 --max-steps 12 --output-dir worse");
    done(place, &format!("train {words}"))?;
    std::fs::remove_file(place.join("worse/model.safetensors"))?;
    done(place, "train --resume worse --max-steps 13")?;
    let (best, losses) = assert_keeps_the_best(place, "worse")?;
    assert!(best == 0 && losses[1..].iter().all(|loss| *loss > 1.1 * losses[0]), "{best}, {losses:?}");
    // The data have changed.
    let mut results = std::fs::read_dir(place.join("run"))?.collect::<std::io::Result<Vec<_>>>()?;
    results.retain(|e| e.file_name().to_string_lossy().contains("partial"));
    assert!(results.is_empty());
    Ok(())
}

/// The file of a run's best weights holds those of the step whose logged loss on dev is the least, as a replay makes them. That
/// step, and all losses on dev.
fn assert_keeps_the_best(place: &Path, run: &str) -> Result<(u64, Vec<f64>)> {
    let trajectory = Trajectory::open(&place.join(run))?;
    let scores: Vec<(u64, f64)> = trajectory.dev.iter().map(|(step, dev)| (*step, dev.loss)).collect();
    // Of equals the first.
    let best = scores.iter().fold(scores[0], |best, score| if score.1 < best.1 { *score } else { best }).0;
    assert_eq!(trajectory.kept(), best, "{scores:?}");
    let again = format!("{run}-best");
    done(place, &format!("replay {run} --to-step {best} --output-dir {again}"))?;
    let [a, b] = [run, &again].map(|folder| std::fs::read(place.join(folder).join("model.safetensors")));
    assert!(a? == b?, "{run} does not hold the weights of step {best}");
    Ok((best, scores.into_iter().map(|score| score.1).collect()))
}

/// The log with another first value in `step`, and with checksums that are right.
fn forge(log: &[u8], step: u64) -> Result<Vec<u8>> {
    let word = |bytes: &[u8], at: usize| -> Result<u32> { Ok(u32::from_le_bytes(bytes[at..at + 4].try_into()?)) };
    let mut bytes = log.to_vec();
    let mut at = 8 + 4 + word(log, 8)? as usize + 4;
    let mut steps = 0;
    while at < bytes.len() {
        let frame = word(&bytes, at)?;
        let end = at + 8 + 4 * (frame >> 8) as usize;
        if frame & 0xff == 1 {
            steps += 1;
            if steps == step {
                bytes[at + 6] ^= 0x40;
            }
        }
        let mut sum = crc32fast::Hasher::new();
        sum.update(&bytes[at - 4..end - 4]);
        bytes[end - 4..end].copy_from_slice(&sum.finalize().to_le_bytes());
        at = end;
    }
    Ok(bytes)
}

/// A trajectory is a starting point like an adapter: for an evaluation, for another run, for a replay of that.
#[test]
fn a_trajectory_stands_for_the_model_that_it_made() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for dtype in ["f32", "bf16"] {
        let name = |what: &str| format!("{what}-{dtype}");
        let (first, second) = (name("first"), name("second"));
        done(place, &format!("train {RUN} --dtype {dtype} --output-dir {first}"))?;
        let output = done(place, &format!("export {first} --trajectory {first}.zot --json"))?;
        let told: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(told["bytes"], std::fs::metadata(place.join(format!("{first}.zot")))?.len());
        let score = |words: &str| -> Result<Value> {
            let words = format!("eval {words} --task reviews --num-eval 10 --eval-batch-size 16 --json");
            Ok(serde_json::from_slice(&done(place, &words)?.stdout)?)
        };
        let results = json(&place.join(&first).join("all_results.json"))?;
        for trajectory in [format!("{first}.zot"), first.clone()] {
            let found = score(&format!("--model model --trajectory {trajectory}"))?;
            assert_eq!((&found["loss"], &found["accuracy"]), (&results["eval_loss"], &results["eval_accuracy"]));
        }
        done(place, &format!("train {RUN} --seed 3 --trajectory {first}.zot --output-dir {second}"))?;
        assert_eq!(json(&place.join(&second).join("all_results.json"))?["untrained_eval_loss"], results["eval_loss"]);
        done(place, &format!("replay {second} --output-dir {second}-again --json"))?;
        let [a, b] = ["", "-again"].map(|end| std::fs::read(place.join(format!("{second}{end}/model.safetensors"))));
        assert!(a? == b?, "{dtype}");
        // Without the first trajectory the second has nothing to stand on.
        let output = zotune(place, &format!("replay {second} --trajectory {second} --output-dir no")).output()?;
        assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
        let (model, _) = zotune::model::Model::open(&Source::Folder(place.join(format!("{second}-again"))), DType::F32)?;
        assert_eq!(model.num_blocks(), 2);
    }
    // First-order parts are not in a log.
    done(place, &format!("train {RUN} --optimizer sgd --max-steps 3 --output-dir fo"))?;
    for words in
        ["export fo --trajectory fo.zot", "replay fo --output-dir fo2", "eval --model model --task reviews --trajectory fo"]
    {
        let output = zotune(place, words).output()?;
        assert_eq!(output.status.code(), Some(2), "{words}: {}", stderr(&output));
        assert!(stderr(&output).contains("first-order"), "{}", stderr(&output));
    }
    Ok(())
}

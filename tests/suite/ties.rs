//! A run is tied to what it began from and to its folder: what changes between two of its processes is named, what is lost is made
//! again, and no other process's folder is written to.

#![cfg(unix)]

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use zotune::run::trajectory::Trajectory;

use crate::run_folder::damage;
use crate::support::edit;
use crate::support::{RUN, copy_all, done, outcome, says, workplace, zotune};

/// A run of few steps, which is made longer to be gone on with.
const SHORT: &str = "--max-steps 4 --eval-steps 2 --num-dev 4 --num-eval 2 --save-steps 2";

/// Everything that a run's losses are computed with, edited between its beginning and its end: exit code 6 and the name of it. Taken
/// back, the run goes on.
#[test]
fn what_the_losses_are_computed_with_is_named_where_it_changed() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let task = String::from_utf8(done(place, "tasks show reviews")?.stdout)?;
    std::fs::write(place.join("task.toml"), &task)?;
    let words = RUN.replace("--task reviews", "--task task.toml");
    done(place, &format!("train {words} {SHORT} --output-dir run"))?;
    done(place, &format!("train {words} {SHORT} --lora-r 2 --output-dir lora"))?;
    done(place, &format!("train {words} {SHORT} --adapter lora --output-dir further"))?;

    let mut goes_on = 4;
    let mut changed = |run: &str, at: &str, file: &str, change: &dyn Fn() -> Result<()>, expected: &str| -> Result<()> {
        let path = place.join(at).join(file);
        let before = std::fs::read(&path)?;
        change()?;
        goes_on += 1;
        says(place, &format!("train --resume {run} --max-steps {goes_on}"), 6, expected)?;
        std::fs::write(path, before)?;
        done(place, &format!("train --resume {run} --max-steps {goes_on}")).map(drop)
    };
    let config = |field: &'static str, value: Value| {
        move || edit(&place.join("model"), "config.json", |config| drop(config.insert(field.into(), value.clone())))
    };
    for (field, value, expected) in [
        ("rope_theta", json!(500.0), "the model's config.json has changed: frequencies is [[1.0,"),
        ("rms_norm_eps", json!(1e-2), "the model's config.json has changed: eps is 0.0099"),
        ("rope_scaling", json!({"type": "linear", "factor": 2.0}), "config.json has changed: frequencies is [[0.5,"),
    ] {
        changed("run", "model", "config.json", &config(field, value), expected)?;
    }
    let loss = || -> Result<()> {
        let other = task.replace("loss = \"classification\"", "loss = \"teacher-forcing\"");
        Ok(std::fs::write(place.join("task.toml"), other)?)
    };
    changed(
        "run",
        "",
        "task.toml",
        &loss,
        "the task file has changed: loss is \"teacher-forcing\", but the run was started with",
    )?;
    let prompt = || Ok(std::fs::write(place.join("task.toml"), task.replace("It was", "All in all it was"))?);
    changed("run", "", "task.toml", &prompt, "the data differ from those of the run")?;
    let alpha =
        || edit(&place.join("lora"), "adapter_config.json", |config| drop(config.insert("lora_alpha".into(), json!(9))));
    changed("further", "lora", "adapter_config.json", &alpha, "adapter_config.json has changed: lora scale is 4.5")?;
    let root =
        || edit(&place.join("lora"), "adapter_config.json", |config| drop(config.insert("use_rslora".into(), json!(true))));
    changed("further", "lora", "adapter_config.json", &root, "lora scale is 2.8")?;
    // A replay writes the config beside the weights, and is as strict.
    config("rope_theta", json!(500.0))()?;
    says(place, "replay run --output-dir r", 6, "the model's config.json has changed: frequencies")?;
    assert!(!place.join("r").exists(), "a folder was left behind");
    Ok(())
}

/// An adapter that a run left is tied to the model that it was trained on: whoever reads it on another is told which weight differs.
#[test]
fn an_adapter_of_a_run_goes_with_its_own_base_alone() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    done(place, &format!("train {RUN} {SHORT} --lora-r 2 --output-dir lora"))?;
    copy_all(&place.join("model"), &place.join("other"))?;
    damage(&place.join("other/model.safetensors"), "model.layers.0.mlp.up_proj.weight")?;
    let eval = "--task reviews --num-eval 4";
    let train = format!("{} --adapter lora {SHORT}", RUN.replace("--model model", "--model other"));
    let expected = "wrong base model: weight model.layers.0.mlp.up_proj.weight differs from that of the run's base model";
    for words in [
        &format!("eval --model other --adapter lora {eval}"),
        &format!("eval --model other --adapter lora/checkpoint-4 {eval}"),
        "export lora --merge --model other --output-dir merged",
        "export lora/checkpoint-4 --merge --model other --output-dir merged",
        &format!("train {train} --output-dir further"),
    ] {
        says(place, words, 6, expected)?;
    }
    assert!(!place.join("merged").exists() && !place.join("further/model.safetensors").exists());
    // The same weights under another name are the same base; in another precision nothing can be compared.
    copy_all(&place.join("model"), &place.join("same"))?;
    done(place, &format!("eval --model same --adapter lora {eval}"))?;
    done(place, "export lora/checkpoint-4 --merge --model same --output-dir merged")?;
    says(place, &format!("eval --model other --adapter lora {eval} --dtype bf16"), 0, "cannot be compared with the run's")?;
    // One that came without a log is nobody's.
    std::fs::create_dir(place.join("bare"))?;
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(place.join("lora").join(file), place.join("bare").join(file))?;
    }
    done(place, &format!("eval --model other --adapter bare {eval}"))?;
    Ok(())
}

/// The name of a folder that a run began from is no name on the hub: where it is gone, nobody is asked for it.
#[test]
fn a_base_folder_that_is_gone_is_asked_of_nobody() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    done(place, &format!("train {RUN} {SHORT} --output-dir run"))?;
    done(place, &format!("train {RUN} {SHORT} --lora-r 2 --output-dir lora"))?;
    done(place, "export run --trajectory run.zot")?;
    std::fs::rename(place.join("model"), place.join("moved"))?;
    for words in [
        "train --resume run --max-steps 5",
        "eval --adapter lora",
        "eval --adapter lora/checkpoint-4",
        "eval --trajectory run",
        "eval --trajectory run.zot --task reviews",
        "replay run --output-dir out",
        "replay run.zot --output-dir out",
        "export lora --merge --output-dir out",
        "export lora/checkpoint-4 --merge --output-dir out",
    ] {
        says(
            place,
            words,
            2,
            "the run started from the model folder model, which does not exist; say with --model where it is now",
        )?;
        assert!(!place.join("out").exists(), "{words}");
    }
    says(place, "train --resume run", 0, "is finished (4 steps)")?;
    done(place, "eval --adapter lora --model moved")?;
    done(place, "replay run --model moved --output-dir out")?;
    done(place, "train --resume run --max-steps 5 --model moved").map(drop)
}

/// OPT's heads and activation are no weight's shape.
#[test]
fn what_opt_computes_is_tied_to_the_run() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let random = crate::support::copy_of("opt-tiny")?;
    copy_all(random.path(), &place.join("opt"))?;
    let model = zotune::model::Model::open(&zotune::base::Source::Folder(place.join("opt")), candle_core::DType::F32)?.0;
    let numbers = model.numbers();
    for (field, value) in [
        ("num_attention_heads", json!(1)),
        ("activation_function", json!("gelu")),
        ("do_layer_norm_before", json!(false)),
        ("_remove_final_layer_norm", json!(true)),
    ] {
        copy_all(random.path(), &place.join("opt"))?;
        edit(&place.join("opt"), "config.json", |config| drop(config.insert(field.into(), value.clone())))?;
        let source = zotune::base::Source::Folder(place.join("opt"));
        let other = zotune::model::Model::open(&source, candle_core::DType::F32)?.0.numbers();
        let differing: Vec<_> = other.iter().filter(|(name, number)| numbers.get(*name) != Some(number)).collect();
        assert!(differing.iter().any(|(name, _)| name.as_str() == field), "{field}: {differing:?}");
    }
    Ok(())
}

/// A run that has ended and whose weights are gone or damaged gets them back; its results stay as they were measured.
#[test]
fn a_finished_run_gets_its_weights_back() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let short = format!("{RUN} {SHORT} --learning-rate 1e-3");
    for (name, flags, file, tensor) in [
        ("zo", "", "model.safetensors", "model.norm.weight"),
        ("part", "--tune last:1", "model.safetensors", "model.layers.0.mlp.up_proj.weight"),
        ("fo", "--optimizer adamw", "model.safetensors", "model.norm.weight"),
        (
            "lora",
            "--lora-r 2",
            "adapter_model.safetensors",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        ),
    ] {
        done(place, &format!("train {short} {flags} --output-dir {name}"))?;
        let run = place.join(name);
        let (weights, results) = (std::fs::read(run.join(file))?, std::fs::read(run.join("all_results.json"))?);
        says(place, &format!("train --resume {name}"), 0, "is finished (4 steps)")?;
        for damaged in [true, false] {
            match damaged {
                true => damage(&run.join(file), tensor)?,
                false => std::fs::remove_file(run.join(file))?,
            }
            let output = done(place, &format!("train --resume {name}"))?;
            let said = crate::support::stderr(&output);
            assert!(said.contains("are missing or have changed; they are rebuilt\n"), "{said}");
            assert_eq!(said.matches("No such file").count(), usize::from(!damaged), "{said}");
            assert!(std::fs::read(run.join(file))? == weights, "{name}: other weights");
            assert!(std::fs::read(run.join("all_results.json"))? == results, "{name}: other results");
            assert!(run.join("loss.svg").is_file());
        }
        says(place, &format!("train --resume {name}"), 0, "is finished (4 steps)")?;
    }
    Ok(())
}

/// A log that was cut where a record ends is a log of fewer steps. Whoever reads it says so.
#[test]
fn a_log_that_was_cut_between_records_is_said_to_be() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    done(place, &format!("train {RUN} {SHORT} --max-steps 12 --output-dir run"))?;
    let log = place.join("run/trajectory.bin");
    let bytes = std::fs::read(&log)?;
    let ends_behind = |len: usize, step: u64| matches!(Trajectory::read(&bytes[..len]), Ok((t, None)) if t.steps() == step);
    let cut = (0..bytes.len()).find(|len| ends_behind(*len, 7)).context("a record of step 7")?;
    std::fs::write(&log, &bytes[..cut])?;
    says(
        place,
        "replay run --output-dir r",
        0,
        "the log ends at step 7 of 12: the run was stopped, has diverged or is still running, or the log is incomplete",
    )?;
    says(place, "export run --trajectory r.zot", 0, "the log ends at step 7 of 12")?;
    says(place, "replay r.zot --output-dir s", 0, "the log ends at step 7 of 12")?;
    says(place, "train --resume run", 0, "checkpoint-12 is removed: the log ends at step 7")?;
    assert!(std::fs::read(&log)? == bytes, "the run has come out otherwise");
    Ok(())
}

/// A process that is stopped where the test ends, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a run in `run` that does not end by itself, and waits until it has made a few steps.
fn start(place: &Path, words: &str, said: &str) -> Result<Running> {
    let run = place.join("run");
    let log = std::fs::File::create(place.join(said))?;
    let process = zotune(place, &format!("train {words} --output-dir run")).stdout(Stdio::null()).stderr(log).spawn()?;
    let mut running = Running(process);
    while !Trajectory::open(&run).is_ok_and(|t| t.steps() >= 3) {
        anyhow::ensure!(running.0.try_wait()?.is_none(), "{}", std::fs::read_to_string(place.join(said))?);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(running)
}

/// Nobody writes into the folder of a run that goes: not a replay, not a merge, and no other run.
#[test]
fn a_run_that_goes_has_its_folder_for_itself() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    done(place, &format!("train {RUN} {SHORT} --lora-r 2 --output-dir lora"))?;
    done(place, &format!("train {RUN} {SHORT} --output-dir old"))?;
    let running = start(place, &format!("{RUN} --max-steps 1000000 --eval-steps 100000"), "said")?;
    let taken = "another process is writing in run (trajectory.bin is locked)";
    let over = "--output-dir run --overwrite-output-dir";
    says(place, &format!("replay old {over}"), 2, taken)?;
    says(place, &format!("export lora --merge {over}"), 2, taken)?;
    drop(running);
    // Once it is gone, a replay takes its place, and nothing that tells of another model is left.
    done(place, &format!("replay old {over}"))?;
    let mut left: Vec<_> = std::fs::read_dir(place.join("run"))?.map(|e| Ok(e?.file_name())).collect::<Result<_>>()?;
    left.sort();
    assert_eq!(left, ["config.json", "merges.txt", "model.safetensors", "tokenizer_config.json", "vocab.json"]);
    assert!(std::fs::read(place.join("run/model.safetensors"))? == std::fs::read(place.join("old/model.safetensors"))?);
    Ok(())
}

/// A run whose folder is moved away while it goes stops, whether another was begun in its place or not; both end as if alone.
#[test]
fn a_run_whose_folder_is_taken_away_stops_and_touches_no_other() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let words = format!("{RUN} --max-steps 100000 --eval-steps 50000 --save-steps 0");
    for begun_anew in [false, true] {
        let mut running = start(place, &words, "said")?;
        std::fs::rename(place.join("run"), place.join("moved"))?;
        if begun_anew {
            done(place, &format!("train {RUN} --seed 1 --output-dir run"))?;
        }
        let status = running.0.wait()?;
        let said = std::fs::read_to_string(place.join("said"))?;
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(
            said.contains("no longer belongs to this run: its folder was moved, removed or used for a new run"),
            "{said}"
        );
        if begun_anew {
            done(place, &format!("train {RUN} --seed 1 --output-dir alone"))?;
            assert!(outcome(&place.join("run"))? == outcome(&place.join("alone"))?, "the other run was written into");
        }
        let steps = Trajectory::open(&place.join("moved"))?.steps();
        says(place, &format!("train --resume moved --max-steps {steps}"), 2, "it can only be increased")?;
        done(place, "replay moved --output-dir r --overwrite-output-dir")?;
        std::fs::remove_dir_all(place.join("moved"))?;
        assert_eq!(place.join("run").exists(), begun_anew, "the folder came back");
    }
    Ok(())
}

/// What a run writes beside its weights is what the base model had when it began, whatever becomes of that.
#[test]
fn checkpoints_are_whole_though_the_base_model_is_gone() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    let mut running = start(place, &format!("{RUN} --max-steps 400 --eval-steps 400 --save-steps 400"), "said")?;
    let names = ["vocab.json", "merges.txt", "tokenizer_config.json"];
    std::fs::remove_file(place.join("model/vocab.json"))?;
    std::fs::write(place.join("model/merges.txt"), "#version: 0.2\n")?;
    std::fs::write(place.join("model/tokenizer_config.json"), "{}")?;
    let status = running.0.wait()?;
    assert!(status.success(), "{}", std::fs::read_to_string(place.join("said"))?);
    for name in names {
        let built_in = zotune::model::builtin::OPT_MINI.read(name)?.context("built in")?;
        for at in ["run", "run/checkpoint-400"] {
            assert!(std::fs::read(place.join(at).join(name))? == built_in, "{at}/{name}");
        }
    }
    Ok(())
}

/// Replays and merges that are killed at any moment leave a folder without weights or with the right ones, and harm nothing that they
/// read; scripts/kill.sh kills more often.
#[test]
fn a_replay_or_merge_that_is_killed_leaves_all_or_nothing() -> Result<()> {
    let kills = std::env::var("ZOTUNE_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    let folder = workplace()?;
    let place = folder.path();
    done(place, &format!("train {RUN} --output-dir run"))?;
    done(place, &format!("train {RUN} {SHORT} --lora-r 2 --output-dir lora"))?;
    let unharmed = outcome(&place.join("run"))?;
    let mut random = 7;
    for (words, out, file) in [
        ("replay run --output-dir out", "out", "model.safetensors"),
        ("export lora --merge --output-dir merged", "merged", "model.safetensors"),
        ("export run --trajectory handed.zot", "", "handed.zot"),
    ] {
        let at = place.join(out).join(file);
        let clear = || if out.is_empty() { std::fs::remove_file(&at) } else { std::fs::remove_dir_all(place.join(out)) };
        let began = std::time::Instant::now();
        done(place, words)?;
        let (time, right) = (began.elapsed(), std::fs::read(&at)?);
        clear()?;
        for _ in 0..kills {
            random = zotune::direction::seed::mix(random);
            let again = if out.is_empty() { words.into() } else { format!("{words} --overwrite-output-dir") };
            let mut process = Running(zotune(place, &again).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
            std::thread::sleep(time.mul_f64((random % 1000) as f64 / 900.0));
            process.0.kill()?;
            process.0.wait()?;
            if at.exists() {
                assert!(std::fs::read(&at)? == right, "{words}: a mixture");
                clear()?;
            }
        }
        if !out.is_empty() && place.join(out).exists() {
            std::fs::remove_dir_all(place.join(out))?;
        }
        done(place, words)?;
        assert!(std::fs::read(&at)? == right, "{words}");
    }
    assert!(outcome(&place.join("run"))? == unharmed, "the run was harmed");
    Ok(())
}

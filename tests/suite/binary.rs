//! The built binary, as a person meets it: the default job, the run folder, and what it says to mistakes.

use std::process::Command;

use anyhow::Result;
use candle_core::DType;
use serde_json::Value;

use crate::support::{Llama, call, stderr};

/// A folder with the built-in model and small SST-2-like data in it, for tests to damage.
fn workplace() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let (model, data) = (folder.path().join("model"), folder.path().join("data"));
    std::fs::create_dir(&model)?;
    std::fs::create_dir(&data)?;
    for name in ["config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::write(model.join(name), zotune::model::builtin::OPT_MINI.read(name)?.unwrap())?;
    }
    let rows: String = (0..30).map(|i| format!("a film of number {i}\t{}\n", i % 2)).collect();
    for name in ["train.tsv", "dev.tsv"] {
        std::fs::write(data.join(name), format!("sentence\tlabel\n{rows}"))?;
    }
    Ok(folder)
}

const SMALL: [&str; 12] = [
    "train",
    "--model",
    "model",
    "--task",
    "sst2",
    "--data",
    "data",
    "--num-train",
    "16",
    "--num-dev",
    "8",
    "--max-steps=4",
];

#[test]
fn the_default_job_runs_and_its_folder_explains_itself() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let output = call(folder.path(), &["train", "--max-steps", "20", "--eval_steps", "10"])?;
    assert!(output.status.success(), "{}", stderr(&output));
    let said = String::from_utf8(output.stdout.clone())?;
    assert!(said.contains("unseen examples") && said.contains("--task sst2"), "{said}");
    let run = folder.path().join("runs/reviews-opt-mini-zo-sgd-0");
    let results: Value = serde_json::from_slice(&std::fs::read(run.join("all_results.json"))?)?;
    for key in [
        "steps",
        "train_loss",
        "dev_loss",
        "dev_accuracy",
        "eval_loss",
        "eval_accuracy",
        "seconds_per_step",
        "forward_seconds_per_step",
        "walk_seconds_per_step",
        "tokens_per_step",
        "function_evaluations",
        "forwards",
        "backwards",
        "weights_bytes",
        "optimizer_state_bytes",
        "activation_peak_bytes",
        "snapshot_bytes",
        "gradient_peak_bytes",
        "noise_scratch_bytes",
        "rest_bytes",
        "peak_rss_bytes",
    ] {
        assert!(results[key].is_number(), "all_results.json has no {key}: {results}");
    }
    assert_eq!(results["weights_bytes"], 4 * 2_593_600);
    assert!(results["activation_peak_bytes"].as_u64() > Some(100_000));
    let facts: Value = serde_json::from_slice(&std::fs::read(run.join("run.json"))?)?;
    assert_eq!(facts["config"]["max_steps"], 20);
    assert_eq!(facts["model"]["sha256"]["model.safetensors"].as_str().map(str::len), Some(64));
    let log = std::fs::read_to_string(run.join("trainer_log.jsonl"))?;
    let steps: Vec<u64> = log.lines().map(|l| serde_json::from_str::<Value>(l).unwrap()["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, [0, 1, 10, 20]);
    let svg = std::fs::read_to_string(run.join("loss.svg"))?;
    assert!(svg.starts_with("<svg") && svg.contains("step") && svg.contains("dev"));

    // The folder is a model: evaluating it gives what the run said, on sentences in its own order.
    let run_name = "runs/reviews-opt-mini-zo-sgd-0";
    let eval = call(folder.path(), &["eval", "--model", run_name, "--task", "reviews", "--json", "--dump", "scores.jsonl"])?;
    assert!(eval.status.success(), "{}", stderr(&eval));
    let found: Value = serde_json::from_slice(&eval.stdout)?;
    assert_eq!((&found["accuracy"], &found["loss"]), (&results["eval_accuracy"], &results["eval_loss"]));
    let dump = std::fs::read_to_string(folder.path().join("scores.jsonl"))?;
    assert_eq!(dump.lines().count(), 200);
    let line: Value = serde_json::from_str(dump.lines().next().unwrap())?;
    for key in ["index", "label", "prediction", "scores", "tokens"] {
        assert!(!line[key].is_null(), "no {key}");
    }
    // A second run of the same name takes a number rather than the place of the first.
    let again = call(folder.path(), &["train", "--max-steps", "1", "-q", "--json"])?;
    assert!(again.status.success() && again.stderr.is_empty(), "{}", stderr(&again));
    assert_eq!(serde_json::from_slice::<Value>(&again.stdout)?["steps"], 1);
    assert!(folder.path().join("runs/reviews-opt-mini-zo-sgd-0.2/run.json").exists());
    Ok(())
}

#[test]
fn mistakes_are_one_clear_line_and_touch_nothing() -> Result<()> {
    let place = workplace()?;
    std::fs::create_dir(place.path().join("full"))?;
    std::fs::write(place.path().join("full/precious"), "kept")?;
    std::fs::write(place.path().join("bad.toml"), "model = \"model\"\nlearning_rte = 1e-4\n")?;
    let cases: &[(&[&str], i32, &str)] = &[
        (&["--optimizer", "zo-sdg"], 2, "there is no method \"zo-sdg\""),
        (&["--task", "sts2"], 2, "there is no task \"sts2\": did you mean \"sst2\"?"),
        (&["--learning-rte", "1"], 2, "--learning-rate"),
        (&["--learning-rate", "fast"], 2, "invalid value 'fast'"),
        (&["--learning-rate", "0"], 2, "--learning-rate 0: it must be greater than 0"),
        (&["--learning-rate", "nan"], 2, "it must be a finite number"),
        (&["--zo-eps", "inf"], 2, "it must be a finite number"),
        (&["--zo-eps", "1e-50"], 2, "it must be greater than 0"),
        (&["--weight-decay", "-1"], 2, "--weight-decay -1: it must be 0 or greater"),
        (&["--bos-id", "4096"], 2, "--bos-id 4096: the vocabulary has 4096 tokens"),
        (&["--bos-id", "4294967295"], 2, "--bos-id 4294967295"),
        (&["--threads", "100000"], 2, "--threads 100000"),
        (&["--batch-size", "17"], 2, "--batch-size 17: there are only 16 training rows (8 dev"),
        (&["--num-train", "1099511627776"], 2, "has 30 rows"),
        (&["--num-train", "18446744073709551615"], 2, "--num-train 18446744073709551615: the maximum is 1099511627776"),
        (
            &["--output-dir", "model", "--overwrite-output-dir"],
            2,
            "--output-dir model: model is an input of this run and would be overwritten; choose another folder",
        ),
        (&["--dtype", "f64"], 2, "possible values: f32, f16, bf16"),
        (&["--device", "tpu"], 2, "--device tpu"),
        (
            &["--config", "bad.toml"],
            2,
            "bad.toml, line 2: there is no option \"learning_rte\": did you mean \"learning-rate\"?",
        ),
        (&["--config", "none.toml"], 2, "none.toml"),
        (&["--model", "./nowhere"], 2, "--model ./nowhere: there is no such folder"),
        (&["--data", "nowhere"], 2, "--data nowhere: there is no such folder"),
        (&["--data", "model"], 2, "train.tsv is missing"),
        (&["--num-train", "30"], 2, "has 30 rows, but 30 + 8 = 38 are asked for (--num-train and --num-dev)"),
        (&["--num-train", "0"], 2, "--num-train 0: it must be at least 1"),
        (&["--num-dev", "0"], 2, "--num-dev 0: it must be at least 1"),
        (&["--num-eval", "0"], 2, "--num-eval 0: it must be between 1 and "),
        (&["--batch-size", "0"], 2, "--batch-size 0: it must be at least 1"),
        (&["--max-length", "9999"], 2, "--max-length 9999: the model supports at most 512 tokens"),
        (&["--max-length", "1"], 2, "leaves no room for a prompt"),
        (&["--output-dir", "full"], 2, "full is not empty"),
        (
            &["--optimizer", "adamw", "--num-directions", "2"],
            2,
            "--num-directions does not apply to adamw; its options are: ",
        ),
        (&["--optimizer", "sgd", "--fo-params", "fc7"], 2, "--fo-params fc7: no weight has this name; names look like "),
        (&["--optimizer", "sgd", "--fo-params", "last:99"], 2, "--fo-params last:99: the model has only 6 blocks"),
        (&["--optimizer", "sgd", "--fo-params", "last:0"], 2, "last:0: it must be a number of blocks, at least 1"),
        (&["--optimizer", "sgd", "--fo-params", "fc1,,fc2"], 2, "a pattern is empty"),
        (&["--optimizer", "vamo", "--alpha", "-1"], 2, "--alpha -1: it must be 0 or greater"),
        (&["--optimizer", "vamo", "--num-directions", "0"], 2, "--num-directions 0: it must be at least 1"),
        (
            &["--optimizer", "vamo", "--q", "4", "--max-directions", "2"],
            2,
            "--max-directions 2: it must be at least --num-dir",
        ),
        (&["--optimizer", "vamo", "--direction-tolerance", "0.1"], 2, "--direction-tolerance needs --max-directions"),
        (&["--optimizer", "vamo", "--snapshot-steps", "0"], 2, "--snapshot-steps 0: it must be at least 1"),
        (&["--optimizer", "vamo", "--batch-size", "17"], 2, "--batch-size 17: there are only 16 training rows (8 dev"),
        (&["--optimizer", "r-adazo", "--beta2", "1"], 2, "--beta2 1: it must be at least 0 and less than 1"),
        (&["--optimizer", "r-adazo", "--zeta", "0"], 2, "--zeta 0: it must be greater than 0"),
        (&["--output-dir", "full/precious/run"], 2, "full/precious/run"),
    ];
    for (extra, code, expected) in cases {
        // A flag given twice is taken from its last place, as shells' aliases need it.
        let args: Vec<&str> = SMALL.iter().chain(*extra).copied().collect();
        let output = call(place.path(), &args)?;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(*code), "{extra:?}: {said}");
        assert!(said.contains(expected), "{extra:?}: {said:?} does not say {expected:?}");
        assert!(said.starts_with("error: ") && !said.contains("panicked"), "{extra:?}: {said}");
        assert!(output.stdout.is_empty() && said.lines().count() <= 7, "{extra:?}: {said}");
    }
    assert!(!place.path().join("runs").exists(), "something was written");
    assert_eq!(std::fs::read_to_string(place.path().join("full/precious"))?, "kept");
    assert_eq!(std::fs::read_dir(place.path().join("model"))?.count(), 5);
    assert_eq!(std::fs::read_dir(place.path().join("full"))?.count(), 1);
    Ok(())
}

#[test]
fn a_model_or_data_that_do_not_fit_are_named() -> Result<()> {
    let place = workplace()?;
    let fails = |code: i32, expected: &str| -> Result<()> {
        let output = call(place.path(), &SMALL)?;
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.starts_with("error: ") && said.contains(expected), "{said:?} does not say {expected:?}");
        assert!(!place.path().join("runs").exists());
        Ok(())
    };
    let model = place.path().join("model/model.safetensors");
    let whole = std::fs::read(&model)?;
    std::fs::write(&model, &whole[..whole.len() / 2])?;
    fails(1, "cut short")?;
    std::fs::write(&model, &whole)?;

    // A token without a row in the embedding is no matter, until a text has it.
    let tokenizer = place.path().join("model/tokenizer_config.json");
    let text = std::fs::read_to_string(&tokenizer)?;
    let with = |token: &str| {
        let more = format!("{{\"added_tokens_decoder\":{{\"4096\":{{\"content\":\"{token}\"}}}},");
        std::fs::write(&tokenizer, text.replacen('{', &more, 1))
    };
    with("<image>")?;
    assert!(call(place.path(), &[&SMALL[..], &["--output-dir", "fits"]].concat())?.status.success());
    with("number")?;
    fails(2, "\"number\" is token 4096, but the model's embedding has only 4096 rows; remove it from the text")?;
    fails(2, "train.tsv, line ")?;
    std::fs::write(&tokenizer, &text)?;

    let data = place.path().join("data/train.tsv");
    let text = std::fs::read_to_string(&data)?;
    for (damaged, expected) in [
        (text.replace("label", "mark"), "train.tsv has no column \"label\"; its columns are: sentence, mark"),
        (text.replace("number 3\t1", "number 3\t"), "train.tsv, line 5"),
        (text.replace("number 3\t1", "number 3\t7"), "label \"7\" is not one of 0, 1"),
    ] {
        // Every row is drawn, so the damaged one is met.
        std::fs::write(&data, damaged)?;
        let args = [&SMALL[..7], &["--num-train", "22", "--num-dev", "8"]].concat();
        let output = call(place.path(), &args)?;
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
    }
    let mut bytes = text.clone().into_bytes();
    bytes.extend(b"caf\xe9\t1\n");
    std::fs::write(&data, bytes)?;
    fails(2, "train.tsv, line 32: byte 0xe9 is not UTF-8")?;
    std::fs::write(&data, "sentence\tlabel\n")?;
    fails(2, "train.tsv has no rows")
}

/// In half precision a radius below the spacing of the weights' numbers says so, and so do steps that move nothing.
#[test]
fn a_half_precision_run_that_cannot_move_says_so() -> Result<()> {
    let place = workplace()?;
    for (knobs, lost, still) in [
        (["--zo-eps", "1e-9"], true, true),
        (["--learning-rate", "1e-14"], false, true),
        (["--zo-eps", "1e-3"], false, false),
    ] {
        let steps =
            ["--dtype", "bf16", "--max-steps", "2", "--eval-steps", "1", "--output-dir", "still", "--overwrite-output-dir"];
        let output = call(place.path(), &[&SMALL[..], &steps, &knobs].concat())?;
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        assert_eq!(
            said.contains("rounding in bf16 removes 100 % of the perturbation (--zo-eps 1e-9)"),
            lost,
            "{knobs:?}: {said}"
        );
        assert_eq!(said.contains("the weights of step 2 are identical to those of step 1"), still, "{knobs:?}: {said}");
    }
    Ok(())
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_with_step_and_seed() -> Result<()> {
    let place = workplace()?;
    let args: Vec<&str> = SMALL.iter().copied().chain(["--learning-rate", "1e30", "--max-steps", "9"]).collect();
    let output = call(place.path(), &args)?;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("step 1 (direction seed ") && said.contains("the loss is not finite"), "{said}");
    // What is left in the folder are the weights from before.
    let left = std::fs::read(place.path().join("runs/sst2-model-zo-sgd-0/model.safetensors"))?;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&left)?;
    assert_eq!(metadata.data_len(), 4 * 2_593_600);
    let later = [&args[..], &["--eval-steps", "9", "--output-dir", "later"]].concat();
    let output = call(place.path(), &later)?;
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("the loss is not finite at step 2 (direction seed "), "{}", stderr(&output));
    Ok(())
}

/// A model that gives no numbers is not scored, and is not blamed on the learning rate.
#[test]
fn a_model_of_nan_is_an_error_and_not_an_accuracy() -> Result<()> {
    let place = workplace()?;
    let file = place.path().join("model/model.safetensors");
    let mut bytes = std::fs::read(&file)?;
    let end = bytes.len();
    bytes[end - 4096..].fill(0xff);
    std::fs::write(&file, bytes)?;
    let eval = call(place.path(), &["eval", "--model", "model", "--task", "sst2", "--data", "data"])?;
    assert_eq!(eval.status.code(), Some(4), "{}", stderr(&eval));
    assert!(eval.stdout.is_empty());
    let output = call(place.path(), &SMALL)?;
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("before training: the model's weights are damaged"), "{}", stderr(&output));
    Ok(())
}

/// Overwriting takes the place of an older run's files, its tokenizer with them, and leaves strangers alone.
#[test]
fn an_overwritten_folder_keeps_nothing_of_the_older_run() -> Result<()> {
    let place = workplace()?;
    let run = place.path().join("run");
    std::fs::create_dir(&run)?;
    for name in ["tokenizer.json", "loss.svg", "notes.txt"] {
        std::fs::write(run.join(name), "old")?;
    }
    let args: Vec<&str> = SMALL.iter().copied().chain(["--output-dir", "run", "--overwrite-output-dir"]).collect();
    let output = call(place.path(), &args)?;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!run.join("tokenizer.json").exists());
    assert_ne!(std::fs::read_to_string(run.join("loss.svg"))?, "old");
    assert_eq!(std::fs::read_to_string(run.join("notes.txt"))?, "old");
    Ok(())
}

#[cfg(unix)]
#[test]
fn streams_that_go_away_and_odd_names_are_met_calmly() -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let place = workplace()?;
    let odd = Command::new(env!("CARGO_BIN_EXE_zotune"))
        .args([std::ffi::OsStr::new("eval"), std::ffi::OsStr::new("--model"), std::ffi::OsStr::from_bytes(b"caf\xe9")])
        .output()?;
    assert_eq!(odd.status.code(), Some(2));
    assert!(stderr(&odd).contains("is not valid UTF-8"), "{}", stderr(&odd));
    let run = format!("{} {} 2>&- | true", env!("CARGO_BIN_EXE_zotune"), SMALL.join(" "));
    let closed = Command::new("bash").args(["-c", &format!("set -o pipefail; {run}")]).current_dir(place.path()).status()?;
    assert_eq!(closed.code(), Some(0));
    let full = format!("{} {} --output-dir b 2>/dev/full >/dev/null", env!("CARGO_BIN_EXE_zotune"), SMALL.join(" "));
    assert_eq!(Command::new("bash").args(["-c", &full]).current_dir(place.path()).status()?.code(), Some(0));
    Ok(())
}

/// A disk that is full: files past 2,000 blocks of 1 KiB cannot be written. The message names the file, and nothing half written stays.
#[cfg(unix)]
#[test]
fn a_full_disk_ends_the_run_with_a_clear_message() -> Result<()> {
    let place = workplace()?;
    let run = format!("ulimit -f 2000; exec {} {}", env!("CARGO_BIN_EXE_zotune"), SMALL.join(" "));
    let output = Command::new("bash").args(["-c", &run]).current_dir(place.path()).output()?;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write runs/sst2-model-zo-sgd-0/model.safetensors"), "{said}");
    let left: Vec<_> = std::fs::read_dir(place.path().join("runs/sst2-model-zo-sgd-0"))?
        .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    assert!(!left.iter().any(|name| name.starts_with("model.safetensors")), "{left:?}");
    Ok(())
}

#[test]
fn tasks_are_listed_and_shown() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let list = String::from_utf8(call(folder.path(), &["tasks"])?.stdout)?;
    assert_eq!(list.lines().count(), zotune::data::task::definition::BUILTIN.len());
    let shown = call(folder.path(), &["tasks", "show", "copa"])?;
    std::fs::write(folder.path().join("mine.toml"), &shown.stdout)?;
    assert_eq!(zotune::data::task::Task::open(&folder.path().join("mine.toml").to_string_lossy())?.name, "mine");
    assert_eq!(call(folder.path(), &["tasks", "show", "cpoa"])?.status.code(), Some(2));
    Ok(())
}

/// What the forecast is held to: memory by part from config.json alone, within 10 % of what a run then takes.
#[test]
fn plan_says_what_a_run_takes() -> Result<()> {
    let place = workplace()?;
    let sizes = Llama { vocab: 4096, hidden: 256, inner: 768, layers: 7, heads: 4, kv_heads: 2, tied: true };
    let (model, _) = sizes.write(DType::F32)?;
    for name in ["vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::copy(place.path().join("model").join(name), model.path().join(name))?;
    }
    // The weights are not looked at.
    let sketch = tempfile::tempdir()?;
    for name in ["config.json", "vocab.json", "merges.txt", "tokenizer_config.json"] {
        std::fs::copy(model.path().join(name), sketch.path().join(name))?;
    }
    let methods: [&[&str]; 6] = [
        &["zo-sgd"],
        &["r-adazo", "--state-dtype", "bf16"],
        &["adamw"],
        &["svrg"],
        &["vamo", "--q", "2"],
        &["sgd", "--fo-params", "last:2", "--zo-eps", "1e-3"],
    ];
    for method in methods {
        let run = |verb: &str, model: &std::path::Path| -> Result<Value> {
            let mut args =
                vec![verb, "--model", model.to_str().unwrap(), "--max-steps", "6", "--num-dev", "16", "--num-eval", "16"];
            args.extend(["--task", "reviews", "--output-dir", "run", "--overwrite-output-dir", "--json", "--optimizer"]);
            args.extend(method);
            let output = call(place.path(), &args)?;
            assert!(output.status.success(), "{method:?}: {}", stderr(&output));
            Ok(serde_json::from_slice(&output.stdout)?)
        };
        let (said, came) = (run("plan", sketch.path())?, run("train", model.path())?);
        for part in ["weights_bytes", "optimizer_state_bytes", "snapshot_bytes", "gradient_peak_bytes"] {
            assert_eq!(said[part], came[part], "{method:?}, {part}");
        }
        for part in ["activation_peak_bytes", "peak_rss_bytes"] {
            let (said, came) = (said[part].as_f64().unwrap(), came[part].as_f64().unwrap());
            assert!((said / came - 1.0).abs() < 0.1, "{method:?}, {part}: said {said}, came {came}");
        }
        let off = came["forecast"]["peak_rss_deviation"].as_f64().unwrap();
        assert!(off.abs() < 0.1, "{method:?}: the run says its forecast was off by {off}");
        assert!(said["seconds"].as_f64() > Some(0.0) && said["num_blocks"] == 7, "{said}");
    }
    Ok(())
}

/// What VAMO logs: the lengths of both parts of v, and what its snapshots found and cost.
#[test]
fn vamo_logs_its_correction_and_its_snapshots() -> Result<()> {
    let place = workplace()?;
    let args =
        [&SMALL[..], &["--optimizer", "vamo", "--batch-size", "8", "--q", "3", "--logging-steps", "1", "-v"]].concat();
    let output = call(place.path(), &args)?;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("backpropagation, corrected by 3.85"), "{}", stderr(&output));
    let log = std::fs::read_to_string(place.path().join("runs/sst2-model-vamo-0/trainer_log.jsonl"))?;
    let lines: Vec<Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let number = |line: &Value, key: &str| line[key].as_f64().unwrap_or_else(|| panic!("{line} has no {key}"));
    for line in &lines[1..] {
        let (norm, correction) = (number(line, "first_order_norm"), number(line, "correction_norm"));
        assert!(norm > 0.0 && correction > 0.0);
        assert!((number(line, "correction_ratio") - correction / norm).abs() < 1e-9);
        // An epoch is two steps of 8 out of 16: a snapshot at steps 1 and 3.
        let is_due = line["step"].as_u64().unwrap() % 2 == 1;
        assert_eq!(line["snapshot"].is_object(), is_due, "{line}");
        if is_due {
            assert_eq!(
                (&line["snapshot"]["num_directions"], &line["snapshot"]["example_evaluations"]),
                (&3.into(), &64.into())
            );
            assert!(number(&line["snapshot"], "standard_error") > 0.0);
        }
    }
    let last = lines.last().unwrap();
    // Two snapshots of four looks at two batches' worth, and four steps of one forward and one backward pass.
    assert_eq!((&last["function_evaluations"], &last["backwards"]), (&20.into(), &4.into()));
    Ok(())
}

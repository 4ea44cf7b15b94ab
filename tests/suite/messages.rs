//! What is said to somebody who types a wrong name, a wrong place or a wrong number.

#![cfg(unix)]

use std::path::Path;

use anyhow::{Context, Result};

use crate::support::rows::{fails, labelled, write};
use crate::support::{RUN, done, stderr, workplace, zotune};

/// What a command says on a terminal.
fn on_a_terminal(place: &Path, words: &str) -> Result<String> {
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};
    let (mut ours, mut theirs) = (0, 0);
    let size = libc::winsize { ws_row: 50, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: openpty fills two numbers; each is owned once.
    let (ours, theirs) = unsafe {
        anyhow::ensure!(
            libc::openpty(&mut ours, &mut theirs, std::ptr::null_mut(), std::ptr::null_mut(), &raw const size as *mut _)
                == 0,
            "no terminal"
        );
        (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    };
    let reader = std::thread::spawn(move || {
        let (mut said, mut some) = (Vec::new(), [0; 4096]);
        let mut terminal = std::fs::File::from(ours);
        // Where nobody has the other end any more, reading fails.
        while let Ok(n @ 1..) = terminal.read(&mut some) {
            said.extend_from_slice(&some[..n]);
        }
        String::from_utf8_lossy(&said).into_owned()
    });
    let status = {
        let mut command = zotune(place, words);
        command.env("TERM", "xterm").stdout(std::process::Stdio::null()).stderr(theirs);
        command.status()?
    };
    let said = reader.join().unwrap();
    anyhow::ensure!(status.success(), "{words}: {said}");
    Ok(said)
}

/// The bar says how long a run will take when it knows.
#[test]
fn a_bar_that_knows_nothing_yet_says_nothing() -> Result<()> {
    let folder = workplace()?;
    let said = on_a_terminal(
        folder.path(),
        &format!("train {RUN} --learning-rate 1e-5 --max-steps 3000 --eval-steps 1500 --save-steps 0 --output-dir run"),
    )?;
    assert!(said.contains("evaluating the untrained model"), "{said}");
    assert!(!said.contains("00:00:00") && said.contains("s left"), "{said}");
    Ok(())
}

#[test]
fn names_from_elsewhere_and_mistyped_places_are_met_with_what_is_meant() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for (flag, meant) in [
        ("--steps 5", "there is no --steps: did you mean --max-steps?"),
        ("--iters=5", "there is no --iters: did you mean --max-steps?"),
        (
            "--epochs 3",
            "there is no --epochs: did you mean --max-steps? An epoch is the training rows divided by --batch-size",
        ),
        ("--num_train_epochs 3", "there is no --num-train-epochs: did you mean --max-steps? An epoch"),
        ("--bs 4", "there is no --bs: did you mean --batch-size?"),
        ("--bf16", "there is no --bf16: did you mean --dtype bf16?"),
    ] {
        for verb in ["train", "plan"] {
            let said = fails(place, &format!("{verb} {flag}"), 2)?;
            assert!(said.starts_with("error: ") && said.contains(meant), "{said} does not say {meant}");
        }
    }
    assert!(fails(place, "eval --steps 3", 2)?.contains("unexpected argument '--steps'"));
    // What others call it, taken.
    done(place, &format!("train {RUN} --lr 1e-3 --max-steps 1 --output-dir short"))?;
    std::fs::write(place.join("a.toml"), "epochs = 3\n")?;
    assert!(
        fails(place, "train --config a.toml", 2)?
            .contains("a.toml, line 1: there is no option \"epochs\": did you mean --max-steps? An epoch")
    );

    // A folder that was mistyped, beside those that are there; nobody is reachable where the hub is.
    std::fs::create_dir_all(place.join("out/mine"))?;
    let mut mistyped = zotune(place, "eval --model out/nosuch --task reviews");
    let output = mistyped.env("HF_HUB_OFFLINE", "1").env("HF_HOME", place.join("cache")).output()?;
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("--model out/nosuch: there is no such folder in out, which has mine;"),
        "{}",
        stderr(&output)
    );

    let mut mistyped = zotune(place, "eval --model opt-mini --adapter out/nosuch --task reviews");
    let output = mistyped.env("HF_HUB_OFFLINE", "1").env("HF_HOME", place.join("cache")).output()?;
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("--adapter out/nosuch: there is no such folder in out, which has mine;"),
        "{}",
        stderr(&output)
    );

    // Three rows, of which one is left.
    write(&place.join("three.jsonl"), &labelled(3))?;
    let said = fails(place, "train --model model --data three.jsonl", 2)?;
    let expected = "--batch-size 16 (the default): there is only 1 training row (1 dev, 1 eval); use --batch-size 1 or less";
    assert!(said.contains(expected), "{said}");

    // Mistakes in data are mistakes, whichever verb meets them.
    std::fs::write(place.join("bad.jsonl"), "{\"text\": \"a\", \"label\": 1}\nnonsense\n")?;
    for verb in ["train", "plan", "eval"] {
        assert!(
            fails(place, &format!("{verb} --model model --data bad.jsonl"), 2)?
                .contains("bad.jsonl, line 2: not a JSON object")
        );
    }
    Ok(())
}

/// Another model is called another model, though its tokenizer makes other examples.
#[test]
fn a_run_goes_on_from_another_folder_and_not_with_another_model() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    write(&place.join("mine.jsonl"), &labelled(40))?;
    let train = "train --model model --data mine.jsonl --dtype bf16 --batch-size 4 --learning-rate 1e-3 --eval-steps 2";
    done(place, &format!("{train} --max-steps 4 --output-dir run"))?;
    done(place, &format!("{train} --max-steps 8 --output-dir whole"))?;
    let said = fails(place, "train --resume run --max-steps 8 --model opt-mini", 6)?;
    assert!(said.contains("base model") && !said.contains("--data"), "{said}");
    // What was named relatively is found from where the run stands, by whoever asks.
    let elsewhere = place.join("elsewhere");
    std::fs::create_dir(&elsewhere)?;
    let there = |words: &str| done(&elsewhere, words);
    there("train --resume ../run --max-steps 6")?;
    done(place, "train --resume run --max-steps 8")?;
    assert!(std::fs::read(place.join("run/model.safetensors"))? == std::fs::read(place.join("whole/model.safetensors"))?);
    let replayed = String::from_utf8(there("replay ../run --output-dir replayed --to-step 3")?.stdout)?;
    let next = replayed.lines().find_map(|line| line.strip_prefix("next     zotune ")).context("next")?;
    assert!(next.contains("--dtype bf16") && next.contains("mine.jsonl"), "{replayed}");
    there(next)?;
    Ok(())
}

/// One name means one split, in every file.
/// A mistake is named where it stands: in the file and its line, not as a flag that nobody typed; and as the flag that was.
#[test]
fn mistakes_are_named_where_they_stand() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    for (text, flags, expected) in [
        ("# rates\nlearning_rate = 0", "", "m.toml, line 2: learning_rate 0: it must be"),
        ("lr = 0", "", "m.toml, line 1: lr 0: it must be"),
        ("lr = 0", "--learning-rate 0", "--learning-rate 0: it must be"),
        (
            "max-steps = 2\nbatch_size = 301",
            "",
            "m.toml, line 2: batch_size 301: there are only 300 training rows (100 dev, 200 eval); use batch_size = 300 or less",
        ),
        ("lora_alpha = 2", "", "m.toml, line 1: lora_alpha needs lora_r"),
        (
            "max_steps = 2\noptimizer = 'mezo'",
            "",
            "m.toml, line 2: optimizer: there is no method \"mezo\": MeZO's method is zo-sgd",
        ),
        ("max_steps = 2\n[train]\nlr = 1", "", "m.toml, line 2: [train] begins a section, but options are set outside"),
        ("learning_rate = 1\nmax_steps = 2\nlearning-rate = 2", "", "m.toml, line 3: learning_rate is set twice"),
    ] {
        std::fs::write(place.join("m.toml"), text)?;
        for verb in ["train", "plan"] {
            let said = fails(place, &format!("{verb} --model model --task reviews --config m.toml {flags}"), 2)?;
            assert!(said.starts_with(&format!("error: {expected}")), "{said} does not say {expected}");
        }
    }
    for flag in ["--num-directions", "--seed", "--warmup-steps", "--bos-id", "--fsync", "--train-set-seed", "--max-steps"] {
        let said = fails(place, &format!("train --model model {flag} -1"), 2)?;
        assert!(said.contains(&format!("{flag} -1: it must be a whole number")), "{said}");
    }
    let said = fails(place, "train --model model --learning-rate -1", 2)?;
    assert!(said.contains("--learning-rate -1"), "{said}");
    let said = fails(place, "train --model model --prefix-tuning --num-prefix 5000", 2)?;
    assert!(said.contains("--num-prefix 5000: the model supports at most 256 tokens, so there is no room"), "{said}");
    let said = fails(place, "export model --merge --output-dir merged", 2)?;
    assert!(said.contains("model: this folder has no adapter to merge"), "{said}");
    Ok(())
}

/// What is said to be typed next works where it is said, whichever folder the run was begun in.
#[test]
fn what_is_said_to_be_typed_works_from_here() -> Result<()> {
    let folder = workplace()?;
    let place = folder.path();
    write(&place.join("mine.jsonl"), &labelled(40))?;
    let (runs, here) = (place.join("runs"), place.join("deep/down"));
    std::fs::create_dir(&runs)?;
    std::fs::create_dir_all(&here)?;
    let train = "train --model ../model --data ../mine.jsonl --batch-size 8 --max-steps 2";
    done(&runs, &format!("{train} --output-dir whole"))?;
    done(&runs, &format!("{train} --lora-r 2 --output-dir lora"))?;
    let next = |words: &str| -> Result<String> {
        let said = String::from_utf8(done(&here, words)?.stdout)?;
        let command = said.lines().find_map(|line| line.strip_prefix("next     zotune ")).context(said.clone())?.to_string();
        assert!(!command.contains("runs/../"), "{command}");
        done(&here, &command).with_context(|| command.clone())?;
        Ok(command)
    };
    next("export ../../runs/whole --trajectory whole.zot")?;
    next("replay ../../runs/whole --output-dir replayed")?;
    next("export ../../runs/lora --merge --output-dir merged")?;
    let said = fails(&here, "eval --model ../../runs/lora", 2)?;
    let (_, flags) = said.trim().split_once("give the base model too: ").context(said.clone())?;
    done(&here, &format!("eval {flags}"))?;
    let said = fails(&here, &format!("train --model ../../runs/lora --data {}", place.join("mine.jsonl").display()), 2)?;
    assert!(said.contains(flags), "{said}");
    let said = fails(&here, "export ../../runs/lora", 2)?;
    assert!(said.contains("--trajectory FILE, or for a merged model --merge --output-dir FOLDER"), "{said}");
    Ok(())
}

//! Data without a task file: what is made of the columns, how the splits are drawn, and what is said of rows that do not fit.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use zotune::base::permutation::permutation;
use zotune::config::{Common, Inputs};
use zotune::data::task::{PromptedRow, Sizes, Splits, Task};
use zotune::run::LoadedModel;

use crate::support::rows::write;
use crate::support::{Column, call, write_parquet};

const LABELS: [&str; 2] = ["good", "bad {{ x }}"];

fn completions(n: usize) -> Vec<Value> {
    (0..n).map(|i| json!({ "prompt": format!("Film {i}: "), "completion": format!("number {}", i * i) })).collect()
}

fn labelled(n: usize) -> Vec<Value> {
    (0..n).map(|i| json!({ "text": format!("a film of number {i} "), "label": LABELS[i % 2] })).collect()
}

fn splits(data: &Path, sizes: Sizes) -> Result<Splits> {
    let task = Task::of(None, Some(data))?;
    task.splits(&task.data(Some(data))?, sizes, 0)
}

fn indices(rows: &[PromptedRow]) -> Vec<usize> {
    rows.iter().map(|row| row.index).collect()
}

#[test]
fn the_same_rows_in_every_format_are_the_same_task() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let rows = labelled(30);
    write(&dir.path().join("a.jsonl"), &rows)?;
    for (name, comma) in [("a.csv", ","), ("a.tsv", "\t")] {
        let line = |row: &Value| format!("{}{comma}{}\n", row["text"].as_str().unwrap(), row["label"].as_str().unwrap());
        let text: String = rows.iter().map(line).collect();
        std::fs::write(dir.path().join(name), format!("text{comma}label\n{text}"))?;
    }
    let column = |name: &str| Column::Texts(rows.iter().map(|row| row[name].as_str().unwrap().to_string()).collect());
    write_parquet(&dir.path().join("a.parquet"), &[("text", column("text")), ("label", column("label"))], 7)?;
    let expected = splits(&dir.path().join("a.jsonl"), Sizes::default())?;
    let row = &expected.train[0];
    assert_eq!(row.prompt, format!("a film of number {}\nLabel:", row.index));
    // Answers in the order of their words, whatever stands in them.
    assert_eq!(row.answered[0], format!("{} bad {{{{ x }}}}", row.prompt));
    assert_eq!((row.answered.len(), row.label), (2, 1 - row.index % 2));
    for name in ["a.csv", "a.tsv", "a.parquet"] {
        let found = splits(&dir.path().join(name), Sizes::default())?;
        for (found, expected) in [(found.train, &expected.train), (found.dev, &expected.dev), (found.eval, &expected.eval)] {
            let found: Vec<_> = found.iter().map(|r| (r.index, &r.prompt, &r.answered, r.label)).collect();
            let expected: Vec<_> = expected.iter().map(|r| (r.index, &r.prompt, &r.answered, r.label)).collect();
            assert_eq!(found, expected, "{name}");
        }
    }
    Ok(())
}

#[test]
fn one_file_is_drawn_into_splits_that_are_disjoint_and_stay() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("own.jsonl");
    write(&file, &completions(57))?;
    let found = splits(&file, Sizes::default())?;
    assert_eq!((found.train.len(), found.dev.len(), found.eval.len()), (47, 5, 5));
    let order = permutation(0, 57);
    assert_eq!(indices(&found.train), order[..47]);
    assert_eq!(indices(&found.dev), order[47..52]);
    assert_eq!(indices(&found.eval), order[52..]);
    let all: BTreeSet<usize> = [&found.train, &found.dev, &found.eval].iter().flat_map(|rows| indices(rows)).collect();
    assert_eq!(all.len(), 57);
    // What is trained on does not move what is scored.
    let fewer = splits(&file, Sizes { num_train: Some(9), num_dev: Some(20), num_eval: None })?;
    assert_eq!((fewer.train.len(), fewer.dev.len()), (9, 20));
    assert_eq!(indices(&fewer.eval), indices(&found.eval));
    let task = Task::of(None, Some(&file))?;
    let alone = task.eval_split(&task.data(Some(&file))?, Sizes::default(), 0)?;
    assert_eq!(indices(&alone), indices(&found.eval));
    // At most MeZO's numbers.
    write(&file, &completions(12_000))?;
    let many = splits(&file, Sizes::default())?;
    assert_eq!((many.train.len(), many.dev.len(), many.eval.len()), (10_500, 500, 1000));
    Ok(())
}

#[test]
fn a_folder_may_have_files_for_dev_and_eval() -> Result<()> {
    let dir = tempfile::tempdir()?;
    write(&dir.path().join("train.jsonl"), &completions(40))?;
    let sizes = |found: &Splits| (found.train.len(), found.dev.len(), found.eval.len());
    assert_eq!(sizes(&splits(dir.path(), Sizes::default())?), (32, 4, 4));
    write(&dir.path().join("valid.jsonl"), &completions(11))?;
    let found = splits(dir.path(), Sizes::default())?;
    assert_eq!(sizes(&found), (36, 4, 11));
    assert!(found.eval[0].place.contains("valid.jsonl"));
    // As mlx_lm has it: valid while training, test at the end.
    write(&dir.path().join("test.jsonl"), &completions(7))?;
    let found = splits(dir.path(), Sizes::default())?;
    assert_eq!(sizes(&found), (40, 11, 7));
    assert!(found.dev[0].place.contains("valid.jsonl") && found.eval[0].place.contains("test.jsonl"));
    assert_eq!(indices(&found.dev), permutation(0, 11));
    // More rows than there are to score are all of them, as MeZO's published commands have it; of one file they would be others'.
    let more = Sizes { num_eval: Some(1000), ..Sizes::default() };
    assert_eq!(sizes(&splits(dir.path(), more)?), (40, 11, 7));
    std::fs::remove_file(dir.path().join("valid.jsonl"))?;
    std::fs::remove_file(dir.path().join("test.jsonl"))?;
    assert!(splits(dir.path(), more).err().unwrap().to_string().contains("`num_eval` 1000: it must be between 1 and "));
    Ok(())
}

/// What a file is for says its name; of two for one thing nobody knows which is meant, and what is not read is said.
#[test]
fn every_data_file_in_a_folder_is_read_or_named() -> Result<()> {
    for (names, expected) in [
        (&["val.jsonl"][..], (None, Some("val.jsonl"))),
        (&["dev.jsonl"], (None, Some("dev.jsonl"))),
        (&["eval.jsonl", "validation.jsonl"], (Some("validation.jsonl"), Some("eval.jsonl"))),
        (&["test.jsonl", "eval.jsonl"], (Some("eval.jsonl"), Some("test.jsonl"))),
        (&["test.jsonl", "val.jsonl"], (Some("val.jsonl"), Some("test.jsonl"))),
    ] {
        let dir = tempfile::tempdir()?;
        for name in names.iter().chain(&["train.jsonl"]) {
            write(&dir.path().join(name), &completions(40))?;
        }
        let found = splits(dir.path(), Sizes::default())?;
        let is_of = |rows: &[PromptedRow], name: Option<&str>| rows[0].place.contains(name.unwrap_or("train.jsonl"));
        assert!(is_of(&found.dev, expected.0) && is_of(&found.eval, expected.1) && is_of(&found.train, None), "{names:?}");
    }
    for (names, expected) in [
        (&["train.csv"][..], "train.jsonl and train.csv are there, but zotune needs one file for the training data"),
        (&["valid.jsonl", "dev.jsonl"], "valid.jsonl and dev.jsonl are there, but zotune needs one file for validation"),
        (
            &["test.jsonl", "eval.jsonl", "val.jsonl"],
            "eval.jsonl and val.jsonl are there, but zotune needs one file for validation",
        ),
        (&["test.csv", "test.tsv"], "test.csv and test.tsv are there, but zotune needs one file for the test"),
    ] {
        let dir = tempfile::tempdir()?;
        for name in names.iter().chain(&["train.jsonl"]) {
            write(&dir.path().join(name), &completions(40))?;
        }
        let error = splits(dir.path(), Sizes::default()).err().unwrap().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let dir = tempfile::tempdir()?;
    std::fs::create_dir(dir.path().join("rows"))?;
    for name in ["train.jsonl", "more.jsonl", "extra.csv", "notes.txt"] {
        write(&dir.path().join("rows").join(name), &completions(40))?;
    }
    let output = call(dir.path(), &["plan", "--data", "rows", "--max-steps", "1"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("--data rows: these files are not used: extra.csv, more.jsonl\n"),
        "{said}"
    );
    Ok(())
}

/// The tokens that are predicted: the completion's and the end; of a text all but the first.
#[test]
fn a_completion_is_learnt_to_its_end_and_a_text_from_its_beginning() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("own.jsonl");
    write(&file, &completions(10))?;
    let mut bench = LoadedModel::open(&Inputs::check(Common::default())?)?;
    let text = |bench: &LoadedModel, text: &str| bench.tokenizer.encode(text);
    let rows = splits(&file, Sizes::default())?.train;
    for (row, example) in rows.iter().zip(bench.encode(&rows)?) {
        let (prompt, whole) = (format!("Film {}: ", row.index), format!("Film {}: number {}", row.index, row.index.pow(2)));
        assert_eq!(row.answered, std::slice::from_ref(&whole));
        let [candidate] = &example.candidates[..] else { panic!("{example:?}") };
        // The space that ends the prompt is the first word's.
        let before = text(&bench, prompt.trim_end())?.len();
        assert_eq!(candidate.tokens, [text(&bench, &whole)?, vec![2]].concat());
        assert_eq!(candidate.option_len, candidate.tokens.len() - before);
    }
    write(&file, &(0..10).map(|i| json!({ "text": format!("The film of number {i}") })).collect::<Vec<_>>())?;
    let rows = splits(&file, Sizes::default())?.train;
    let example = &bench.encode(&rows)?[0];
    assert_eq!(example.candidates[0].tokens, [text(&bench, &rows[0].answered[0])?, vec![2]].concat());
    assert_eq!(example.candidates[0].option_len, example.candidates[0].tokens.len() - 1);
    bench.max_length = 4;
    let cut = &bench.encode(&rows)?[0];
    assert_eq!((&cut.candidates[0].tokens[..], cut.candidates[0].option_len), (&example.candidates[0].tokens[..4], 3));
    Ok(())
}

/// What a command that succeeds prints.
fn json_of(folder: &Path, args: &[&str]) -> Result<Value> {
    let output = call(folder, args)?;
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Each kind is trained, scored, stopped and gone on with, and replayed.
#[test]
fn every_kind_trains_resumes_and_replays_to_the_same_bits() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let place = dir.path();
    write(&place.join("completions.jsonl"), &completions(40))?;
    write(&place.join("labelled.jsonl"), &labelled(40))?;
    write(&place.join("texts.jsonl"), &(0..40).map(|i| json!({ "text": format!("a film, {i}") })).collect::<Vec<_>>())?;
    for name in ["completions", "labelled", "texts"] {
        let (data, run) = (format!("{name}.jsonl"), format!("runs/{name}-opt-mini-zo-sgd-0"));
        let train =
            ["train", "--data", &data, "--batch-size", "8", "--learning-rate", "1e-3", "--json", "--eval-steps", "2"];
        let results = json_of(place, &[&train[..], &["--max-steps", "3"]].concat())?;
        let is_choice = name == "labelled";
        for key in ["dev_accuracy", "eval_accuracy", "untrained_eval_accuracy"] {
            assert_eq!(results[key].is_number(), is_choice, "{name}: {key} in {results}");
        }
        let loss = results["eval_loss"].as_f64().unwrap();
        assert_eq!(results["eval_perplexity"].as_f64(), Some(loss.exp()).filter(|_| !is_choice));
        let scored = json_of(place, &["eval", "--model", &run, "--data", &data, "--json"])?;
        assert_eq!((&scored["loss"], &scored["accuracy"]), (&results["eval_loss"], &results["eval_accuracy"]));
        assert_eq!((scored["perplexity"].is_number(), &scored["examples"]), (!is_choice, &4.into()));
        let log = std::fs::read_to_string(place.join(&run).join("trainer_log.jsonl"))?;
        assert_eq!(log.contains("dev_accuracy"), is_choice, "{log}");

        // Two steps and one more are three.
        json_of(place, &[&train[..], &["--max-steps", "2", "--output-dir", "b"]].concat())?;
        json_of(place, &["train", "--resume", "b", "--max-steps", "3", "--json"])?;
        assert_eq!(
            std::fs::read(place.join(&run).join("model.safetensors"))?,
            std::fs::read(place.join("b/model.safetensors"))?
        );
        json_of(place, &["replay", &run, "--output-dir", "c", "--json"])?;
        assert_eq!(std::fs::read(place.join("b/model.safetensors"))?, std::fs::read(place.join("c/model.safetensors"))?);
        let file = &format!("{name}.zot");
        json_of(place, &["export", &run, "--trajectory", file, "--json"])?;
        let back = json_of(place, &["eval", "--model", "opt-mini", "--trajectory", file, "--data", &data, "--json"])?;
        assert_eq!(back["loss"], results["eval_loss"]);
        // Other rows are no rows to go on with.
        let text = std::fs::read_to_string(place.join(&data))?;
        std::fs::write(place.join(&data), text.replace("film", "movie").replace("Film", "Movie"))?;
        let output = call(place, &["train", "--resume", "b", "--max-steps", "4"])?;
        assert_eq!(output.status.code(), Some(6));
        for folder in ["b", "c"] {
            std::fs::remove_dir_all(place.join(folder))?;
        }
    }
    let output = call(place, &["train", "--data", "completions.jsonl", "--batch-size", "8", "--max-steps", "1"])?;
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(said.starts_with("loss on 4 unseen examples: ") && said.contains("(perplexity "), "{said}");
    assert!(
        said.contains("next     zotune eval --model runs/completions-opt-mini-zo-sgd-0.2 --data completions.jsonl"),
        "{said}"
    );
    assert!(!told.contains('%') && told.contains("split at random from one file, seed 0"), "{told}");
    assert!(told.contains("zotune tasks show sst2 > mine.toml"), "{told}");
    Ok(())
}

#[test]
fn rows_that_do_not_fit_are_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let place = dir.path();
    let many = |n: usize| (0..n).map(|i| format!("{{\"text\": \"a\", \"label\": {i}}}\n")).collect::<String>();
    let cases: Vec<(&str, String, i32, &str)> = vec![
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1}\nnonsense\n".into(), 2, "a.jsonl, line 2: not a JSON object"),
        (
            "a.jsonl",
            "{\"prompt\": \"a\", \"completion\": \"b\"}\n\n{\"prompt\": \"a\", \"answer\": \"b\"}\n".into(),
            2,
            "a.jsonl, line 3 has no \"completion\" (columns: answer, prompt); the rows before it have \"prompt\" and",
        ),
        (
            "a.jsonl",
            "{\"text\": \"a\", \"label\": 1}\n{\"text\": \"a\"}\n".into(),
            2,
            "a.jsonl, line 2 has no \"label\" (columns: text",
        ),
        ("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"a\", \"label\": 1}\n".into(), 2, "a.jsonl, line 2 has a \"label\""),
        ("a.jsonl", "{\"messages\": []}\n".into(), 2, "a.jsonl, line 1 has \"messages\", but chats are not supported"),
        (
            "a.jsonl",
            "{\"question\": \"a\", \"answer\": \"b\"}\n".into(),
            2,
            "a.jsonl, line 1 has answer, question; needed are \"prompt\" and \"completion\", \"text\" and \"label\", or \"text\"",
        ),
        ("a.jsonl", "{\"prompt\": 7, \"completion\": \"b\"}\n".into(), 2, "\"prompt\" must be a string, but is 7"),
        ("a.jsonl", "{\"prompt\": \"a\", \"completion\": \"\"}\n".into(), 2, "\"completion\" is empty"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 0.5}\n".into(), 2, "\"label\" must be text or an integer, but is 0.5"),
        (
            "a.jsonl",
            "{\"text\": \"a\", \"label\": 1}\n".repeat(20),
            2,
            "all rows have the label \"1\"; at least two labels are needed",
        ),
        ("a.jsonl", many(40), 2, "more than 32 different labels"),
        ("a.jsonl", String::new(), 2, "a.jsonl has no rows"),
        (
            "a.jsonl",
            many(2),
            2,
            "a.jsonl has 2 rows, but 1 + 1 + 1 = 3 are asked for (--num-train, --num-dev and --num-eval)",
        ),
        (
            "a.jsonl",
            many(9),
            2,
            "--batch-size 16 (the default): there are only 7 training rows (1 dev, 1 eval); use --batch-size 7 or less",
        ),
        ("a.csv", "text,label\na,1\nb\n".into(), 2, "a.csv, line 3: 1 fields, but the header names 2"),
        ("a.csv", "sentence,label\na,1\n".into(), 2, "a.csv has sentence, label; needed are"),
        ("a.csv", "text,label\na,1,x\n".into(), 2, "a.csv, line 2: 3 fields, but the header names 2"),
        // Columns that seem to be meant for known ones are not passed over.
        (
            "a.csv",
            "text,Label\na,1\n".into(),
            2,
            "a.csv has \"text\" alone and \"Label\", which is not known; did you mean \"label\"?",
        ),
        ("a.csv", "text,labels\na,1\n".into(), 2, "did you mean \"label\"?"),
        ("a.tsv", "text\tlabel_text\na\tgood\n".into(), 2, "did you mean \"label\"?"),
        ("a.csv", "text,sentence\na,b\n".into(), 2, "did you mean \"text\"?"),
        ("a.csv", "text,class\na,b\n".into(), 2, "did you mean \"label\"?"),
        ("a.csv", "Text,label\na,b\n".into(), 2, "a.csv has Text, label; needed are"),
        ("a.csv", "Text,label\na,b\n".into(), 2, "; is \"Text\" meant for \"text\"?"),
        ("a.csv", "text,label,label\na,b,c\n".into(), 2, "a.csv has 2 columns named \"label\""),
        (
            "a.jsonl",
            "{\"prompt\": \"a\", \"completion\": \"b\", \"label\": true}\n".into(),
            2,
            "a.jsonl, line 1 has \"prompt\" and \"completion\" and \"label\", which is not used with them",
        ),
        (
            "a.jsonl",
            "{\"text\": \"a\", \"label\": null}\n".into(),
            2,
            "a.jsonl, line 1 has a \"label\", but the first row has no",
        ),
        (
            "a.jsonl",
            "{\"text\": \"a\", \"text\": \"b\"}\n".into(),
            2,
            "a.jsonl, line 1: not a JSON object: the key \"text\" occurs twice",
        ),
        ("a.jsonl", "{\"text\": \"a\", \"label\": 1.0}\n".into(), 2, "\"label\" must be text or an integer, but is 1.0"),
        ("a.jsonl", "{\"text\": \"a\", \"label\": NaN}\n".into(), 2, "a.jsonl, line 1: not a JSON object"),
        ("a.jsonl", "{\"prompt\": \"a\", \"completion\": null}\n".into(), 2, "a.jsonl, line 1 has prompt; needed are"),
        ("a.csv", "text,label\na,\n".into(), 2, "\"label\" must be text or an integer, but is \"\""),
        ("a.csv", "text,label\n\"a,1\nb,2\n".into(), 2, "a.csv, line 2: a cell begins with a quote that is never closed"),
        (
            "a.tsv",
            "text\tlabel\nx\t0\n\"good\"\t1\n".into(),
            2,
            "a.tsv, line 3: it is not clear whether the quotes around a cell belong",
        ),
        ("a.parquet", "text".into(), 2, "a.parquet is not a complete parquet file"),
        ("a.txt", "text".into(), 2, "--data a.txt: its name must end in .jsonl, .csv, .tsv or .parquet"),
    ];
    for (name, text, code, expected) in cases {
        std::fs::write(place.join(name), &text)?;
        let output = call(place, &["train", "--data", name, "--max-steps", "1"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("error: ") && said.contains(expected), "{said:?} does not say {expected:?}");
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(output.stdout.is_empty() && said.lines().count() <= 4, "{said}");
    }
    // However long what it quotes is.
    let long = "long ".repeat(600_000);
    for row in
        [json!({ "text": "a", "label": long }), json!({ "text": [long], "label": 1 }), json!(long), json!({ &long: 1 })]
    {
        write(&place.join("a.jsonl"), &[row])?;
        let output = call(place, &["train", "--data", "a.jsonl"])?;
        assert!(output.status.code() == Some(2) && output.stderr.len() < 3000, "{} bytes", output.stderr.len());
    }
    write(&place.join("a.jsonl"), &labelled(20))?;
    std::fs::create_dir(place.join("folder"))?;
    for (args, expected) in [
        (
            &["--data", "a.jsonl", "--task", "sst2"][..],
            "--data a.jsonl: task sst2 needs the folder with train.tsv and dev.tsv",
        ),
        (&["--data", "nowhere"], "--data nowhere: there is no such file or folder"),
        (&["--data", "/dev/null"], "--data /dev/null: it is neither a file nor a folder"),
        (&["--data", "folder"], "--data folder: there is no train.jsonl (or .csv, .tsv, .parquet) in it"),
        (&["--data", "a.jsonl", "--num-eval", "21"], "--num-eval 21: it must be between 1 and 20, the rows of a.jsonl"),
        (&["--data", "a.jsonl", "--num-eval", "20"], "a.jsonl has 20 rows, but 1 + 2 + 20 = 23 are asked for"),
    ] {
        let output = call(place, &[&["train"], args].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
        assert_eq!(output.status.code(), Some(2), "{said}");
    }
    // A label that only the evaluation file has; a file of another kind.
    write(&place.join("folder/train.jsonl"), &labelled(20))?;
    for (row, expected) in [
        (json!({ "text": "a", "label": "odd" }), "valid.jsonl, line 1: label \"odd\" is not one of bad {{ x }}, good"),
        (json!({ "text": "a" }), "folder/valid.jsonl has \"text\" alone, but folder/train.jsonl has \"text\" and \"label\""),
    ] {
        write(&place.join("folder/valid.jsonl"), &[row])?;
        let output = call(place, &["train", "--data", "folder", "--batch-size", "4"])?;
        let said = String::from_utf8_lossy(&output.stderr).replace("\n  ", ": ");
        assert!(said.contains(expected), "{said:?} does not say {expected:?}");
    }
    assert!(!place.join("runs").exists(), "something was written");
    Ok(())
}

/// One example is kept in run.json as it is fed, and said where one asks for more: columns that are left out are said always.
#[test]
fn a_run_shows_what_it_trains() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let place = dir.path();
    let row = |i: usize| json!({ "text": format!("a film of number {i} "), "label": format!(" {} ", ["good", "bad"][i % 2]), "id": i });
    write(&place.join("a.jsonl"), &(0..40).map(row).collect::<Vec<_>>())?;
    let train = ["train", "--data", "a.jsonl", "--max-steps", "1", "--batch-size", "4", "--output-dir"];
    let quiet = call(place, &[&train[..], &["quiet"]].concat())?;
    let told = call(place, &[&train[..], &["told", "--verbose"]].concat())?;
    let (quiet, told) = (String::from_utf8(quiet.stderr)?, String::from_utf8(told.stderr)?);
    assert!(quiet.contains("prompt \"{text}\\nLabel:\", answers \" bad\", \" good\"; unused columns: id\n"), "{quiet}");
    let run: Value = serde_json::from_slice(&std::fs::read(place.join("told/run.json"))?)?;
    let example = &run["example"];
    // The first of the first step's.
    let splits = splits(&place.join("a.jsonl"), Sizes::default())?;
    let first = zotune::zo::Batches::new(splits.train.len(), 4, 0).at(0)[0];
    let row = &splits.train[first];
    let line = row.place.rsplit('/').next().unwrap();
    assert_eq!((example["row"].as_str(), example["prompt"].as_str()), (Some(line), Some(row.prompt.as_str())));
    assert_eq!((&example["right"], &example["cut"]), (&row.label.into(), &false.into()));
    let bench = LoadedModel::open(&Inputs::check(Common::default())?)?;
    for (i, answer) in ["bad", "good"].iter().enumerate() {
        let candidate = &example["candidates"][i];
        assert_eq!(candidate["answer"], format!(" {answer}"));
        let fed = bench.tokenizer.encode(&row.answered[i])?;
        assert_eq!(candidate["tokens"], json!(fed));
        let scored = candidate["scored"].as_array().unwrap();
        assert!(scored[0].as_str().unwrap().starts_with('\u{120}'), "{scored:?}");
        assert_eq!(scored.len(), fed.len() - bench.tokenizer.encode(&row.prompt)?.len());
    }
    let line = format!("example {line}: prompt {:?}", row.prompt);
    assert!(told.contains(&line) && !quiet.contains(&line), "{told}");
    assert!(told.contains(&format!("-> answer \" {}\": scored ", ["bad", "good"][row.label])), "{told}");
    Ok(())
}

/// Two halves of one word are taken as they are, and said.
#[test]
fn words_that_run_together_are_said() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let rows: Vec<Value> = (0..30).map(|i| json!({ "prompt": format!("film {i}"), "completion": "good" })).collect();
    write(&dir.path().join("a.jsonl"), &rows)?;
    let output = call(dir.path(), &["train", "--data", "a.jsonl", "--max-steps", "1"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(
            "30 completions do not start with a space and form one word with their prompts (the first: a.jsonl, line 1)"
        ),
        "{said}"
    );
    Ok(())
}

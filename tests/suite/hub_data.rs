//! Data sets as the hub has them: other files, other columns, other labels, and the same prompts.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use zotune::data::task::{PromptedRow, Sizes, Splits, Task};

use crate::support::{Column, shared, write_parquet};

/// The hub's file of a task's split out of the rows that the authors handed out, by hand.
fn as_on_the_hub(task: &str, rows: &[Value], path: &Path) -> Result<()> {
    let text = |key: &str| {
        let place = |row: &Value| row.pointer(key).and_then(Value::as_str).unwrap_or_default().to_string();
        Column::Texts(rows.iter().map(place).collect())
    };
    let label = |labels: &[Value]| {
        Column::Numbers(rows.iter().map(|row| labels.iter().position(|l| *l == row["label"]).unwrap() as i64).collect())
    };
    let idx = Column::Numbers((0..rows.len() as i64).collect());
    let columns = match task {
        "sst2" => vec![("idx", idx), ("sentence", text("/sentence")), ("label", label(&["0".into(), "1".into()]))],
        "copa" => vec![
            ("premise", text("/premise")),
            ("choice1", text("/choice1")),
            ("choice2", text("/choice2")),
            ("question", text("/question")),
            ("idx", idx),
            ("label", label(&[0.into(), 1.into()])),
        ],
        "rte" | "cb" => vec![
            ("premise", text("/premise")),
            ("hypothesis", text("/hypothesis")),
            ("idx", idx),
            match task {
                "rte" => ("label", label(&["entailment".into(), "not_entailment".into()])),
                _ => ("label", label(&["entailment".into(), "contradiction".into(), "neutral".into()])),
            },
        ],
        _ => vec![
            ("text", text("/text")),
            ("span1_index", Column::Numbers(vec![0; rows.len()])),
            ("span2_index", Column::Numbers(vec![0; rows.len()])),
            ("span1_text", text("/target/span1_text")),
            ("span2_text", text("/target/span2_text")),
            ("idx", idx),
            ("label", label(&[false.into(), true.into()])),
        ],
    };
    write_parquet(path, &columns, 100)
}

/// The rows of a file that the authors handed out.
fn read(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path)?;
    if path.extension().is_some_and(|e| e == "jsonl") {
        return Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?);
    }
    let row = |line: &str| {
        let (sentence, label) = line.split_once('\t').unwrap();
        serde_json::json!({ "sentence": sentence, "label": label })
    };
    Ok(text.lines().skip(1).map(row).collect())
}

/// Prompts, answers, labels and places; not the file's name and whether it has lines.
fn content(rows: &[PromptedRow]) -> Vec<(usize, &str, &[String], usize)> {
    rows.iter().map(|r| (r.index, r.prompt.as_str(), r.answered.as_slice(), r.label)).collect()
}

fn same(ours: &Splits, theirs: &Splits, what: &str) {
    for (ours, theirs) in [(&ours.train, &theirs.train), (&ours.dev, &theirs.dev), (&ours.eval, &theirs.eval)] {
        assert!(!ours.is_empty());
        assert_eq!(content(ours), content(theirs), "{what}");
    }
}

/// Where the hub's repository has a task's files, and where its conversion to parquet does.
fn layouts(task: &str) -> [[String; 2]; 2] {
    let (folder, converted) = match task {
        "sst2" => ("data", "default"),
        "wsc" => ("wsc.fixed", "wsc.fixed"),
        other => (other, other),
    };
    [
        ["train", "validation"].map(|split| format!("{folder}/{split}-00000-of-00001.parquet")),
        ["train", "validation"].map(|split| format!("{converted}/{split}/0000.parquet")),
    ]
}

/// The splits of a task from a folder with the authors' files, and from clones made of them.
fn compare(task: &str, local: &Path, files: [&str; 2], sizes: Sizes) -> Result<()> {
    let task = Task::open(task)?;
    let ours = task.splits(&task.data(Some(local))?, sizes, 0)?;
    for layout in layouts(&task.name) {
        let clone = tempfile::tempdir()?;
        for (ours, theirs) in files.iter().zip(&layout) {
            as_on_the_hub(&task.name, &read(&local.join(ours))?, &clone.path().join(theirs))?;
        }
        let found = task.splits(&task.data(Some(clone.path()))?, sizes, 0)?;
        same(&found, &ours, &task.name);
        assert_eq!(
            found.train[0].place,
            format!("{}, row {}", clone.path().join(&layout[0]).display(), found.train[0].index + 1)
        );
    }
    Ok(())
}

#[test]
fn a_clone_of_the_hubs_repository_gives_the_same_prompts_as_the_authors_files() -> Result<()> {
    let rows: [(&str, [&str; 2], Vec<String>); 5] = [
        (
            "sst2",
            ["train.tsv", "dev.tsv"],
            std::iter::once("sentence\tlabel".to_string())
                .chain((0..40).map(|i| format!("\u{201c}a film\u{201d} of number {i} \t{}", i % 2)))
                .collect(),
        ),
        (
            "copa",
            ["train.jsonl", "val.jsonl"],
            (0..40)
                .map(|i| {
                    let question = if i % 3 == 0 { "cause" } else { "effect" };
                    format!(
                        "{{\"premise\": \"It was {i}.\", \"choice1\": \"I ran.\", \"choice2\": \"The sun rose.\", \
                         \"question\": \"{question}\", \"label\": {}, \"idx\": {i}}}",
                        i % 2
                    )
                })
                .collect(),
        ),
        (
            "rte",
            ["train.jsonl", "val.jsonl"],
            (0..40)
                .map(|i| {
                    let label = ["entailment", "not_entailment"][i % 2];
                    format!("{{\"premise\": \"P {i}.\", \"hypothesis\": \"H\", \"label\": \"{label}\", \"idx\": {i}}}")
                })
                .collect(),
        ),
        (
            "cb",
            ["train.jsonl", "val.jsonl"],
            (0..40)
                .map(|i| {
                    let label = ["neutral", "entailment", "contradiction"][i % 3];
                    format!("{{\"premise\": \"P {i}.\", \"hypothesis\": \"H\", \"label\": \"{label}\", \"idx\": {i}}}")
                })
                .collect(),
        ),
        (
            "wsc",
            ["train.jsonl", "val.jsonl"],
            (0..40)
                .map(|i| {
                    format!(
                        "{{\"text\": \"Mark {i} told Pete. He lied.\", \"target\": {{\"span1_text\": \"Mark {i}\", \
                         \"span1_index\": 0, \"span2_text\": \"He\", \"span2_index\": 4}}, \"label\": {}, \"idx\": {i}}}",
                        i % 4 == 0
                    )
                })
                .collect(),
        ),
    ];
    for (task, files, lines) in rows {
        let local = tempfile::tempdir()?;
        for file in files {
            std::fs::write(local.path().join(file), lines.join("\n") + "\n")?;
        }
        compare(task, local.path(), files, Sizes { num_train: Some(20), num_dev: Some(10), num_eval: None })?;
    }
    Ok(())
}

/// The real files, row for row: 67,349 of SST-2 among them.
#[test]
fn real_data_as_parquet_give_mezos_splits() -> Result<()> {
    for (task, folder, files) in [
        ("sst2", "data/SST-2", ["train.tsv", "dev.tsv"]),
        ("copa", "data/COPA", ["train.jsonl", "val.jsonl"]),
        ("rte", "data/RTE", ["train.jsonl", "val.jsonl"]),
        ("cb", "data/CB", ["train.jsonl", "val.jsonl"]),
        ("wsc", "data/WSC", ["train.jsonl", "val.jsonl"]),
    ] {
        let Some(folder) = shared(folder) else { return Ok(()) };
        compare(task, &folder, files, Sizes::default())?;
    }
    Ok(())
}

#[test]
fn a_hubs_row_that_does_not_fit_is_named() -> Result<()> {
    let clone = tempfile::tempdir()?;
    let path = clone.path().join("data/train-00000-of-00001.parquet");
    let error = |columns: &[(&str, Column)]| -> Result<String> {
        write_parquet(&path, columns, 2)?;
        let task = Task::open("sst2")?;
        let sizes = Sizes { num_train: Some(1), num_dev: Some(2), num_eval: None };
        let found = task.splits(&task.data(Some(clone.path()))?, sizes, 0);
        Ok(format!("{:#}", found.err().unwrap()).replace(&path.display().to_string(), "FILE"))
    };
    let texts = || Column::Texts(["a", "b", "c"].map(String::from).into());
    let said = error(&[("sentence", texts()), ("label", Column::Numbers(vec![0, 1, -1]))])?;
    assert!(said.starts_with("FILE, row 3: label \"-1\" is not one of 0, 1"), "{said}");
    let said = error(&[("text", texts()), ("label", Column::Numbers(vec![0, 1, 1]))])?;
    assert_eq!(said, "FILE has no column \"sentence\"; its columns are: text, label");
    let said = error(&[("sentence", texts()), ("label", Column::Numbers(vec![0, 1, 1]))])?;
    assert!(said.ends_with("data/validation-00000-of-00001.parquet is missing"), "{said}");
    Ok(())
}

/// What a [hub] section may say.
#[test]
fn a_task_file_may_have_a_hub_section_of_its_own() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (task, train) = (dir.path().join("mine.toml"), dir.path().join("clone/rows/train.parquet"));
    let columns = [
        ("review", Column::Texts(vec!["fine".into(), "bad".into()])),
        ("stars", Column::Texts(vec!["+".into(), "-".into()])),
    ];
    write_parquet(&train, &columns, 9)?;
    let text = "description = \"mine\"\nloss = \"classification\"\nmetric = \"accuracy\"\n\
         [data]\nformat = \"csv\"\ntrain = \"train.csv\"\neval = \"test.csv\"\n\
         [hub]\nrepo = \"me/reviews\"\ntrain = \"rows/train.parquet\"\neval = \"rows/train.parquet\"\nlabels = [\"-\", \"+\"]\n\
         columns = { text = \"review\", label = \"stars\" }\n\
         [prompt]\ntemplate = \"{{ text }}:\"\ncandidates = [\" one\", \" five\"]\n\
         [label]\ncolumn = \"label\"\nvalues = [\"1\", \"5\"]\n";
    std::fs::write(&task, text)?;
    let own = Task::open(&task.to_string_lossy())?;
    let found = own.eval_split(&own.data(Some(&dir.path().join("clone")))?, Sizes::default(), 0)?;
    assert!(found.iter().any(|row| row.answered[row.label] == "fine: five"), "{found:?}");
    for (change, expected) in [
        (("repo =", "repos ="), "unknown field `repos`"),
        (("labels = [\"-\"", "labels = [\"+\""), "[hub] labels: \"+\" occurs twice"),
        (("labels = [\"-\", ", "labels = ["), "[hub] labels: 1 for 2 candidates"),
        (("rows/train.parquet", "rows/train.arrow"), "[hub] rows/train.arrow: it must be a file named .parquet"),
    ] {
        std::fs::write(&task, text.replace(change.0, change.1))?;
        let error = Task::open(&task.to_string_lossy()).err().map(|e| format!("{e:#}")).unwrap();
        assert!(error.contains("mine.toml") && error.contains(expected), "{error}");
    }
    Ok(())
}

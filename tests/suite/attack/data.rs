//! Attacks on task files and rows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use zotune::data::task::{Sizes, Task};

use super::damage;
use crate::mutate::Rng;
use crate::support::{Column, write_parquet};

pub(super) fn tasks() -> Result<Vec<tempfile::TempDir>> {
    let folder = tempfile::tempdir()?;
    let text = "description = \"a task\"\nloss = \"classification\"\nmetric = \"accuracy\"\n\n[data]\nformat = \"jsonl\"\n\
                train = \"train.jsonl\"\neval = \"train.jsonl\"\n\n[splits]\nnum_train = 8\nnum_dev = 4\nnum_eval = 4\n\n[prompt]\n\
                template = \"{% for w in words %}{{ loop.index }} {{ w | upper }} {% endfor %}{{ text | trim }} was\"\n\
                candidates = [\"bad\", \"{{ text[0] }} good\"]\n\n[label]\ncolumn = \"label\"\nvalues = [\"0\", \"1\"]\n";
    std::fs::write(folder.path().join("task.toml"), text)?;
    let rows: String =
        (0..20).map(|i| format!("{{\"text\": \"film {i} \", \"words\": [\"a\", \"b\"], \"label\": {}}}\n", i % 2)).collect();
    std::fs::write(folder.path().join("train.jsonl"), rows)?;
    Ok(vec![folder])
}

/// Parts of templates.
const PARTS: [&str; 24] = [
    "{{ text }}",
    "{% for x in range(9999) %}",
    "{% endfor %}",
    "{% if text %}",
    "{% endif %}",
    "{% elif text %}",
    "{% set text = text ~ text %}",
    "{% set t = text | replace('f', 'ffffffff') %}",
    "{{ text | join(text) }}",
    "{{ words | join(text) | upper }}",
    "{{ text * 100000000 }}",
    "{% raw %}",
    "{% endraw %}",
    "{{ '}}' }}",
    "{# ",
    "{{ range(100000) | list | join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') }}",
    "{% macro m() %}{{ m() }}{% endmacro %}",
    "{{ text | pprint | pprint }}",
    "{{ ((((((((text)))))))) }}",
    "{% for x in words recursive %}{{ loop(words) }}",
    "{{ -(-(-1)) }}",
    "{{ text ~ text ~ text }}",
    "{{ words[99999999999] }}",
    "{{ text[::-1] }}",
];

pub(super) fn attack_task(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let path = folder.join("task.toml");
    if rng.one_in(3) {
        damage(rng, &path)?;
        return Ok(false);
    }
    let mut template = String::new();
    for _ in 0..1 + rng.below(8) {
        template += &rng.pick(&PARTS).repeat(*rng.pick(&[1, 1, 2, 30, 300]));
    }
    if rng.one_in(6) {
        template = format!(
            "{{{{ text{} }}}}",
            rng.pick(&["|trim", ".a", "[0]", "()", " ~ text", " and text"]).repeat(rng.below(20_000))
        );
    }
    let text = std::fs::read_to_string(&path)?;
    let old = text.lines().find(|line| line.starts_with("template")).context("a template")?;
    Ok(std::fs::write(&path, text.replace(old, &format!("template = {}", Value::from(template)))).map(|()| false)?)
}

fn prompts(task: &Task, data: Option<&Path>) -> Result<Vec<u8>> {
    let splits = task.splits(&task.data(data)?, Sizes::default(), 0)?;
    let all = splits.train.iter().chain(&splits.dev).chain(&splits.eval);
    Ok(all.flat_map(|row| [std::slice::from_ref(&row.prompt), &row.answered[..]].concat().join("\n").into_bytes()).collect())
}

pub(super) fn read_task(folder: &Path) -> Result<Vec<u8>> {
    prompts(&Task::open(&folder.join("task.toml").to_string_lossy())?, Some(folder))
}

pub(super) fn rows(ending: &str) -> Result<Vec<tempfile::TempDir>> {
    let texts: Vec<String> = (0..40).map(|i| format!("film {i}, \"good\" or not; é")).collect();
    let of = |other: &str, value: &dyn Fn(usize) -> String| {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(format!("data.{ending}"));
        let first = if other == "label" { "text" } else { "prompt" };
        let lines = texts.iter().enumerate();
        let text = match ending {
            "parquet" => {
                let others = (0..texts.len()).map(value).collect();
                write_parquet(&path, &[(first, Column::Texts(texts.clone())), (other, Column::Texts(others))], 15)?;
                return Ok(folder);
            }
            "jsonl" => lines.map(|(i, text)| format!("{}\n", serde_json::json!({ first: text, other: value(i) }))).collect(),
            "csv" => {
                format!("{first},{other}\n")
                    + &lines.map(|(i, text)| format!("\"{}\",{}\n", text.replace('"', "\"\""), value(i))).collect::<String>()
            }
            _ => {
                format!("{first}\t{other}\n") + &lines.map(|(i, text)| format!("{text}\t{}\n", value(i))).collect::<String>()
            }
        };
        std::fs::write(path, text)?;
        Ok(folder)
    };
    [("label", &(|i: usize| (i % 3).to_string()) as &dyn Fn(usize) -> String), ("completion", &|i| format!(" then {i}"))]
        .into_iter()
        .map(|(other, value)| of(other, value))
        .collect()
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    Ok(std::fs::read_dir(folder)?.next().context("no file")??.path())
}

pub(super) fn attack_rows(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let path = only_file(folder)?;
    let mut text = std::fs::read(&path)?;
    if path.extension().is_some_and(|ending| ending != "parquet") && rng.one_in(3) {
        let at = rng.below(text.len());
        let part = *rng.pick(&["\"", "\"\"", "\t", ",", "\n", "\r", "{", "[[[[[[[[", "\u{feff}", "\0", "\u{1b}[2J", "null"]);
        drop(text.splice(at..at, part.repeat(*rng.pick(&[1, 2, 1000])).into_bytes()));
        std::fs::write(path, text)?;
        return Ok(false);
    }
    damage(rng, &path).map(|()| false)
}

pub(super) fn read_rows(folder: &Path) -> Result<Vec<u8>> {
    let path = only_file(folder)?;
    prompts(&Task::of(None, Some(&path))?, Some(&path))
}

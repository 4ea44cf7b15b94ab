//! Tasks inferred from the columns of data without a task file.
//!
//! | columns | training target |
//! |---|---|
//! | `prompt`, `completion` | the completion's tokens after the prompt, joined without a space |
//! | `text`, `label` | the label of the text, among the labels of the training file |
//! | `text` | all tokens of the text but the first |
//!
//! Other columns are ignored, and reported. A misspelling of a known column is an error: to ignore a `Label` column
//! would train on something else than intended.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::definition::Task;
use super::kinds::{Loss, Metric, Sizes};
use super::own_files::OwnFiles;
use super::row::Row;
use super::rows::{Format, Rows};
use super::sections::{DataSection, LabelSection, PromptSection, TaskFile};
use crate::base::text::{bounded, listed, quoted};

/// More distinct labels than this are not classes.
const MOST_LABELS: usize = 32;

/// In characters.
const LONGEST_LABEL: usize = 200;

/// Common alternative names of the known columns.
const ALIASES: [(&str, &[&str]); 5] = [
    ("prompt", &["instruction", "question", "input", "query", "context"]),
    ("completion", &["response", "answer", "output", "target", "chosen", "rejected"]),
    ("text", &["sentence", "content", "document"]),
    ("label", &["class", "category", "target", "sentiment", "y"]),
    ("messages", &["conversation", "chat"]),
];

const WANTED: &str = "\"prompt\" and \"completion\", \"text\" and \"label\", or \"text\" alone";

/// The kind of a file's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowKind {
    Completion,
    Labelled,
    Text,
}

/// The result of scanning all rows of a file.
struct Scan {
    kind: RowKind,
    count: usize,
    labels: BTreeSet<String>,
    /// Ignored columns.
    unused: BTreeSet<String>,
    /// The number of rows whose prompt and completion meet within a word, and the first such row.
    joined: Option<(usize, Row)>,
}

impl Task {
    /// The named task, or one inferred from `data`.
    pub fn of(name_or_path: Option<&str>, data: Option<&Path>) -> Result<Self> {
        match (name_or_path, data) {
            (Some(name), _) => Self::open(name),
            (None, Some(data)) => open(data),
            (None, None) => Err(usage!("there is nothing to train on: give `task` or `data`")),
        }
    }
}

/// Infers a task from a file, or a folder of files.
pub fn open(data: &Path) -> Result<Task> {
    let files = OwnFiles::find(data)?;
    files.warn_of_unread(data);
    let rows = Rows::open_path(&files.train)?;
    let Scan { kind, labels, unused, joined, .. } = scan(&rows)?;
    for path in files.dev.iter().chain(&files.eval) {
        let other = Rows::open_path(path)?;
        let found = scan(&other)?;
        if found.kind != kind {
            bail!("{} has {}, but {} has {}", other.place, found.kind.name(), files.train.display(), kind.name());
        }
    }
    if let Some((count, first)) = joined {
        tracing::warn!(
            "{count} completions do not start with a space and form one word with their prompts (the first: {})",
            rows.place_of(&first)
        );
    }
    let labels = in_order(labels);
    if kind == RowKind::Labelled && labels.len() < 2 {
        bail!(
            "{}: all rows have the label {}; at least two labels are needed",
            files.train.display(),
            quoted(&labels.join(""))
        );
    }
    let resolved = data.canonicalize().unwrap_or(data.into());
    let name = resolved.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut task = Task::new(&name, kind.task_file(&labels)?)?;
    task.made = Some(kind.describe(&labels, &unused));
    task.own = Some(files);
    Ok(task)
}

/// Sorts labels: numbers by value, others alphabetically.
fn in_order(labels: BTreeSet<String>) -> Vec<String> {
    let mut labels: Vec<String> = labels.into_iter().collect();
    if labels.iter().all(|label| label.parse::<i64>().is_ok()) {
        labels.sort_by_key(|label| label.parse::<i64>().unwrap_or_default());
    }
    labels
}

/// Scans all rows, which must be of one kind.
fn scan(rows: &Rows) -> Result<Scan> {
    let begun = |kind, unused| Scan { kind, count: 0, labels: BTreeSet::new(), unused, joined: None };
    let mut found = None;
    if let Some(columns) = rows.columns()? {
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let kind = RowKind::of(&columns, &rows.place)?;
        let unused = kind.left_out(&columns, &rows.place)?.into_iter().filter(|name| !name.is_empty());
        found = Some(begun(kind, unused.map(String::from).collect()));
    }
    let wanted = found.as_ref().map(|found: &Scan| found.kind.columns());
    rows.visit(wanted, &mut |row| {
        let place = || rows.place_of(&row);
        let found = match &mut found {
            Some(found) => found,
            None => found.insert(begun(RowKind::of(&row.columns(), &place())?, BTreeSet::new())),
        };
        row.check(found.kind.columns()).map_err(|e| {
            anyhow::anyhow!(
                "{} {e}; the rows before it have {}, and all rows need the same columns",
                place(),
                found.kind.name()
            )
        })?;
        if wanted.is_none() {
            let names: Vec<&str> = row.fields.keys().map(String::as_str).collect();
            for name in found.kind.left_out(&names, &place())? {
                if !found.unused.contains(name) {
                    found.unused.insert(name.to_string());
                }
            }
        }
        found.add(&row).with_context(place)
    })?;
    found.filter(|found| found.count > 0).with_context(|| format!("{} has no rows", rows.place))
}

/// A column name in lower case without spaces, punctuation and the plural "s".
fn normalised(name: &str) -> String {
    let letters: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    letters.strip_suffix('s').filter(|rest| !rest.ends_with('s')).unwrap_or(&letters).to_string()
}

/// The known column that a name probably stands for: a misspelling, a longer name with the same start, or an alias. (A
/// name that starts with "text" is usually another column.)
fn likely_column(name: &str) -> Option<&'static str> {
    let name = normalised(name);
    let near = |known: &str| {
        let known_name = normalised(known);
        let is_longer = strsim::damerau_levenshtein(&name, &known_name) <= 1 || name.starts_with(&known_name);
        name == known_name || known != "text" && is_longer
    };
    let mut all = ALIASES.iter();
    let near = all.clone().find(|(known, _)| near(known));
    near.or_else(|| all.find(|(_, aliases)| aliases.contains(&name.as_str()))).map(|(known, _)| *known)
}

/// A value as an error shows it.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        other => bounded(&other.to_string()).into_owned(),
    }
}

impl Scan {
    fn add(&mut self, row: &Row) -> Result<()> {
        self.count += 1;
        for column in self.kind.texts() {
            match &row.fields[*column] {
                Value::String(text) if text.is_empty() && *column != "prompt" => bail!("\"{column}\" is empty"),
                Value::String(_) => {}
                other => bail!("\"{column}\" must be a string, but is {}", shown(other)),
            }
        }
        let ends = |column: &str| row.fields.get(column).and_then(Value::as_str).unwrap_or_default();
        match self.kind {
            RowKind::Completion => {
                let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
                if letter(ends("prompt").chars().next_back()) && letter(ends("completion").chars().next()) {
                    self.joined.get_or_insert_with(|| (0, row.clone())).0 += 1;
                }
            }
            RowKind::Labelled => {
                let value = &row.fields["label"];
                let is_label = value.is_string() || value.is_boolean() || value.is_i64() || value.is_u64();
                let label = row.label("label").filter(|_| is_label);
                let label =
                    label.with_context(|| format!("\"label\" must be text or an integer, but is {}", shown(value)))?;
                if label.chars().count() > LONGEST_LABEL {
                    bail!(
                        "the label {} is too long for a class; for free text use the columns \"prompt\" and \"completion\"",
                        quoted(&label)
                    );
                }
                self.labels.insert(label);
                if self.labels.len() > MOST_LABELS {
                    bail!(
                        "this row makes more than {MOST_LABELS} different labels (the limit); for free text use the columns \
                         \"prompt\" and \"completion\""
                    );
                }
            }
            RowKind::Text => {}
        }
        Ok(())
    }
}

impl RowKind {
    /// The kind of a file or its first row with these columns. `place` is for the error.
    fn of(columns: &[&str], place: &str) -> Result<Self> {
        let has = |names: &[&str]| names.iter().all(|name| columns.contains(name));
        match () {
            _ if has(&["prompt", "completion"]) => Ok(RowKind::Completion),
            _ if has(&["text", "label"]) => Ok(RowKind::Labelled),
            _ if has(&["text"]) => Ok(RowKind::Text),
            _ if has(&["messages"]) => bail!(
                "{place} has \"messages\", but chats are not supported: write each as \"prompt\" and \"completion\", with the \
                 model's own chat template in the prompt"
            ),
            _ => {
                let near = columns.iter().find_map(|name| Some((name, likely_column(name).filter(|meant| meant != name)?)));
                let near =
                    near.map_or(String::new(), |(name, meant)| format!("; is {} meant for \"{meant}\"?", quoted(name)));
                bail!(
                    "{place} has {}; needed are {WANTED}, or a task file (`task`) that names other columns{near}",
                    listed(columns.iter().copied())
                )
            }
        }
    }

    /// The columns that this kind ignores. Fails if one is probably a known column.
    fn left_out<'a>(self, columns: &[&'a str], place: &str) -> Result<Vec<&'a str>> {
        let rest: Vec<&str> = columns.iter().copied().filter(|name| !self.columns().contains(name)).collect();
        for name in &rest {
            let same = normalised(name);
            // A known column of another kind, or a spelling variant.
            let known = ALIASES.iter().map(|(known, _)| *known).find(|known| normalised(known) == same);
            // Only rows of text alone would ignore everything else.
            let Some(meant) = known.or_else(|| likely_column(name).filter(|_| self == RowKind::Text)) else { continue };
            const SAY: &str = "rename or remove it, or describe the columns in a task file (`task`)";
            match (meant == *name, self) {
                (true, RowKind::Text) => {
                    bail!("{place} has a {}, but the first row has none; all rows need the same columns", quoted(name))
                }
                (true, _) => bail!("{place} has {} and {}, which is not used with them; {SAY}", self.name(), quoted(name)),
                _ => bail!(
                    "{place} has {} and {}, which is not known; did you mean \"{meant}\"? {SAY}",
                    self.name(),
                    quoted(name)
                ),
            }
        }
        Ok(rest)
    }

    fn columns(self) -> &'static [&'static str] {
        match self {
            RowKind::Completion => &["prompt", "completion"],
            RowKind::Labelled => &["text", "label"],
            RowKind::Text => &["text"],
        }
    }

    /// The columns whose values must be strings.
    fn texts(self) -> &'static [&'static str] {
        if self == RowKind::Completion { self.columns() } else { &["text"] }
    }

    fn name(self) -> &'static str {
        match self {
            RowKind::Completion => "\"prompt\" and \"completion\"",
            RowKind::Labelled => "\"text\" and \"label\"",
            RowKind::Text => "\"text\" alone",
        }
    }

    /// The equivalent task file.
    fn task_file(self, labels: &[String]) -> Result<TaskFile> {
        let (template, candidates) = match self {
            RowKind::Completion => ("{{ prompt }}", vec!["{{ completion }}".to_string()]),
            RowKind::Text => ("", vec!["{{ text }}".to_string()]),
            RowKind::Labelled => {
                // A template string literal: template syntax in a label has no effect.
                let quoted = |label: &String| Ok(format!(" {{{{ {} }}}}", serde_json::to_string(label)?));
                ("{{ text | trim }}\nLabel:", labels.iter().map(quoted).collect::<Result<_>>()?)
            }
        };
        let is_choice = self == RowKind::Labelled;
        Ok(TaskFile {
            description: "data of one's own".into(),
            loss: if is_choice { Loss::Classification } else { Loss::TeacherForcing },
            metric: if is_choice { Metric::Accuracy } else { Metric::Loss },
            data: DataSection { format: Format::Jsonl, train: String::new(), eval: String::new(), builtin: None },
            prompt: PromptSection { template: template.into(), candidates },
            label: is_choice.then(|| LabelSection { column: "label".into(), values: labels.to_vec() }),
            hub: None,
            splits: Sizes::default(),
        })
    }

    /// How the data are used, for people.
    fn describe(self, labels: &[String], unused: &BTreeSet<String>) -> String {
        let made = match self {
            RowKind::Completion => "prompt and completion unchanged, then the end token".into(),
            RowKind::Text => "the whole text, then the end token".into(),
            RowKind::Labelled => {
                let answers: Vec<String> = labels.iter().map(|label| quoted(&format!(" {label}"))).collect();
                format!("prompt \"{{text}}\\nLabel:\", answers {}", answers.join(", "))
            }
        };
        let unused = match unused.is_empty() {
            true => String::new(),
            false => format!("; unused columns: {}", listed(unused.iter().map(String::as_str))),
        };
        format!("{made}{unused}")
    }
}

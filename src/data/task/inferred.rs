//! Data without a task file: what the columns are says what is to be learnt.
//!
//! | columns | what is trained on |
//! |---|---|
//! | `prompt`, `completion` | the completion's tokens behind the prompt, joined as they are |
//! | `text`, `label` | the text, asked for its label: the labels of the training file are the answers |
//! | `text` | all tokens of the text but the first |
//!
//! Other columns are left out, and said. One that looks like one of these and is spelt otherwise is an error: to leave a `Label` out would be
//! to learn something else than was asked for.

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

/// More labels than this are no classes.
const MOST_LABELS: usize = 32;

/// In characters.
const LONGEST_LABEL: usize = 200;

/// What others call the columns that are known here.
const ALIASES: [(&str, &[&str]); 5] = [
    ("prompt", &["instruction", "question", "input", "query", "context"]),
    ("completion", &["response", "answer", "output", "target", "chosen", "rejected"]),
    ("text", &["sentence", "content", "document"]),
    ("label", &["class", "category", "target", "sentiment", "y"]),
    ("messages", &["conversation", "chat"]),
];

const WANTED: &str = "\"prompt\" and \"completion\", \"text\" and \"label\", or \"text\" alone";

/// What the rows of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RowKind {
    Completion,
    Labelled,
    Text,
}

/// What a look at all rows of a file finds.
struct Found {
    kind: RowKind,
    count: usize,
    labels: BTreeSet<String>,
    /// Columns that are left out.
    unused: BTreeSet<String>,
    /// How many rows' prompts and completions make one word where they meet, and the first of those rows.
    joined: Option<(usize, Row)>,
}

impl Task {
    /// The task that is named; where none is, what the data say of themselves.
    pub fn of(name_or_path: Option<&str>, data: Option<&Path>) -> Result<Self> {
        match (name_or_path, data) {
            (Some(name), _) => Self::open(name),
            (None, Some(data)) => open(data),
            (None, None) => Err(usage!("there is nothing to train on: give `task` or `data`")),
        }
    }
}

/// The task that a file, or a folder of files, is.
pub fn open(data: &Path) -> Result<Task> {
    let files = OwnFiles::find(data)?;
    files.say_others(data);
    let rows = Rows::open_path(&files.train)?;
    let Found { kind, labels, unused, joined, .. } = look(&rows)?;
    for path in files.dev.iter().chain(&files.eval) {
        let other = Rows::open_path(path)?;
        let found = look(&other)?;
        if found.kind != kind {
            bail!("{} has {}, but {} has {}", other.place, found.kind.name(), files.train.display(), kind.name());
        }
    }
    if let Some((count, first)) = joined {
        tracing::warn!(
            "{count} completions form one word with their prompts (the first in {}): a prompt and its completion are joined \
             without a space",
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

/// Numbers by their size, words as a dictionary has them.
fn in_order(labels: BTreeSet<String>) -> Vec<String> {
    let mut labels: Vec<String> = labels.into_iter().collect();
    if labels.iter().all(|label| label.parse::<i64>().is_ok()) {
        labels.sort_by_key(|label| label.parse::<i64>().unwrap_or_default());
    }
    labels
}

/// Looks at all rows, which must be of one kind.
fn look(rows: &Rows) -> Result<Found> {
    let begun = |kind, unused| Found { kind, count: 0, labels: BTreeSet::new(), unused, joined: None };
    let mut found = None;
    if let Some(columns) = rows.columns()? {
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let kind = RowKind::of(&columns, &rows.place)?;
        let unused = kind.left_out(&columns, &rows.place)?.into_iter().filter(|name| !name.is_empty());
        found = Some(begun(kind, unused.map(String::from).collect()));
    }
    let wanted = found.as_ref().map(|found: &Found| found.kind.columns());
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

/// A column's name without what people vary: capitals, spaces and signs, the plural.
fn spelt(name: &str) -> String {
    let letters: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    letters.strip_suffix('s').filter(|rest| !rest.ends_with('s')).unwrap_or(&letters).to_string()
}

/// Which known column a name seems to be meant for: spelt a little otherwise, the beginning of a longer name, or called as others call it.
/// (What begins with "text" is beside it more often than meant for it.)
fn meant(name: &str) -> Option<&'static str> {
    let name = spelt(name);
    let near = |known: &str| {
        let known_name = spelt(known);
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

impl Found {
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
    /// Of a file, or its first row, with these columns.
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
                let near = columns.iter().find_map(|name| Some((name, meant(name).filter(|meant| meant != name)?)));
                let near =
                    near.map_or(String::new(), |(name, meant)| format!("; is {} meant for \"{meant}\"?", quoted(name)));
                bail!(
                    "{place} has {}; needed are {WANTED}, or a task file (`task`) that names other columns{near}",
                    listed(columns.iter().copied())
                )
            }
        }
    }

    /// Of the `columns` those that are left out; one that seems to be meant for what is known here is an error.
    fn left_out<'a>(self, columns: &[&'a str], place: &str) -> Result<Vec<&'a str>> {
        let rest: Vec<&str> = columns.iter().copied().filter(|name| !self.columns().contains(name)).collect();
        for name in &rest {
            let same = spelt(name);
            // A known column that is not this kind's, or is spelt otherwise.
            let known = ALIASES.iter().map(|(known, _)| *known).find(|known| spelt(known) == same);
            // Texts alone are the kind that would pass over everything.
            let Some(meant) = known.or_else(|| meant(name).filter(|_| self == RowKind::Text)) else { continue };
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

    /// The columns that hold text.
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

    /// As it would stand in a task file.
    fn task_file(self, labels: &[String]) -> Result<TaskFile> {
        let (template, candidates) = match self {
            RowKind::Completion => ("{{ prompt }}", vec!["{{ completion }}".to_string()]),
            RowKind::Text => ("", vec!["{{ text }}".to_string()]),
            RowKind::Labelled => {
                // A string inside a template: whatever stands in the label is no template's.
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

    /// What was made of it, for people.
    fn describe(self, labels: &[String], unused: &BTreeSet<String>) -> String {
        let made = match self {
            RowKind::Completion => "prompt and completion as they are, and the end of the text".into(),
            RowKind::Text => "all of each text, and its end".into(),
            RowKind::Labelled => {
                let answers: Vec<String> = labels.iter().map(|label| format!("\" {label}\"")).collect();
                format!("\"{{text}}\\nLabel:\" answered by {}", answers.join(", "))
            }
        };
        let unused = match unused.is_empty() {
            true => String::new(),
            false => format!("; left out: {}", listed(unused.iter().map(String::as_str))),
        };
        format!("{made}{unused}; for other words a task file: zotune tasks show sst2 > mine.toml")
    }
}

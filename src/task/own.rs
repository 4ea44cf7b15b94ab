//! Data without a task file: what the columns are says what is to be learnt.
//!
//! | columns | what is trained on |
//! |---|---|
//! | `prompt`, `completion` | the completion's tokens behind the prompt, joined as they are |
//! | `text`, `label` | the text, asked for its label: the labels of the training file are the answers |
//! | `text` | all tokens of the text but the first |

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::files::Part;
use super::rows::{Format, Row, Rows};
use super::sections::{DataSection, LabelSection, PromptSection, TaskFile};
use super::{Loss, Metric, Sizes, Task};

/// More labels than this are no classes.
const MOST_LABELS: usize = 32;

/// Stems that a folder's evaluation file may have, the foremost that is there; where there is a test file, one of the others
/// is the dev split.
const EVAL: [&str; 5] = ["test", "eval", "valid", "validation", "dev"];

const EXTENSIONS: [&str; 5] = ["jsonl", "json", "csv", "tsv", "parquet"];

const WANTED: &str = "\"prompt\" and \"completion\", \"text\" and \"label\", or \"text\" alone";

/// Files of one's own: one for everything, or some for themselves.
#[derive(Clone, Debug)]
pub struct OwnFiles {
    train: PathBuf,
    dev: Option<PathBuf>,
    eval: Option<PathBuf>,
}

/// What the rows of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Completion,
    Labelled,
    Text,
}

/// What a look at all rows of a file finds.
struct Found {
    kind: Kind,
    labels: BTreeSet<String>,
    /// How many rows' prompts and completions make one word where they meet, and the first of those rows.
    joined: Option<(usize, Row)>,
}

/// The task that a file, or a folder of files, is.
pub fn open(data: &Path) -> Result<Task> {
    let files = OwnFiles::find(data)?;
    let rows = Rows::open_path(&files.train)?;
    let Found { kind, labels, joined } = look(&rows)?;
    for path in files.dev.iter().chain(&files.eval) {
        let other = Rows::open_path(path)?;
        let found = look(&other)?;
        if found.kind != kind {
            bail!("{} has {}, but {} has {}", other.place, found.kind.name(), files.train.display(), kind.name());
        }
    }
    if let Some((count, first)) = joined {
        tracing::warn!(
            "{count} completions make one word with their prompts, the first in {}: the two are joined as they are, without a \
             space",
            rows.place_of(&first)
        );
    }
    let labels = in_order(labels);
    if kind == Kind::Labelled && labels.len() < 2 {
        bail!("{}: all rows have the label \"{}\"; a choice needs two", files.train.display(), labels.join(""));
    }
    let resolved = data.canonicalize().unwrap_or(data.into());
    let name = resolved.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut task = Task::new(&name, kind.task_file(&labels)?)?;
    task.made = Some(kind.describe(&labels));
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

impl OwnFiles {
    fn find(data: &Path) -> Result<Self> {
        let place = data.display();
        if data.is_file() {
            return match Format::of(data) {
                Some(_) => Ok(OwnFiles { train: data.into(), dev: None, eval: None }),
                None => Err(usage!("--data {place}: its name must end in .jsonl, .csv, .tsv or .parquet")),
            };
        }
        if !data.is_dir() {
            return Err(usage!("--data {place}: there is no such file or folder"));
        }
        let find = |stem: &str| EXTENSIONS.iter().map(|e| data.join(format!("{stem}.{e}"))).find(|path| path.is_file());
        let train = find("train").ok_or_else(|| {
            usage!(
                "--data {place}: there is no train.jsonl (or .csv, .tsv, .parquet) in it; data of another layout want a --task"
            )
        })?;
        let mut rest = EVAL.iter().filter_map(|stem| find(stem));
        let eval = rest.next();
        let is_test = eval.as_ref().is_some_and(|path| path.file_stem().is_some_and(|stem| stem == "test"));
        Ok(OwnFiles { train, dev: if is_test { rest.next() } else { None }, eval })
    }

    /// The file of a part, where it has one of its own.
    pub fn path(&self, part: Part) -> Option<&Path> {
        match part {
            Part::Train => Some(&self.train),
            Part::Dev => self.dev.as_deref(),
            Part::Eval => self.eval.as_deref(),
        }
    }

    /// The rows that a part is drawn from.
    pub fn open(&self, part: Part) -> Result<Rows> {
        Rows::open_path(self.path(part).unwrap_or(&self.train))
    }

    /// Which file is what, for people.
    pub fn describe(&self) -> String {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match (&self.dev, &self.eval) {
            (None, None) => "all drawn from one file".into(),
            (None, Some(eval)) => format!("train and dev drawn from {}, eval from {}", name(&self.train), name(eval)),
            (Some(dev), eval) => format!("dev from {}, eval from {}", name(dev), eval.as_deref().map_or(name(dev), name)),
        }
    }
}

/// Looks at all rows, which must be of one kind.
fn look(rows: &Rows) -> Result<Found> {
    let mut found: Option<Found> = None;
    rows.visit(None, &mut |row| {
        let place = || rows.place_of(&row);
        let found = match &mut found {
            Some(found) => found,
            None => {
                let kind = Kind::of(&row, &place())?;
                found.insert(Found { kind, labels: BTreeSet::new(), joined: None })
            }
        };
        row.check(found.kind.columns()).map_err(|e| {
            anyhow::anyhow!("{} {e}; the rows before it have {}, and all must be of one kind", place(), found.kind.name())
        })?;
        if found.kind == Kind::Text && row.columns().contains(&"label") {
            bail!("{} has a \"label\"; the rows before it have \"text\" alone, and all must be of one kind", place());
        }
        found.add(&row).with_context(place)
    })?;
    found.with_context(|| format!("{} has no rows", rows.place))
}

impl Found {
    fn add(&mut self, row: &Row) -> Result<()> {
        for column in self.kind.texts() {
            match &row.fields[*column] {
                Value::String(text) if text.is_empty() && *column != "prompt" => bail!("\"{column}\" is empty"),
                Value::String(_) => {}
                other => bail!("\"{column}\" must be a string, but is {other}"),
            }
        }
        let ends = |column: &str| row.fields.get(column).and_then(Value::as_str).unwrap_or_default();
        match self.kind {
            Kind::Completion => {
                let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
                if letter(ends("prompt").chars().next_back()) && letter(ends("completion").chars().next()) {
                    self.joined.get_or_insert_with(|| (0, row.clone())).0 += 1;
                }
            }
            Kind::Labelled => {
                let value = &row.fields["label"];
                let is_label = value.is_string() || value.is_boolean() || value.is_i64() || value.is_u64();
                let label = row.text("label").filter(|_| is_label);
                self.labels
                    .insert(label.with_context(|| format!("\"label\" must be a word or a whole number, but is {value}"))?);
                if self.labels.len() > MOST_LABELS {
                    bail!(
                        "with this row there are more than {MOST_LABELS} different labels, which are no classes; what is to be \
                         written freely goes under \"prompt\" and \"completion\""
                    );
                }
            }
            Kind::Text => {}
        }
        Ok(())
    }
}

impl Kind {
    /// Of a file that begins with this row.
    fn of(row: &Row, place: &str) -> Result<Self> {
        let columns = row.columns();
        let has = |names: &[&str]| names.iter().all(|name| columns.contains(name));
        match () {
            _ if has(&["prompt", "completion"]) => Ok(Kind::Completion),
            _ if has(&["text", "label"]) => Ok(Kind::Labelled),
            _ if has(&["text"]) => Ok(Kind::Text),
            _ if has(&["messages"]) => bail!(
                "{place} has \"messages\", but chats are not taken: write each as \"prompt\" and \"completion\", with the model's \
                 own chat template in the prompt"
            ),
            _ => bail!("{place} has {}; wanted are {WANTED}, or a --task that names other columns", columns.join(", ")),
        }
    }

    fn columns(self) -> &'static [&'static str] {
        match self {
            Kind::Completion => &["prompt", "completion"],
            Kind::Labelled => &["text", "label"],
            Kind::Text => &["text"],
        }
    }

    /// The columns that hold text.
    fn texts(self) -> &'static [&'static str] {
        if self == Kind::Completion { self.columns() } else { &["text"] }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Completion => "\"prompt\" and \"completion\"",
            Kind::Labelled => "\"text\" and \"label\"",
            Kind::Text => "\"text\" alone",
        }
    }

    /// As it would stand in a task file.
    fn task_file(self, labels: &[String]) -> Result<TaskFile> {
        let (template, candidates) = match self {
            Kind::Completion => ("{{ prompt }}", vec!["{{ completion }}".to_string()]),
            Kind::Text => ("", vec!["{{ text }}".to_string()]),
            Kind::Labelled => {
                // A string inside a template: whatever stands in the label is no template's.
                let quoted = |label: &String| Ok(format!(" {{{{ {} }}}}", serde_json::to_string(label)?));
                ("{{ text | trim }}\nLabel:", labels.iter().map(quoted).collect::<Result<_>>()?)
            }
        };
        let is_choice = self == Kind::Labelled;
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
    fn describe(self, labels: &[String]) -> String {
        let made = match self {
            Kind::Completion => "prompt and completion as they are, and the end of the text".into(),
            Kind::Text => "all of each text, and its end".into(),
            Kind::Labelled => {
                let answers: Vec<String> = labels.iter().map(|label| format!("\" {label}\"")).collect();
                format!("\"{{text}}\\nLabel:\" answered by {}", answers.join(", "))
            }
        };
        format!("{made}; for other words a task file: zotune tasks show sst2 > mine.toml")
    }
}

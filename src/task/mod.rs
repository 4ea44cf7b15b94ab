//! A task: where its splits are, how a row becomes a prompt with candidate answers, which loss and which metric.
//!
//! Tasks are TOML files. Those in tasks/ are compiled in; a path to one's own works the same.

mod rows;
mod splits;

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use minijinja::{Environment, UndefinedBehavior};
use serde::{Deserialize, Serialize};

use crate::error::nearest;
use crate::files::Source;

pub use rows::{Format, Row};
pub use splits::permutation;

macro_rules! builtin_tasks {
    ($($name:literal),*) => { &[$(($name, include_str!(concat!("../../tasks/", $name, ".toml")))),*] };
}

/// The tasks that are compiled in: names and files.
pub const BUILTIN: &[(&str, &str)] = builtin_tasks!("sst2", "copa", "rte", "cb", "wsc", "reviews");

const REVIEWS: Source = Source::Builtin(&[
    ("train.tsv", include_bytes!("../../tasks/reviews/train.tsv")),
    ("eval.tsv", include_bytes!("../../tasks/reviews/eval.tsv")),
]);

/// MeZO's sizes, used where neither the user nor the task says otherwise and the data are large enough.
const NUM_TRAIN: usize = 1000;
const NUM_DEV: usize = 500;
const NUM_EVAL: usize = 1000;

/// What is minimised on the training examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Cross-entropy over the candidates of each example, scored by the mean log-probability of their answer tokens;
    /// mean over the examples.
    Classification,
    /// Cross-entropy of the answer tokens of the right candidate, mean over all of them in the batch.
    TeacherForcing,
}

/// What is reported on the evaluation examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// The share of examples whose best-scored candidate is the right one.
    Accuracy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskFile {
    description: String,
    loss: Loss,
    metric: Metric,
    data: DataSection,
    prompt: PromptSection,
    label: LabelSection,
    #[serde(default)]
    splits: Sizes,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DataSection {
    format: Format,
    train: String,
    eval: String,
    builtin: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptSection {
    template: String,
    candidates: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LabelSection {
    column: String,
    values: Vec<String>,
}

/// How many examples each split takes; None: MeZO's number, or as many as there are.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Rows to train on.
    pub num_train: Option<usize>,
    /// Rows of the training file to choose among weights by.
    pub num_dev: Option<usize>,
    /// Rows of the evaluation file.
    pub num_eval: Option<usize>,
}

/// A task, ready to turn rows into prompts.
pub struct Task {
    /// What it is called: the built-in name, or the file's stem.
    pub name: String,
    /// In one line.
    pub description: String,
    /// What is minimised.
    pub loss: Loss,
    /// What is reported.
    pub metric: Metric,
    data: DataSection,
    label: LabelSection,
    splits: Sizes,
    templates: Environment<'static>,
    num_candidates: usize,
    columns: Vec<String>,
}

/// A row as text: its prompt, its candidate answers, and which of them is right.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptedRow {
    /// The row's place among the data rows of its file, from 0.
    pub index: usize,
    /// File and line, for errors.
    pub place: String,
    /// The prompt without an answer.
    pub prompt: String,
    /// Prompt and answer together, one for each candidate.
    pub answered: Vec<String>,
    /// The candidate that is right.
    pub label: usize,
}

/// The three splits of a task: as text, or tokenised.
pub struct Splits<T = PromptedRow> {
    /// What is trained on.
    pub train: Vec<T>,
    /// What chooses among weights.
    pub dev: Vec<T>,
    /// What is reported.
    pub eval: Vec<T>,
}

impl Task {
    /// A built-in task by name, or a task file by path.
    pub fn open(name_or_path: &str) -> Result<Self> {
        if let Some((name, text)) = BUILTIN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(name, text).with_context(|| format!("tasks/{name}.toml"));
        }
        let path = Path::new(name_or_path);
        if path.extension().is_none_or(|e| e != "toml") {
            let near = nearest(name_or_path, BUILTIN.iter().map(|(name, _)| *name));
            return Err(usage!(
                "there is no task \"{name_or_path}\": {near}\n  a task of your own is a file: zotune tasks show sst2 > mine.toml, then --task mine.toml"
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|e| usage!("cannot read the task file {}: {e}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&stem, &text).map_err(|e| usage!("{}: {e:#}", path.display()))
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let file: TaskFile = toml::from_str(text)?;
        if file.prompt.candidates.len() < 2 {
            bail!("[prompt] candidates: a choice needs at least two");
        }
        if file.label.values.len() != file.prompt.candidates.len() {
            bail!("[label] values: {} for {} candidates", file.label.values.len(), file.prompt.candidates.len());
        }
        if let Some(twice) = file.label.values.iter().enumerate().find(|(i, v)| file.label.values[..*i].contains(v)) {
            bail!("[label] values: \"{}\" stands there twice", twice.1);
        }
        let mut templates = environment();
        let mut columns = Vec::new();
        let named = std::iter::once(("prompt".to_string(), file.prompt.template.clone()))
            .chain(file.prompt.candidates.iter().enumerate().map(|(i, c)| (candidate_name(i), c.clone())));
        for (name, source) in named {
            templates.add_template_owned(name.clone(), source).with_context(|| format!("[prompt] {name}"))?;
            let globals: Vec<&str> = templates.globals().map(|(name, _)| name).collect();
            let used = templates.get_template(&name)?.undeclared_variables(false);
            columns.extend(used.into_iter().filter(|variable| !globals.contains(&variable.as_str())));
        }
        columns.sort();
        columns.dedup();
        Ok(Task {
            name: name.to_string(),
            description: file.description,
            loss: file.loss,
            metric: file.metric,
            data: file.data,
            num_candidates: file.prompt.candidates.len(),
            label: file.label,
            splits: file.splits,
            templates,
            columns,
        })
    }

    /// The data that are compiled in for this task, if any.
    fn builtin_data(&self) -> Result<Option<Source>> {
        match self.data.builtin.as_deref() {
            None => Ok(None),
            Some("reviews") => Ok(Some(REVIEWS)),
            Some(other) => Err(usage!("task {}: there are no built-in data \"{other}\": known are: reviews", self.name)),
        }
    }

    /// Where the task's data come from: the folder given, else the built-in data.
    pub fn data(&self, folder: Option<&Path>) -> Result<Source> {
        match folder {
            Some(folder) if folder.is_file() => {
                Err(usage!("--data {}: it wants the folder that the file is in", folder.display()))
            }
            Some(folder) if !folder.is_dir() => Err(usage!("--data {}: there is no such folder", folder.display())),
            Some(folder) => Ok(Source::Folder(folder.to_path_buf())),
            None => self.builtin_data()?.ok_or_else(|| {
                usage!("task {} needs --data: a folder with {} and {}", self.name, self.data.train, self.data.eval)
            }),
        }
    }

    /// Draws the splits by MeZO's rule with NumPy's generator, and turns their rows into prompts.
    ///
    /// Train and dev are one draw of num_train + num_dev rows of the training file, dev the last of it; the evaluation
    /// set is a draw of the evaluation file with the same seed.
    pub fn splits(&self, data: &Source, asked: Sizes, seed: u32) -> Result<Splits> {
        let file = self.open_rows(data, &self.data.train)?;
        let (place, count) = (&file.place, file.count);
        let num_dev = asked.num_dev.or(self.splits.num_dev).unwrap_or(NUM_DEV);
        if num_dev >= count || asked.num_train.is_some_and(|n| n > count - num_dev) {
            return Err(usage!(
                "{place} has {count} rows, fewer than num_train {} + num_dev {num_dev}; give --num-train and --num-dev that fit",
                asked.num_train.map_or("1".into(), |n| n.to_string()),
            ));
        }
        let num_train = asked.num_train.or(self.splits.num_train).unwrap_or(NUM_TRAIN).min(count - num_dev);
        for (name, size) in [("num_train", num_train), ("num_dev", num_dev)] {
            if size == 0 {
                return Err(usage!("{name} is 0: training needs a split that is not empty"));
            }
        }
        let mut drawn = file.draw(num_train + num_dev, seed)?;
        let dev = drawn.split_off(num_train);
        Ok(Splits {
            train: self.prompts(&drawn, place)?,
            dev: self.prompts(&dev, place)?,
            eval: self.eval_split(data, asked, seed)?,
        })
    }

    /// The evaluation split alone.
    pub fn eval_split(&self, data: &Source, asked: Sizes, seed: u32) -> Result<Vec<PromptedRow>> {
        let file = self.open_rows(data, &self.data.eval)?;
        if let Some(n) = asked.num_eval.or(self.splits.num_eval).filter(|n| *n == 0 || *n > file.count) {
            return Err(usage!("num_eval {n}: {} has {} rows", file.place, file.count));
        }
        let num_eval = asked.num_eval.or(self.splits.num_eval).unwrap_or(NUM_EVAL);
        self.prompts(&file.draw(num_eval, seed)?, &file.place)
    }

    fn open_rows(&self, data: &Source, name: &str) -> Result<RowFile<'_>> {
        let place = data.place(name);
        let bytes = data.read(name)?.with_context(|| format!("{place} is missing; the task {} reads it", self.name))?;
        let columns = self.columns.iter().chain([&self.label.column]).map(String::as_str).collect();
        let mut file = RowFile { format: self.data.format, place, bytes, columns, count: 0 };
        let mut count = 0;
        file.visit(&mut |_| count += 1)?;
        if count == 0 {
            bail!("{} has no rows", file.place);
        }
        file.count = count;
        Ok(file)
    }

    fn prompts(&self, rows: &[Row], place: &str) -> Result<Vec<PromptedRow>> {
        let prompt = |row: &Row| {
            let place = format!("{place}, line {}", row.line);
            self.prompt(row, &place).with_context(|| place.clone())
        };
        rows.iter().map(prompt).collect()
    }

    fn prompt(&self, row: &Row, place: &str) -> Result<PromptedRow> {
        let value = row.text(&self.label.column).context("the row has no label")?;
        let label = self.label.values.iter().position(|v| *v == value).with_context(|| {
            let values = self.label.values.join(", ");
            let advice = match BUILTIN.iter().any(|(name, _)| *name == self.name) {
                true => format!(
                    "give the labels of your data in a task file of your own: zotune tasks show {} > mine.toml",
                    self.name
                ),
                false => format!("they stand in the task file {}, under [label] values", self.name),
            };
            format!("label \"{value}\" is not one of {values}\n  {advice}")
        })?;
        let render = |name: &str| -> Result<String> { Ok(self.templates.get_template(name)?.render(&row.fields)?) };
        let prompt = render("prompt")?;
        let answered = (0..self.num_candidates)
            .map(|i| Ok(format!("{prompt}{}", render(&candidate_name(i))?).trim_matches(' ').to_string()))
            .collect::<Result<_>>()?;
        let prompt = prompt.trim_matches(' ').to_string();
        Ok(PromptedRow { index: row.index, place: place.to_string(), prompt, answered, label })
    }
}

/// What a candidate's template is called in errors.
fn candidate_name(i: usize) -> String {
    format!("candidates[{i}]")
}

/// A data file, all rows of which have been looked at and none kept: a draw takes a few thousand of perhaps millions.
struct RowFile<'a> {
    format: Format,
    place: String,
    bytes: Vec<u8>,
    columns: Vec<&'a str>,
    count: usize,
}

impl RowFile<'_> {
    fn visit(&self, visit: &mut dyn FnMut(Row)) -> Result<()> {
        rows::visit(self.format, &self.place, &self.bytes, &self.columns, visit)
    }

    /// The first `n` rows of a permutation drawn with `seed`.
    fn draw(&self, n: usize, seed: u32) -> Result<Vec<Row>> {
        let order = permutation(seed, self.count);
        let places: HashMap<usize, usize> = order.into_iter().take(n).enumerate().map(|(place, row)| (row, place)).collect();
        let mut drawn = vec![Row::default(); places.len()];
        self.visit(&mut |row| {
            if let Some(place) = places.get(&row.index) {
                drawn[*place] = row;
            }
        })?;
        Ok(drawn)
    }
}

/// Templates see strict variables and two filters of our own.
fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_keep_trailing_newline(true);
    env.add_filter("strip_end", |text: &str, end: &str| text.strip_suffix(end).unwrap_or(text).to_string());
    env.add_filter("lower_first", |text: &str| lower_first(text));
    env
}

/// The first word in lower case, unless it is "I".
fn lower_first(text: &str) -> String {
    let first = text.find(' ').unwrap_or(text.len());
    if &text[..first] == "I" { text.to_string() } else { format!("{}{}", text[..first].to_lowercase(), &text[first..]) }
}

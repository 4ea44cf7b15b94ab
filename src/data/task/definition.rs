//! Tasks: their data, the templates of prompt and candidate answers, the loss and the metric.
//!
//! Tasks are TOML files. Those in tasks/ are built in; others are given by path. Data without a task file get one
//! inferred from their columns (inferred.rs).

use std::path::Path;

use anyhow::{Context, Result};
use minijinja::Environment;

use super::files::Files;
use super::hub::HubSection;
use super::kinds::{Loss, Metric, Sizes};
use super::own_files::OwnFiles;
use super::prompted::PromptedRow;
use super::row::Row;
use super::sections::{DataSection, LabelSection, TaskFile};
use super::templates;
use crate::base::Source;
use crate::base::text::{listed, nearest, quoted};

macro_rules! builtin_tasks {
    ($($name:literal),*) => { &[$(($name, include_str!(concat!("../../../tasks/", $name, ".toml")))),*] };
}

/// The built-in tasks: names and TOML texts.
pub const BUILTIN: &[(&str, &str)] = builtin_tasks!("sst2", "copa", "rte", "cb", "wsc", "reviews");

const REVIEWS: Source = Source::Builtin(&[
    ("train.tsv", include_bytes!("../../../tasks/reviews/train.tsv")),
    ("eval.tsv", include_bytes!("../../../tasks/reviews/eval.tsv")),
]);

/// A task, which turns rows into prompts.
pub struct Task {
    /// The name of a built-in task, else the file's stem.
    pub name: String,
    /// One line.
    pub description: String,
    /// The training loss.
    pub loss: Loss,
    /// The reported metric.
    pub metric: Metric,
    /// One line on how the data are used, if the task was inferred from them.
    pub made: Option<String>,
    pub(super) data: DataSection,
    /// None for a single candidate.
    pub(super) label: Option<LabelSection>,
    pub(super) hub: Option<HubSection>,
    pub(super) own: Option<OwnFiles>,
    pub(super) splits: Sizes,
    templates: Environment<'static>,
    pub(super) num_candidates: usize,
    /// Whether the candidates depend on the row.
    pub(super) has_own_answers: bool,
    pub(super) columns: Vec<String>,
}

impl Task {
    /// Opens a built-in task by name, or a task file by path. Fails on an invalid file.
    pub fn open(name_or_path: &str) -> Result<Self> {
        if let Some((name, text)) = BUILTIN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(name, text).with_context(|| format!("tasks/{name}.toml"));
        }
        let path = Path::new(name_or_path);
        if path.extension().is_none_or(|e| e != "toml") {
            let near = nearest(name_or_path, BUILTIN.iter().map(|(name, _)| *name));
            return Err(usage!(
                "there is no task \"{name_or_path}\": {near}\n  to write a task of your own: zotune tasks show sst2 > \
                 mine.toml, then `task mine.toml`"
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|e| usage!("cannot read the task file {}: {e}", path.display()))?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&stem, &text).map_err(|e| usage!("{}: {e:#}", path.display()))
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        Self::new(name, toml::from_str(text)?)
    }

    pub(super) fn new(name: &str, file: TaskFile) -> Result<Self> {
        file.check()?;
        let mut templates = templates::environment();
        let (mut columns, mut has_own_answers) = (Vec::new(), false);
        let named = std::iter::once(("prompt".to_string(), file.prompt.template.clone()))
            .chain(file.prompt.candidates.iter().enumerate().map(|(i, c)| (candidate_name(i), c.clone())));
        for (name, source) in named {
            templates::check(&source).with_context(|| format!("[prompt] {name}"))?;
            templates.add_template_owned(name.clone(), source).with_context(|| format!("[prompt] {name}"))?;
            let globals: Vec<&str> = templates.globals().map(|(name, _)| name).collect();
            let mut used = templates.get_template(&name)?.undeclared_variables(false);
            used.retain(|variable| !globals.contains(&variable.as_str()));
            has_own_answers |= name != "prompt" && !used.is_empty();
            columns.extend(used);
        }
        columns.sort();
        columns.dedup();
        columns.extend(file.label.iter().map(|label| label.column.clone()));
        Ok(Task {
            name: name.to_string(),
            description: file.description,
            loss: file.loss,
            metric: file.metric,
            made: None,
            data: file.data,
            num_candidates: file.prompt.candidates.len(),
            has_own_answers,
            label: file.label,
            hub: file.hub,
            own: None,
            splits: file.splits,
            templates,
            columns,
        })
    }

    /// The built-in data of this task, if any.
    fn builtin_data(&self) -> Result<Option<Source>> {
        match self.data.builtin.as_deref() {
            None => Ok(None),
            Some("reviews") => Ok(Some(REVIEWS)),
            Some(other) => {
                Err(usage!("task {}: there are no built-in data \"{other}\"; the known ones are reviews", self.name))
            }
        }
    }

    /// The location of the task's rows: in `folder` if given, else built in, else on the hub. Nothing is downloaded
    /// yet.
    pub fn data(&self, folder: Option<&Path>) -> Result<Files> {
        if let Some(own) = &self.own {
            return Ok(Files::Own(own.clone()));
        }
        let DataSection { train, eval, .. } = &self.data;
        match folder {
            Some(folder) if folder.is_file() => Err(usage!(
                "`data` {}: task {} needs the folder with {train} and {eval}; to train on this file as it is, leave out `task`",
                folder.display(),
                self.name
            )),
            Some(folder) if !folder.is_dir() => Err(usage!("`data` {}: there is no such folder", folder.display())),
            Some(folder) => {
                let is_local = [train, eval].into_iter().any(|name| folder.join(name).is_file());
                match &self.hub {
                    Some(hub) if !is_local && hub.is_in(folder) => Ok(Files::Hub(Some(folder.into()))),
                    _ => Ok(Files::Local(Source::Folder(folder.into()))),
                }
            }
            None => match (self.builtin_data()?, &self.hub) {
                (Some(data), _) => Ok(Files::Local(data)),
                (None, Some(_)) => Ok(Files::Hub(None)),
                (None, None) => Err(usage!("task {} needs `data`: a folder with {train} and {eval}", self.name)),
            },
        }
    }

    /// The same for people; None where --task and --data already name it.
    pub fn describe_source(&self, folder: Option<&Path>) -> Option<String> {
        match self.data(folder).ok()? {
            Files::Own(own) => Some(own.describe()),
            Files::Hub(None) => self.hub.as_ref().map(|hub| format!("{} from the hub", hub.repo)),
            _ => None,
        }
    }

    /// A candidate answer for people: its label, or its number if the task has no labels.
    pub fn answer(&self, i: usize) -> String {
        let label = self.label.as_ref().and_then(|label| label.values.get(i));
        label.map_or(format!("answer {}", i + 1), |label| quoted(label))
    }

    /// Renders a row; `values` are the labels as its file spells them.
    pub(super) fn prompt(&self, row: &Row, values: &[String], place: String) -> Result<PromptedRow> {
        let label = self.right(row, values)?;
        let render = |name: &str| templates::render(&self.templates, name, &row.fields);
        let prompt = render("prompt")?;
        let index = row.index;
        if self.num_candidates == 1 {
            let answered = vec![format!("{prompt}{}", render(&candidate_name(0))?)];
            return Ok(PromptedRow { index, place, prompt: prompt.trim_end_matches(' ').into(), answered, label });
        }
        let answered = (0..self.num_candidates)
            .map(|i| Ok(format!("{prompt}{}", render(&candidate_name(i))?).trim_matches(' ').to_string()))
            .collect::<Result<_>>()?;
        Ok(PromptedRow { index, place, prompt: prompt.trim_matches(' ').into(), answered, label })
    }

    /// The index of the right candidate.
    fn right(&self, row: &Row, values: &[String]) -> Result<usize> {
        let Some(label) = &self.label else { return Ok(0) };
        let value = row.label(&label.column).context("the row has no label")?;
        values.iter().position(|v| v.trim() == value).with_context(|| {
            let (value, values) = (quoted(&value), listed(values.iter().map(String::as_str)));
            let advice = match (&self.own, BUILTIN.iter().any(|(name, _)| *name == self.name)) {
                (Some(_), _) => "the training file has these labels".into(),
                (None, true) => format!(
                    "give the labels of your data in a task file of your own: zotune tasks show {} > mine.toml",
                    self.name
                ),
                (None, false) => format!("the task file {} lists them under [label] values", self.name),
            };
            format!("label {value} is not one of {values}\n  {advice}")
        })
    }
}

/// The name of a candidate's template in errors.
fn candidate_name(i: usize) -> String {
    format!("candidates[{i}]")
}

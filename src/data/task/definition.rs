//! A task: where its splits are, how a row becomes a prompt with candidate answers, which loss and which metric.
//!
//! Tasks are TOML files. Those in tasks/ are compiled in; a path to one's own works the same. Data alone are a task too: what
//! their columns are says what is to be learnt of them (own.rs).

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

/// The tasks that are compiled in: names and files.
pub const BUILTIN: &[(&str, &str)] = builtin_tasks!("sst2", "copa", "rte", "cb", "wsc", "reviews");

const REVIEWS: Source = Source::Builtin(&[
    ("train.tsv", include_bytes!("../../../tasks/reviews/train.tsv")),
    ("eval.tsv", include_bytes!("../../../tasks/reviews/eval.tsv")),
]);

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
    /// What was made of data that came without a task, in a line; None of a task file.
    pub made: Option<String>,
    pub(super) data: DataSection,
    /// None where there is one candidate.
    pub(super) label: Option<LabelSection>,
    pub(super) hub: Option<HubSection>,
    pub(super) own: Option<OwnFiles>,
    pub(super) splits: Sizes,
    templates: Environment<'static>,
    num_candidates: usize,
    pub(super) columns: Vec<String>,
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
        let mut columns = Vec::new();
        let named = std::iter::once(("prompt".to_string(), file.prompt.template.clone()))
            .chain(file.prompt.candidates.iter().enumerate().map(|(i, c)| (candidate_name(i), c.clone())));
        for (name, source) in named {
            templates::check(&source).with_context(|| format!("[prompt] {name}"))?;
            templates.add_template_owned(name.clone(), source).with_context(|| format!("[prompt] {name}"))?;
            let globals: Vec<&str> = templates.globals().map(|(name, _)| name).collect();
            let used = templates.get_template(&name)?.undeclared_variables(false);
            columns.extend(used.into_iter().filter(|variable| !globals.contains(&variable.as_str())));
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
            label: file.label,
            hub: file.hub,
            own: None,
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
            Some(other) => {
                Err(usage!("task {}: there are no built-in data \"{other}\"; the known ones are reviews", self.name))
            }
        }
    }

    /// Where the task's rows are: in the folder given, else built in, else on the hub. Nothing is fetched yet.
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

    /// Where that is, for people; None where --task and --data say it.
    pub fn describe_source(&self, folder: Option<&Path>) -> Option<String> {
        match self.data(folder).ok()? {
            Files::Own(own) => Some(own.describe()),
            Files::Hub(None) => self.hub.as_ref().map(|hub| format!("{} from the hub", hub.repo)),
            _ => None,
        }
    }

    /// An answer as the data have it: the label that it stands for, or which of the row's it is.
    pub fn answer(&self, i: usize) -> String {
        let label = self.label.as_ref().and_then(|label| label.values.get(i));
        label.map_or(format!("answer {}", i + 1), |label| quoted(label))
    }

    /// A row as text; `values` are the labels as its file has them.
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

    /// The candidate that a row's label says is right.
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

/// What a candidate's template is called in errors.
fn candidate_name(i: usize) -> String {
    format!("candidates[{i}]")
}

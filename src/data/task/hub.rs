//! The [hub] section of a task: its data set's files on the hub, and how they differ from the original distribution.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::kinds::Part;
use super::row::Row;
use super::rows::{Format, Rows};
use crate::hub::{Hub, Repo};

/// The branch on which the hub converts every data set to parquet.
const CONVERTED: &str = "refs/convert/parquet";

/// The [hub] section of a task file.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubSection {
    /// `org/name`
    pub repo: String,
    revision: Option<String>,
    train: String,
    eval: String,
    /// The labels there, in the order of the [label] values; None: identical.
    pub labels: Option<Vec<String>>,
    /// Columns with another name there, ours -> theirs; "target.span1_text" is a field of the column "target".
    #[serde(default)]
    columns: BTreeMap<String, String>,
}

impl HubSection {
    /// Checks that its files have a readable format.
    pub fn check(&self) -> Result<()> {
        match [&self.train, &self.eval].into_iter().find(|name| Format::of(Path::new(name)).is_none()) {
            Some(name) => bail!("[hub] {name}: it must be a file named .parquet, .jsonl, .csv or .tsv"),
            None => Ok(()),
        }
    }

    /// The file of a part, for people.
    pub fn place(&self, part: Part) -> String {
        format!("{} of {} on the hub", self.name(part), self.repo)
    }

    fn name(&self, part: Part) -> &str {
        if part == Part::Train { &self.train } else { &self.eval }
    }

    /// Whether a folder is a clone of the repository.
    pub fn is_in(&self, folder: &Path) -> bool {
        [Part::Train, Part::Eval].into_iter().any(|part| self.find_in(folder, part).is_some())
    }

    fn find_in(&self, folder: &Path, part: Part) -> Option<PathBuf> {
        let name = self.name(part).to_string();
        let converted = converted(&name);
        std::iter::once(name).chain(converted).map(|name| folder.join(name)).find(|path| path.is_file())
    }

    /// Opens the rows of a part, in a clone of the repository or else from the hub.
    pub fn open(&self, clone: Option<&Path>, part: Part) -> Result<Rows> {
        let path = match clone {
            Some(folder) => self
                .find_in(folder, part)
                .with_context(|| format!("{} is missing", folder.join(self.name(part)).display()))?,
            None => self
                .fetch(self.name(part))
                .context("cannot fetch the task's data from the hub; to use a local copy: `data FOLDER`")?,
        };
        Rows::open_path(&path)
    }

    fn fetch(&self, name: &str) -> Result<PathBuf> {
        let hub = Hub::from_env()?;
        let revision = self.revision.as_deref();
        hub.file(&Repo::dataset(&self.repo, revision), name).or_else(|error| match converted(name) {
            Some(name) if revision.is_none() => {
                hub.file(&Repo::dataset(&self.repo, Some(CONVERTED)), &name).map_err(|_| error)
            }
            _ => Err(error),
        })
    }

    /// The columns there that `column` is made from.
    pub fn hub_columns<'a>(&'a self, column: &'a str) -> Vec<&'a str> {
        let is_of = |ours: &str| ours.split('.').next() == Some(column);
        let named: Vec<&str> =
            self.columns.iter().filter(|(ours, _)| is_of(ours)).map(|(_, theirs)| theirs.as_str()).collect();
        if named.is_empty() { vec![column] } else { named }
    }

    /// Renames a row's columns to ours.
    pub fn rename_columns(&self, row: &mut Row) {
        let renamed: Vec<(&String, Value)> =
            self.columns.iter().filter_map(|(ours, theirs)| Some((ours, row.fields.remove(theirs)?))).collect();
        for (ours, value) in renamed {
            put(&mut row.fields, ours, value);
        }
    }
}

/// Inserts a value at a path such as "target.span1_text".
fn put(fields: &mut Map<String, Value>, path: &str, value: Value) {
    let Some((column, rest)) = path.split_once('.') else {
        fields.insert(path.into(), value);
        return;
    };
    let inner = fields.entry(column).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        put(inner, rest, value);
    }
}

/// The name on [`CONVERTED`] of a file with the usual name: `copa/train-00000-of-00001.parquet` is
/// `copa/train/0000.parquet` there; `data/` belongs to the configuration `default`.
fn converted(name: &str) -> Option<String> {
    let (folder, split) = name.strip_suffix("-00000-of-00001.parquet")?.rsplit_once('/')?;
    Some(format!("{}/{split}/0000.parquet", if folder == "data" { "default" } else { folder }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn converted_files_have_the_hubs_own_layout() {
        let found = |name| converted(name);
        assert_eq!(found("copa/train-00000-of-00001.parquet").as_deref(), Some("copa/train/0000.parquet"));
        assert_eq!(found("data/validation-00000-of-00001.parquet").as_deref(), Some("default/validation/0000.parquet"));
        assert_eq!(found("train.csv"), None);
    }
}

//! The user's own data files: one for all splits, or one for each.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::kinds::Part;
use super::rows::{Format, Rows};
use crate::base::text::listed;

/// The stems of the validation file in a folder. Without a test file it is the evaluation file.
const VALID: [&str; 4] = ["valid", "validation", "val", "dev"];

const EXTENSIONS: [&str; 5] = ["jsonl", "json", "csv", "tsv", "parquet"];

/// The user's own data files. A missing split is drawn from the training file.
#[derive(Clone, Debug)]
pub struct OwnFiles {
    pub(super) train: PathBuf,
    pub(super) dev: Option<PathBuf>,
    pub(super) eval: Option<PathBuf>,
}

impl OwnFiles {
    pub(super) fn find(data: &Path) -> Result<Self> {
        let place = data.display();
        if data.is_file() {
            return match Format::of(data) {
                Some(_) => Ok(OwnFiles { train: data.into(), dev: None, eval: None }),
                None => Err(usage!("`data` {place}: its name must end in .jsonl, .csv, .tsv or .parquet")),
            };
        }
        if !data.is_dir() {
            return Err(match data.exists() {
                true => usage!(
                    "`data` {place}: it is neither a file nor a folder; data must be in a file, because zotune \
                    reads them more than once"
                ),
                false => usage!("`data` {place}: there is no such file or folder"),
            });
        }
        let train = Self::one(data, "the training data", &["train"])?.ok_or_else(|| {
            usage!("`data` {place}: there is no train.jsonl (or .csv, .tsv, .parquet) in it; for other layouts use `task`")
        })?;
        // With a test file, a file called eval is the validation file.
        let test = Self::one(data, "the test", &["test"])?;
        let apart: &[&str] = if test.is_some() { &[] } else { &["eval"] };
        let eval = test.or(Self::one(data, "the evaluation", apart)?);
        let to_choose_by: Vec<&str> = ["eval"].into_iter().filter(|_| apart.is_empty()).chain(VALID).collect();
        let valid = Self::one(data, "validation", &to_choose_by)?;
        Ok(match eval {
            Some(eval) => OwnFiles { train, dev: valid, eval: Some(eval) },
            None => OwnFiles { train, dev: None, eval: valid },
        })
    }

    /// The file in a folder with one of these stems; two are ambiguous, and an error.
    fn one(folder: &Path, role: &str, stems: &[&str]) -> Result<Option<PathBuf>> {
        let names = stems.iter().flat_map(|stem| EXTENSIONS.iter().map(move |e| format!("{stem}.{e}")));
        let found: Vec<String> = names.filter(|name| folder.join(name).is_file()).collect();
        match &found[..] {
            [] => Ok(None),
            [name] => Ok(Some(folder.join(name))),
            several => Err(usage!(
                "`data` {}: {} are there, but zotune needs one file for {role}; move the others away",
                folder.display(),
                several.join(" and ")
            )),
        }
    }

    /// Warns of data files in the folder that are not read.
    pub(super) fn warn_of_unread(&self, data: &Path) {
        let read = [Some(&self.train), self.dev.as_ref(), self.eval.as_ref()];
        let entries = std::fs::read_dir(data).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_other = |path: &PathBuf| path.is_file() && Format::of(path).is_some() && !read.contains(&Some(path));
        let name = |path: PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut others: Vec<String> = entries.filter(is_other).map(name).collect();
        others.sort();
        if !others.is_empty() {
            tracing::warn!(
                "`data` {}: these files are not used: {}",
                data.display(),
                listed(others.iter().map(String::as_str))
            );
        }
    }

    /// The own file of a part, if it has one.
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

    /// Which file serves which split, for people.
    pub fn describe(&self) -> String {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match (&self.dev, &self.eval) {
            (None, None) => "split at random from one file".into(),
            (None, Some(eval)) => {
                format!("train and dev split at random from {}, eval from {}", name(&self.train), name(eval))
            }
            (Some(dev), eval) => format!("dev from {}, eval from {}", name(dev), eval.as_deref().map_or(name(dev), name)),
        }
    }
}

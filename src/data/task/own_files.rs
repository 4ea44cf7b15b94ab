//! Data files of one's own: one for everything, or one for each split.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::kinds::Part;
use super::rows::{Format, Rows};

/// Stems that a folder's evaluation file may have, the foremost that is there; where there is a test file, one of the others
/// is the dev split.
const EVAL: [&str; 5] = ["test", "eval", "valid", "validation", "dev"];

const EXTENSIONS: [&str; 5] = ["jsonl", "json", "csv", "tsv", "parquet"];

/// Files of one's own: one for everything, or some for themselves.
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

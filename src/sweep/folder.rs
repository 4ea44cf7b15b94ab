//! The folder of a sweep: a copy of its file, the cells' folders and configs, and the table.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::file::SweepFile;
use super::names::cells_folder;
use crate::base::files;
use crate::report::ORDER;
use crate::run::Claim;
use crate::run::trajectory::record::FILE;

/// The copy of the sweep file.
const COPY: &str = "sweep.toml";

/// The table of results.
const TABLE: &str = "table.md";

/// A sweep's folder, locked until dropped.
pub struct SweepFolder {
    /// Where it is.
    pub path: PathBuf,
    _claim: Claim,
}

/// Where a sweep goes: the given folder, else the one that its file names, else one in runs/ that is called like the file.
pub fn place(file: &SweepFile, given: Option<PathBuf>) -> PathBuf {
    let named = Path::new(&file.place).file_stem().map(PathBuf::from).unwrap_or("sweep".into());
    given.or(file.output_dir.clone()).unwrap_or_else(|| Path::new("runs").join(named))
}

/// Whether a sweep may write to a folder: it is empty, or a sweep's. Changes nothing. The error is a usage error.
pub fn check(path: &Path) -> Result<()> {
    let place = path.display();
    if path.join(FILE).metadata().is_ok_and(|log| log.len() > 0) {
        return Err(usage!("`output_dir` {place}: it is the folder of a run; choose another one for the sweep"));
    }
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(usage!("`output_dir` {place}: {e}")),
    };
    let is_other = |name: &std::ffi::OsStr| name != FILE && !name.to_string_lossy().ends_with(".partial");
    let has_content = entries.flatten().any(|entry| is_other(&entry.file_name()));
    match has_content && !path.join(COPY).is_file() {
        true => Err(usage!("`output_dir` {place} is not empty, and no sweep has been there; choose another folder")),
        false => Ok(()),
    }
}

impl SweepFolder {
    /// Creates the folder if needed, locks it, and keeps a copy of the file and the order of all its cells, given by name. Fails if
    /// another sweep runs in it.
    pub fn claim<'a>(path: PathBuf, file: &SweepFile, cells: impl Iterator<Item = &'a str>) -> Result<Self> {
        check(&path)?;
        let claim = Claim::new(&path, true)?;
        files::write_bytes(&path.join(COPY), file.text.as_bytes())?;
        let folder = cells_folder(&path);
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        keep_order(&folder.join(ORDER), cells)?;
        Ok(SweepFolder { path, _claim: claim })
    }

    /// Writes the table.
    pub fn write_table(&self, text: &str) -> Result<PathBuf> {
        let path = self.path.join(TABLE);
        files::write_bytes(&path, text.as_bytes())?;
        Ok(path)
    }
}

/// Writes the order of the cells for reports. Others, of earlier sweeps in this folder, come after them.
fn keep_order<'a>(path: &Path, cells: impl Iterator<Item = &'a str>) -> Result<()> {
    let (known, cells) = (std::fs::read_to_string(path).unwrap_or_default(), cells.collect::<Vec<_>>());
    let others = known.lines().filter(|other| !cells.contains(other));
    let order: Vec<&str> = cells.iter().copied().chain(others).collect();
    files::write_bytes(path, (order.join("\n") + "\n").as_bytes())
}

//! Where the files of a model or of a data set are: a folder, the binary, one file that stands for a folder.

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

/// Where the files of a model or of a data set are.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder.
    Folder(PathBuf),
    /// Compiled into the binary: file names and contents.
    Builtin(&'static [(&'static str, &'static [u8])]),
    /// One file that says what a folder would: the file under its own name, beside it others made of what it says.
    Single(PathBuf, Arc<Vec<(&'static str, Vec<u8>)>>),
}

impl Source {
    /// Bytes of the files that are compiled in.
    pub fn builtin_bytes(&self) -> usize {
        match self {
            Source::Builtin(files) => files.iter().map(|(_, bytes)| bytes.len()).sum(),
            Source::Folder(_) | Source::Single(..) => 0,
        }
    }

    /// A file's contents, if it is there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Source::Builtin(files) => Ok(files.iter().find(|f| f.0 == name).map(|f| f.1.to_vec())),
            Source::Single(_, made) => Ok(made.iter().find(|f| f.0 == name).map(|f| f.1.clone())),
            Source::Folder(folder) => match std::fs::read(folder.join(name)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e).with_context(|| format!("cannot read {}", folder.join(name).display())),
            },
        }
    }

    /// Whether the file is there.
    pub fn has(&self, name: &str) -> bool {
        match self {
            Source::Builtin(files) => files.iter().any(|f| f.0 == name),
            Source::Folder(folder) => folder.join(name).is_file(),
            Source::Single(path, made) => is_called(path, name) || made.iter().any(|f| f.0 == name),
        }
    }

    /// As it is named to people.
    pub fn place(&self, name: &str) -> String {
        match self {
            Source::Builtin(_) => format!("built-in {name}"),
            Source::Folder(folder) => folder.join(name).display().to_string(),
            Source::Single(path, _) if is_called(path, name) => path.display().to_string(),
            Source::Single(path, _) => format!("{} ({name} made from it)", path.display()),
        }
    }

    /// A file to read from, and its length in bytes.
    pub fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64)> {
        let missing = || anyhow!("{} is missing", self.place(name));
        let path = match self {
            Source::Folder(folder) => folder.join(name),
            Source::Single(path, _) if is_called(path, name) => path.clone(),
            Source::Single(..) => {
                let bytes = self.read(name)?.ok_or_else(missing)?;
                let len = bytes.len() as u64;
                return Ok((Box::new(Cursor::new(bytes)), len));
            }
            Source::Builtin(files) => {
                let bytes = files.iter().find(|f| f.0 == name).ok_or_else(missing)?.1;
                return Ok((Box::new(Cursor::new(bytes)), bytes.len() as u64));
            }
        };
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let len = file.metadata()?.len();
        Ok((Box::new(file), len))
    }
}

fn is_called(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|own| own == name)
}

/// A file, or bytes that read like one.
pub trait ReadSeek: Read + Seek {}

//! Sources of a model's or data set's files: a folder, the binary, or a single file that stands in for a folder.

use std::fs::File;
use std::io::{Cursor, Read, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};

/// The source of a model's or data set's files.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder.
    Folder(PathBuf),
    /// Compiled into the binary: (file name, contents).
    Builtin(&'static [(&'static str, &'static [u8])]),
    /// A single file (GGUF, say) under its own name, and the files derived from it: (file name, contents).
    Single(PathBuf, Arc<Vec<(&'static str, Vec<u8>)>>),
}

impl Source {
    /// Total bytes of the files compiled into the binary; 0 for other sources.
    pub fn builtin_bytes(&self) -> usize {
        match self {
            Source::Builtin(files) => files.iter().map(|(_, bytes)| bytes.len()).sum(),
            Source::Folder(_) | Source::Single(..) => 0,
        }
    }

    /// A file's contents; None if it does not exist. A single file itself is not read, only those derived from it.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Source::Builtin(files) => Ok(files.iter().find(|f| f.0 == name).map(|f| f.1.to_vec())),
            Source::Single(_, derived) => Ok(derived.iter().find(|f| f.0 == name).map(|f| f.1.clone())),
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
            Source::Single(path, derived) => has_file_name(path, name) || derived.iter().any(|f| f.0 == name),
        }
    }

    /// The file's location, for messages.
    pub fn place(&self, name: &str) -> String {
        match self {
            Source::Builtin(_) => format!("built-in {name}"),
            Source::Folder(folder) => folder.join(name).display().to_string(),
            Source::Single(path, _) if has_file_name(path, name) => path.display().to_string(),
            Source::Single(path, _) => format!("{} ({name} made from it)", path.display()),
        }
    }

    /// Opens a file; also returns its length in bytes. Fails if it does not exist.
    pub fn open(&self, name: &str) -> Result<(Box<dyn ReadSeek>, u64)> {
        let missing = || anyhow!("{} is missing", self.place(name));
        let path = match self {
            Source::Folder(folder) => folder.join(name),
            Source::Single(path, _) if has_file_name(path, name) => path.clone(),
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

fn has_file_name(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|own| own == name)
}

/// A seekable reader: a file, or bytes in memory.
pub trait ReadSeek: Read + Seek {}

//! The cache on disk, in the layout of `huggingface_hub`: one blob per content, one snapshot folder per commit, one ref
//! file per branch.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::repo::{FileRequest, Repo};
use crate::base::files;

/// The cache of one repo. Reading it sends no request.
pub struct Cache {
    /// `models--org--name`
    folder: PathBuf,
    /// `.locks/models--org--name`
    locks: PathBuf,
}

impl Cache {
    /// The cache of `repo` below `root`.
    pub fn of(root: &Path, repo: &Repo) -> Self {
        let name = repo.named().folder_name();
        Cache { folder: root.join(&name), locks: root.join(".locks").join(name) }
    }

    /// The commit of a revision as last looked up; a full commit hash is its own.
    pub fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.into());
        }
        let commit = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok()?.trim().to_string();
        is_commit(&commit).then_some(commit)
    }

    /// Records the commit of a revision. A failure is only logged: a read-only cache still works.
    pub fn record_commit(&self, revision: &str, commit: &str) {
        if is_commit(revision) || self.commit(revision).as_deref() == Some(commit) {
            return;
        }
        let path = self.folder.join("refs").join(revision);
        let written = make_folder_of(&path).and_then(|()| files::write_bytes(&path, commit.as_bytes()));
        let _ = written.inspect_err(|e| tracing::debug!("{e:#}"));
    }

    /// The folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Whether a file of a commit is cached.
    pub fn has(&self, commit: &str, name: &str) -> bool {
        self.snapshot(commit).join(name).is_file()
    }

    /// Whether a commit is known to lack a file.
    fn is_absent(&self, commit: &str, name: &str) -> bool {
        self.folder.join(".no_exist").join(commit).join(name).is_file()
    }

    /// Records that a commit lacks a file, so that it is not requested again.
    pub fn record_absent(&self, commit: &str, name: &str) {
        let path = self.folder.join(".no_exist").join(commit).join(name);
        if !path.is_file() {
            let _ = make_folder_of(&path).and_then(|()| Ok(File::create(&path).map(drop)?));
        }
    }

    /// The first required file that is not cached.
    pub fn first_missing<'a>(&self, commit: &str, wanted: &[FileRequest<'a>]) -> Option<&'a str> {
        wanted.iter().find_map(|w| match w {
            FileRequest::Required(name) => (!self.has(commit, name)).then_some(*name),
            FileRequest::Optional(_) => None,
            FileRequest::FirstOf(names) if names.iter().any(|name| self.has(commit, name)) => None,
            FileRequest::FirstOf(names) => {
                names.iter().find(|name| !self.is_absent(commit, name)).or(names.first()).copied()
            }
        })
    }

    /// Whether every requested file is cached or known to be missing on the hub.
    pub fn is_complete(&self, commit: &str, wanted: &[FileRequest]) -> bool {
        let settled = |w: &FileRequest| match w {
            FileRequest::Optional(name) => self.has(commit, name) || self.is_absent(commit, name),
            _ => true,
        };
        self.first_missing(commit, wanted).is_none() && wanted.iter().all(settled)
    }

    /// The path of a complete blob. `etag` was checked to be a valid file name.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// The path of a blob's partial download.
    pub fn partial(&self, etag: &str) -> PathBuf {
        self.blob(&format!("{etag}.incomplete"))
    }

    /// Locks a blob until the file is dropped; the lock ends with the process, so a killed one leaves none. None where
    /// the file system has no locks. Calls `waiting` before blocking on another process.
    pub fn lock(&self, etag: &str, waiting: impl FnOnce()) -> Result<Option<File>> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_folder_of(&path)?;
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(std::fs::TryLockError::WouldBlock) => {
                waiting();
                Ok(file.lock().is_ok().then_some(file))
            }
            Err(std::fs::TryLockError::Error(_)) => Ok(None),
        }
    }

    /// Puts a blob under its name into a commit's snapshot: a symbolic link, or a copy where there are no links.
    pub fn place(&self, etag: &str, commit: &str, name: &str) -> Result<PathBuf> {
        let (blob, path) = (self.blob(etag), self.snapshot(commit).join(name));
        make_folder_of(&path)?;
        if path.is_file() {
            return Ok(path);
        }
        // Created under another name and renamed, which replaces a broken link or that of a faster process atomically.
        let beside = path.with_file_name(format!(".{etag}.{}", std::process::id()));
        let _ = std::fs::remove_file(&beside);
        let up = "../".repeat(name.split('/').count() + 1);
        let placed = match link(&format!("{up}blobs/{etag}"), &beside) {
            Ok(()) => Ok(()),
            Err(_) => std::fs::copy(&blob, &beside).map(drop),
        };
        let placed = placed.and_then(|()| std::fs::rename(&beside, &path));
        placed
            .inspect_err(|_| drop(std::fs::remove_file(&beside)))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

#[cfg(unix)]
fn link(target: &str, path: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn link(_: &str, _: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Creates the folder of a file.
pub fn make_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Whether a revision is a full commit hash.
pub fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

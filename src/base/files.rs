//! Where files come from, what tells them apart, and files that are whole or absent: written beside, synced, renamed.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::source::ReadSeek;

/// Writes `path` through `write`; on any error (a full disk among them) nothing is left and an older file stays.
///
/// A target that is there and is no regular file (a device, a pipe) is written to directly.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    // Through a link, to what it names.
    let resolved = path.canonicalize().unwrap_or(path.to_path_buf());
    if path.metadata().is_ok_and(|m| !m.is_file()) {
        let mut out = std::fs::OpenOptions::new().write(true).open(path).with_context(context)?;
        return write(&mut out).with_context(context);
    }
    let beside = beside(&resolved);
    let file = alone(&beside).with_context(context)?;
    let attempt = || -> Result<()> {
        file.set_len(0)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        std::fs::rename(&beside, &resolved)?;
        sync_folder(resolved.parent().unwrap_or(Path::new(".")))
    };
    attempt().inspect_err(|_| drop(std::fs::remove_file(&beside))).with_context(context)
}

/// [`write_whole`] for bytes at hand.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, |out| Ok(out.write_all(bytes)?))
}

/// Copies a file: whole or not at all.
pub fn copy_whole(from: &Path, to: &Path) -> Result<()> {
    let mut file = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    write_whole(to, |out| std::io::copy(&mut file, out).map(drop).with_context(|| format!("from {}", from.display())))
}

/// Forces a folder's entries to the disk: names that were given in it, by a rename say.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match File::open(folder)?.sync_all() {
        // Not every file system takes this for a folder; those that do not have nothing to force.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP | libc::EBADF)) => Ok(()),
        forced => forced.with_context(|| format!("cannot sync {} to the disk", folder.display())),
    }
}

/// The bytes that are free on the disk of a folder, or of where it is to be made; None where the operating system does not say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let whole = std::path::absolute(folder).ok()?;
    let there = whole.ancestors().find(|folder| folder.exists())?;
    free_bytes_of(there)
}

#[cfg(unix)]
fn free_bytes_of(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: statvfs reads a string that ends in 0, and fills the struct that it is given.
    let (result, found) = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(name.as_ptr(), &mut found), found)
    };
    #[allow(clippy::unnecessary_cast, reason = "their types differ between systems")]
    (result == 0).then(|| (found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
}

#[cfg(not(unix))]
fn free_bytes_of(_: &Path) -> Option<u64> {
    None
}

/// Opens the file at `path`, which processes that write to one place have in common, once no other has it.
fn alone(path: &Path) -> Result<File> {
    loop {
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        // Where the file system has no locks, one process at a time writes as it should. Who had the lock before has renamed the file,
        // or removed it: then it is no longer the one of that name.
        if file.lock().is_err() || is_at(&file, path) {
            return Ok(file);
        }
    }
}

/// Whether an open file is the one at `path` still: it may have been renamed or removed since, and another be there.
#[cfg(unix)]
pub fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    matches!((file.metadata(), path.metadata()), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// Whether there is a file at `path` still.
#[cfg(not(unix))]
pub fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

pub(super) fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".partial");
    path.with_file_name(name)
}

impl<T: Read + Seek> ReadSeek for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_beside_it() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("a.json");
        write_bytes(&path, b"old")?;
        let error = write_whole(&path, |out| {
            out.write_all(b"half")?;
            anyhow::bail!("no space left on device")
        });
        assert!(format!("{:#}", error.unwrap_err()).contains("a.json: no space left"));
        assert_eq!(std::fs::read(&path)?, b"old");
        assert_eq!(std::fs::read_dir(dir.path())?.count(), 1);
        Ok(())
    }
}

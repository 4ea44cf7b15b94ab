//! Atomic file writes (temporary file, fsync, rename), free disk space, identity of open files.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::source::ReadSeek;

/// Writes `path` through `write`, atomically: on any error (disk full, say) an older file stays and nothing is left behind.
///
/// An existing target that is not a regular file (a device, a pipe) is written to directly.
pub fn write_whole(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let context = || format!("cannot write {}", path.display());
    // Replace the target of a symbolic link, not the link.
    let resolved = path.canonicalize().unwrap_or(path.to_path_buf());
    if path.metadata().is_ok_and(|m| !m.is_file()) {
        let mut out = std::fs::OpenOptions::new().write(true).open(path).with_context(context)?;
        return write(&mut out).with_context(context);
    }
    let partial_path = partial_path(&resolved);
    let file = open_exclusive(&partial_path).with_context(context)?;
    let attempt = || -> Result<()> {
        file.set_len(0)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        out.flush()?;
        out.get_ref().sync_all()?;
        std::fs::rename(&partial_path, &resolved)?;
        sync_folder(resolved.parent().unwrap_or(Path::new(".")))
    };
    attempt().inspect_err(|_| drop(std::fs::remove_file(&partial_path))).with_context(context)
}

/// [`write_whole`] of a byte slice.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, |out| Ok(out.write_all(bytes)?))
}

/// Copies a file atomically.
pub fn copy_whole(from: &Path, to: &Path) -> Result<()> {
    let mut file = File::open(from).with_context(|| format!("cannot read {}", from.display()))?;
    write_whole(to, |out| std::io::copy(&mut file, out).map(drop).with_context(|| format!("from {}", from.display())))
}

/// Removes a file, if it exists.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Syncs a folder's entries to disk, after a rename for instance.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    match File::open(folder)?.sync_all() {
        // Some file systems cannot sync a folder; there is nothing to sync on those.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTSUP | libc::EBADF)) => Ok(()),
        forced => forced.with_context(|| format!("cannot sync {} to the disk", folder.display())),
    }
}

/// Free bytes on the disk of a folder, or of its nearest existing ancestor; None if the operating system does not say.
pub fn free_bytes(folder: &Path) -> Option<u64> {
    let absolute = std::path::absolute(folder).ok()?;
    let existing = absolute.ancestors().find(|folder| folder.exists())?;
    free_bytes_of(existing)
}

#[cfg(unix)]
fn free_bytes_of(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: statvfs reads a NUL-terminated string and fills the struct it is given.
    let (result, stats) = unsafe {
        let mut stats: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(name.as_ptr(), &mut stats), stats)
    };
    #[allow(clippy::unnecessary_cast, reason = "their types differ between systems")]
    (result == 0).then(|| (stats.f_bavail as u64).saturating_mul(stats.f_frsize as u64))
}

#[cfg(not(unix))]
fn free_bytes_of(_: &Path) -> Option<u64> {
    None
}

/// Opens the temporary file at `path` with an exclusive lock, which serialises processes that write the same target.
fn open_exclusive(path: &Path) -> Result<File> {
    loop {
        let file = File::options().write(true).create(true).truncate(false).open(path)?;
        // Without file locks, concurrent writers are unprotected. The previous holder of the lock renamed or removed
        // the file: if so, `path` no longer names this one.
        if file.lock().is_err() || is_at(&file, path) {
            return Ok(file);
        }
    }
}

/// Whether `path` still names this open file, which may have been renamed, removed or replaced.
#[cfg(unix)]
pub fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    matches!((file.metadata(), path.metadata()), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// Whether `path` exists.
#[cfg(not(unix))]
pub fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

pub(super) fn partial_path(path: &Path) -> PathBuf {
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

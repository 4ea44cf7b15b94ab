//! Downloads into the cache: resumed where they broke off, verified, and renamed into place when complete.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use indicatif::{HumanBytes, ProgressBar};
use sha1::{Digest as _, Sha1};

use super::bars;
use super::cache::{Cache, make_folder_of};
use super::http::{ATTEMPTS, Client, Failure, Remote, body_range};
use crate::base::hash::sha256;

/// Makes sure that a blob is in the cache. `what` is its name in messages: `facebook/opt-125m@27dcfa7/config.json`.
/// `again` looks the file up once more, because a CDN's URL expires.
pub fn fetch(
    client: &Client,
    cache: &Cache,
    remote: &Remote,
    what: &str,
    again: &dyn Fn() -> Result<Remote, Failure>,
) -> Result<()> {
    let blob = cache.blob(&remote.etag);
    let is_cached = || blob.metadata().is_ok_and(|m| remote.size.is_none_or(|size| m.len() == size));
    if is_cached() {
        return Ok(());
    }
    let _lock = cache.lock(&remote.etag, || tracing::info!("waiting for another process that downloads {what}"))?;
    if is_cached() {
        return Ok(());
    }
    let mut download = Download::open(client, remote, cache.partial(&remote.etag), what)?;
    let finish = |download: &mut Download| download.finish(again).and_then(|()| download.check());
    let was_begun = download.len > 0;
    let mut checked = finish(&mut download);
    if checked.is_err() && was_begun && download.len == 0 {
        // The partial file of an earlier process was not a prefix of this content.
        checked = finish(&mut download);
    }
    download.bar.finish_and_clear();
    checked.map_err(|failure| download.explained(&failure))?;
    download.file.sync_all().with_context(|| format!("cannot write {}", download.path.display()))?;
    std::fs::rename(&download.path, &blob).with_context(|| format!("cannot write {}", blob.display()))
}

/// A blob being downloaded.
struct Download<'a> {
    client: &'a Client,
    etag: &'a str,
    url: String,
    what: &'a str,
    path: PathBuf,
    file: File,
    /// Bytes in the file.
    len: u64,
    /// The expected length in bytes, once known.
    size: Option<u64>,
    bar: ProgressBar,
}

impl<'a> Download<'a> {
    fn open(client: &'a Client, remote: &'a Remote, path: PathBuf, what: &'a str) -> Result<Self> {
        make_folder_of(&path)?;
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let len = file.metadata()?.len();
        let length = remote.size.map_or(String::new(), |size| format!(", {}", HumanBytes(size)));
        let rest = if len > 0 { format!(", continuing from {}", HumanBytes(len)) } else { String::new() };
        tracing::info!("fetch   {what}{length}{rest}");
        let name = what.rsplit('/').next().unwrap_or(what);
        let bar = if client.settings().bars { bars::bar(name, remote.size.unwrap_or(0)) } else { ProgressBar::hidden() };
        // Bytes already present would distort the speed.
        bar.set_position(len);
        bar.reset_eta();
        let Remote { etag, url, size, .. } = remote;
        Ok(Download { client, etag, url: url.clone(), what, path, file, len, size: *size, bar })
    }

    /// Resumes after every break, until the download is complete or [`ATTEMPTS`] in a row bring nothing.
    fn finish(&mut self, again: &dyn Fn() -> Result<Remote, Failure>) -> Result<(), Failure> {
        // Against the longest part so far: a server that refuses the rest and breaks off the whole makes no progress.
        let (mut stalled, mut longest) = (0, self.len);
        loop {
            let Err(failure) = self.request_rest() else { return Ok(()) };
            stalled = if self.len > longest { 0 } else { stalled + 1 };
            longest = longest.max(self.len);
            let is_stale = matches!(failure.status, Some(401 | 403 | 410)) && self.len > 0 && stalled == 1;
            if is_stale && let Some(remote) = again().ok().filter(|remote| remote.etag == self.etag) {
                self.url = remote.url;
                continue;
            }
            if !failure.is_transient() || stalled >= ATTEMPTS {
                return Err(failure);
            }
            tracing::debug!("{}; continuing after {}", failure.say, HumanBytes(self.len));
            if stalled > 0 {
                failure.pause(stalled);
            }
        }
    }

    /// Sends one request for the missing bytes.
    fn request_rest(&mut self) -> Result<(), Failure> {
        if self.size.is_some_and(|size| self.len > size) {
            self.truncate(0)?;
        }
        if self.size == Some(self.len) {
            return Ok(());
        }
        let response = match self.client.read(&self.url, self.len) {
            Err(failure) if failure.status == Some(416) && self.len > 0 => {
                self.truncate(0)?;
                return Err(Failure::broken(failure.say));
            }
            answer => answer?,
        };
        let (start, total) = body_range(&response)
            .filter(|(start, _)| [0, self.len].contains(start))
            .ok_or_else(|| Failure::lasting(format!("the server sends another part of {} than requested", self.what)))?;
        self.truncate(start)?;
        match (self.size, total) {
            (Some(size), Some(total)) if size != total => return Err(self.wrong_length(size, total)),
            (size, total) => self.size = size.or(total),
        }
        self.check_length(self.size.unwrap_or(self.len))?;
        self.append(response.into_body().into_reader())
    }

    /// Appends the body to the file.
    fn append(&mut self, mut body: impl Read) -> Result<(), Failure> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.client.failure(&self.url, e.into())),
            };
            if n == 0 {
                return match self.size {
                    Some(size) if self.len < size => {
                        Err(Failure::broken(format!("the connection ended after {} bytes", self.len)))
                    }
                    _ => Ok(()),
                };
            }
            if let Some(size) = self.size.filter(|size| self.len + n as u64 > *size) {
                return Err(self.wrong_length(size, self.len + n as u64));
            }
            self.check_length(self.len + n as u64)?;
            self.file.write_all(&buffer[..n]).map_err(|e| self.unwritten(e))?;
            self.len += n as u64;
            self.bar.set_length(self.size.unwrap_or(self.len));
            self.bar.set_position(self.len);
        }
    }

    /// Verifies the length, and the hash where the etag is one.
    fn check(&mut self) -> Result<(), Failure> {
        if let Some(size) = self.size.filter(|size| *size != self.len) {
            return Err(self.wrong_length(size, self.len));
        }
        let expected = self.etag.to_lowercase();
        let (name, found) = match (expected.len(), expected.bytes().all(|b| b.is_ascii_hexdigit())) {
            (64, true) => ("SHA-256", vec![self.hashed(|file, _| sha256(file))?]),
            // The git hash of a small file; some mirrors use plain SHA-1.
            (40, true) => ("git hash", vec![self.hashed(git_hash)?, self.hashed(|file, _| sha1(Sha1::new(), file))?]),
            _ => return Ok(()),
        };
        if found.contains(&expected) {
            return Ok(());
        }
        self.truncate(0)?;
        Err(Failure::lasting(format!("the download is damaged: its {name} is {}, but the hub says {expected}", found[0])))
    }

    /// A hash of the file, given its length.
    fn hashed(&mut self, hash: impl FnOnce(&mut dyn Read, u64) -> Result<String>) -> Result<String, Failure> {
        self.file.seek(SeekFrom::Start(0)).map_err(|e| self.unwritten(e))?;
        hash(&mut &self.file, self.len).map_err(|e| self.unwritten(e))
    }

    /// Truncates the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> Result<(), Failure> {
        let cut = self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len)));
        cut.map_err(|e| self.unwritten(e))?;
        self.len = len;
        Ok(())
    }

    /// Refuses more bytes than such a file may have.
    fn check_length(&mut self, bytes: u64) -> Result<(), Failure> {
        let max_bytes = max_bytes(self.what, self.size);
        if bytes <= max_bytes {
            return Ok(());
        }
        self.truncate(0)?;
        let said = if self.size.is_some() { "" } else { ", whose length the hub does not say" };
        Err(Failure::lasting(format!("it is longer than {} bytes, the most for a file like this{said}", max_bytes)))
    }

    fn wrong_length(&mut self, size: u64, sent: u64) -> Failure {
        let failure =
            Failure::lasting(format!("its length is wrong: the hub says {size} bytes, but the server sends {sent}"));
        self.truncate(0).err().unwrap_or(failure)
    }

    fn unwritten(&self, error: impl std::fmt::Display) -> Failure {
        Failure::lasting(format!("cannot write {}: {error}", self.path.display()))
    }

    /// The error: what happened, what is kept, what to do.
    fn explained(&self, failure: &Failure) -> anyhow::Error {
        let size = self.size.map_or(String::new(), |size| format!(" of {}", HumanBytes(size)));
        match self.len {
            0 => {
                let _ = std::fs::remove_file(&self.path);
                unavailable!("cannot download {}: {}; nothing was kept, try again", self.what, failure.say)
            }
            len => unavailable!(
                "cannot download {}: {}; {}{size} are kept, and the same command continues from there",
                self.what,
                failure.say,
                HumanBytes(len)
            ),
        }
    }
}

/// The hash of a git blob.
fn git_hash(reader: &mut dyn Read, len: u64) -> Result<String> {
    sha1(Sha1::new_with_prefix(format!("blob {len}\0")), reader)
}

fn sha1(mut hash: Sha1, reader: &mut dyn Read) -> Result<String> {
    std::io::copy(reader, &mut hash)?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The most bytes that a file may have. Files that are read into memory at once are limited to the size of the largest
/// vocabularies; a file of unknown length is limited too.
fn max_bytes(name: &str, size: Option<u64>) -> u64 {
    let (small, unsaid) = (256 << 20, 64 << 20);
    let is_small = [".json", ".txt", ".jinja", ".model"].iter().any(|ending| name.ends_with(ending));
    match size {
        None => unsaid,
        Some(_) if is_small => small,
        Some(_) => u64::MAX,
    }
}

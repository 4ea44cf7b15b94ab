//! The append-only log of a run: a header, then framed, checksummed records.
//!
//! ```text
//! file    magic [8]   length of the header u32   header, JSON   CRC-32 of the header      (all little-endian)
//! record  kind u8, words in the payload u24   payload   CRC-32 of the previous checksum and all of this
//! ```
//!
//! A two-point step with one direction takes 16 bytes. Each checksum covers the previous one, so missing, repeated or
//! misplaced records are detected like damaged ones; and since the previous checksum directly precedes a record, valid
//! records after a damaged one can be recognised. This distinguishes damage from an incomplete tail.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::flusher::Flusher;
use super::framing::{MAGIC, ValidPrefix, checksum, read};
use super::header::Header;
use super::record::{Done, FILE, Record, Scored};
use super::steps::Trajectory;
use crate::base::files::is_at;
use crate::config::Fsync;

/// The log of a run, locked until dropped or until the process ends.
pub struct Log {
    trajectory: Trajectory,
    path: PathBuf,
    file: File,
    chain: u32,
    /// The checksums of the header and of each step's record.
    of_steps: Vec<u32>,
    len: u64,
    fsync: Fsync,
    flusher: Flusher,
}

impl Log {
    /// Locks a run folder through its log, creating it if needed. Fails if another process holds the lock.
    pub fn lock(folder: &Path) -> Result<File> {
        let path = folder.join(FILE);
        loop {
            let options = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = options.with_context(|| format!("cannot open {}", path.display()))?;
            match file.try_lock() {
                // The previous holder may have removed the file; then the path names another one.
                Ok(()) if !is_at(&file, &path) => continue,
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(usage!("another process is writing in {} ({FILE} is locked)", folder.display()));
                }
                Err(std::fs::TryLockError::Error(e)) => {
                    tracing::warn!("cannot lock {}: {e}; make sure that no other process writes there", path.display());
                    return Ok(file);
                }
            }
        }
    }

    /// Begins a log in the file that [`Log::lock`] returned.
    pub fn begin(file: File, folder: &Path, header: Header, fsync: Fsync) -> Result<Self> {
        let json = serde_json::to_vec(&header)?;
        let chain = checksum(0, &json);
        let mut bytes = MAGIC.to_vec();
        bytes.extend((json.len() as u32).to_le_bytes());
        bytes.extend(json);
        bytes.extend(chain.to_le_bytes());
        file.set_len(0)?;
        let (trajectory, path, flusher) = (Trajectory::new(header), folder.join(FILE), flusher(&file)?);
        let mut log = Log { trajectory, path, file, chain, of_steps: vec![chain], len: 0, fsync, flusher };
        log.write(&bytes)?;
        log.sync()?;
        Ok(log)
    }

    /// Opens the log of the run in `folder`; an incomplete tail is dropped. Fails if there is none or it is damaged.
    pub fn resume(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Err(usage!("`resume` {}: it is not a run folder (there is no {FILE})", folder.display()));
        }
        let mut file = Self::lock(folder)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).with_context(|| format!("cannot read {}", path.display()))?;
        let (trajectory, whole) = read(&bytes).with_context(|| path.display().to_string())?;
        if let Some(torn) = whole.torn(&bytes) {
            tracing::info!("{}: {torn}", path.display());
            file.set_len(whole.len as u64)?;
        }
        file.seek(SeekFrom::End(0))?;
        let (fsync, flusher) = (trajectory.header.config.fsync, flusher(&file)?);
        let ValidPrefix { len, chain, of_steps } = whole;
        Ok(Log { trajectory, path, file, chain, of_steps, len: len as u64, fsync, flusher })
    }

    /// Sets when written records are synced to disk.
    pub fn set_fsync(&mut self, fsync: Fsync) {
        self.fsync = fsync;
    }

    /// The trajectory so far.
    pub fn trajectory(&self) -> &Trajectory {
        &self.trajectory
    }

    /// The checksum of a step's record, which identifies the run and its steps so far. None if the log lacks the step.
    pub fn checksum(&self, step: u64) -> Option<u32> {
        self.of_steps.get(usize::try_from(step).ok()?).copied()
    }

    /// Fails if the log is no longer at its path: the run's folder was moved or removed, and another run may have begun
    /// there.
    pub fn check_place(&self) -> Result<()> {
        match is_at(&self.file, &self.path) {
            true => Ok(()),
            false => bail!(
                "{} no longer belongs to this run: its folder was moved, removed or used for a new run",
                self.path.display()
            ),
        }
    }

    /// The size of the log, in bytes.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Writes a step's function values before its update is applied; for a logged step, checks that they are the same.
    pub fn step(&mut self, step: u64, values: &[f32]) -> Result<()> {
        let Some(known) = self.trajectory.values(step) else { return self.append(Record::Step(values.to_vec())) };
        match values.len() == known.len() && values.iter().zip(known).all(|(a, b)| a.to_bits() == b.to_bits()) {
            true => Ok(()),
            false => Err(differs!(
                "step {step} gives other values than before: {values:?} instead of {known:?}; was that another machine, or \
                 another version of zotune?"
            )),
        }
    }

    /// Writes the dev score after the last step.
    pub fn dev(&mut self, scored: Scored) -> Result<Scored> {
        self.append(Record::Dev(scored)).map(|()| scored)
    }

    /// Writes the score on the evaluation split before the first step.
    pub fn untrained(&mut self, scored: Scored) -> Result<Scored> {
        self.append(Record::Untrained(scored)).map(|()| scored)
    }

    /// Writes that the run is extended to `max_steps`.
    pub fn extend(&mut self, max_steps: u64) -> Result<()> {
        self.append(Record::Extended(max_steps))?;
        self.sync()
    }

    /// Writes that all steps are made.
    pub fn done(&mut self, done: Done) -> Result<()> {
        if self.trajectory.done.as_ref() != Some(&done) {
            self.append(Record::Done(done))?;
        }
        self.sync()
    }

    /// Writes a record. On return it survives the death of the process.
    fn append(&mut self, record: Record) -> Result<()> {
        self.check_place()?;
        let (bytes, chain) = record.framed(self.chain);
        self.write(&bytes)?;
        self.chain = chain;
        if let Record::Step(_) = record {
            self.of_steps.push(chain);
        }
        self.trajectory.push(record)?;
        match self.fsync {
            Fsync::Every => self.sync(),
            // The flusher keeps the deadline during a long evaluation or snapshot.
            Fsync::Seconds(seconds) => {
                self.flusher.written(Duration::from_secs_f64(seconds)).with_context(|| self.unwritten())
            }
            Fsync::Never => Ok(()),
        }
    }

    fn unwritten(&self) -> String {
        format!("cannot write {}", self.path.display())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if let Err(e) = self.file.write_all(bytes) {
            // A partial record is an incomplete tail, which a reader drops; here it may be possible to drop it at once.
            let _ = self.file.set_len(self.len);
            return Err(e).with_context(|| self.unwritten());
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Syncs all that was written to disk.
    pub fn sync(&mut self) -> Result<()> {
        self.file.sync_data().with_context(|| self.unwritten())?;
        self.flusher.synced();
        Ok(())
    }
}

fn flusher(file: &File) -> Result<Flusher> {
    let file = file.try_clone()?;
    Ok(Flusher::new(move || file.sync_data())?)
}

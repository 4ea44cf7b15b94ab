//! The append-only log of a run under way: a header, then one framed, checksummed record after the other.
//!
//! ```text
//! file    magic [8]   header's length u32   header, JSON   CRC-32 of the header      (all little-endian)
//! record  kind u8, words in the payload u24   payload   CRC-32 of all this and of the checksum before it
//! ```
//!
//! A two-point step with one direction is 16 bytes. Each checksum covers the one before it, so a record that is missing,
//! doubled or in another's place is found like one that is damaged; and as the checksum before a record stands right in
//! front of it, whole records can be told behind a damaged one. That is how damage in the middle is told from a torn tail.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::flusher::Flusher;
use super::{Done, FILE, Header, Record, Scored, Trajectory};
use crate::config::Fsync;
use crate::digest::Digest;
use crate::files::is_at;

const MAGIC: [u8; 8] = *b"zotlog\0\x03";

/// Bytes of a record around its payload.
const FRAME: usize = 8;

impl Record {
    fn kind(&self) -> u8 {
        match self {
            Record::Step(_) => 1,
            Record::Dev(_) => 2,
            Record::Untrained(_) => 3,
            Record::Extended(_) => 4,
            Record::Done(_) => 5,
        }
    }

    fn payload(&self) -> Vec<u8> {
        match self {
            Record::Step(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Record::Dev(s) | Record::Untrained(s) => {
                // No accuracy is none that is a number.
                let accuracy = s.accuracy.unwrap_or(f64::NAN).to_bits();
                [s.loss.to_bits(), accuracy, s.digest.0].into_iter().flat_map(u64::to_le_bytes).collect()
            }
            Record::Extended(steps) => steps.to_le_bytes().into(),
            Record::Done(done) => {
                let digests = done.digests.iter().map(|d| d.0);
                std::iter::once(done.best_step).chain(digests).flat_map(u64::to_le_bytes).collect()
            }
        }
    }

    fn parse(kind: u8, payload: &[u8]) -> Option<Self> {
        let (longs, rest) = payload.as_chunks::<8>();
        let longs: Vec<u64> = longs.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect();
        if kind != 1 && !rest.is_empty() {
            return None;
        }
        let score = |loss: &u64, accuracy: &u64, digest: &u64| Scored {
            loss: f64::from_bits(*loss),
            accuracy: Some(f64::from_bits(*accuracy)).filter(|share| !share.is_nan()),
            digest: Digest(*digest),
        };
        match (kind, &longs[..]) {
            (1, _) => Some(Record::Step(payload.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())),
            (2, [loss, accuracy, digest]) => Some(Record::Dev(score(loss, accuracy, digest))),
            (3, [loss, accuracy, digest]) => Some(Record::Untrained(score(loss, accuracy, digest))),
            (4, [steps]) => Some(Record::Extended(*steps)),
            (5, [best_step, digests @ ..]) => {
                Some(Record::Done(Done { best_step: *best_step, digests: digests.iter().map(|d| Digest(*d)).collect() }))
            }
            _ => None,
        }
    }

    /// The whole record, and its checksum, after one whose checksum was `chain`.
    fn framed(&self, chain: u32) -> (Vec<u8>, u32) {
        let payload = self.payload();
        let mut bytes = ((payload.len() as u32 / 4) << 8 | u32::from(self.kind())).to_le_bytes().to_vec();
        bytes.extend(payload);
        let sum = checksum(chain, &bytes);
        bytes.extend(sum.to_le_bytes());
        (bytes, sum)
    }
}

fn checksum(chain: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chain.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// How much of a log is whole.
pub(super) struct Whole {
    /// In bytes.
    len: usize,
    /// The checksum that the next record builds on.
    chain: u32,
    /// The header's checksum, and that of each step's record.
    of_steps: Vec<u32>,
}

impl Whole {
    /// What to say of a tail that is not.
    pub(super) fn torn(&self, bytes: &[u8]) -> Option<String> {
        let torn = bytes.len() - self.len;
        (torn > 0).then(|| {
            format!(
                "the last {torn} bytes, behind step {}, were not written whole; they are left out",
                self.of_steps.len() - 1
            )
        })
    }
}

/// Reads a log up to its last whole record. Damage before that is an error that names the step.
pub(super) fn read(bytes: &[u8]) -> Result<(Trajectory, Whole)> {
    let (header, mut at, mut chain) = read_header(bytes)?;
    let (mut trajectory, mut of_steps) = (Trajectory::new(header), vec![chain]);
    while let Ok((record, end)) = record_at(bytes, at, chain) {
        let steps = trajectory.steps();
        let known = record.ok_or_else(|| anyhow!("behind step {steps} stands a record of a newer version of zotune"))?;
        trajectory.push(known)?;
        (at, chain) = (end, word(bytes, end - 4).unwrap_or_default());
        if trajectory.steps() > steps {
            of_steps.push(chain);
        }
    }
    if whole_behind(bytes, at, chain) {
        bail!(
            "the record of step {} is damaged (byte {at} of {}), and what follows it cannot be used without it; the run's \
             model.safetensors and checkpoints do not depend on it",
            trajectory.steps() + 1,
            bytes.len()
        );
    }
    Ok((trajectory, Whole { len: at, chain, of_steps }))
}

fn read_header(bytes: &[u8]) -> Result<(Header, usize, u32)> {
    let start = MAGIC.len() + 4;
    let unwritten =
        || anyhow!("its beginning was not written whole: the run had not begun, and there is nothing to go on from");
    if bytes.len() < start {
        return Err(unwritten());
    }
    if bytes[..7] != MAGIC[..7] {
        bail!("it is no trajectory of zotune's");
    }
    if bytes[7] != MAGIC[7] {
        bail!("it has format {}, of another version of zotune; this one reads {}", bytes[7], MAGIC[7]);
    }
    let len = word(bytes, MAGIC.len()).unwrap_or_default() as usize;
    let (Some(json), Some(sum)) = (bytes.get(start..start + len), word(bytes, start + len)) else { return Err(unwritten()) };
    if checksum(0, json) != sum {
        bail!("its header is damaged");
    }
    let header: Header = serde_json::from_slice(json).context("its header is of another version of zotune")?;
    header.check()?;
    Ok((header, start + len + 4, sum))
}

/// The record at `at`, None if it is of no known kind, and where it ends. The error is the checksum that it should have,
/// where it can be told.
fn record_at(bytes: &[u8], at: usize, chain: u32) -> Result<(Option<Record>, usize), Option<u32>> {
    let frame = word(bytes, at).ok_or(None)?;
    let end = at + FRAME + 4 * (frame >> 8) as usize;
    let sum = word(bytes, end - 4).ok_or(None)?;
    let right = checksum(chain, &bytes[at..end - 4]);
    if right != sum {
        return Err(Some(right));
    }
    Ok((Record::parse(frame as u8, &bytes[at + 4..end - 4]), end))
}

/// Whether a whole record stands somewhere behind the one at `at`, which is not.
fn whole_behind(bytes: &[u8], at: usize, chain: u32) -> bool {
    // If it was its checksum that was damaged, the next builds on the right one.
    if let Err(Some(right)) = record_at(bytes, at, chain)
        && let Some(frame) = word(bytes, at)
        && record_at(bytes, at + FRAME + 4 * (frame >> 8) as usize, right).is_ok()
    {
        return true;
    }
    // What stands there may claim to be long wherever it is looked at; after so many bytes it is no torn tail, which is short.
    let mut left = 1usize << 30;
    (at + 1..bytes.len().saturating_sub(FRAME)).any(|next| {
        let known = (1..=5).contains(&bytes[next]);
        let len = word(bytes, next).map_or(0, |frame| FRAME + 4 * (frame >> 8) as usize);
        if known && next + len <= bytes.len() {
            left = left.saturating_sub(len);
        }
        left == 0
            || known && word(bytes, next - 4).is_some_and(|chain| matches!(record_at(bytes, next, chain), Ok((Some(_), _))))
    })
}

/// The log of a run under way, locked: the lock dies with the process that holds it.
pub struct Log {
    trajectory: Trajectory,
    path: PathBuf,
    file: File,
    chain: u32,
    /// The header's checksum, and that of each step's record.
    of_steps: Vec<u32>,
    len: u64,
    fsync: Fsync,
    flusher: Flusher,
}

impl Log {
    /// Takes the lock of a run folder: its log, which is made where there is none. Fails if another process has it.
    pub fn lock(folder: &Path) -> Result<File> {
        let path = folder.join(FILE);
        loop {
            let options = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = options.with_context(|| format!("cannot open {}", path.display()))?;
            match file.try_lock() {
                // Who had the lock before may have removed the file: then it is no longer the one of that name.
                Ok(()) if !is_at(&file, &path) => continue,
                Ok(()) => return Ok(file),
                Err(std::fs::TryLockError::WouldBlock) => {
                    return Err(usage!("another process is writing in {} ({FILE} is locked)", folder.display()));
                }
                Err(std::fs::TryLockError::Error(e)) => {
                    tracing::warn!("cannot lock {}: {e}; see that no other process writes there", path.display());
                    return Ok(file);
                }
            }
        }
    }

    /// Begins a run's log in the file that [`Log::lock`] gave.
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

    /// Goes on with the log of the run in `folder`; a tail that was not written whole is dropped.
    pub fn resume(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        if !path.is_file() {
            return Err(usage!("--resume {}: there is no {FILE}; it is no run that can be gone on with", folder.display()));
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
        let Whole { len, chain, of_steps } = whole;
        Ok(Log { trajectory, path, file, chain, of_steps, len: len as u64, fsync, flusher })
    }

    /// How often what was written is forced to the disk, from here on.
    pub fn set_fsync(&mut self, fsync: Fsync) {
        self.fsync = fsync;
    }

    /// What it says so far.
    pub fn trajectory(&self) -> &Trajectory {
        &self.trajectory
    }

    /// What tells the steps up to this one, and the run that they are of, from all others: the checksum of its record. None of a step
    /// that is not known.
    pub fn checksum(&self, step: u64) -> Option<u32> {
        self.of_steps.get(usize::try_from(step).ok()?).copied()
    }

    /// Fails where the run's folder is no longer its own: it was moved or removed, and perhaps another run was begun in its place.
    pub fn check_place(&self) -> Result<()> {
        match is_at(&self.file, &self.path) {
            true => Ok(()),
            false => bail!("{} is no longer this run's: its folder was moved, removed or begun anew", self.path.display()),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.len
    }

    /// Writes down a step's function values before its update counts; or sees that they are those that it knows.
    pub fn step(&mut self, step: u64, values: &[f32]) -> Result<()> {
        let Some(known) = self.trajectory.values(step) else { return self.append(Record::Step(values.to_vec())) };
        match values.len() == known.len() && values.iter().zip(known).all(|(a, b)| a.to_bits() == b.to_bits()) {
            true => Ok(()),
            false => Err(differs!(
                "step {step} comes out otherwise than it did: {values:?} instead of {known:?}; was it another machine, or \
                 another version of zotune?"
            )),
        }
    }

    /// Writes down the score on dev behind the last step.
    pub fn dev(&mut self, scored: Scored) -> Result<Scored> {
        self.append(Record::Dev(scored)).map(|()| scored)
    }

    /// Writes down the score on the evaluation split before the first step.
    pub fn untrained(&mut self, scored: Scored) -> Result<Scored> {
        self.append(Record::Untrained(scored)).map(|()| scored)
    }

    /// Writes down that the run is to have more steps than it was.
    pub fn extend(&mut self, max_steps: u64) -> Result<()> {
        self.append(Record::Extended(max_steps))?;
        self.sync()
    }

    /// Writes down that all steps are made.
    pub fn done(&mut self, done: Done) -> Result<()> {
        if self.trajectory.done.as_ref() != Some(&done) {
            self.append(Record::Done(done))?;
        }
        self.sync()
    }

    /// Writes down what comes next. When this returns, a process that is killed has not lost it.
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
            // Whatever comes next, a long evaluation or a snapshot, somebody else sees to it.
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
            // What was written of it is a torn tail, which a reader drops; here it may be possible to drop it at once.
            let _ = self.file.set_len(self.len);
            return Err(e).with_context(|| self.unwritten());
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Forces all that was written to the disk.
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

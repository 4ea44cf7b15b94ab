//! The byte format of records: framed, each checksum covering the one before it.

use anyhow::{Context, Result, anyhow, bail};

use super::header::Header;
use super::record::{Done, Record, Scored};
use super::steps::Trajectory;
use crate::base::Digest;

pub(super) const MAGIC: [u8; 8] = *b"zotlog\0\x03";

/// Bytes of a record beside its payload.
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
                // NaN encodes a missing accuracy.
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

    /// The bytes of the record and its checksum, following a record with checksum `chain`.
    pub(super) fn framed(&self, chain: u32) -> (Vec<u8>, u32) {
        let payload = self.payload();
        let mut bytes = ((payload.len() as u32 / 4) << 8 | u32::from(self.kind())).to_le_bytes().to_vec();
        bytes.extend(payload);
        let sum = checksum(chain, &bytes);
        bytes.extend(sum.to_le_bytes());
        (bytes, sum)
    }
}

pub(super) fn checksum(chain: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&chain.to_le_bytes());
    hasher.update(bytes);
    hasher.finalize()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The valid prefix of a log.
pub(super) struct ValidPrefix {
    /// Its length in bytes.
    pub(super) len: usize,
    /// The checksum that the next record continues.
    pub(super) chain: u32,
    /// The checksums of the header and of each step's record.
    pub(super) of_steps: Vec<u32>,
}

impl ValidPrefix {
    /// The warning about an incomplete tail, if there is one.
    pub(super) fn torn(&self, bytes: &[u8]) -> Option<String> {
        let torn = bytes.len() - self.len;
        (torn > 0).then(|| {
            format!("the last record ({torn} bytes, after step {}) is incomplete and is ignored", self.of_steps.len() - 1)
        })
    }
}

/// Reads a log up to its last valid record. Damage before that is an error that names the step.
pub(super) fn read(bytes: &[u8]) -> Result<(Trajectory, ValidPrefix)> {
    let (header, mut at, mut chain) = read_header(bytes)?;
    let (mut trajectory, mut of_steps) = (Trajectory::new(header), vec![chain]);
    while let Ok((record, end)) = record_at(bytes, at, chain) {
        let steps = trajectory.steps();
        let known = record.ok_or_else(|| anyhow!("the record after step {steps} is from a newer version of zotune"))?;
        trajectory.push(known)?;
        (at, chain) = (end, word(bytes, end - 4).unwrap_or_default());
        if trajectory.steps() > steps {
            of_steps.push(chain);
        }
    }
    if whole_behind(bytes, at, chain) {
        bail!(
            "the record of step {} is damaged (byte {at} of {}), so later steps cannot be replayed; the run's \
             model.safetensors and checkpoints are not affected",
            trajectory.steps() + 1,
            bytes.len()
        );
    }
    Ok((trajectory, ValidPrefix { len: at, chain, of_steps }))
}

fn read_header(bytes: &[u8]) -> Result<(Header, usize, u32)> {
    let start = MAGIC.len() + 4;
    let unwritten = || anyhow!("its beginning is incomplete: the run had not started, so there is nothing to continue");
    if bytes.len() < start {
        return Err(unwritten());
    }
    if bytes[..7] != MAGIC[..7] {
        bail!("it is not a zotune trajectory");
    }
    if bytes[7] != MAGIC[7] {
        bail!("it has format {}, from another version of zotune; this version reads {}", bytes[7], MAGIC[7]);
    }
    let len = word(bytes, MAGIC.len()).unwrap_or_default() as usize;
    let (Some(json), Some(sum)) = (bytes.get(start..start + len), word(bytes, start + len)) else { return Err(unwritten()) };
    if checksum(0, json) != sum {
        bail!("its header is damaged");
    }
    let header: Header = serde_json::from_slice(json).context("its header is from another version of zotune")?;
    header.check()?;
    Ok((header, start + len + 4, sum))
}

/// The record at `at`, None if its kind is unknown, and its end. The error is the checksum it should have, where that
/// can be computed.
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

/// Whether a valid record follows the invalid one at `at`.
fn whole_behind(bytes: &[u8], at: usize, chain: u32) -> bool {
    // If only its checksum is damaged, the next record continues the correct one.
    if let Err(Some(right)) = record_at(bytes, at, chain)
        && let Some(frame) = word(bytes, at)
        && record_at(bytes, at + FRAME + 4 * (frame >> 8) as usize, right).is_ok()
    {
        return true;
    }
    // Bounds the work: lengths read at arbitrary offsets may be large. An incomplete tail is short, so giving up means
    // damage.
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

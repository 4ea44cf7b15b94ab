//! The exported form of a trajectory: compressed, with only what a replay needs.
//!
//! A replay needs only the differences of a step's function values, one f32 per direction. The k-th values of all steps
//! form a column, stored as four byte planes, so that bytes that vary little are adjacent and compress.
//!
//! ```text
//! file    magic [8]   CRC-32 of the rest   deflated: length of the JSON u32, JSON, columns of values
//! ```

use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use candle_core::DType;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde::{Deserialize, Serialize};

use super::steps::Trajectory;
use crate::base::files;
use crate::params::Params;
use crate::zo::methods;

const MAGIC: [u8; 8] = *b"zotraj\0\x03";

/// The JSON before the columns.
#[derive(Serialize, Deserialize)]
struct Preamble {
    trajectory: Trajectory,
    /// Run lengths of the number of values per step: (values, steps).
    counts: Vec<(usize, usize)>,
}

/// Whether these bytes begin an exported file.
pub(super) fn is_shared(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC[..7])
}

/// Exports a trajectory; returns the bytes written. Fails if its steps do not follow from its function values.
pub fn export(trajectory: &Trajectory, path: &Path) -> Result<Exported> {
    let mut shared = trajectory.clone();
    // Paths on this machine are private.
    shared.header.config.output_dir = Default::default();
    shared.header.config.inputs.data = None;
    let config = &shared.header.config;
    let estimator = methods::method(&config.optimizer)?.make(&config.settings, &Params::new(DType::F32))?.estimator;
    let mut start = 0;
    for end in &shared.ends {
        estimator.condense(&mut shared.values[start..*end]);
        start = *end;
    }
    let columns = columns(&shared);
    let counts = shared.counts();
    let json = serde_json::to_vec(&Preamble { trajectory: shared, counts })?;
    let deflated = |columns: &[u8]| -> Result<Vec<u8>> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&(json.len() as u32).to_le_bytes())?;
        encoder.write_all(&json)?;
        encoder.write_all(columns)?;
        Ok(encoder.finish()?)
    };
    let (body, front) = (deflated(&columns)?, deflated(&[])?.len());
    files::write_whole(path, |out| {
        out.write_all(&MAGIC)?;
        out.write_all(&crc32fast::hash(&body).to_le_bytes())?;
        Ok(out.write_all(&body)?)
    })?;
    let front = (MAGIC.len() + 4 + front) as u64;
    Ok(Exported { front, steps: ((MAGIC.len() + 4 + body.len()) as u64).saturating_sub(front) })
}

/// The size of an exported file, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Exported {
    /// Everything but the steps: the header with the weights' digests, and the scores.
    pub front: u64,
    /// The function values of the steps.
    pub steps: u64,
}

/// Reads an exported file. Any damage is an error.
pub(super) fn read(bytes: &[u8]) -> Result<Trajectory> {
    let format = bytes.get(7).copied().unwrap_or_default();
    if format != MAGIC[7] {
        bail!("it has format {format}, from another version of zotune; this version reads {}", MAGIC[7]);
    }
    let (Some(sum), Some(body)) = (bytes.get(8..12), bytes.get(12..)) else { bail!("it is incomplete") };
    if crc32fast::hash(body).to_le_bytes() != sum {
        bail!("it is damaged: its checksum is wrong");
    }
    let mut plain = Vec::new();
    let most = most(body.len());
    DeflateDecoder::new(body).take(most + 1).read_to_end(&mut plain).context("it is damaged")?;
    if plain.len() as u64 > most {
        bail!("it is damaged: its {} bytes unpack to more than {most}, too much for a trajectory", bytes.len());
    }
    let len = plain.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
    let json = plain.get(4..4 + len).context("it is incomplete")?;
    let front: Preamble = serde_json::from_slice(json).context("it is from another version of zotune")?;
    let (mut trajectory, columns) = (front.trajectory, &plain[4 + len..]);
    trajectory.header.check()?;
    // Each step has at least one value, so the counts cannot demand more than the columns hold.
    let of = |(count, steps): &(usize, usize)| count.checked_mul(*steps).filter(|_| *count > 0);
    let total = front.counts.iter().try_fold(0usize, |total, counts| total.checked_add(of(counts)?));
    if total.and_then(|total| total.checked_mul(4)) != Some(columns.len()) {
        bail!("it has {} bytes of values, but announces another number", columns.len());
    }
    let mut end = 0;
    for count in front.counts.iter().flat_map(|(count, steps)| std::iter::repeat_n(*count, *steps)) {
        end += count;
        trajectory.ends.push(end);
    }
    fill(&mut trajectory, columns);
    Ok(trajectory)
}

/// The most bytes that a body of `bytes` may inflate to. Function values hardly compress; the JSON does, tenfold.
fn most(bytes: usize) -> u64 {
    (16 << 20) + 8 * bytes as u64
}

impl Trajectory {
    fn counts(&self) -> Vec<(usize, usize)> {
        let mut counts: Vec<(usize, usize)> = Vec::new();
        let starts = std::iter::once(&0).chain(&self.ends);
        for count in starts.zip(&self.ends).map(|(start, end)| end - start) {
            match counts.last_mut() {
                Some((same, steps)) if *same == count => *steps += 1,
                _ => counts.push((count, 1)),
            }
        }
        counts
    }

    /// The indices of the values by column: the first of each step, the second of each, ...
    fn places(&self) -> Vec<Vec<usize>> {
        let mut columns: Vec<Vec<usize>> = Vec::new();
        let mut start = 0;
        for &end in &self.ends {
            columns.resize(columns.len().max(end - start), Vec::new());
            (start..end).zip(&mut columns).for_each(|(place, column)| column.push(place));
            start = end;
        }
        columns
    }
}

fn columns(trajectory: &Trajectory) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 * trajectory.values.len());
    for column in trajectory.places() {
        for plane in 0..4 {
            bytes.extend(column.iter().map(|&place| trajectory.values[place].to_le_bytes()[plane]));
        }
    }
    bytes
}

fn fill(trajectory: &mut Trajectory, columns: &[u8]) {
    let mut bits = vec![0u32; columns.len() / 4];
    let mut bytes = columns.iter();
    for column in trajectory.places() {
        for plane in 0..4 {
            column.iter().zip(&mut bytes).for_each(|(&place, byte)| bits[place] |= u32::from(*byte) << (8 * plane));
        }
    }
    trajectory.values = bits.into_iter().map(f32::from_bits).collect();
}

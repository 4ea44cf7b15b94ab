//! Attacks on trajectories and checkpoints.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::Result;
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use serde_json::Value;
use zotune::config::{Common, Inputs};
use zotune::run::LoadedModel;
use zotune::run::replay::replay_model;
use zotune::run::trajectory::Trajectory;

use super::damage;
use crate::mutate::{self, Rng};
use crate::support::{RUN, copy_all, done, stderr, workplace, zotune};

/// Runs and what is exported of them, each beside its base model.
pub(super) fn trajectories() -> Result<(Vec<tempfile::TempDir>, Vec<tempfile::TempDir>)> {
    let (mut logs, mut zots) = (Vec::new(), Vec::new());
    for more in ["", "--num-directions 3 --optimizer zo-adam", "--lora-r 2"] {
        let work = workplace()?;
        done(work.path(), &format!("train {} --max-steps 12 --output-dir run {more}", RUN))?;
        done(work.path(), "export run --trajectory run.zot")?;
        for (file, folders) in [("run/trajectory.bin", &mut logs), ("run.zot", &mut zots)] {
            let folder = tempfile::tempdir()?;
            copy_all(&work.path().join("model"), &folder.path().join("model"))?;
            std::fs::copy(work.path().join(file), folder.path().join("trajectory"))?;
            folders.push(folder);
        }
    }
    Ok((logs, zots))
}

pub(super) fn read_trajectory(folder: &Path) -> Result<Vec<u8>> {
    let trajectory = Trajectory::open(&folder.join("trajectory"))?;
    let mut all = Vec::new();
    for step in 1..=trajectory.steps() {
        all.extend(trajectory.values(step).into_iter().flatten().flat_map(|value: &f32| value.to_le_bytes()));
    }
    // As the replay verb does, but for the model's place.
    let mut inputs =
        Inputs::check(Common { model: Some(folder.join("model").to_string_lossy().into()), ..Common::default() })?;
    inputs.tuned = trajectory.header.config.inputs.tuned.clone();
    inputs.dtype = trajectory.header.config.inputs.dtype;
    let mut bench = LoadedModel::open(&inputs)?;
    let steps = trajectory.steps().min(50);
    replay_model(&trajectory, &mut bench, steps, &mut |_| Ok(()))?;
    Ok(all)
}

pub(super) fn attack_log(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let path = folder.join("trajectory");
    if rng.one_in(2) {
        damage(rng, &path)?;
        return Ok(true);
    }
    // Another header, or other records, with sums that are right.
    let bytes = std::fs::read(&path)?;
    let len = u32::from_le_bytes(bytes[8..12].try_into()?) as usize;
    let header: Value = serde_json::from_slice(&bytes[12..12 + len])?;
    let header = if rng.one_in(4) { header.to_string() } else { mutate::json(rng, &header).to_string() };
    let mut out = [&bytes[..8], &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat();
    let sum = |chain: u32, bytes: &[u8]| crc32fast::hash(&[&chain.to_le_bytes()[..], bytes].concat());
    let (mut chain, mut at) = (sum(0, header.as_bytes()), 12 + len + 4);
    out.extend(chain.to_le_bytes());
    while at + 8 <= bytes.len() {
        let words = (u32::from_le_bytes(bytes[at..at + 4].try_into()?) >> 8) as usize;
        let mut record = bytes[at..at + 4 + 4 * words].to_vec();
        at += record.len() + 4;
        if rng.one_in(4) {
            let place = rng.below(record.len());
            record[place] = rng.next() as u8;
        }
        chain = sum(chain, &record);
        out.extend(record);
        out.extend(chain.to_le_bytes());
    }
    std::fs::write(path, out)?;
    Ok(false)
}

pub(super) fn attack_zot(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let path = folder.join("trajectory");
    if rng.one_in(2) {
        damage(rng, &path)?;
        return Ok(true);
    }
    let bytes = std::fs::read(&path)?;
    let mut plain = Vec::new();
    DeflateDecoder::new(&bytes[12..]).read_to_end(&mut plain)?;
    let len = u32::from_le_bytes(plain[..4].try_into()?) as usize;
    let front: Value = serde_json::from_slice(&plain[4..4 + len])?;
    let mut front = if rng.one_in(3) { front } else { mutate::json(rng, &front) };
    if rng.one_in(3) {
        front["counts"] = match rng.below(4) {
            0 => serde_json::json!([[1u64 << 63, 2], [12, 1]]),
            1 => serde_json::json!([[1u64 << 32, 1u64 << 32]]),
            2 => serde_json::json!([[1, u64::MAX], [1, 13]]),
            _ => serde_json::json!([[u64::MAX, 0], [12, 1]]),
        };
    }
    let front = front.to_string();
    let mut columns = plain[4 + len..].to_vec();
    if rng.one_in(3) {
        columns = mutate::bytes(rng, &columns);
    }
    if rng.one_in(10) {
        columns = vec![0; 40 << 20];
    }
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&(front.len() as u32).to_le_bytes())?;
    encoder.write_all(front.as_bytes())?;
    encoder.write_all(&columns)?;
    let body = encoder.finish()?;
    std::fs::write(path, [&bytes[..8], &crc32fast::hash(&body).to_le_bytes(), &body].concat())?;
    Ok(false)
}

/// A run that has made its steps and is to have more, with two checkpoints to go on from.
pub(super) fn checkpoints() -> Result<tempfile::TempDir> {
    let work = workplace()?;
    let more = "--optimizer adamw --max-steps 12 --save-total-limit 2 --output-dir run";
    done(work.path(), &format!("train {} {more}", RUN))?;
    Ok(work)
}

pub(super) fn attack_checkpoint(rng: &mut Rng, folder: &Path) -> Result<bool> {
    for checkpoint in ["run/checkpoint-12", "run/checkpoint-6"].iter().take(1 + rng.below(2)) {
        let name =
            *rng.pick(&["state.safetensors", "model.safetensors", "state.sha256", "config.json", "../trainer_log.jsonl"]);
        damage(rng, &folder.join(checkpoint).join(name))?;
    }
    Ok(true)
}

/// In a process of its own, as a person goes on with it. What is written beside the weights goes by the base's files.
pub(super) fn read_checkpoint(folder: &Path) -> Result<Vec<u8>> {
    let output = zotune(folder, "train --resume run --max-steps 18").output()?;
    match output.status.code() {
        Some(0) => Ok(std::fs::read(folder.join("run/model.safetensors"))?),
        Some(code @ 1..=6) => anyhow::bail!("exit code {code}: {}", stderr(&output)),
        _ => panic!("{:?}: {}", output.status, stderr(&output)),
    }
}

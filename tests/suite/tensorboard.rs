//! The event file of a run, read by a reader that knows the wire format and nothing of the writer.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::support::{RUN, done, says, workplace};

/// The next varint of a message.
fn varint(bytes: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().context("a varint")?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Ok(value)
}

/// The fields of a message: number and content.
fn fields(mut bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let len = match key & 7 {
            0 => {
                found.push((key >> 3, varint(&mut bytes)?.to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes)? as usize,
            5 => 4,
            other => anyhow::bail!("wire type {other}"),
        };
        let (content, rest) = bytes.split_at_checked(len).context("a field")?;
        found.push((key >> 3, content.to_vec()));
        bytes = rest;
    }
    Ok(found)
}

/// Each scalar's values by step.
fn scalars(run: &Path) -> Result<BTreeMap<String, Vec<(u64, f32)>>> {
    let mut files: Vec<_> = std::fs::read_dir(run.join("tensorboard"))?.collect::<Result<_, _>>()?;
    ensure!(files.len() == 1, "{files:?}");
    let bytes = std::fs::read(files.remove(0).path())?;
    let (mut rest, mut found) = (&bytes[..], BTreeMap::<_, Vec<_>>::new());
    while !rest.is_empty() {
        let len = u64::from_le_bytes(rest[..8].try_into()?) as usize;
        let event = fields(&rest[12..12 + len])?;
        rest = &rest[16 + len..];
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let step = event.iter().find(|(field, _)| *field == 2).map_or(0, |(_, step)| number(step));
        for (_, summary) in event.iter().filter(|(field, _)| *field == 5) {
            for (_, value) in fields(summary)? {
                let value = fields(&value)?;
                let of = |wanted| value.iter().find(|(field, _)| *field == wanted).map(|(_, content)| content);
                if let Some(scalar) = of(2) {
                    let tag = String::from_utf8(of(1).context("a tag")?.clone())?;
                    found.entry(tag).or_default().push((step, f32::from_le_bytes(scalar[..].try_into()?)));
                }
            }
        }
    }
    Ok(found)
}

/// The curves are the log's, in one file, also of a run that was cut and went on. A run that does not ask has none, also
/// where an older run's lay.
#[test]
fn the_event_file_is_the_log() -> Result<()> {
    let folder = workplace()?;
    let (place, run) = (folder.path(), folder.path().join("run"));
    done(place, &format!("train {RUN} --max-steps 24 --report-to tensorboard --output-dir run"))?;
    done(place, "train --resume run --max-steps 60")?;
    let log = std::fs::read_to_string(run.join("trainer_log.jsonl"))?;
    let log: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let found = scalars(&run)?;
    for (tag, name) in [
        ("train/loss", "loss"),
        ("train/learning_rate", "learning_rate"),
        ("train/projected_grad", "projected_grad"),
        ("train/num_input_tokens_seen", "tokens"),
        ("eval/loss", "dev_loss"),
        ("eval/accuracy", "dev_accuracy"),
    ] {
        let due = |line: &Value| Some((line["step"].as_u64()?, line[name].as_f64()? as f32));
        let due: Vec<(u64, f32)> = log.iter().filter_map(due).collect();
        assert!(due.len() > 8 && found[tag] == due, "{tag}: {:?} {due:?}", found[tag]);
    }
    let results: Value = serde_json::from_slice(&std::fs::read(run.join("all_results.json"))?)?;
    assert_eq!(found["test/loss"], [(60, results["eval_loss"].as_f64().context("a loss")? as f32)]);
    assert_eq!(found["memory/weights_bytes"], [(60, results["weights_bytes"].as_f64().context("bytes")? as f32)]);

    done(place, &format!("train {RUN} --max-steps 6 --output-dir run --overwrite-output-dir"))?;
    assert!(!run.join("tensorboard").exists());
    says(place, &format!("train {RUN} --report-to wandb"), 2, "[possible values: none, tensorboard]")
}

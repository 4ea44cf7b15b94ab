//! Attacks by a hub.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use anyhow::Result;
use serde_json::Value;
use zotune::hub::FileRequest;

use crate::hub_server::{Answer, Hub, Repo, Request};
use crate::mutate::{self, Rng};
use crate::support::fixture;

const ID: &str = "org/model";

const COMMIT: &str = "27dcfa74d334bc871f3234de431e71c6eeba5dd6";

/// The hub that all attacks play on.
fn the_hub() -> Result<&'static Hub> {
    static HUB: OnceLock<Hub> = OnceLock::new();
    if let Some(hub) = HUB.get() {
        return Ok(hub);
    }
    let mut files = BTreeMap::new();
    for name in ["config.json", "model.safetensors"] {
        files.insert(name.to_string(), std::fs::read(fixture("llama-tiny").join(name))?);
    }
    files.insert("generation_config.json".into(), b"{}".to_vec());
    let hub = Hub::start(Repo::new(&format!("models/{ID}"), COMMIT, files))?;
    Ok(HUB.get_or_init(|| hub))
}

/// A place for a cache, and the number of the trick that is played; 0: none.
pub(super) fn hub_home() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("trick"), "0")?;
    Ok(folder)
}

pub(super) fn attack_hub(rng: &mut Rng, folder: &Path) -> Result<bool> {
    let trick = rng.next() | 1;
    std::fs::write(folder.join("trick"), trick.to_string())?;
    // What is another name is another content, which nobody can tell from the right one.
    Ok(!renames(trick))
}

fn renames(trick: u64) -> bool {
    trick >> 8 & 3 == 0
}

/// One answer in three told otherwise.
fn trick(trick: u64, request: &Request, mut answer: Answer) -> Answer {
    let seed = request.target.bytes().fold(trick, |seed, byte| seed.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte));
    let rng = &mut Rng::new(seed);
    if !rng.one_in(3) {
        return answer;
    }
    let odd = |rng: &mut Rng| match mutate::odd_value(rng) {
        Value::String(text) => text.chars().filter(|c| !c.is_control()).take(200).collect(),
        value => value.to_string().chars().take(200).collect::<String>(),
    };
    match rng.below(12) {
        0..4 => answer.body = mutate::bytes(rng, &answer.body),
        4 => answer.status = *rng.pick(&[200, 204, 206, 301, 302, 404, 416, 418, 401]),
        5 => answer = answer.with("Content-Encoding", rng.pick(&["gzip", "br", "identity", "x"])),
        6 => answer = answer.with("Content-Range", format!("bytes {}-{}/{}", odd(rng), odd(rng), odd(rng))),
        7 => answer.length = Some(rng.next() as usize >> rng.below(60)),
        8 => answer = answer.with("Location", odd(rng)),
        9 if renames(trick) => {
            answer.headers.retain(|header| !header.0.to_lowercase().contains("etag"));
            answer = answer.with("ETag", odd(rng)).with("X-Linked-Size", odd(rng));
        }
        10 if renames(trick) => {
            let value: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            answer.body = mutate::json(rng, &value).to_string().into();
        }
        _ if rng.one_in(20) => answer.cut = Some(rng.below(answer.body.len())),
        _ => answer = answer.with("X-Error-Message", odd(rng)),
    }
    answer
}

pub(super) fn read_hub(folder: &Path) -> Result<Vec<u8>> {
    let number: u64 = std::fs::read_to_string(folder.join("trick"))?.parse()?;
    let (hub, usual) = (the_hub()?, the_hub()?.usual());
    match number {
        0 => hub.behave(),
        number => hub.play(move |request| Some(trick(number, request, usual(request)?))),
    }
    let home = folder.join("hf").to_string_lossy().into_owned();
    let variables = |name: &str| match name {
        "HF_HOME" => Some(home.clone()),
        "HF_ENDPOINT" => Some(hub.url.clone()),
        "HF_HUB_ETAG_TIMEOUT" | "HF_HUB_DOWNLOAD_TIMEOUT" => Some("1".into()),
        _ => None,
    };
    let client = zotune::hub::Hub::from_variables(&variables)?;
    let wanted = [FileRequest::Required("config.json"), FileRequest::FirstOf(&["model.safetensors"])];
    let snapshot = client.snapshot(&zotune::hub::Repo::model(ID, None), &wanted)?;
    let read = |name: &str| std::fs::read(snapshot.folder.join(name));
    Ok([read("config.json")?, read("model.safetensors")?].concat())
}

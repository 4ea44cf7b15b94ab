//! Finds the weight files of a folder.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::base::Source;

/// The weight files or the index of their shards, by precedence.
pub const WEIGHT_FILES: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

/// The weight files of a model: safetensors before pickles, a single file before shards; or the GGUF file. Fails if
/// there are none.
pub fn weight_files(files: &Source) -> Result<Vec<String>> {
    if let Source::Single(path, _) = files {
        return Ok(path.file_name().map(|name| name.to_string_lossy().into_owned()).into_iter().collect());
    }
    for name in WEIGHT_FILES {
        if name.ends_with(".index.json") {
            if let Some(bytes) = files.read(name)? {
                return shards(&bytes).with_context(|| format!("cannot read {}", files.place(name)));
            }
        } else if files.has(name) {
            return Ok(vec![name.to_string()]);
        }
    }
    bail!(
        "{} is missing (and so are model.safetensors.index.json, pytorch_model.bin and pytorch_model.bin.index.json); `model` \
         must name a folder in Hugging Face layout",
        files.place("model.safetensors")
    )
}

fn shards(index: &[u8]) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index)?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    if let Some(odd) = names.iter().find(|n| Path::new(n).components().count() != 1 || n.starts_with('.')) {
        bail!("its weight_map names {odd:?}, which is not a file beside it");
    }
    if names.is_empty() {
        bail!("its weight_map is empty");
    }
    Ok(names)
}

pub(super) fn is_lfs_pointer(files: &Source, name: &str) -> Result<bool> {
    let (mut reader, len) = files.open(name)?;
    let mut start = [0u8; 24];
    Ok(len < 1024 && reader.read_exact(&mut start).is_ok() && start.starts_with(b"version https://git-lfs"))
}

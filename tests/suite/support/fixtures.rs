//! Fixture models and files, and JSON made of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::DType;
use serde_json::Value;
use zotune::base::Source;
use zotune::model::Model;
use zotune::params::Params;

/// All fixture models.
pub const FIXTURES: [&str; 11] = [
    "opt-tiny",
    "opt-350m-tiny",
    "opt-untied-tiny",
    "llama-tiny",
    "llama3-tiny",
    "llama-new-tiny",
    "qwen2-tiny",
    "qwen3-tiny",
    "gemma-tiny",
    "gemma3-tiny",
    "gemma2-tiny",
];

/// A file or folder under tests/fixtures.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A JSON file under tests/fixtures.
pub fn fixture_json(name: &str) -> Result<Value> {
    let path = fixture(name);
    serde_json::from_slice(&std::fs::read(&path).with_context(|| path.display().to_string())?)
        .context(path.display().to_string())
}

/// A fixture model, its weights in f32.
pub fn open(name: &str) -> Result<(Model, Params)> {
    Model::open(&Source::Folder(fixture(name)), DType::F32)
}

/// A model folder of its own that a test may damage.
pub fn copy_of(name: &str) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    copy_all(&fixture(name), folder.path())?;
    Ok(folder)
}

/// Copies a folder with all that is in it.
pub fn copy_all(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry?.file_name()));
        if from.is_dir() { copy_all(&from, &to)? } else { std::fs::copy(from, to).map(drop)? }
    }
    Ok(())
}

/// Edits the JSON object in `folder/name`.
pub fn edit(folder: &Path, name: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Result<()> {
    let path = folder.join(name);
    let mut value: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    change(value.as_object_mut().unwrap());
    Ok(std::fs::write(path, value.to_string())?)
}

/// An array of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// An array of token ids.
pub fn tokens(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|x| x as u32).collect()
}

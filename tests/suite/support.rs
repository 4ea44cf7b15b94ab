//! What several tests need.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use candle_core::DType;
use serde_json::Value;
use zotune::data::{Candidate, Example};
use zotune::files::Source;
use zotune::model::Model;
use zotune::params::Params;

/// All fixture models.
pub const FIXTURES: [&str; 6] =
    ["opt-tiny", "opt-350m-tiny", "opt-untied-tiny", "llama-tiny", "llama3-tiny", "llama-new-tiny"];

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
    for entry in std::fs::read_dir(fixture(name))? {
        let entry = entry?;
        std::fs::copy(entry.path(), folder.path().join(entry.file_name()))?;
    }
    Ok(folder)
}

/// An array of numbers.
pub fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()
}

/// An array of token ids.
pub fn tokens(value: &Value) -> Vec<u32> {
    numbers(value).into_iter().map(|x| x as u32).collect()
}

/// An example made of a prompt and answers, as tokens.
pub fn example(label: usize, prompt: &[u32], answers: &[&[u32]]) -> Example {
    let candidates = answers
        .iter()
        .map(|a| Candidate { tokens: prompt.iter().chain(*a).copied().collect(), option_len: a.len() })
        .collect();
    Example { index: 0, label, candidates, cut: false }
}

/// The real data and models that lie beside the repository where it is developed; None in a stranger's clone.
pub fn shared(path: &str) -> Option<PathBuf> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(path);
    if !place.exists() {
        eprintln!("skipped: {path} is not here; this check needs real data that the repository does not carry");
        return None;
    }
    Some(place)
}

/// Whether the test called `name` has a process to itself, as tests that count the heap need. Where it has not, it is
/// run again in one of its own, and its outcome there is the outcome here.
pub fn alone(name: &str) -> Result<bool> {
    if std::env::var_os("ZOTUNE_TEST_ALONE").is_some() {
        return Ok(true);
    }
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("ZOTUNE_TEST_ALONE", "1")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(
        output.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(false)
}

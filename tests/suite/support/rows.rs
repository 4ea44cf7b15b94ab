//! Rows of data, and what a command says of them.

use std::path::Path;
use std::process::Output;

use anyhow::Result;
use serde_json::{Value, json};

use crate::support::{stderr, zotune};

pub const LABELS: [&str; 2] = ["good", "bad"];

pub fn write(path: &Path, rows: &[Value]) -> Result<()> {
    Ok(std::fs::write(path, rows.iter().map(|row| format!("{row}\n")).collect::<String>())?)
}

pub fn labelled(n: usize) -> Vec<Value> {
    (0..n).map(|i| json!({ "text": format!("a film of number {i}"), "label": LABELS[i % 2] })).collect()
}

pub fn fails(place: &Path, words: &str, code: i32) -> Result<String> {
    let output = zotune(place, words).output()?;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{words}: {said}");
    assert!(!said.contains("panicked"), "{words}: {said}");
    Ok(said)
}

pub fn json_of(output: &Output) -> Result<Value> {
    Ok(serde_json::from_slice(&output.stdout)?)
}

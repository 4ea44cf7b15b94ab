//! Reads a JSON object of a tokenizer.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::base::Source;

/// The object in a JSON file; None if the file is missing.
pub(super) fn read_json(files: &Source, name: &str) -> Result<Option<Map<String, Value>>> {
    let Some(bytes) = files.read(name)? else { return Ok(None) };
    let place = files.place(name);
    match serde_json::from_slice(&bytes).with_context(|| format!("cannot read {place}"))? {
        Value::Object(fields) => Ok(Some(fields)),
        _ => bail!("{place} is not a JSON object"),
    }
}

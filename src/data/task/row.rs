//! A row of a data file.

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value};

use crate::base::text::{listed, nearest};

/// One row: its fields by name.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Its place among the data rows, from 0.
    pub index: usize,
    /// Its line in the file, from 1; of a parquet file, which has no lines, its row.
    pub line: u64,
    /// Values by column.
    pub fields: Map<String, Value>,
}

impl Row {
    /// A label as text, if it is there and not empty: without spaces around it, numbers and booleans as they are written in JSON.
    pub fn label(&self, column: &str) -> Option<String> {
        match self.fields.get(column)? {
            Value::Null => None,
            Value::String(text) => Some(text.trim().to_string()).filter(|text| !text.is_empty()),
            other => Some(other.to_string()),
        }
    }

    /// The columns in which it has a value.
    pub fn columns(&self) -> Vec<&str> {
        self.fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str()).collect()
    }

    /// Sees that it has a value in each of the `columns`.
    pub(super) fn check(&self, columns: &[&str]) -> Result<()> {
        match columns.iter().find(|c| self.fields.get(**c).is_none_or(Value::is_null)) {
            Some(column) => bail!("has no \"{column}\" (columns: {})", listed(self.columns())),
            None => Ok(()),
        }
    }
}

/// What is done with the rows of a file, one after the other.
pub type Visit<'a> = dyn FnMut(Row) -> Result<()> + 'a;

/// A column that is not there.
pub(super) fn lacks<'a>(place: &str, column: &str, known: impl Iterator<Item = &'a str> + Clone) -> anyhow::Error {
    let near = nearest(column, known.clone());
    let near = if near.starts_with("did you mean") { format!("; {near}") } else { String::new() };
    anyhow!("{place} has no column \"{column}\"; its columns are: {}{near}", listed(known))
}

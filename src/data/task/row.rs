//! A row of a data file.

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value};

use crate::base::text::{listed, nearest};

/// One row.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// Its index among the rows, from 0.
    pub index: usize,
    /// Its line in the file, from 1; in a parquet file its row.
    pub line: u64,
    /// Values by column name.
    pub fields: Map<String, Value>,
}

impl Row {
    /// A label as text: trimmed; numbers and booleans as JSON writes them. None if it is missing, null or empty.
    pub fn label(&self, column: &str) -> Option<String> {
        match self.fields.get(column)? {
            Value::Null => None,
            Value::String(text) => Some(text.trim().to_string()).filter(|text| !text.is_empty()),
            other => Some(other.to_string()),
        }
    }

    /// The columns with a value other than null.
    pub fn columns(&self) -> Vec<&str> {
        self.fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str()).collect()
    }

    /// Fails if a column of `columns` is missing or null.
    pub(super) fn check(&self, columns: &[&str]) -> Result<()> {
        match columns.iter().find(|c| self.fields.get(**c).is_none_or(Value::is_null)) {
            Some(column) => bail!("has no \"{column}\" (columns: {})", listed(self.columns())),
            None => Ok(()),
        }
    }
}

/// A visitor of rows.
pub type Visit<'a> = dyn FnMut(Row) -> Result<()> + 'a;

/// The error for a missing column.
pub(super) fn lacks<'a>(place: &str, column: &str, known: impl Iterator<Item = &'a str> + Clone) -> anyhow::Error {
    let near = nearest(column, known.clone());
    let near = if near.starts_with("did you mean") { format!("; {near}") } else { String::new() };
    anyhow!("{place} has no column \"{column}\"; its columns are: {}{near}", listed(known))
}

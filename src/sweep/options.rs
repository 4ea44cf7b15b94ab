//! Options with their places in a sweep file.

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::config::RawArgs;

/// An option with one value.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// The option's name, as a config file has it.
    pub option: String,
    /// Its value, as JSON.
    pub value: Value,
    /// The line of the sweep file that sets it; None: the command line does.
    pub line: Option<usize>,
}

/// An option with the values to try.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The option's name, as a config file has it.
    pub option: String,
    /// The values, each with its line. Not empty.
    pub values: Vec<(Value, Option<usize>)>,
    /// Whether they are a list, in which case each is part of the name of its cell.
    pub is_list: bool,
}

impl Choice {
    /// The line of the first value.
    pub fn line(&self) -> Option<usize> {
        self.values.first().and_then(|(_, line)| *line)
    }
}

/// The options that are set, with their values.
pub fn set_options(raw: &RawArgs) -> Result<Map<String, Value>> {
    let Value::Object(fields) = serde_json::to_value(raw)? else { return Ok(Map::new()) };
    Ok(fields.into_iter().filter(|(_, value)| !value.is_null()).collect())
}

/// Checks the type of one value as a config file's. Returns the option's own name, which may be an alias's, and its value. An
/// error names the line of the file called `place`.
pub fn checked(place: &str, line: usize, key: &str, value: &toml::Value) -> Result<(String, Value)> {
    let raw = RawArgs::from_toml(&at_line(line, key, value)?, place)?;
    set_options(&raw)?.into_iter().next().with_context(|| format!("{place}, line {line}: {key} sets nothing"))
}

/// A text that sets a key in this line.
fn at_line(line: usize, key: &str, value: &toml::Value) -> Result<String> {
    Ok("\n".repeat(line.saturating_sub(1)) + &set_in_toml(key, value)?)
}

/// `key = value` and the end of the line.
pub fn set_in_toml(key: &str, value: &toml::Value) -> Result<String> {
    Ok(toml::to_string(&toml::Table::from_iter([(key.to_string(), value.clone())]))?)
}

/// The text of a config file that sets each option in the line in which the sweep file does, so that errors name it.
pub fn as_config(settings: &[Setting]) -> Result<String> {
    let mut lines: Vec<String> = Vec::new();
    for Setting { option, value, line } in settings {
        let Some(line) = line else { continue };
        lines.resize(lines.len().max(*line), String::new());
        let text = set_in_toml(option, &toml::Value::try_from(value)?)?;
        lines[line - 1] = text.trim_end().replace('\n', " ");
    }
    Ok(lines.join("\n"))
}

/// The options as a run's. Those of the command line come last, over a file's.
pub fn as_raw(settings: &[Setting]) -> Result<RawArgs> {
    let fields: Map<String, Value> =
        settings.iter().map(|setting| (setting.option.clone(), setting.value.clone())).collect();
    Ok(serde_json::from_value(Value::Object(fields))?)
}

//! The fields of files from elsewhere (config.json, tokenizer_config.json, adapter_config.json, a GGUF file's metadata):
//! each is read, ignored because it does not affect scores, or refused. An unknown field is refused too, unless it is null,
//! so that nothing is ignored silently.

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::text::{nearest, quoted};

/// How a field is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Used; the code that reads it checks its values.
    Read,
    /// Ignored: no score depends on it.
    NoEffect,
    /// Only these values, as JSON, are supported. Null counts as absent.
    Only(&'static [&'static str]),
    /// Not supported, unless null.
    Refused,
}

/// (Field name, treatment, reason or place of use).
pub type Field = (&'static str, Use, &'static str);

/// The fields of one kind of file.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// The file's name.
    pub file: &'static str,
    /// The model families it covers, e.g. `OPT`, `LLaMA and Mistral`; empty for all.
    pub of: &'static str,
    /// Each field once.
    pub fields: &'static [Field],
}

/// Checks `object`, the content of the file at `place`, against the `tables` of its kind. Fails at the first field that is
/// unknown or unsupported.
pub fn check(tables: &[Table], place: &str, object: &Map<String, Value>) -> Result<()> {
    let known = || tables.iter().flat_map(|table| table.fields);
    for (name, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        match known().find(|field| field.0 == name) {
            Some((_, Use::Read | Use::NoEffect, _)) => {}
            Some((_, Use::Only(values), _)) if values.iter().any(|known| same(value, known)) => {}
            Some((_, Use::Only(values), why)) => {
                bail!(
                    "{place}: {name} is {}, which is not supported; it must be {} ({why})",
                    short(value),
                    values.join(" or ")
                )
            }
            Some((_, Use::Refused, why)) => bail!("{place}: {name} is {}, which is not supported ({why})", short(value)),
            None => bail!(
                "{place}: {name} is {}, but zotune does not know this field ({}); remove it if it does not change what the \
                 model computes",
                short(value),
                nearest(name, known().map(|field| field.0))
            ),
        }
    }
    Ok(())
}

/// Whether a value equals the one written as `json`; 1 equals 1.0.
fn same(value: &Value, json: &str) -> bool {
    match (value.as_f64(), json.parse::<f64>()) {
        (Some(value), Ok(known)) => value == known,
        _ => serde_json::from_str::<Value>(json).is_ok_and(|known| known == *value),
    }
}

/// A value as errors quote it.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { quoted(&text) } else { text }
}

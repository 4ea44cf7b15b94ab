//! The fields of files that others write (config.json, tokenizer_config.json, adapter_config.json, a GGUF file's metadata): each
//! is read, without effect on scores, or refused by name. A field that no table knows is refused too, unless it is null: what
//! is not understood is never passed over.

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use super::text::{nearest, quoted};

/// What is made of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Acted on; whoever reads it checks its values.
    Read,
    /// Nothing that a score depends on, whatever it says.
    NoEffect,
    /// Known with these values alone, as JSON; another is refused. Null is as good as absent.
    Only(&'static [&'static str]),
    /// Refused whatever it says, but for null.
    Refused,
}

/// A field's name, what is made of it, and why or where.
pub type Field = (&'static str, Use, &'static str);

/// The fields of one kind of file.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// What the file is called.
    pub file: &'static str,
    /// Which of them it is about: `OPT`, `LLaMA and Mistral`; empty for all.
    pub of: &'static str,
    /// Each field once.
    pub fields: &'static [Field],
}

/// Holds `object`, the content of the file at `place`, to what the `tables` know of such a file.
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

/// Whether a value is the one that `json` writes; 1 and 1.0 are.
fn same(value: &Value, json: &str) -> bool {
    match (value.as_f64(), json.parse::<f64>()) {
        (Some(value), Ok(known)) => value == known,
        _ => serde_json::from_str::<Value>(json).is_ok_and(|known| known == *value),
    }
}

/// A value as an error shows it.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { quoted(&text) } else { text }
}

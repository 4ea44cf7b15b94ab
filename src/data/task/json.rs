//! A line of JSON as an object without duplicate names, of which a parser would keep one arbitrarily; and the text size
//! of a value.

use std::fmt;

use anyhow::{Result, bail};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::base::text::quoted;

/// Parses a line as an object. Fails on anything else, and on a duplicate name.
pub fn object(line: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str::<UniqueNames>(line) {
        Ok(UniqueNames(Value::Object(fields))) => Ok(fields),
        Ok(UniqueNames(Value::Array(_))) => {
            bail!("not a JSON object but a list; write each row as an object on its own line")
        }
        Ok(UniqueNames(other)) => bail!("not a JSON object: {}", quoted(&other.to_string())),
        // A list over several lines.
        Err(_) if line.trim() == "[" => bail!("not a JSON object but a list; write each row as an object on its own line"),
        // Where in the line: its number in the file is the caller's to say.
        Err(error) => bail!("not a JSON object: {}", error.to_string().replace(" at line 1 column ", " at column ")),
    }
}

/// The approximate bytes of text in a value, plus `item_bytes` per list item.
pub fn text_size(value: &Value, item_bytes: usize) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(|value| item_bytes + text_size(value, item_bytes)).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + text_size(value, item_bytes)).sum(),
        _ => 8,
    }
}

/// A value whose objects have no duplicate names.
struct UniqueNames(Value);

impl<'de> Deserialize<'de> for UniqueNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueNamesVisitor).map(UniqueNames)
    }
}

struct UniqueNamesVisitor;

impl<'de> Visitor<'de> for UniqueNamesVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, x: bool) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_i64<E>(self, x: i64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_u64<E>(self, x: u64) -> Result<Value, E> {
        Ok(x.into())
    }

    fn visit_f64<E: Error>(self, x: f64) -> Result<Value, E> {
        Number::from_f64(x).map(Value::Number).ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(UniqueNames(value)) = seq.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.contains_key(&name) {
                return Err(A::Error::custom(format!("the key {} occurs twice", quoted(&name))));
            }
            let UniqueNames(value) = map.next_value()?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

//! A line of JSON as an object in which no name stands twice: of two values a reader would take one, and nobody would know which. And how
//! much text a value is.

use std::fmt;

use anyhow::{Result, bail};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::base::text::quoted;

/// The object that a line is.
pub fn object(line: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str::<Once>(line) {
        Ok(Once(Value::Object(fields))) => Ok(fields),
        Ok(Once(Value::Array(_))) => bail!("not a JSON object but a list; write each row as an object on its own line"),
        Ok(Once(other)) => bail!("not a JSON object: {}", quoted(&other.to_string())),
        // A list that goes over lines.
        Err(_) if line.trim() == "[" => bail!("not a JSON object but a list; write each row as an object on its own line"),
        // Where in the line: its number in the file is the caller's to say.
        Err(error) => bail!("not a JSON object: {}", error.to_string().replace(" at line 1 column ", " at column ")),
    }
}

/// About how many bytes of text a value is, each item of a list counted as so many beside its own.
pub fn weight(value: &Value, an_item: usize) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(|value| an_item + weight(value, an_item)).sum(),
        Value::Object(fields) => fields.iter().map(|(name, value)| name.len() + weight(value, an_item)).sum(),
        _ => 8,
    }
}

/// A value, read with an eye on its names.
struct Once(Value);

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Eye).map(Once)
    }
}

struct Eye;

impl<'de> Visitor<'de> for Eye {
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
        while let Some(Once(value)) = seq.next_element()? {
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
            let Once(value) = map.next_value()?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

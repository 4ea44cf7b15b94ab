//! Event files of TensorBoard: records of protocol-buffer messages, as TensorFlow's `TFRecordWriter` frames them. The
//! messages are those of tensorboard/compat/proto; fields stand in the order of their numbers, as its own writer puts them.

/// A message, in its wire format.
#[derive(Clone, Debug, Default)]
pub struct Message(Vec<u8>);

impl Message {
    fn key(mut self, field: u32, wire_type: u32) -> Self {
        // All field numbers here are below 16: one byte.
        self.0.push((field << 3 | wire_type) as u8);
        self
    }

    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn with_bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn integer(self, field: u32, value: u64) -> Self {
        self.key(field, 0).varint(value)
    }

    fn double(self, field: u32, value: f64) -> Self {
        self.key(field, 1).with_bytes(&value.to_le_bytes())
    }

    fn float(self, field: u32, value: f32) -> Self {
        self.key(field, 5).with_bytes(&value.to_le_bytes())
    }

    fn bytes(self, field: u32, value: &[u8]) -> Self {
        self.key(field, 2).varint(value.len() as u64).with_bytes(value)
    }

    fn text(self, field: u32, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    fn message(self, field: u32, value: Message) -> Self {
        self.bytes(field, &value.0)
    }
}

/// One value of a summary.
#[derive(Clone, Debug)]
pub struct Value(Message);

/// A hyperparameter's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Hyperparameter {
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
    /// Yes or no.
    Bool(bool),
}

/// `DataType`s of tensors.
const DT_FLOAT: u64 = 1;

const DT_STRING: u64 = 7;

impl Value {
    /// A number; shown as a curve over the steps.
    pub fn scalar(tag: &str, value: f64) -> Self {
        Value(Message::default().text(1, tag).float(2, value as f32))
    }

    /// A text in Markdown.
    pub fn text(tag: &str, content: &str) -> Self {
        let shape = Message::default().message(2, Message::default().integer(1, 1));
        let tensor = Message::default().integer(1, DT_STRING).message(2, shape).text(8, content);
        Self::of_plugin(tag, tensor, Message::default().text(1, "text"))
    }

    /// The hyperparameters of a run that began at `start`, in seconds since 1970.
    pub fn session_start<'a>(
        name: &str,
        hyperparameters: impl IntoIterator<Item = (&'a str, Hyperparameter)>,
        start: f64,
    ) -> Self {
        let entry = |(key, value): (&str, Hyperparameter)| {
            let value = match value {
                Hyperparameter::Number(number) => Message::default().double(2, number),
                Hyperparameter::Text(text) => Message::default().text(3, &text),
                Hyperparameter::Bool(yes) => Message::default().integer(4, yes.into()),
            };
            Message::default().text(1, key).message(2, value)
        };
        let info = hyperparameters.into_iter().map(entry).fold(Message::default(), |info, entry| info.message(1, entry));
        let info = info.text(4, name).double(5, start);
        Self::of_hparams("_hparams_/session_start_info", Message::default().message(3, info))
    }

    /// The end of a run that succeeded, in seconds since 1970.
    pub fn session_end(end: f64) -> Self {
        const STATUS_SUCCESS: u64 = 1;
        let info = Message::default().integer(1, STATUS_SUCCESS).double(2, end);
        Self::of_hparams("_hparams_/session_end_info", Message::default().message(4, info))
    }

    fn of_hparams(tag: &str, content: Message) -> Self {
        let shape = Message::default().message(2, Message::default());
        let nothing = Message::default().integer(1, DT_FLOAT).message(2, shape);
        Self::of_plugin(tag, nothing, Message::default().text(1, "hparams").message(2, content))
    }

    fn of_plugin(tag: &str, tensor: Message, plugin: Message) -> Self {
        Value(Message::default().text(1, tag).message(8, tensor).message(9, Message::default().message(1, plugin)))
    }
}

/// The record that an event file begins with. Times are in seconds since 1970.
pub fn version(time: f64) -> Vec<u8> {
    record(Message::default().double(1, time).text(3, "brain.Event:2"))
}

/// The record of values at a step.
pub fn event(time: f64, step: u64, values: Vec<Value>) -> Vec<u8> {
    let head = Message::default().double(1, time);
    let head = if step == 0 { head } else { head.integer(2, step) };
    let summary = values.into_iter().fold(Message::default(), |summary, Value(value)| summary.message(1, value));
    record(head.message(5, summary))
}

/// Length and content, each with its check sum.
fn record(Message(data): Message) -> Vec<u8> {
    let len = (data.len() as u64).to_le_bytes();
    [&len[..], &masked_checksum(&len), &data, &masked_checksum(&data)].concat()
}

/// TFRecord's CRC-32C, masked because a check sum of data with check sums is weak.
fn masked_checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that TensorBoard's package writes (scripts/make_events.py).
    #[test]
    fn records_are_tensorboards_own() -> anyhow::Result<()> {
        let theirs: serde_json::Value = serde_json::from_str(include_str!("../../tests/fixtures/events.json"))?;
        let scalars = || vec![Value::scalar("train/loss", 0.625), Value::scalar("train/learning_rate", 1e-6)];
        let start = |name, value| {
            let start = Value::session_start("a run", [(name, value)], 1_700_000_000.0);
            event(1_700_000_000.25, 0, vec![start])
        };
        for (name, ours) in [
            ("version", version(1_700_000_000.25)),
            ("scalars", event(1_700_000_001.5, 300, scalars())),
            ("no_step", event(1_700_000_001.5, 0, scalars())),
            ("text", event(1_700_000_000.25, 0, vec![Value::text("config/text_summary", "a\nb")])),
            ("number", start("learning_rate", Hyperparameter::Number(1e-6))),
            ("string", start("optimizer", Hyperparameter::Text("zo-sgd".into()))),
            ("bool", start("stop_if_diverged", Hyperparameter::Bool(true))),
            ("session_end", event(1_700_000_000.25, 0, vec![Value::session_end(1_700_000_009.0)])),
        ] {
            let ours: String = ours.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(ours, theirs[name].as_str().unwrap_or_default(), "{name}");
        }
        Ok(())
    }
}

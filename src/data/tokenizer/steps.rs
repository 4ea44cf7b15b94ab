//! The normaliser, pre-tokenizer and model of each class, in tokenizer.json's form.

use serde_json::{Value, json};

use super::class::{Class, QWEN2};
use super::settings::Settings;

impl Class {
    /// The normaliser, the pre-tokenizer, and the model without vocabulary and merges, in tokenizer.json's form.
    pub fn steps(self, settings: &Settings) -> (Value, Value, Value) {
        let byte_level = |use_regex: bool| {
            let prefix = settings.add_prefix_space == Some(true);
            json!({ "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": use_regex })
        };
        let bpe = |unk: Option<String>, fuse_unk: bool, byte_fallback: bool| json!({ "type": "BPE", "unk_token": unk, "fuse_unk": fuse_unk, "byte_fallback": byte_fallback });
        let pieces =
            |scheme: &str| json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false });
        let prefix = settings.add_prefix_space != Some(false);
        match self {
            Class::Generic => (Value::Null, Value::Null, Value::Null),
            Class::Gpt2 => (Value::Null, byte_level(true), bpe(None, false, false)),
            Class::Qwen2 => {
                let split =
                    json!({ "type": "Split", "pattern": { "Regex": QWEN2 }, "behavior": "Isolated", "invert": false });
                let steps = json!({ "type": "Sequence", "pretokenizers": [split, byte_level(false)] });
                (json!({ "type": "NFC" }), steps, bpe(None, false, false))
            }
            Class::Llama => {
                let scheme = if !prefix {
                    "never"
                } else if settings.legacy {
                    "always"
                } else {
                    "first"
                };
                (Value::Null, pieces(scheme), bpe(None, true, true))
            }
            Class::CodeLlama => {
                let scheme = if prefix { "first" } else { "never" };
                (Value::Null, pieces(scheme), bpe(settings.named("unk_token"), true, true))
            }
            Class::Gemma => {
                let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
                let split = json!({
                    "type": "Split", "pattern": { "String": " " }, "behavior": "MergedWithPrevious", "invert": false
                });
                (spaces, split, bpe(settings.named("unk_token"), true, true))
            }
        }
    }
}

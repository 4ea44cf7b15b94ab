//! Builds the tokenizer from tokenizer.json, as it is or as its class rebuilds it.

use anyhow::{Context, Result, anyhow};
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer as Inner;

use super::bounds;
use super::class::Class;
use super::file::File;
use super::settings::Settings;
use crate::base::panics::unless_panic;

impl File {
    /// The tokenizer without the tokens of the other files. Takes the file's content.
    pub fn make(&mut self, settings: &Settings) -> Result<Inner> {
        let mut fields = std::mem::take(&mut self.fields);
        if settings.class != Class::Generic {
            let (normalizer, pre_tokenizer, mut model) = settings.class.steps(settings);
            if self.whole {
                self.warn_of_class(&fields, settings.class, &normalizer, &pre_tokenizer, &model);
            }
            for part in ["vocab", "merges"] {
                let own = fields.get_mut("model").and_then(|model| model.get_mut(part)).map(Value::take);
                let own = own.filter(|own| if part == "vocab" { own.is_object() } else { own.is_array() });
                model[part] =
                    own.ok_or_else(|| anyhow!("{}: its model has no {part}, or not as BPE needs it", self.place))?;
            }
            fields.insert("model".into(), model);
            fields.insert("normalizer".into(), normalizer);
            fields.insert("pre_tokenizer".into(), pre_tokenizer);
            fields.insert("added_tokens".into(), json!([]));
        }
        // --max-length bounds texts, and nothing is decoded.
        for left in ["truncation", "padding", "decoder"] {
            fields.insert(left.into(), Value::Null);
        }
        for absent in ["normalizer", "pre_tokenizer", "post_processor"] {
            fields.entry(absent).or_insert(Value::Null);
        }
        fields.insert("version".into(), "1.0".into());
        fields.entry("added_tokens").or_insert(json!([]));
        bounds::check(&fields).with_context(|| self.place.clone())?;
        let made = unless_panic(|| serde_json::from_value(Value::Object(fields)));
        made.with_context(|| format!("cannot read {}: it is damaged", self.place))?
            .with_context(|| format!("cannot read {}", self.place))
    }

    /// Warns if the class tokenises differently from the file.
    fn warn_of_class(
        &self,
        fields: &Map<String, Value>,
        class: Class,
        normalizer: &Value,
        pre_tokenizer: &Value,
        model: &Value,
    ) {
        let own = |step: &str| fields.get(step).unwrap_or(&Value::Null);
        // LLaMA's older spelling of its spaces; with `legacy` false the class omits the one after a special token.
        let (front, spaces) = (
            json!({ "type": "Prepend", "prepend": "▁" }),
            json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" }),
        );
        let older = json!({ "type": "Sequence", "normalizers": [front, spaces] });
        let is_llama = matches!(class, Class::Llama | Class::CodeLlama);
        let as_ever = is_llama && own("pre_tokenizer").is_null() && [&older, &spaces].contains(&own("normalizer"));
        // The normaliser replaces all spaces, so the pre-tokenizer has nothing to split at.
        let uncut = class == Class::Gemma && own("pre_tokenizer").is_null() && same(own("normalizer"), normalizer);
        let flag = |model: &Value, flag: &str| model.get(flag) == Some(&Value::Bool(true));
        let flags = ["byte_fallback", "ignore_merges"].iter().all(|key| flag(own("model"), key) == flag(model, key));
        let steps = same(own("normalizer"), normalizer) && same(own("pre_tokenizer"), pre_tokenizer);
        if !(flags && (steps || as_ever || uncut)) {
            // Qwen2 models cannot declare another class.
            let how = match class {
                Class::Qwen2 => "",
                _ => {
                    "; to use the file as it is, set \"tokenizer_class\": \"PreTrainedTokenizerFast\" in tokenizer_config.json"
                }
            };
            tracing::warn!(
                "{}: transformers 5 rebuilds this tokenizer as {} and does not split text as the file says; zotune does the \
                 same{how}",
                self.place,
                class.name()
            );
        }
    }
}

/// Whether two steps tokenise alike; offsets are not used.
fn same(a: &Value, b: &Value) -> bool {
    fn essence(value: &Value) -> Value {
        match value {
            Value::Array(list) => Value::Array(list.iter().map(essence).collect()),
            Value::Object(fields) => {
                let fields = fields.iter().filter(|(key, value)| *key != "trim_offsets" && !value.is_null());
                Value::Object(fields.map(|(key, value)| (key.clone(), essence(value))).collect())
            }
            other => other.clone(),
        }
    }
    essence(a) == essence(b)
}

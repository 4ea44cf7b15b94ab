//! tokenizer.json, or what vocab.json and merges.txt come to; as it stands, or as a class makes it anew.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};
use tokenizers::Tokenizer as Inner;

use super::class::Class;
use super::settings::Settings;
use super::{ADDED_TOKEN, COMPONENTS, TOKENIZER_JSON, bounds};
use crate::error::{nearest, unless_panic};
use crate::fields::{self, Table};
use crate::files::Source;

/// The content of a tokenizer.json.
pub struct File {
    /// What it is called in an error.
    pub place: String,
    /// Whether it says ByteLevel anywhere.
    pub byte_level: bool,
    /// Its added tokens, with their ids.
    pub added_tokens: Vec<(u32, Value)>,
    /// The token that batches are padded with, which is special in a text.
    pub pad_token: Option<Value>,
    /// Whether it is a file that says how text is cut; else it is a vocabulary alone.
    whole: bool,
    fields: Map<String, Value>,
}

impl File {
    /// Reads a folder's tokenizer.json, if there is one, and holds its fields to what is known.
    pub fn read(files: &Source) -> Result<Option<Self>> {
        let name = "tokenizer.json";
        let Some(fields) = super::json(files, name)? else { return Ok(None) };
        let place = files.place(name);
        fields::check(&[TOKENIZER_JSON], &place, &fields)?;
        for step in ["model", "normalizer", "pre_tokenizer", "post_processor"] {
            check(fields.get(step).unwrap_or(&Value::Null), &format!("{place}: {step}"))?;
        }
        let added_tokens = fields.get("added_tokens").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let added_tokens = added_tokens.iter().map(|token| {
            let object = token.as_object().ok_or_else(|| anyhow!("{place}: added_tokens has {token}"))?;
            fields::check(&[ADDED_TOKEN], &format!("{place}: added_tokens"), object)?;
            let id = object.get("id").and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
            Ok((id.ok_or_else(|| anyhow!("{place}: an added token has no id: {token}"))?, token.clone()))
        });
        let added_tokens = added_tokens.collect::<Result<_>>()?;
        let byte_level = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];
        let byte_level = byte_level.iter().filter_map(|step| fields.get(*step)).any(says_byte_level);
        let pad_token = fields.get("padding").and_then(|padding| padding.get("pad_token")).cloned();
        Ok(Some(File { place, byte_level, added_tokens, pad_token, whole: true, fields }))
    }

    /// What vocab.json and merges.txt come to in a class that reads them.
    pub fn of_vocabulary(files: &Source, class: Class) -> Result<Self> {
        let (Some(vocab), Some(merges)) = (files.read("vocab.json")?, files.read("merges.txt")?) else {
            bail!("{}", missing(files));
        };
        if !matches!(class, Class::Gpt2 | Class::Qwen2) {
            bail!(
                "{} says nothing of how text is cut, and the tokenizer class is {}, which does not read it; name the class that it \
                 is of in tokenizer_config.json (\"tokenizer_class\": \"GPT2Tokenizer\" or \"Qwen2Tokenizer\"), or put the \
                 model's tokenizer.json beside it",
                files.place("vocab.json"),
                class.name()
            );
        }
        let place = format!("{} with {}", files.place("vocab.json"), files.place("merges.txt"));
        let vocab: Value = serde_json::from_slice(&vocab).with_context(|| format!("cannot read {place}"))?;
        let merges = std::str::from_utf8(&merges).with_context(|| format!("cannot read {place}"))?;
        let merges = merges.lines().filter(|line| !line.starts_with("#version") && !line.is_empty());
        let pairs = merges.map(|line| line.split_once(' ').filter(|(_, b)| !b.contains(' ')).map(|(a, b)| json!([a, b])));
        let pairs: Option<Vec<Value>> = pairs.collect();
        let pairs = pairs.ok_or_else(|| anyhow!("cannot read {place}: merges.txt has a line that is not two words"))?;
        let model = json!({ "type": "BPE", "vocab": vocab, "merges": pairs });
        let fields = Map::from_iter([("model".to_string(), model)]);
        Ok(File { place, byte_level: true, added_tokens: Vec::new(), pad_token: None, whole: false, fields })
    }

    /// The tokenizer, without the tokens that are named beside it; the content goes into it.
    pub fn make(&mut self, settings: &Settings) -> Result<Inner> {
        let mut fields = std::mem::take(&mut self.fields);
        if settings.class != Class::AsItStands {
            let (normalizer, pre_tokenizer, mut model) = settings.class.steps(settings);
            if self.whole {
                self.warn_of_class(&fields, settings.class, &normalizer, &pre_tokenizer, &model);
            }
            for part in ["vocab", "merges"] {
                let own = fields.get_mut("model").and_then(|model| model.get_mut(part)).map(Value::take);
                let own = own.filter(|own| if part == "vocab" { own.is_object() } else { own.is_array() });
                model[part] = own.ok_or_else(|| anyhow!("{}: its model has no {part} as BPE has them", self.place))?;
            }
            fields.insert("model".into(), model);
            fields.insert("normalizer".into(), normalizer);
            fields.insert("pre_tokenizer".into(), pre_tokenizer);
            fields.insert("added_tokens".into(), json!([]));
        }
        // How long a text may be is for us to say; and nothing is decoded.
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

    /// Says that a class makes something else of text than the file says.
    fn warn_of_class(
        &self,
        fields: &Map<String, Value>,
        class: Class,
        normalizer: &Value,
        pre_tokenizer: &Value,
        model: &Value,
    ) {
        let own = |step: &str| fields.get(step).unwrap_or(&Value::Null);
        // LLaMA's older way to write its spaces; the class leaves off the one behind a special token where `legacy` is false.
        let (front, spaces) = (
            json!({ "type": "Prepend", "prepend": "▁" }),
            json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" }),
        );
        let older = json!({ "type": "Sequence", "normalizers": [front, spaces] });
        let is_llama = matches!(class, Class::Llama | Class::CodeLlama);
        let as_ever = is_llama && own("pre_tokenizer").is_null() && [&older, &spaces].contains(&own("normalizer"));
        // Where spaces are gone, nothing is left to cut at.
        let uncut = class == Class::Gemma && own("pre_tokenizer").is_null() && same(own("normalizer"), normalizer);
        let flag = |model: &Value, flag: &str| model.get(flag) == Some(&Value::Bool(true));
        let flags = ["byte_fallback", "ignore_merges"].iter().all(|key| flag(own("model"), key) == flag(model, key));
        let steps = same(own("normalizer"), normalizer) && same(own("pre_tokenizer"), pre_tokenizer);
        if !(flags && (steps || as_ever || uncut)) {
            // A Qwen2 has no other class.
            let how = match class {
                Class::Qwen2 => "",
                _ => {
                    "; \"tokenizer_class\": \"PreTrainedTokenizerFast\" in tokenizer_config.json takes the file as it stands"
                }
            };
            tracing::warn!(
                "{}: transformers 5 makes this tokenizer anew as {} has it, and does not cut text as the file says; zotune does \
                 as it does{how}",
                self.place,
                class.name()
            );
        }
    }
}

/// What to do about a folder without a tokenizer that can be read.
fn missing(files: &Source) -> String {
    let place = files.place("tokenizer.json");
    let how = "transformers writes one: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)";
    if files.has("tokenizer.model") {
        let model = files.place("tokenizer.model");
        return format!(
            "{place} is missing, and zotune does not read {model} (SentencePiece or tiktoken) in its place; {how}"
        );
    }
    format!("{place} is missing, and so is vocab.json or merges.txt; {how}")
}

/// Whether two steps do the same; where a token lies in its text is nothing to us.
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

fn says_byte_level(value: &Value) -> bool {
    match value {
        Value::String(text) => text == "ByteLevel",
        Value::Array(list) => list.iter().any(says_byte_level),
        Value::Object(fields) => fields.values().any(says_byte_level),
        _ => false,
    }
}

/// Holds a step and all that it consists of to what is known of its type.
fn check(step: &Value, place: &str) -> Result<()> {
    let Some(object) = step.as_object() else {
        return if step.is_null() { Ok(()) } else { Err(anyhow!("{place} is {step}, and no step")) };
    };
    let kind = object.get("type").and_then(Value::as_str).ok_or_else(|| anyhow!("{place} has no \"type\""))?;
    let known: Vec<Table> = COMPONENTS.iter().filter(|table| table.of == kind).copied().collect();
    if known.is_empty() {
        bail!("{place}: {kind:?} is no type that is known ({})", nearest(kind, COMPONENTS.iter().map(|table| table.of)));
    }
    fields::check(&known, &format!("{place}, {kind}"), object)?;
    let inner = ["normalizers", "pretokenizers", "processors"].into_iter().filter_map(|name| object.get(name)?.as_array());
    inner.flatten().try_for_each(|step| check(step, place))
}

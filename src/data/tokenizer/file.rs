//! tokenizer.json, or its equivalent from vocab.json and merges.txt.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

use super::class::Class;
use super::read_json::read_json;
use super::tables::{ADDED_TOKEN, COMPONENTS, TOKENIZER_JSON};
use crate::base::text::nearest;
use crate::base::{Source, Table, fields};

/// The content of a tokenizer.json.
pub struct File {
    /// The file, for errors.
    pub place: String,
    /// Whether any step is of type ByteLevel.
    pub byte_level: bool,
    /// Its added tokens with their ids.
    pub added_tokens: Vec<(u32, Value)>,
    /// Its padding token, which is a special token.
    pub pad_token: Option<Value>,
    /// Whether it defines all steps, or only the vocabulary and merges.
    pub(super) whole: bool,
    pub(super) fields: Map<String, Value>,
}

impl File {
    /// Reads a folder's tokenizer.json, if there is one. Fails on an unknown field or step.
    pub fn read(files: &Source) -> Result<Option<Self>> {
        let name = "tokenizer.json";
        let Some(fields) = read_json(files, name)? else { return Ok(None) };
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

    /// The content of vocab.json and merges.txt, for a class that reads them. Fails for other classes and if either is
    /// missing.
    pub fn of_vocabulary(files: &Source, class: Class) -> Result<Self> {
        let (Some(vocab), Some(merges)) = (files.read("vocab.json")?, files.read("merges.txt")?) else {
            bail!("{}", missing(files));
        };
        if !matches!(class, Class::Gpt2 | Class::Qwen2) {
            bail!(
                "{} does not say how text is cut, and the tokenizer class {} does not read it; name the right class in \
                 tokenizer_config.json (\"tokenizer_class\": \"GPT2Tokenizer\" or \"Qwen2Tokenizer\"), or put the model's \
                 tokenizer.json beside it",
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
        let pairs = pairs.ok_or_else(|| anyhow!("cannot read {place}: a line of merges.txt is not two words"))?;
        let model = json!({ "type": "BPE", "vocab": vocab, "merges": pairs });
        let fields = Map::from_iter([("model".to_string(), model)]);
        Ok(File { place, byte_level: true, added_tokens: Vec::new(), pad_token: None, whole: false, fields })
    }
}

/// The error for a folder without a readable tokenizer.
fn missing(files: &Source) -> String {
    let place = files.place("tokenizer.json");
    let how = "to create it with transformers: AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)";
    if files.has("tokenizer.model") {
        let model = files.place("tokenizer.model");
        return format!("{place} is missing, and zotune cannot read {model} (SentencePiece or tiktoken) instead; {how}");
    }
    format!("{place} is missing, and vocab.json or merges.txt is missing too; {how}")
}

/// Fails if a step, or one nested in it, has an unknown type or field.
fn check(step: &Value, place: &str) -> Result<()> {
    let Some(object) = step.as_object() else {
        return if step.is_null() { Ok(()) } else { Err(anyhow!("{place} is {step}, which is not a step")) };
    };
    let kind = object.get("type").and_then(Value::as_str).ok_or_else(|| anyhow!("{place} has no \"type\""))?;
    let known: Vec<Table> = COMPONENTS.iter().filter(|table| table.of == kind).copied().collect();
    if known.is_empty() {
        bail!(
            "{place}: zotune does not know the type {kind:?} ({})",
            nearest(kind, COMPONENTS.iter().map(|table| table.of))
        );
    }
    fields::check(&known, &format!("{place}, {kind}"), object)?;
    let inner = ["normalizers", "pretokenizers", "processors"].into_iter().filter_map(|name| object.get(name)?.as_array());
    inner.flatten().try_for_each(|step| check(step, place))
}

pub(super) fn says_byte_level(value: &Value) -> bool {
    match value {
        Value::String(text) => text == "ByteLevel",
        Value::Array(list) => list.iter().any(says_byte_level),
        Value::Object(fields) => fields.values().any(says_byte_level),
        _ => false,
    }
}

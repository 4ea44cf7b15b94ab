//! tokenizer_config.json, special_tokens_map.json and added_tokens.json, as transformers 5 reads them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};
use tokenizers::{AddedToken, Tokenizer as Inner};

use super::class::Class;
use super::file::File;
use super::read_json::read_json;
use super::tables::{ADDED_TOKEN, SPECIAL_TOKENS_MAP, TOKENIZER_CONFIG};
use crate::base::{Source, Table, fields};

/// The named tokens, in the order in which transformers adds them.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// The settings in the files beside the vocabulary.
pub struct Settings {
    /// The tokenizer class.
    pub class: Class,
    /// `add_prefix_space`.
    pub add_prefix_space: Option<bool>,
    /// LLaMA's `legacy`: a space is inserted after special tokens too.
    pub legacy: bool,
    /// Replaces the template: with the begin token or without; None: tokenizer.json's.
    pub template: Option<bool>,
    /// `add_bos_token`, where tokenizer.json's template overrides it.
    ignored_add_bos: Option<bool>,
    /// Whether special tokens in a text are tokenised as text.
    split_special_tokens: bool,
    /// The named tokens.
    named: Vec<(String, AddedToken)>,
    /// Tokens with required ids, and the file that requires them.
    placed: BTreeMap<u32, (AddedToken, String)>,
    /// Tokens without required ids.
    extra: Vec<AddedToken>,
    /// The path of tokenizer_config.json.
    place: String,
}

impl Settings {
    /// Reads the files beside `file`, the tokenizer.json if there is one, of a model of type `model_type`; `declared`
    /// is config.json's `tokenizer_class`.
    pub fn read(files: &Source, file: Option<&File>, model_type: &str, declared: Option<&str>) -> Result<Self> {
        let place = files.place("tokenizer_config.json");
        let config = read_json(files, "tokenizer_config.json")?.unwrap_or_default();
        check(&config, TOKENIZER_CONFIG, &place)?;
        let flag = |key: &str| match config.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => bail!("{place}: {key} is {other}; it must be true or false"),
        };
        let declared = config.get("tokenizer_class").and_then(Value::as_str).or(declared);
        let class = Class::find(model_type, declared, file.is_some_and(|file| file.byte_level), &place)?;
        let add_bos = flag("add_bos_token")?;
        if file.is_none() && flag("add_eos_token")? == Some(true) {
            tracing::warn!(
                "{place}: add_eos_token is true, but zotune leaves the end token off, because it scores the answer"
            );
        }
        let template = match (file, class) {
            (Some(_), Class::CodeLlama) => Some(true),
            (Some(_), _) => None,
            (None, _) => Some(add_bos == Some(true)),
        };
        let tokens = Tokens::read(files, file, &config, class, &place)?;
        Ok(Settings {
            class,
            add_prefix_space: flag("add_prefix_space")?,
            legacy: flag("legacy")?.unwrap_or(false),
            template,
            ignored_add_bos: add_bos.filter(|_| file.is_some()),
            split_special_tokens: flag("split_special_tokens")?.unwrap_or(false),
            named: tokens.named,
            placed: tokens.placed,
            extra: tokens.extra,
            place,
        })
    }

    /// The text of a named token.
    pub fn named(&self, name: &str) -> Option<String> {
        self.named.iter().find(|(own, _)| own == name).map(|(_, token)| token.content.clone())
    }

    /// The id of a named token.
    pub fn id(&self, inner: &Inner, name: &str) -> Option<u32> {
        inner.token_to_id(&self.named(name)?)
    }

    /// Adds the tokens of the files in transformers' order. Fails if one does not get its required id.
    pub fn add_tokens(&self, inner: &mut Inner) -> Result<()> {
        let error = |e: tokenizers::Error| anyhow!("{}: its tokens cannot be added: {e}", self.place);
        let mut known: BTreeSet<String> =
            inner.get_added_tokens_decoder().into_values().map(|token| token.content).collect();
        let mut tokens: Vec<AddedToken> = self.placed.values().map(|(token, _)| token.clone()).collect();
        known.extend(tokens.iter().map(|token| token.content.clone()));
        for token in self.named.iter().map(|(_, token)| token).chain(&self.extra) {
            if !known.contains(&token.content) && !tokens.contains(token) {
                tokens.push(token.clone());
            }
        }
        self.check_order(inner, &known)?;
        inner.add_tokens(tokens).map_err(error)?;
        inner.set_encode_special_tokens(self.split_special_tokens);
        for (id, (token, place)) in &self.placed {
            let found = inner.token_to_id(&token.content);
            if found != Some(*id) {
                bail!(
                    "{place}: {:?} should be token {id}, but transformers makes it {}, because added tokens follow the \
                     vocabulary without gaps; put it into the vocabulary, or give it that id",
                    token.content,
                    found.map_or("none".into(), |id| id.to_string())
                );
            }
        }
        Ok(())
    }

    /// Fails if several tokens with custom names are new: their ids would depend on the order of JSON keys.
    fn check_order(&self, inner: &Inner, known: &BTreeSet<String>) -> Result<()> {
        let own = self.named.iter().filter(|(name, _)| !NAMED.contains(&name.as_str()) && !name.is_empty());
        let own = own.map(|(_, token)| token.content.as_str()).filter(|token| !self.class.always().contains(token));
        let new: BTreeSet<&str> =
            own.filter(|token| !known.contains(*token) && inner.token_to_id(token).is_none()).collect();
        match new.len() {
            0 | 1 => Ok(()),
            _ => bail!(
                "{}: {new:?} are not in the vocabulary, and no file says which ids they have; name them in \
                 added_tokens_decoder",
                self.place
            ),
        }
    }

    /// Warns if `add_bos_token` contradicts tokenizer.json, which prevails.
    pub fn warn_of_ignored_add_bos(&self, first: Option<u32>, bos: Option<u32>, file: &str) {
        let begins = first.is_some() && first == bos;
        if let Some(wanted) = self.ignored_add_bos.filter(|wanted| self.template.is_none() && *wanted != begins) {
            let what = if begins { "puts the begin token before a text" } else { "puts no begin token before a text" };
            tracing::warn!(
                "{}: add_bos_token is {wanted}, but {file} {what}; zotune follows the latter, as transformers 5 does",
                self.place
            );
        }
    }
}

/// The tokens of the files.
struct Tokens {
    named: Vec<(String, AddedToken)>,
    placed: BTreeMap<u32, (AddedToken, String)>,
    extra: Vec<AddedToken>,
}

impl Tokens {
    fn read(files: &Source, file: Option<&File>, config: &Map<String, Value>, class: Class, place: &str) -> Result<Self> {
        let mut config = config.clone();
        let decoder = config.remove("added_tokens_decoder").filter(|value| !value.is_null());
        if config.get("extra_special_tokens").is_none_or(is_empty)
            && let Some(more) = config.remove("additional_special_tokens").filter(|more| !more.is_null())
        {
            config.insert("extra_special_tokens".into(), more);
        }
        // Files of older versions; added_tokens_decoder replaces them.
        let map = if decoder.is_some() { None } else { read_json(files, "special_tokens_map.json")? };
        if let Some(map) = map {
            check(&map, SPECIAL_TOKENS_MAP, &files.place("special_tokens_map.json"))?;
            merge(&mut config, map);
        }
        // Tokens in added_tokens.json become special by a list of the new name only.
        let listed = config.contains_key("extra_special_tokens");
        if let Some(more) = config.remove("additional_special_tokens").filter(|more| !listed && !more.is_null()) {
            config.insert("extra_special_tokens".into(), more);
        }
        // The other classes default to their own pad_token.
        if matches!(class, Class::Generic | Class::Llama | Class::CodeLlama)
            && let Some(pad) = file.and_then(|file| file.pad_token.clone())
        {
            config.entry("pad_token").or_insert(pad);
        }
        let texts = Self::texts(&config, class);
        let token = |value: &Value, special: bool| added_token(value, special, &texts).context(place.to_string());
        let named = Self::named(&config, class, &token)?;
        let extra = match config.get("extra_special_tokens") {
            Some(Value::Array(list)) => list.iter().map(|value| token(value, true)).collect::<Result<_>>()?,
            None | Some(Value::Null | Value::Object(_)) => Vec::new(),
            Some(other) => bail!("{place}: extra_special_tokens is {other}; it must be a list of tokens"),
        };
        let mut placed = BTreeMap::new();
        let mut put = |id: u32, token: AddedToken, place: &str| placed.insert(id, (token, place.to_string()));
        match &decoder {
            Some(Value::Object(tokens)) => {
                for (id, value) in tokens {
                    let id = id.parse().map_err(|_| anyhow!("{place}: added_tokens_decoder: {id:?} is not a token id"))?;
                    put(id, token(value, false)?, place);
                }
            }
            Some(other) => bail!("{place}: added_tokens_decoder is {other}; it must map ids to tokens"),
            None => {
                let place = files.place("added_tokens.json");
                for (text, id) in read_json(files, "added_tokens.json")?.unwrap_or_default() {
                    let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
                    let id = id.ok_or_else(|| anyhow!("{place}: {text:?} has no token id"))?;
                    let special = named.iter().any(|(name, token)| NAMED.contains(&name.as_str()) && token.content == text)
                        || listed && extra.iter().any(|token| token.content == text);
                    put(id, AddedToken::from(text, special), &place);
                }
            }
        }
        if let Some(file) = file {
            let unnamed = BTreeSet::new();
            let token = |value, texts| added_token(value, false, texts).context(file.place.clone());
            for (id, value) in &file.added_tokens {
                match (&decoder, class) {
                    // Already in the file; recorded so that its id is verified.
                    (Some(_), Class::Generic) if !placed.contains_key(id) => {
                        placed.insert(*id, (token(value, &unnamed)?, file.place.clone()));
                    }
                    // tokenizer_config.json takes precedence, and a class takes no others.
                    (Some(_), _) => {}
                    (None, _) => drop(placed.insert(*id, (token(value, &texts)?, file.place.clone()))),
                }
            }
        }
        Ok(Tokens { named, placed, extra })
    }

    /// The texts of all named tokens, which are special whatever else is said of them.
    fn texts(config: &Map<String, Value>, class: Class) -> BTreeSet<String> {
        let own = config.iter().filter(|(key, _)| key.ends_with("_token")).filter_map(|(_, value)| content(value));
        let listed = match config.get("extra_special_tokens") {
            Some(Value::Object(tokens)) => tokens.values().filter_map(content).collect(),
            _ => Vec::new(),
        };
        let defaults = class.defaults().iter().filter(|(name, _)| !config.contains_key(*name)).map(|(_, text)| *text);
        own.chain(listed).chain(defaults).chain(class.always().iter().copied()).map(String::from).collect()
    }

    /// The named tokens in transformers' order; those that a class always adds have an empty name.
    fn named(
        config: &Map<String, Value>,
        class: Class,
        token: &dyn Fn(&Value, bool) -> Result<AddedToken>,
    ) -> Result<Vec<(String, AddedToken)>> {
        let mut named = Vec::new();
        for name in NAMED {
            let default = class.defaults().iter().find(|(own, _)| *own == name).map(|(_, text)| Value::from(*text));
            if let Some(value) = config.get(name).cloned().or(default).filter(|value| !value.is_null()) {
                named.push((name.to_string(), token(&value, true)?));
            }
        }
        for text in class.always() {
            named.push((String::new(), token(&Value::from(*text), true)?));
        }
        let own = |key: &str, value: &Value| key.ends_with("_token") && !NAMED.contains(&key) && content(value).is_some();
        let listed = [config.get("extra_special_tokens"), config.get("model_specific_special_tokens")];
        let listed = listed.into_iter().flatten().filter_map(Value::as_object).flatten();
        for (name, value) in config.iter().filter(|(key, value)| own(key, value)).chain(listed) {
            named.push((name.clone(), token(value, true)?));
        }
        Ok(named)
    }
}

/// special_tokens_map.json overrides tokenizer_config.json; lists are joined.
fn merge(config: &mut Map<String, Value>, map: Map<String, Value>) {
    for (key, value) in map {
        match (config.get_mut(&key), value) {
            (Some(Value::Array(list)), Value::Array(more)) if key == "extra_special_tokens" => {
                let new: Vec<_> = more.into_iter().filter(|token| !list.contains(token)).collect();
                list.extend(new);
            }
            (_, value) => drop(config.insert(key, value)),
        }
    }
}

/// Checks fields against their table; any name that ends in `_token` may be a token.
fn check(object: &Map<String, Value>, table: Table, place: &str) -> Result<()> {
    let is_token = |name: &str, value: &Value| name.ends_with("_token") && content(value).is_some();
    let others = object.iter().filter(|(name, value)| !is_token(name, value));
    fields::check(&[table], place, &others.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The text of a token, written as a string or as an object.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

/// A token written as a string, or as an object with flags. Named tokens are special whatever their flag; `normalized`
/// defaults to not special.
fn added_token(value: &Value, special: bool, named: &BTreeSet<String>) -> Result<AddedToken> {
    let text = content(value).ok_or_else(|| anyhow!("{value} is not a token"))?;
    let Some(object) = value.as_object() else { return Ok(AddedToken::from(text, true)) };
    fields::check(&[ADDED_TOKEN], &format!("the token {text:?}"), object)?;
    let flag = |key: &str| object.get(key).and_then(Value::as_bool);
    let special = flag("special").unwrap_or(special) || named.contains(text);
    Ok(AddedToken {
        content: text.into(),
        single_word: flag("single_word").unwrap_or(false),
        lstrip: flag("lstrip").unwrap_or(false),
        rstrip: flag("rstrip").unwrap_or(false),
        normalized: flag("normalized").unwrap_or(!special),
        special,
    })
}

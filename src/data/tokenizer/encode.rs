//! Text to token ids, identical to transformers 5 on the same folder: tokenizer.json, or vocab.json and merges.txt;
//! with tokenizer_config.json, special_tokens_map.json and added_tokens.json.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};
use tokenizers::{Encoding, PostProcessor, Tokenizer as Inner};

use super::class::{self, Class};
use super::file::File;
use super::read_json::read_json;
use super::settings::Settings;
use crate::base::Source;
use crate::base::panics::unless_panic;
use crate::base::text::quoted;

/// The tokenizer of a model.
pub struct Tokenizer {
    inner: Inner,
    /// Ids put before every text.
    front: Vec<u32>,
    /// The end token of completions.
    end: Option<u32>,
    /// Code Llama's infilling token.
    fill: Option<u32>,
    /// The number of rows of the model's embedding.
    rows: usize,
    /// Its file, for errors.
    place: String,
}

impl Tokenizer {
    /// Files of a tokenizer; those present are copied wherever the weights are written.
    pub const FILES: [&str; 8] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "tokenizer.model",
        "chat_template.jinja",
    ];

    /// Opens the tokenizer of a model. `bos_id` replaces everything that the tokenizer puts before a text. Fails on
    /// damaged or unsupported files.
    pub fn open(files: &Source, bos_id: Option<u32>) -> Result<Self> {
        let config = read_json(files, "config.json")?.unwrap_or_default();
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let file = File::read(files)?;
        let (model_type, declared) = (text("model_type").unwrap_or_default(), text("tokenizer_class"));
        let settings = Settings::read(files, file.as_ref(), model_type, declared)?;
        let mut file = match file {
            Some(file) => file,
            None => File::of_vocabulary(files, settings.class)?,
        };
        let mut inner = file.make(&settings)?;
        let added = unless_panic(|| settings.add_tokens(&mut inner));
        added.with_context(|| format!("{}: its tokens cannot be added; the file is damaged", file.place))??;
        let (front, back) = match settings.template {
            Some(bos) => (Vec::from_iter(bos.then(|| settings.id(&inner, "bos_token")).flatten()), Vec::new()),
            None => affixes(&inner).with_context(|| file.place.clone())?,
        };
        if bos_id.is_none() {
            if model_type == "opt" && front.is_empty() {
                tracing::warn!(
                    "the tokenizer's files put no token before a text, but OPT was trained with its begin token there; `bos_id 2` \
                     adds it"
                );
            }
            settings.warn_of_ignored_add_bos(front.first().copied(), settings.id(&inner, "bos_token"), &file.place);
        }
        if let Some(last) = back.last() {
            let last = inner.id_to_token(*last).unwrap_or_default();
            tracing::warn!(
                "{}: its template ends every text with {last}; zotune leaves this token off, because it scores the answer",
                file.place
            );
        }
        let end = end(settings.id(&inner, "eos_token"), &stops(files, &config)?);
        let fill = (settings.class == Class::CodeLlama).then(|| inner.token_to_id(class::FILL)).flatten();
        Ok(Tokenizer { inner, front: bos_id.map_or(front, |id| vec![id]), end, fill, rows: usize::MAX, place: file.place })
    }

    /// Sets the number of rows of the model's embedding; text with a token beyond it is an error.
    pub fn with_rows(self, rows: usize) -> Self {
        let lacking = self.inner.get_vocab(false).into_iter().filter(|(_, id)| *id as usize >= rows);
        if let Some((token, id)) = lacking.min_by_key(|(_, id)| *id) {
            tracing::warn!(
                "the tokenizer has tokens (from {token:?}, id {id}) that the model's embedding of {rows} rows does not have: a text \
                 with one of them is refused"
            );
        }
        Tokenizer { rows, ..self }
    }

    /// The end-of-text token, if known: the tokenizer's `eos_token` if generation stops at it, else the first token at
    /// which generation stops (`eos_token_id` of generation_config.json, else of config.json).
    pub fn end(&self) -> Option<u32> {
        self.end.filter(|id| (*id as usize) < self.rows)
    }

    /// Tokens as written in the vocabulary, for people.
    pub fn pieces(&self, ids: &[u32]) -> Vec<String> {
        ids.iter().map(|id| self.inner.id_to_token(*id).unwrap_or_else(|| format!("<{id}>"))).collect()
    }

    /// The token ids of `text` after the tokenizer's leading tokens, which are not repeated if the text begins with
    /// them. A template's trailing tokens are omitted.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoded = unless_panic(|| self.inner.encode_fast(text, false));
        let encoded =
            encoded.with_context(|| format!("{} cannot tokenise {}; the file is damaged", self.place, quoted(text)))?;
        let encoding = encoded.map_err(|e| anyhow!("cannot tokenise {}: {e}", quoted(text)))?;
        let body = encoding.get_ids();
        if let Some(id) = body.iter().find(|id| **id as usize >= self.rows) {
            let token = self.inner.id_to_token(*id).unwrap_or_default();
            bail!(
                "{token:?} is token {id}, but the model's embedding has only {} rows; remove it from the text, or use the \
                 model's own tokenizer",
                self.rows
            );
        }
        if body.iter().any(|id| Some(*id) == self.fill) {
            bail!("{} asks Code Llama to fill a gap, which zotune does not support; remove it from the text", class::FILL);
        }
        let front = if body.starts_with(&self.front) { &[][..] } else { &self.front };
        Ok([front, body].concat())
    }
}

/// The ids that a post-processor puts before and after a text.
fn affixes(inner: &Inner) -> Result<(Vec<u32>, Vec<u32>)> {
    let Some(processor) = inner.get_post_processor() else { return Ok((Vec::new(), Vec::new())) };
    // A one-token text; the special-tokens mask tells it from the template's tokens.
    let text = Encoding::new(
        vec![0],
        vec![0],
        vec!["a".into()],
        vec![None],
        vec![(0, 1)],
        vec![0],
        vec![1],
        Vec::new(),
        Default::default(),
    );
    let whole = unless_panic(|| processor.process(text, None, true)).context("its post-processor is damaged")?;
    let whole = whole.map_err(|e| anyhow!("its post-processor does not work: {e}"))?;
    let own: Vec<usize> = (0..whole.len()).filter(|i| whole.get_special_tokens_mask()[*i] == 0).collect();
    let [at] = own[..] else {
        bail!("its post-processor repeats the text {} times; zotune can score a text only once", own.len())
    };
    Ok((whole.get_ids()[..at].to_vec(), whole.get_ids()[at + 1..].to_vec()))
}

/// The tokens at which transformers stops generating.
fn stops(files: &Source, config: &Map<String, Value>) -> Result<Vec<u32>> {
    let of = |fields: &Map<String, Value>, name: &str| match fields.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => {
            let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
            let ids = ids.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()));
            ids.collect::<Option<Vec<u32>>>()
                .ok_or_else(|| anyhow!("{}: eos_token_id is {value}, which is not a token id", files.place(name)))
        }
    };
    let generation = read_json(files, "generation_config.json")?.unwrap_or_default();
    let stops = of(&generation, "generation_config.json")?;
    if stops.is_empty() { of(config, "config.json") } else { Ok(stops) }
}

/// The token that completions are trained to end in.
fn end(eos: Option<u32>, stops: &[u32]) -> Option<u32> {
    match (eos, stops.first()) {
        (Some(eos), Some(first)) if !stops.contains(&eos) => {
            tracing::warn!(
                "the tokenizer's eos_token is {eos}, but generation does not stop at it (eos_token_id is {stops:?}): completions end \
                 with {first}"
            );
            Some(*first)
        }
        (Some(eos), _) => Some(eos),
        (None, first) => first.copied(),
    }
}

//! Converts a GGUF file's vocabulary to tokenizer.json.
//!
//! Two kinds are supported: byte-level BPE with its merges and the name of its pre-tokenisation pattern; and
//! SentencePiece BPE, whose merges are reconstructed from the pieces' scores.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::config::{TOKEN_IDS, as_text};
use super::header::{Header, Value, required};
use crate::base::text::nearest;

/// A pre-tokenizer, named by `tokenizer.ggml.pre`.
struct PreTokenizer {
    names: &'static [&'static str],
    /// Regexes that isolate pieces, in this order, before the byte-level step.
    patterns: &'static [&'static str],
    /// Whether GPT-2's pattern applies after them.
    gpt2: bool,
    /// Whether text is normalised to NFC first.
    nfc: bool,
    /// Whether words in the vocabulary skip the merges; such models put the begin token before every text.
    whole_words: bool,
}

const PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer { names: &["gpt-2"], patterns: &[], gpt2: true, nfc: false, whole_words: false },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact"],
        patterns: &[r"\p{N}"],
        gpt2: true,
        nfc: false,
        whole_words: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        gpt2: false,
        nfc: false,
        whole_words: true,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen"],
        patterns: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        gpt2: false,
        nfc: true,
        whole_words: false,
    },
];

/// The values of `tokenizer.ggml.token_type`.
const NORMAL: i64 = 1;

const UNKNOWN: i64 = 2;

const CONTROL: i64 = 3;

const USER_DEFINED: i64 = 4;

const UNUSED: i64 = 5;

/// `model` in tokenizer.json.
#[derive(Serialize)]
struct Bpe<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    dropout: Option<f32>,
    unk_token: Option<&'a str>,
    continuing_subword_prefix: Option<&'a str>,
    end_of_word_suffix: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: BTreeMap<&'a str, usize>,
    merges: Vec<(&'a str, &'a str)>,
}

/// tokenizer.json.
#[derive(Serialize)]
struct TokenizerFile<'a> {
    version: &'static str,
    truncation: Json,
    padding: Json,
    added_tokens: Vec<Json>,
    normalizer: Json,
    pre_tokenizer: Json,
    post_processor: Json,
    decoder: Json,
    model: Bpe<'a>,
}

/// The tokens of a file.
struct Tokens<'a> {
    texts: Vec<&'a str>,
    kinds: Vec<i64>,
}

impl<'a> Tokens<'a> {
    fn of(header: &'a Header) -> Result<Self> {
        let texts = header.list("tokenizer.ggml.tokens", as_text)?;
        let texts: Vec<&str> = required(texts, "tokenizer.ggml.tokens")?;
        let kinds = header.list("tokenizer.ggml.token_type", |value| match value {
            Value::Integer(kind) => Some(*kind),
            _ => None,
        })?;
        let kinds = kinds.unwrap_or_else(|| vec![NORMAL; texts.len()]);
        if kinds.len() != texts.len() {
            bail!("it has {} tokens, but gives the types of {}", texts.len(), kinds.len());
        }
        Ok(Tokens { texts, kinds })
    }

    /// The tokens matched in a text before anything else.
    fn added(&self) -> Vec<Json> {
        let tokens = self.texts.iter().zip(&self.kinds).enumerate();
        let added =
            tokens.filter(|(_, (text, kind))| matches!(**kind, CONTROL | UNKNOWN | USER_DEFINED) && !text.is_empty());
        added
            .map(|(id, (text, kind))| {
                json!({
                    "id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": *kind != USER_DEFINED,
                })
            })
            .collect()
    }

    fn vocab(&self, keep_unused: bool) -> BTreeMap<&'a str, usize> {
        let tokens = self.texts.iter().zip(&self.kinds).enumerate();
        tokens.filter(|(_, (_, kind))| keep_unused || **kind != UNUSED).map(|(id, (text, _))| (*text, id)).collect()
    }

    /// The id and text of a special token in the metadata.
    fn special(&self, header: &Header, name: &str) -> Result<Option<(usize, &'a str)>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = header.integer(&key)? else { return Ok(None) };
        match self.texts.get(id) {
            Some(text) => Ok(Some((id, text))),
            None => bail!("its metadata {key} is {id}, but it has {} tokens", self.texts.len()),
        }
    }
}

/// The tokenizer.json of a file.
pub fn tokenizer(header: &Header) -> Result<Vec<u8>> {
    let tokens = Tokens::of(header)?;
    let file = match required(header.text("tokenizer.ggml.model")?, "tokenizer.ggml.model")? {
        "gpt2" => byte_level(header, &tokens)?,
        "llama" => sentence_piece(header, &tokens)?,
        other => {
            bail!(
                "its tokenizer is of the kind \"{other}\"; gpt2 (byte-level BPE) and llama (SentencePiece BPE) are supported"
            )
        }
    };
    Ok(serde_json::to_vec(&file)?)
}

/// The tokenizer_config.json, with which transformers opens the tokenizer.
pub fn tokenizer_config(header: &Header, max_length: &Json) -> Result<Json> {
    let tokens = Tokens::of(header)?;
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
    config.insert("model_max_length".into(), max_length.clone());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    for (ours, theirs) in TOKEN_IDS {
        if let Some((_, text)) = tokens.special(header, theirs)? {
            config.insert(format!("{ours}_token"), text.into());
        }
    }
    if let Some(template) = header.text("tokenizer.chat_template")? {
        config.insert("chat_template".into(), template.into());
    }
    Ok(Json::Object(config))
}

/// A post-processor that puts the begin token before every text, if the file asks for it.
fn begin_template(header: &Header, tokens: &Tokens, default: bool) -> Result<Json> {
    if !header.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(default) {
        return Ok(Json::Null);
    }
    let bos = tokens.special(header, "bos")?;
    let (id, text) = required(bos, "tokenizer.ggml.bos_token_id")?;
    let (token, a, b) = (
        json!({ "SpecialToken": { "id": text, "type_id": 0 } }),
        json!({ "Sequence": { "id": "A", "type_id": 0 } }),
        json!({ "Sequence": { "id": "B", "type_id": 1 } }),
    );
    let second = json!({ "SpecialToken": { "id": text, "type_id": 1 } });
    Ok(json!({
        "type": "TemplateProcessing", "single": [token, a], "pair": [token, a, second, b],
        "special_tokens": { text: { "id": text, "ids": [id], "tokens": [text] } },
    }))
}

fn byte_level<'a>(header: &'a Header, tokens: &Tokens<'a>) -> Result<TokenizerFile<'a>> {
    let pre = required(header.text("tokenizer.ggml.pre")?, "tokenizer.ggml.pre")?;
    let Some(rules) = PRE_TOKENIZERS.iter().find(|rules| rules.names.contains(&pre)) else {
        let near = nearest(pre, PRE_TOKENIZERS.iter().flat_map(|rules| rules.names.iter().copied()));
        bail!("its tokenizer cuts text as \"{pre}\" does, which zotune does not know: {near}");
    };
    let merges = required(header.list("tokenizer.ggml.merges", as_text)?, "tokenizer.ggml.merges")?;
    let merges: Option<Vec<(&str, &str)>> = merges.into_iter().map(|merge| merge.split_once(' ')).collect();
    let split = |pattern: &&str| json!({ "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false });
    let bytes =
        |gpt2: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": gpt2 });
    let steps: Vec<Json> = rules.patterns.iter().map(split).chain([bytes(rules.gpt2)]).collect();
    Ok(TokenizerFile {
        version: "1.0",
        truncation: Json::Null,
        padding: Json::Null,
        added_tokens: tokens.added(),
        normalizer: if rules.nfc { json!({ "type": "NFC" }) } else { Json::Null },
        pre_tokenizer: json!({ "type": "Sequence", "pretokenizers": steps }),
        post_processor: begin_template(header, tokens, rules.whole_words)?,
        decoder: bytes(true),
        model: Bpe {
            kind: "BPE",
            dropout: None,
            unk_token: None,
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: false,
            byte_fallback: false,
            ignore_merges: rules.whole_words,
            vocab: tokens.vocab(false),
            merges: merges.context("one of its merges is not two pieces with a space between them")?,
        },
    })
}

fn sentence_piece<'a>(header: &'a Header, tokens: &Tokens<'a>) -> Result<TokenizerFile<'a>> {
    let scores = header.list("tokenizer.ggml.scores", |value| match value {
        Value::Float(score) => Some(*score).filter(|score| score.is_finite()),
        Value::Integer(score) => Some(*score as f64),
        _ => None,
    })?;
    let scores: Vec<f64> = required(scores, "tokenizer.ggml.scores")?;
    if scores.len() != tokens.texts.len() {
        bail!("it has {} tokens, but scores for {}", tokens.texts.len(), scores.len());
    }
    let prefix = header.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let spaces = json!({ "type": "Replace", "pattern": { "String": " " }, "content": "▁" });
    let back = json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " });
    let in_front = prefix.then(|| json!({ "type": "Prepend", "prepend": "▁" }));
    let stripped = prefix.then(|| json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    let decoders = [back, json!({ "type": "ByteFallback" }), json!({ "type": "Fuse" })];
    Ok(TokenizerFile {
        version: "1.0",
        truncation: Json::Null,
        padding: Json::Null,
        added_tokens: tokens.added(),
        normalizer: json!({ "type": "Sequence", "normalizers": in_front.into_iter().chain([spaces]).collect::<Vec<_>>() }),
        pre_tokenizer: Json::Null,
        post_processor: begin_template(header, tokens, true)?,
        decoder: json!({ "type": "Sequence", "decoders": decoders.into_iter().chain(stripped).collect::<Vec<_>>() }),
        model: Bpe {
            kind: "BPE",
            dropout: None,
            unk_token: tokens.special(header, "unknown")?.map(|(_, text)| text),
            continuing_subword_prefix: None,
            end_of_word_suffix: None,
            fuse_unk: true,
            byte_fallback: true,
            ignore_merges: false,
            vocab: tokens.vocab(true),
            merges: merges_by_score(tokens, &scores),
        },
    })
}

/// All merges of two pieces into a third, by decreasing score of the result; then by the length of the halves, as in
/// transformers' conversion.
fn merges_by_score<'a>(tokens: &Tokens<'a>, scores: &[f64]) -> Vec<(&'a str, &'a str)> {
    let is_piece = |id: &usize| tokens.kinds[*id] == NORMAL;
    let pieces: HashMap<&str, usize> = (0..tokens.texts.len()).filter(is_piece).map(|id| (tokens.texts[id], id)).collect();
    let mut merges = Vec::new();
    for (whole, id) in &pieces {
        for (middle, _) in whole.char_indices().skip(1) {
            let (left, right) = whole.split_at(middle);
            if pieces.contains_key(left) && pieces.contains_key(right) {
                merges.push((scores[*id], *id, left, right));
            }
        }
    }
    let chars = |text: &str| text.chars().count();
    merges
        .sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| (chars(a.2), chars(a.3), a.1).cmp(&(chars(b.2), chars(b.3), b.1))));
    merges.into_iter().map(|(_, _, left, right)| (left, right)).collect()
}

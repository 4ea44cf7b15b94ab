//! Text to token ids: a `tokenizer.json`, or OPT's `vocab.json` and `merges.txt` with its begin token in front.

use anyhow::{Context, Result, anyhow, bail};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Inner};

use crate::files::Source;

/// A model's tokenizer.
pub struct Tokenizer {
    inner: Inner,
    /// The begin token that we put in front; None: the tokenizer's own post-processor sees to it.
    bos: Option<u32>,
    /// What a completion ends in.
    end: Option<u32>,
}

impl Tokenizer {
    /// Files that a tokenizer may consist of; those that are there go with the weights wherever they are written.
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

    /// Opens the tokenizer of a model. `bos_id` overrides the begin token; `config_bos_id` is what config.json names.
    pub fn open(files: &Source, bos_id: Option<u32>, config_bos_id: Option<u32>) -> Result<Self> {
        if let Some(bytes) = files.read("tokenizer.json")? {
            let place = files.place("tokenizer.json");
            let mut inner = Inner::from_bytes(&bytes).map_err(|e| anyhow!("cannot read {place}: {e}"))?;
            // Left over from somebody's training; how long a prompt may be is for us to say.
            inner.with_truncation(None).map_err(|e| anyhow!("cannot read {place}: {e}"))?;
            inner.with_padding(None);
            return Ok(Tokenizer { inner, bos: bos_id, end: None });
        }
        let (Some(vocab), Some(merges)) = (files.read("vocab.json")?, files.read("merges.txt")?) else {
            bail!(
                "{} is missing, and so is vocab.json or merges.txt; transformers' AutoTokenizer writes one with save_pretrained",
                files.place("tokenizer.json")
            );
        };
        let inner = byte_level_bpe(&vocab, &merges)
            .with_context(|| format!("cannot read {} with {}", files.place("vocab.json"), files.place("merges.txt")))?;
        // transformers puts OPT's `</s>` in front; MeZO's code forced `<s>`, id 0.
        Ok(Tokenizer { inner, bos: Some(bos_id.or(config_bos_id).unwrap_or(2)), end: None })
    }

    /// With the end token that config.json names.
    pub fn with_end(self, end: Option<u32>) -> Self {
        Tokenizer { end, ..self }
    }

    /// The token that says that a text is at its end, if one is known.
    pub fn end(&self) -> Option<u32> {
        self.end
    }

    /// Token ids of `text`, begin token included.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let own_bos = self.bos.is_none();
        let encoding = self.inner.encode(text, own_bos).map_err(|e| anyhow!("cannot tokenise {text:?}: {e}"))?;
        Ok(self.bos.into_iter().chain(encoding.get_ids().iter().copied()).collect())
    }

    /// Tokens as the vocabulary writes them, for people.
    pub fn pieces(&self, ids: &[u32]) -> Vec<String> {
        ids.iter().map(|id| self.inner.id_to_token(*id).unwrap_or_else(|| format!("<{id}>"))).collect()
    }

    /// One more than the largest id that can come out.
    pub fn id_limit(&self) -> usize {
        let largest = self.inner.get_vocab(true).into_values().max().unwrap_or(0);
        1 + largest.max(self.bos.unwrap_or(0)) as usize
    }
}

/// GPT-2's byte-level BPE, as OPT uses it.
fn byte_level_bpe(vocab: &[u8], merges: &[u8]) -> Result<Inner> {
    let vocab: Vocab = serde_json::from_slice::<std::collections::HashMap<_, _>>(vocab)?.into_iter().collect();
    let merges = std::str::from_utf8(merges).context("merges.txt is not UTF-8")?;
    let merges = merges
        .lines()
        .filter(|line| !line.starts_with("#version") && !line.is_empty())
        .map(|line| line.split_once(' ').map(|(a, b)| (a.to_string(), b.to_string())))
        .collect::<Option<Vec<_>>>()
        .context("merges.txt has a line that is not two words")?;
    let special: Vec<AddedToken> = ["<s>", "</s>", "<pad>", "<unk>", "<mask>"]
        .into_iter()
        .filter(|t| vocab.contains_key(*t))
        .map(|t| AddedToken::from(t, true))
        .collect();
    let bpe = BPE::builder().vocab_and_merges(vocab, merges).build().map_err(|e| anyhow!("{e}"))?;
    let mut inner = Inner::new(bpe);
    inner.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    inner.add_special_tokens(&special);
    Ok(inner)
}

//! Which of transformers' tokenizer classes a folder's tokenizer is of.
//!
//! Since transformers 5 a class takes of tokenizer.json the vocabulary, the merges and the post-processor, and makes the rest
//! itself: how text is normalised and cut, what becomes of bytes that are no token. The generic class takes the file as it
//! stands. Which class it is depends on config.json's `model_type` as well (transformers' AutoTokenizer).

use anyhow::{Result, bail};

/// A tokenizer class of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// tokenizer.json as it stands.
    AsItStands,
    /// GPT-2's byte-level BPE, OPT's too.
    Gpt2,
    /// Qwen2's: Unicode composed, its own pattern, digits one by one.
    Qwen2,
    /// LLaMA's: SentencePiece's BPE with a space in front.
    Llama,
    /// Code Llama's: the same with tokens for infilling.
    CodeLlama,
    /// Gemma's: SentencePiece's BPE without a space in front.
    Gemma,
}

/// `tokenizer_class` and what it is; each with "Fast" behind as well.
const NAMES: &[(&str, Class)] = &[
    ("PreTrainedTokenizer", Class::AsItStands),
    ("TokenizersBackend", Class::AsItStands),
    ("GPT2Tokenizer", Class::Gpt2),
    ("Qwen2Tokenizer", Class::Qwen2),
    ("LlamaTokenizer", Class::Llama),
    ("CodeLlamaTokenizer", Class::CodeLlama),
    ("GemmaTokenizer", Class::Gemma),
];

/// A model type's own class, for which none may be declared; LLaMA has none.
const OF_MODELS: &[(&str, Class)] = &[
    ("opt", Class::Gpt2),
    ("mistral", Class::AsItStands),
    ("qwen2", Class::Qwen2),
    ("qwen3", Class::Qwen2),
    ("gemma", Class::Gemma),
    ("gemma2", Class::Gemma),
    ("gemma3_text", Class::Gemma),
];

/// Code Llama's token for the gap between what is before and what is behind; transformers turns such a text round.
pub const FILL: &str = "<FILL_ME>";

/// Qwen2's pattern.
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Class {
    /// The class that transformers 5 opens; `byte_level`: whether there is a tokenizer.json that says ByteLevel.
    pub fn find(model_type: &str, declared: Option<&str>, byte_level: bool, place: &str) -> Result<Self> {
        let own = OF_MODELS.iter().find(|(name, _)| *name == model_type).map(|(_, class)| *class);
        let Some(name) = declared.filter(|name| !name.is_empty()) else { return Ok(own.unwrap_or(Class::AsItStands)) };
        // Whatever they declare.
        if model_type == "mistral" || model_type == "qwen2" {
            return Ok(own.unwrap_or(Class::AsItStands));
        }
        let stem = name.strip_suffix("Fast").unwrap_or(name);
        let Some((_, class)) = NAMES.iter().find(|(name, _)| *name == stem) else {
            let known: Vec<_> = NAMES.iter().map(|(name, _)| *name).collect();
            bail!(
                "{place}: tokenizer_class is {name:?}, which zotune does not know; it knows {}, and PreTrainedTokenizerFast \
                 uses tokenizer.json as it is",
                known.join(", ")
            );
        };
        Ok(if *class == Class::Llama && byte_level { Class::AsItStands } else { *class })
    }

    /// As `tokenizer_class` names it.
    pub fn name(self) -> &'static str {
        match self {
            Class::AsItStands => "PreTrainedTokenizerFast",
            _ => NAMES.iter().find(|(_, class)| *class == self).map_or("", |(name, _)| *name),
        }
    }

    /// The named tokens that a class has where tokenizer_config.json says nothing.
    pub fn defaults(self) -> &'static [(&'static str, &'static str)] {
        const GPT2: &[(&str, &str)] =
            &[("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>")];
        const QWEN2: &[(&str, &str)] =
            &[("eos_token", "<|endoftext|>"), ("unk_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")];
        const LLAMA: &[(&str, &str)] = &[("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")];
        const GEMMA: &[(&str, &str)] = &[
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("unk_token", "<unk>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ];
        match self {
            Class::AsItStands => &[],
            Class::Gpt2 => GPT2,
            Class::Qwen2 => QWEN2,
            Class::Llama | Class::CodeLlama => LLAMA,
            Class::Gemma => GEMMA,
        }
    }

    /// Tokens that a class adds whatever the files say.
    pub fn always(self) -> &'static [&'static str] {
        if self == Class::CodeLlama { &["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>", FILL] } else { &[] }
    }
}

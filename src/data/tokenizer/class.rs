//! The tokenizer class that transformers chooses for a folder.
//!
//! Since transformers 5 a class takes the vocabulary, the merges and the post-processor from tokenizer.json and builds
//! the normaliser, pre-tokenizer and byte fallback itself; the generic class takes the file unchanged. config.json's
//! `model_type` takes part in the choice (transformers' AutoTokenizer).

use anyhow::{Result, bail};

/// A tokenizer class of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The generic class: tokenizer.json unchanged.
    Generic,
    /// GPT-2: byte-level BPE; OPT too.
    Gpt2,
    /// Qwen2: NFC, its own pattern, single digits.
    Qwen2,
    /// LLaMA: SentencePiece BPE with a leading space.
    Llama,
    /// Code Llama: LLaMA with infilling tokens.
    CodeLlama,
    /// Gemma: SentencePiece BPE without a leading space.
    Gemma,
}

/// Values of `tokenizer_class`; each also with the suffix "Fast".
const NAMES: &[(&str, Class)] = &[
    ("PreTrainedTokenizer", Class::Generic),
    ("TokenizersBackend", Class::Generic),
    ("GPT2Tokenizer", Class::Gpt2),
    ("Qwen2Tokenizer", Class::Qwen2),
    ("LlamaTokenizer", Class::Llama),
    ("CodeLlamaTokenizer", Class::CodeLlama),
    ("GemmaTokenizer", Class::Gemma),
];

/// The class of a model type if none is declared; `llama` has none.
const OF_MODELS: &[(&str, Class)] = &[
    ("opt", Class::Gpt2),
    ("mistral", Class::Generic),
    ("qwen2", Class::Qwen2),
    ("qwen3", Class::Qwen2),
    ("gemma", Class::Gemma),
    ("gemma2", Class::Gemma),
    ("gemma3_text", Class::Gemma),
];

/// Code Llama's infilling token; transformers reorders a text that contains it.
pub const FILL: &str = "<FILL_ME>";

/// Qwen2's pre-tokenisation pattern.
pub(super) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Class {
    /// The class that transformers 5 chooses; `byte_level`: whether tokenizer.json uses ByteLevel. Fails on an unknown
    /// class.
    pub fn find(model_type: &str, declared: Option<&str>, byte_level: bool, place: &str) -> Result<Self> {
        let own = OF_MODELS.iter().find(|(name, _)| *name == model_type).map(|(_, class)| *class);
        let Some(name) = declared.filter(|name| !name.is_empty()) else { return Ok(own.unwrap_or(Class::Generic)) };
        // transformers ignores the declared class of these.
        if model_type == "mistral" || model_type == "qwen2" {
            return Ok(own.unwrap_or(Class::Generic));
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
        Ok(if *class == Class::Llama && byte_level { Class::Generic } else { *class })
    }

    /// Its name in `tokenizer_class`.
    pub fn name(self) -> &'static str {
        match self {
            Class::Generic => "PreTrainedTokenizerFast",
            _ => NAMES.iter().find(|(_, class)| *class == self).map_or("", |(name, _)| *name),
        }
    }

    /// The default named tokens of the class.
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
            Class::Generic => &[],
            Class::Gpt2 => GPT2,
            Class::Qwen2 => QWEN2,
            Class::Llama | Class::CodeLlama => LLAMA,
            Class::Gemma => GEMMA,
        }
    }

    /// Tokens that the class adds regardless of the files.
    pub fn always(self) -> &'static [&'static str] {
        if self == Class::CodeLlama { &["▁<PRE>", "▁<MID>", "▁<SUF>", "▁<EOT>", FILL] } else { &[] }
    }
}

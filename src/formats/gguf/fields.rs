//! How each key of a GGUF file's metadata is used, following llama.cpp.

use anyhow::Result;
use serde_json::{Map, Value as Json};

use super::header::{Header, Value};
use crate::base::{Table, Use, fields};

const YARN: &str = "YaRN's and similar ones, which are not supported";

/// Keys with the architecture's name as prefix, such as `llama.`.
pub const ARCHITECTURE: Table = Table {
    file: "GGUF metadata, under the architecture's name",
    of: "",
    fields: &[
        ("context_length", Use::Read, "the longest prompt"),
        ("embedding_length", Use::Read, ""),
        ("block_count", Use::Read, ""),
        ("feed_forward_length", Use::Read, "one number for all blocks"),
        ("vocab_size", Use::NoEffect, "the embedding's rows are counted"),
        ("attention.head_count", Use::Read, "one number for all blocks"),
        ("attention.head_count_kv", Use::Read, "one number for all blocks; absent: as many as there are query heads"),
        ("attention.key_length", Use::Read, "the width of a head; absent: embedding_length over heads"),
        ("attention.value_length", Use::Read, "must be the same"),
        ("attention.key_length_swa", Use::Read, "must be the same"),
        ("attention.value_length_swa", Use::Read, "must be the same"),
        ("attention.layer_norm_rms_epsilon", Use::Read, ""),
        ("attention.sliding_window", Use::Read, "the longest prompt is the window; absent: 4096 in Gemma 2, none elsewhere"),
        (
            "attention.sliding_window_pattern",
            Use::Read,
            "which blocks slide: a period, or a flag for each; absent: 2 in Gemma 2, 6 in Gemma 3",
        ),
        ("attention.causal", Use::Only(&["true"]), "a language model looks back only"),
        ("attention.scale", Use::Refused, "scores are divided by the root of a head's width"),
        ("attention.max_alibi_bias", Use::Only(&["0"]), "positions are rotary"),
        ("attention.clamp_kqv", Use::Only(&["0"]), "nothing is clamped"),
        ("rope.dimension_count", Use::Read, "must be the width of a head"),
        ("rope.dimension_count_swa", Use::Read, "must be the same"),
        ("rope.dimension_sections", Use::Refused, "positions of images and videos"),
        ("rope.freq_base", Use::Read, "absent: 10000"),
        ("rope.freq_base_swa", Use::Read, "of blocks that slide; absent: 10000 in Gemma 3, rope.freq_base elsewhere"),
        (
            "rope.scaling.type",
            Use::Read,
            "none and linear are supported, and LLaMA 3's, which is in rope_freqs.weight; absent: linear",
        ),
        ("rope.scaling.factor", Use::Read, "absent or 0: 1"),
        ("rope.scale_linear", Use::Read, "the older name of rope.scaling.factor"),
        ("rope.scaling.original_context_length", Use::NoEffect, "YaRN alone looks at it, and is refused by its type"),
        ("rope.scaling.finetuned", Use::NoEffect, "a note"),
        ("rope.scaling.attn_factor", Use::Only(&["1"]), YARN),
        ("rope.scaling.alpha", Use::Refused, YARN),
        ("rope.scaling.yarn_log_multiplier", Use::Refused, YARN),
        ("rope.scaling.yarn_ext_factor", Use::Refused, YARN),
        ("rope.scaling.yarn_attn_factor", Use::Refused, YARN),
        ("rope.scaling.yarn_beta_fast", Use::Refused, YARN),
        ("rope.scaling.yarn_beta_slow", Use::Refused, YARN),
        ("expert_count", Use::Only(&["0"]), "mixtures of experts are not supported"),
        ("expert_used_count", Use::Only(&["0"]), "mixtures of experts are not supported"),
        ("leading_dense_block_count", Use::Only(&["0"]), "mixtures of experts are not supported"),
        ("nextn_predict_layers", Use::Only(&["0"]), "blocks that predict the token after the next are not supported"),
        ("logit_scale", Use::Refused, "Granite's"),
        ("embedding_scale", Use::Refused, "Granite's"),
        ("residual_scale", Use::Refused, "Granite's"),
        ("use_parallel_residual", Use::Only(&["false"]), "a block's two halves follow each other"),
        ("pooling_type", Use::NoEffect, "of embeddings of whole texts"),
        ("tensor_data_layout", Use::NoEffect, "a note, which llama.cpp does not look at"),
    ],
};

/// Further keys of Gemma 2 and 3.
pub const CAPS: Table = Table {
    file: "GGUF metadata, under the architecture's name",
    of: "Gemma 2 and Gemma 3",
    fields: &[
        ("attn_logit_softcapping", Use::Read, "absent: 50 in Gemma 2; Gemma 3 has none"),
        ("final_logit_softcapping", Use::Read, "absent: 30 in Gemma 2, none in Gemma 3"),
    ],
};

/// Keys with the prefix `tokenizer.`.
pub const TOKENIZER: Table = Table {
    file: "GGUF metadata, under tokenizer",
    of: "",
    fields: &[
        ("ggml.model", Use::Read, "gpt2 (byte-level BPE) and llama (SentencePiece BPE) are supported"),
        ("ggml.pre", Use::Read, "the pattern that text is cut by; an unknown one is refused"),
        ("ggml.tokens", Use::Read, ""),
        ("ggml.token_type", Use::Read, "absent: all are normal"),
        ("ggml.scores", Use::Read, "of SentencePiece BPE"),
        ("ggml.merges", Use::Read, "of byte-level BPE"),
        ("ggml.bos_token_id", Use::Read, ""),
        ("ggml.eos_token_id", Use::Read, ""),
        ("ggml.unknown_token_id", Use::Read, ""),
        ("ggml.padding_token_id", Use::Read, ""),
        ("ggml.add_bos_token", Use::Read, "absent: true for SentencePiece BPE and LLaMA 3"),
        ("ggml.add_space_prefix", Use::Read, "absent: true for SentencePiece BPE; byte-level BPE does without"),
        ("ggml.add_eos_token", Use::NoEffect, "an end token after a text is not part of what is scored"),
        ("ggml.add_sep_token", Use::NoEffect, "of BERT"),
        ("ggml.remove_extra_whitespaces", Use::NoEffect, "of Unigram"),
        ("ggml.precompiled_charsmap", Use::NoEffect, "of Unigram"),
        ("ggml.token_type_count", Use::NoEffect, "of BERT"),
        ("ggml.seperator_token_id", Use::NoEffect, "of BERT"),
        ("ggml.cls_token_id", Use::NoEffect, "of BERT"),
        ("ggml.mask_token_id", Use::NoEffect, "of BERT"),
        ("ggml.eot_token_id", Use::NoEffect, "where generation stops"),
        ("ggml.eom_token_id", Use::NoEffect, "where generation stops"),
        ("ggml.prefix_token_id", Use::NoEffect, "of infilling"),
        ("ggml.suffix_token_id", Use::NoEffect, "of infilling"),
        ("ggml.middle_token_id", Use::NoEffect, "of infilling"),
        ("ggml.fim_pre_token_id", Use::NoEffect, "of infilling"),
        ("ggml.fim_suf_token_id", Use::NoEffect, "of infilling"),
        ("ggml.fim_mid_token_id", Use::NoEffect, "of infilling"),
        ("ggml.fim_pad_token_id", Use::NoEffect, "of infilling"),
        ("ggml.fim_rep_token_id", Use::NoEffect, "of infilling"),
        ("ggml.fim_sep_token_id", Use::NoEffect, "of infilling"),
        ("chat_template", Use::NoEffect, "handed on into tokenizer_config.json"),
        ("chat_template.{name}", Use::NoEffect, "other templates"),
        ("chat_templates", Use::NoEffect, "their names"),
        ("huggingface.json", Use::NoEffect, "a tokenizer.json, which llama.cpp does not look at"),
    ],
};

/// All other keys; llama.cpp ignores them.
pub const OTHERS: Table = Table {
    file: "GGUF metadata, the rest",
    of: "",
    fields: &[
        ("general.architecture", Use::Read, ""),
        ("general.type", Use::Read, "only model is supported"),
        ("general.alignment", Use::Read, "absent: 32"),
        ("split.count", Use::Only(&["1"]), "a model in several files must be joined first"),
        ("general.{name}, split.{name}", Use::NoEffect, "names, licences, where it comes from, how it was quantised"),
        (
            "{other}",
            Use::NoEffect,
            "names that llama.cpp does not know (quantize.imatrix, mradermacher): it does not look at them",
        ),
    ],
};

/// All tables of GGUF metadata.
pub const TABLES: [Table; 4] = [ARCHITECTURE, CAPS, TOKENIZER, OTHERS];

/// Fails if the metadata of a file of this architecture have an unsupported key or value.
pub fn check(header: &Header, architecture: &str, has_caps: bool) -> Result<()> {
    let under = |prefix: &str| -> Map<String, Json> {
        let keys = header.metadata().iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?, value)));
        keys.map(|(key, value)| (key.to_string(), as_json(value))).collect()
    };
    let own: &[Table] = if has_caps { &[ARCHITECTURE, CAPS] } else { &[ARCHITECTURE] };
    fields::check(own, &format!("its metadata, under {architecture}"), &under(&format!("{architecture}.")))?;
    let mut tokenizer = under("tokenizer.");
    tokenizer.retain(|key, _| !key.starts_with("chat_template."));
    fields::check(&[TOKENIZER], "its metadata, under tokenizer", &tokenizer)
}

/// A value as an error shows it; long lists by their length.
fn as_json(value: &Value) -> Json {
    match value {
        Value::Integer(n) => (*n).into(),
        Value::Float(x) => (*x).into(),
        Value::Flag(flag) => (*flag).into(),
        Value::Text(text) => text.as_str().into(),
        Value::List(values) if values.len() <= 16 => values.iter().map(as_json).collect(),
        Value::List(values) => format!("a list of {}", values.len()).into(),
    }
}

//! config.json: where it is read, which architecture it is of, and that nothing in it is passed over.

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::loader::Loader;
use super::{Architecture, adapter, design, gemma, llama, opt, qwen, rope};
use crate::error::nearest;
use crate::fields::{self, Table, Use};
use crate::files::Source;

const GENERATION: &str = "of generation";
const CLASSIFIER: &str = "of a classifier";
const OUTPUT: &str = "what transformers returns beside the logits";
const NOTE: &str = "a note of who wrote the file";
const KERNEL: &str = "how transformers computes, not what";

/// The fields that every config.json may have: those of transformers' PretrainedConfig (4 and 5), what it keeps for generation, and
/// what others write beside.
pub const FIELDS: Table = Table {
    file: "config.json",
    of: "",
    fields: &[
        ("model_type", Use::Read, "the architecture"),
        ("bos_token_id", Use::NoEffect, "the tokenizer's files say what stands in front of a text; or `--bos-id`"),
        ("eos_token_id", Use::Read, "where generation stops, if generation_config.json names none: what completions end in"),
        ("pad_token_id", Use::NoEffect, "nothing is padded"),
        ("unk_token_id", Use::NoEffect, "the tokenizer has it"),
        ("sep_token_id", Use::NoEffect, "the tokenizer has it"),
        ("decoder_start_token_id", Use::NoEffect, "of models that encode first"),
        ("architectures", Use::NoEffect, "what transformers' class for language models is is decided by model_type"),
        (
            "auto_map",
            Use::NoEffect,
            "code of the model's own, which is not run, as without trust_remote_code; a warning says so",
        ),
        ("custom_pipelines", Use::NoEffect, "the same"),
        ("dtype", Use::NoEffect, "--dtype says what weights are held in"),
        ("torch_dtype", Use::NoEffect, "the same"),
        ("quantization_config", Use::Refused, "quantised weights are not read, but for GGUF"),
        ("compression_config", Use::Refused, "quantised weights are not read, but for GGUF"),
        ("quantization", Use::Refused, "MLX's quantised weights are not read"),
        ("per_layer_config", Use::Refused, "all blocks are of one size"),
        ("is_causal", Use::Only(&["true"]), "a language model looks back only"),
        ("is_decoder", Use::NoEffect, "a language model looks back only, whatever this says"),
        ("is_encoder_decoder", Use::Only(&["false"]), "there is no encoder"),
        ("add_cross_attention", Use::Only(&["false"]), "there is no encoder"),
        ("cross_attention_hidden_size", Use::Refused, "there is no encoder"),
        ("tie_encoder_decoder", Use::Only(&["false"]), "there is no encoder"),
        ("pruned_heads", Use::Only(&["{}"]), "all heads are there"),
        ("chunk_size_feed_forward", Use::NoEffect, KERNEL),
        ("attn_implementation", Use::NoEffect, KERNEL),
        ("_attn_implementation", Use::NoEffect, KERNEL),
        ("_attn_implementation_autoset", Use::NoEffect, KERNEL),
        ("_attn_implementation_internal", Use::NoEffect, KERNEL),
        ("_flash_attn_2_enabled", Use::NoEffect, KERNEL),
        ("experts_implementation", Use::NoEffect, KERNEL),
        ("_experts_implementation", Use::NoEffect, KERNEL),
        ("base_model_tp_plan", Use::NoEffect, KERNEL),
        ("base_model_pp_plan", Use::NoEffect, KERNEL),
        ("gradient_checkpointing", Use::NoEffect, KERNEL),
        ("use_cache", Use::NoEffect, GENERATION),
        ("torchscript", Use::NoEffect, KERNEL),
        ("use_bfloat16", Use::NoEffect, "of TensorFlow"),
        ("tf_legacy_loss", Use::NoEffect, "of TensorFlow"),
        ("output_attentions", Use::NoEffect, OUTPUT),
        ("output_hidden_states", Use::NoEffect, OUTPUT),
        ("tie_last_hidden_states", Use::NoEffect, OUTPUT),
        ("return_dict", Use::NoEffect, OUTPUT),
        ("use_return_dict", Use::NoEffect, OUTPUT),
        ("id2label", Use::NoEffect, CLASSIFIER),
        ("label2id", Use::NoEffect, CLASSIFIER),
        ("num_labels", Use::NoEffect, CLASSIFIER),
        ("_num_labels", Use::NoEffect, CLASSIFIER),
        ("problem_type", Use::NoEffect, CLASSIFIER),
        ("finetuning_task", Use::NoEffect, CLASSIFIER),
        ("task_specific_params", Use::NoEffect, GENERATION),
        ("tokenizer_class", Use::NoEffect, "the tokenizer's files say what it is"),
        ("prefix", Use::NoEffect, "of transformers' pipelines"),
        ("name_or_path", Use::NoEffect, NOTE),
        ("_name_or_path", Use::NoEffect, NOTE),
        ("_model_name_or_path", Use::NoEffect, NOTE),
        ("_commit_hash", Use::NoEffect, NOTE),
        ("transformers_version", Use::NoEffect, NOTE),
        ("transformers.js_config", Use::NoEffect, NOTE),
        ("unsloth_version", Use::NoEffect, NOTE),
        ("unsloth_fixed", Use::NoEffect, NOTE),
        ("model_name", Use::NoEffect, NOTE),
        ("max_sequence_length", Use::NoEffect, "a note beside max_position_embeddings, in LLaMA 1's conversions"),
        ("model_max_length", Use::NoEffect, "the same"),
        ("neftune_noise_alpha", Use::NoEffect, "of another trainer"),
        ("use_flash_attention_2", Use::NoEffect, KERNEL),
        ("trust_remote_code", Use::NoEffect, NOTE),
        ("max_length", Use::NoEffect, GENERATION),
        ("max_new_tokens", Use::NoEffect, GENERATION),
        ("min_length", Use::NoEffect, GENERATION),
        ("do_sample", Use::NoEffect, GENERATION),
        ("early_stopping", Use::NoEffect, GENERATION),
        ("num_beams", Use::NoEffect, GENERATION),
        ("num_beam_groups", Use::NoEffect, GENERATION),
        ("diversity_penalty", Use::NoEffect, GENERATION),
        ("temperature", Use::NoEffect, GENERATION),
        ("top_k", Use::NoEffect, GENERATION),
        ("top_p", Use::NoEffect, GENERATION),
        ("typical_p", Use::NoEffect, GENERATION),
        ("epsilon_cutoff", Use::NoEffect, GENERATION),
        ("eta_cutoff", Use::NoEffect, GENERATION),
        ("repetition_penalty", Use::NoEffect, GENERATION),
        ("encoder_repetition_penalty", Use::NoEffect, GENERATION),
        ("length_penalty", Use::NoEffect, GENERATION),
        ("no_repeat_ngram_size", Use::NoEffect, GENERATION),
        ("encoder_no_repeat_ngram_size", Use::NoEffect, GENERATION),
        ("bad_words_ids", Use::NoEffect, GENERATION),
        ("num_return_sequences", Use::NoEffect, GENERATION),
        ("output_scores", Use::NoEffect, GENERATION),
        ("return_dict_in_generate", Use::NoEffect, GENERATION),
        ("forced_bos_token_id", Use::NoEffect, GENERATION),
        ("forced_eos_token_id", Use::NoEffect, GENERATION),
        ("remove_invalid_values", Use::NoEffect, GENERATION),
        ("exponential_decay_length_penalty", Use::NoEffect, GENERATION),
        ("suppress_tokens", Use::NoEffect, GENERATION),
        ("begin_suppress_tokens", Use::NoEffect, GENERATION),
        ("num_assistant_tokens", Use::NoEffect, GENERATION),
        ("num_assistant_tokens_schedule", Use::NoEffect, GENERATION),
        ("assistant_confidence_threshold", Use::NoEffect, GENERATION),
        ("assistant_lookbehind", Use::NoEffect, GENERATION),
        ("target_lookbehind", Use::NoEffect, GENERATION),
    ],
};

/// Every table of config.json and of the objects in it.
pub const TABLES: [Table; 15] = [
    FIELDS,
    opt::FIELDS,
    design::FIELDS,
    design::LLAMA_FIELDS,
    design::MISTRAL_FIELDS,
    qwen::FIELDS,
    qwen::QWEN2_FIELDS,
    qwen::QWEN3_FIELDS,
    gemma::FIELDS,
    gemma::GEMMA_FIELDS,
    gemma::LATER_FIELDS,
    gemma::GEMMA2_FIELDS,
    gemma::GEMMA3_FIELDS,
    rope::FIELDS,
    rope::KINDS,
];

/// How a model is loaded from its config.json.
pub type Load = fn(Value, &mut Loader) -> Result<Box<dyn Architecture>>;

/// An architecture: config.json's `model_type`, the fields that it has, and how to load one.
pub struct Kind {
    /// `model_type`.
    pub name: &'static str,
    /// What its config.json may have beside [`FIELDS`].
    pub fields: &'static [Table],
    pub(super) load: Load,
}

/// The architectures.
pub const ARCHITECTURES: &[Kind] = &[
    Kind {
        name: "opt",
        fields: &[opt::FIELDS],
        load: |config, loader| Ok(Box::new(opt::Opt::load(parse(config)?, loader)?)),
    },
    Kind {
        name: "llama",
        fields: &[design::FIELDS, design::LLAMA_FIELDS],
        load: |config, loader| decoder(parse::<design::Config>(config)?.llama()?, loader),
    },
    Kind {
        name: "mistral",
        fields: &[design::FIELDS, design::MISTRAL_FIELDS],
        load: |config, loader| decoder(parse::<design::Config>(config)?.mistral()?, loader),
    },
    Kind {
        name: "qwen2",
        fields: &[design::FIELDS, qwen::FIELDS, qwen::QWEN2_FIELDS],
        load: |config, loader| decoder(parse::<qwen::Config>(config)?.qwen2()?, loader),
    },
    Kind {
        name: "qwen3",
        fields: &[design::FIELDS, qwen::FIELDS, qwen::QWEN3_FIELDS],
        load: |config, loader| decoder(parse::<qwen::Config>(config)?.qwen3()?, loader),
    },
    Kind {
        name: "gemma",
        fields: &[design::FIELDS, gemma::FIELDS, gemma::GEMMA_FIELDS],
        load: |config, loader| decoder(parse::<gemma::Config>(config)?.gemma()?, loader),
    },
    Kind {
        name: "gemma2",
        fields: &[design::FIELDS, gemma::FIELDS, gemma::LATER_FIELDS, gemma::GEMMA2_FIELDS],
        load: |config, loader| decoder(parse::<gemma::Config>(config)?.gemma2()?, loader),
    },
    Kind {
        name: "gemma3_text",
        fields: &[design::FIELDS, gemma::FIELDS, gemma::LATER_FIELDS, gemma::GEMMA3_FIELDS],
        load: |config, loader| decoder(parse::<gemma::Config>(config)?.gemma3()?, loader),
    },
];

/// A model of LLaMA's family.
fn decoder(design: design::Design, loader: &mut Loader) -> Result<Box<dyn Architecture>> {
    Ok(Box::new(llama::Llama::load(design, loader)?))
}

fn parse<T: serde::de::DeserializeOwned>(config: Value) -> Result<T> {
    serde_json::from_value(config).context("config.json does not say what this architecture needs")
}

/// config.json, and what to call it in an error.
pub fn read(source: &Source) -> Result<(Value, String)> {
    let place = source.place("config.json");
    let bytes = source.read("config.json")?.ok_or_else(|| {
        adapter::instead_of_model(source)
            .unwrap_or_else(|| anyhow!("{place} is missing; --model wants a folder in Hugging Face layout"))
    })?;
    Ok((serde_json::from_slice(&bytes).with_context(|| format!("cannot read {place}"))?, place))
}

/// The architecture of a config.json that has nothing that is not understood.
pub fn kind_of(config: &Value, place: &str) -> Result<&'static Kind> {
    let name = config.get("model_type").and_then(Value::as_str).ok_or_else(|| anyhow!("{place} has no \"model_type\""))?;
    let kind = ARCHITECTURES.iter().find(|kind| kind.name == name).ok_or_else(|| {
        let near = nearest(name, ARCHITECTURES.iter().map(|kind| kind.name));
        anyhow!("{place}: the architecture \"{name}\" is not one that zotune knows: {near}")
    })?;
    let object = config.as_object().with_context(|| format!("{place} is no object"))?;
    fields::check(&[&[FIELDS], kind.fields].concat(), place, object)?;
    Ok(kind)
}

/// Says so where config.json names code of the model's own.
pub fn warn_of_code(config: &Value) {
    if ["AutoModelForCausalLM", "AutoModel"].iter().any(|class| !config["auto_map"][class].is_null()) {
        let kind = config["model_type"].as_str().unwrap_or("?");
        tracing::warn!(
            "config.json names code of its own for this model (auto_map), which is not run: it is computed as transformers computes \
             a {kind} without trust_remote_code"
        );
    }
}

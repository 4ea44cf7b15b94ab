//! How each field of PEFT's adapter_config.json is used.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::kind::{AdapterKind, Lora};
use crate::base::text::nearest;
use crate::base::{Table, Use, fields};

const MERGE: &str = "merge it with PEFT, and use the merged model";

const TENSORS: &str = "the tensors that are stored say which layers are adapted";

const TRAINING: &str = "of PEFT's own training";

/// The fields common to all adapters.
pub const FIELDS: Table = Table {
    file: "adapter_config.json",
    of: "",
    fields: &[
        ("peft_type", Use::Read, "LORA and PREFIX_TUNING are supported"),
        (
            "base_model_name_or_path",
            Use::Read,
            "named in an error if the adapter does not fit; `model` says which model is used",
        ),
        ("task_type", Use::NoEffect, "which class transformers wraps; a classifier's head is refused as modules_to_save"),
        ("auto_mapping", Use::NoEffect, "the same"),
        ("revision", Use::NoEffect, "of the base; `revision` says which one is used"),
        ("inference_mode", Use::NoEffect, TRAINING),
        ("peft_version", Use::NoEffect, "a note"),
        ("unsloth_fixed", Use::NoEffect, "a note"),
        ("modules_to_save", Use::Only(&["[]"]), MERGE),
    ],
};

/// The fields of LoRA.
pub const LORA_FIELDS: Table = Table {
    file: "adapter_config.json",
    of: "LoRA",
    fields: &[
        ("r", Use::Read, ""),
        ("lora_alpha", Use::Read, ""),
        ("use_rslora", Use::Read, "alpha over the root of r"),
        (
            "init_lora_weights",
            Use::Only(&["true", "false", "\"gaussian\"", "\"eva\"", "\"orthogonal\"", "\"mica\""]),
            "the others first change the base model's weights, so that the adapter no longer fits the base model: save \
             it with PEFT's path_initial_model_for_weight_conversion, or merge it with PEFT and use the merged model",
        ),
        ("target_modules", Use::NoEffect, TENSORS),
        ("exclude_modules", Use::NoEffect, TENSORS),
        ("layers_to_transform", Use::NoEffect, TENSORS),
        ("layers_pattern", Use::NoEffect, TENSORS),
        ("target_parameters", Use::Only(&["[]"]), MERGE),
        ("rank_pattern", Use::Only(&["{}"]), MERGE),
        ("alpha_pattern", Use::Only(&["{}"]), MERGE),
        ("bias", Use::Only(&["\"none\""]), MERGE),
        ("lora_bias", Use::Only(&["false"]), MERGE),
        ("fan_in_fan_out", Use::Only(&["false"]), MERGE),
        ("use_dora", Use::Only(&["false"]), MERGE),
        ("use_qalora", Use::Only(&["false"]), MERGE),
        ("qalora_group_size", Use::NoEffect, "of QALoRA, which is refused by use_qalora"),
        ("layer_replication", Use::Only(&["[]"]), MERGE),
        ("trainable_token_indices", Use::Only(&["[]", "{}"]), MERGE),
        ("alora_invocation_tokens", Use::Refused, "activated LoRA acts only after its invocation, and cannot be merged"),
        ("arrow_config", Use::Refused, "a mixture of adapters"),
        ("use_bdlora", Use::Refused, MERGE),
        ("kasa_config", Use::Refused, MERGE),
        ("monteclora_config", Use::Refused, MERGE),
        ("velora_config", Use::NoEffect, "its backward pass alone differs"),
        ("lora_dropout", Use::NoEffect, TRAINING),
        ("loftq_config", Use::NoEffect, "how it began; refused by init_lora_weights"),
        ("corda_config", Use::NoEffect, "how it began; refused by init_lora_weights"),
        ("lora_ga_config", Use::NoEffect, "how it began; refused by init_lora_weights"),
        ("eva_config", Use::NoEffect, "how it began"),
        ("ensure_weight_tying", Use::NoEffect, "of embeddings and heads, adapted ones of which are refused"),
        ("megatron_config", Use::Refused, "layers in parts"),
        ("megatron_core", Use::NoEffect, "which Megatron, if megatron_config asks for it"),
        ("runtime_config", Use::NoEffect, TRAINING),
        ("merge_weights", Use::Only(&["false"]), "of the first versions"),
        ("enable_lora", Use::Refused, "of the first versions, for fused layers"),
    ],
};

/// The fields of prefix tuning.
pub const PREFIX_FIELDS: Table = Table {
    file: "adapter_config.json",
    of: "a prefix",
    fields: &[
        ("num_virtual_tokens", Use::Read, ""),
        ("num_layers", Use::Read, "must be the model's blocks"),
        ("num_attention_heads", Use::Read, "must be the model's heads of keys"),
        ("token_dim", Use::Read, "must be the width of the model's keys"),
        ("num_transformer_submodules", Use::Only(&["1"]), "there is no encoder"),
        ("prefix_projection", Use::Only(&["false"]), "a prefix that a network makes cannot be read"),
        ("encoder_hidden_size", Use::NoEffect, "of prefix_projection"),
        ("init_weights", Use::NoEffect, TRAINING),
    ],
};

/// All tables of adapter_config.json.
pub const TABLES: [Table; 3] = [FIELDS, LORA_FIELDS, PREFIX_FIELDS];

/// The fields of `adapter_config.json` that are read.
#[derive(Deserialize)]
struct Config {
    r: Option<usize>,
    lora_alpha: Option<f64>,
    #[serde(default)]
    use_rslora: bool,
    num_virtual_tokens: Option<usize>,
}

/// The kind of a stored adapter from its config at `place`. Fails on unsupported settings.
pub fn kind(config: &Value, place: &str) -> Result<AdapterKind> {
    let object = config.as_object().with_context(|| format!("{place} is not an object"))?;
    let name = config["peft_type"].as_str().with_context(|| format!("{place}: it has no peft_type"))?;
    let (own, is_lora) = match name {
        "LORA" => (LORA_FIELDS, true),
        "PREFIX_TUNING" => (PREFIX_FIELDS, false),
        other => {
            bail!("{place}: adapters of the type {other} cannot be read; {}", nearest(other, ["LORA", "PREFIX_TUNING"]))
        }
    };
    fields::check(&[FIELDS, own], place, object)?;
    let config: Config = serde_json::from_value(config.clone())
        .with_context(|| format!("{place}: a field that an adapter needs is missing or wrong"))?;
    if !is_lora {
        return match config.num_virtual_tokens {
            Some(tokens @ 1..65_536) => Ok(AdapterKind::Prefix(tokens)),
            tokens => bail!("{place}: num_virtual_tokens is {tokens:?}"),
        };
    }
    let (Some(r), Some(alpha)) = (config.r, config.lora_alpha) else { bail!("{place}: r or lora_alpha is missing") };
    if r == 0 || r > 1 << 16 {
        bail!("{place}: r is {r}");
    }
    Ok(AdapterKind::Lora(Lora { r, alpha, by_root: config.use_rslora, targets: Vec::new() }))
}

/// The first field of a prefix's config that contradicts the model, its value and the expected one. The tensor's shape
/// alone does not determine heads and blocks.
pub fn misfit(config: &Value, blocks: usize, heads: usize, width: usize) -> Option<(&'static str, u64, usize)> {
    let expected = [("num_layers", blocks), ("num_attention_heads", heads), ("token_dim", width)];
    expected.into_iter().find_map(|(name, expected)| {
        let found = config[name].as_u64().filter(|found| *found != expected as u64)?;
        Some((name, found, expected))
    })
}

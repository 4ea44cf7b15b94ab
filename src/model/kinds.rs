//! Reads config.json: finds its architecture and checks that every field is known.

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use super::architecture::Architecture;
use super::config_fields::FIELDS;
use super::loader::Loader;
use crate::base::text::nearest;
use crate::base::{Source, Table, fields};
use crate::formats::rope;
use crate::model::adapter::stored;
use crate::model::arch::{Design, GemmaConfig, Llama, LlamaConfig, Opt, QwenConfig, design, gemma, opt, qwen};

/// All tables of config.json and of the objects in it.
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

/// Loads a model from its config.json.
pub type Load = fn(Value, &mut Loader) -> Result<Box<dyn Architecture>>;

/// An architecture: its `model_type`, its fields in config.json, its loader.
pub struct ArchitectureKind {
    /// `model_type` in config.json.
    pub name: &'static str,
    /// The fields that its config.json may have beside [`FIELDS`].
    pub fields: &'static [Table],
    pub(super) load: Load,
}

/// All architectures.
pub const ARCHITECTURES: &[ArchitectureKind] = &[
    ArchitectureKind {
        name: "opt",
        fields: &[opt::FIELDS],
        load: |config, loader| Ok(Box::new(Opt::load(parse(config)?, loader)?)),
    },
    ArchitectureKind {
        name: "llama",
        fields: &[design::FIELDS, design::LLAMA_FIELDS],
        load: |config, loader| decoder(parse::<LlamaConfig>(config)?.llama()?, loader),
    },
    ArchitectureKind {
        name: "mistral",
        fields: &[design::FIELDS, design::MISTRAL_FIELDS],
        load: |config, loader| decoder(parse::<LlamaConfig>(config)?.mistral()?, loader),
    },
    ArchitectureKind {
        name: "qwen2",
        fields: &[design::FIELDS, qwen::FIELDS, qwen::QWEN2_FIELDS],
        load: |config, loader| decoder(parse::<QwenConfig>(config)?.qwen2()?, loader),
    },
    ArchitectureKind {
        name: "qwen3",
        fields: &[design::FIELDS, qwen::FIELDS, qwen::QWEN3_FIELDS],
        load: |config, loader| decoder(parse::<QwenConfig>(config)?.qwen3()?, loader),
    },
    ArchitectureKind {
        name: "gemma",
        fields: &[design::FIELDS, gemma::FIELDS, gemma::GEMMA_FIELDS],
        load: |config, loader| decoder(parse::<GemmaConfig>(config)?.gemma()?, loader),
    },
    ArchitectureKind {
        name: "gemma2",
        fields: &[design::FIELDS, gemma::FIELDS, gemma::LATER_FIELDS, gemma::GEMMA2_FIELDS],
        load: |config, loader| decoder(parse::<GemmaConfig>(config)?.gemma2()?, loader),
    },
    ArchitectureKind {
        name: "gemma3_text",
        fields: &[design::FIELDS, gemma::FIELDS, gemma::LATER_FIELDS, gemma::GEMMA3_FIELDS],
        load: |config, loader| decoder(parse::<GemmaConfig>(config)?.gemma3()?, loader),
    },
];

/// A model of LLaMA's family.
fn decoder(design: Design, loader: &mut Loader) -> Result<Box<dyn Architecture>> {
    Ok(Box::new(Llama::load(design, loader)?))
}

fn parse<T: serde::de::DeserializeOwned>(config: Value) -> Result<T> {
    serde_json::from_value(config).context("config.json lacks a field that this architecture needs, or has a wrong value")
}

/// The content of config.json, and its path for errors.
pub fn read(source: &Source) -> Result<(Value, String)> {
    let place = source.place("config.json");
    let bytes = source.read("config.json")?.ok_or_else(|| {
        stored::instead_of_model(source)
            .unwrap_or_else(|| anyhow!("{place} is missing; `model` must name a folder in Hugging Face layout"))
    })?;
    Ok((serde_json::from_slice(&bytes).with_context(|| format!("cannot read {place}"))?, place))
}

/// The architecture of a config.json. Fails on an unknown architecture, field or value.
pub fn kind_of(config: &Value, place: &str) -> Result<&'static ArchitectureKind> {
    let name = config.get("model_type").and_then(Value::as_str).ok_or_else(|| anyhow!("{place} has no \"model_type\""))?;
    let kind = ARCHITECTURES.iter().find(|kind| kind.name == name).ok_or_else(|| {
        let near = nearest(name, ARCHITECTURES.iter().map(|kind| kind.name));
        anyhow!("{place}: zotune does not know the architecture \"{name}\": {near}")
    })?;
    let object = config.as_object().with_context(|| format!("{place} is not an object"))?;
    fields::check(&[&[FIELDS], kind.fields].concat(), place, object)?;
    Ok(kind)
}

/// Warns if config.json refers to custom code.
pub fn warn_of_code(config: &Value) {
    if ["AutoModelForCausalLM", "AutoModel"].iter().any(|class| !config["auto_map"][class].is_null()) {
        let kind = config["model_type"].as_str().unwrap_or("?");
        tracing::warn!(
            "config.json names its own code for this model (auto_map); zotune does not run it, and computes a {kind} as transformers \
             does without trust_remote_code"
        );
    }
}

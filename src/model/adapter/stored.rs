//! Adapters, trained in place of the model's own weights and stored in PEFT's format (`adapter_config.json` and
//! `adapter_model.safetensors`). LoRA adds low-rank products to linear layers, a prefix adds keys and values to every
//! block.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::kind::{AdapterKind, Lora, last_part};
use super::peft;
use crate::base::Source;
use crate::base::text::{self, nearest};
use crate::device::Heads;
use crate::formats::Checkpoint;

/// PEFT's file of settings.
pub const CONFIG: &str = "adapter_config.json";

/// PEFT's weight files; the first is the one written.
pub const FILES: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// The name of a prefix's only tensor.
pub const PROMPT_EMBEDDINGS: &str = "prompt_embeddings";

/// The prefix of the names of LoRA's stored tensors.
const STORED_PREFIX: &str = "base_model.model.";

/// An adapter, new or stored.
#[derive(Clone, Debug)]
pub struct Adapter {
    kind: AdapterKind,
    stored: Option<Stored>,
}

/// An adapter in a folder.
#[derive(Clone, Debug)]
struct Stored {
    folder: PathBuf,
    config: Value,
    /// The shapes of its tensors, by their names in the model.
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Adapter {
    /// A new adapter.
    pub fn new(kind: AdapterKind) -> Self {
        Adapter { kind, stored: None }
    }

    /// Opens an adapter that PEFT or a run wrote. Fails if it is missing, damaged or unsupported.
    pub fn open(folder: &Path) -> Result<Self> {
        let source = Source::Folder(folder.into());
        let place = source.place(CONFIG);
        let Some(bytes) = source.read(CONFIG)? else {
            let what =
                if folder.is_dir() { format!("there is no {CONFIG} in it") } else { "there is no such folder".into() };
            return Err(usage!("`adapter` {}: {what}; it must be an adapter as PEFT writes it", folder.display()));
        };
        let config: Value = serde_json::from_slice(&bytes).with_context(|| format!("cannot read {place}"))?;
        let kind = peft::kind(&config, &place)?;
        let shapes =
            Self::checkpoint(&source)?.shapes().map(|(name, shape)| (own_name(name).into(), shape.to_vec())).collect();
        Ok(Adapter { kind, stored: Some(Stored { folder: folder.into(), config, shapes }) })
    }

    fn checkpoint(source: &Source) -> Result<Checkpoint> {
        let file = FILES.iter().find(|file| source.has(file));
        let file = file.with_context(|| format!("{} is missing beside {CONFIG}", source.place(FILES[0])))?;
        Checkpoint::of_files(source, vec![file.to_string()])
    }

    /// A new adapter of the same kind, for a model with perhaps fewer blocks.
    pub(crate) fn stand_in(&self) -> Self {
        let mut kind = self.kind.clone();
        if let (AdapterKind::Lora(lora), Some(stored)) = (&mut kind, &self.stored) {
            let adapted = stored.shapes.keys().filter_map(|name| name.strip_suffix(".lora_A.weight"));
            lora.targets = adapted.map(|name| last_part(name).to_string()).collect();
        }
        Adapter::new(kind)
    }

    /// What it adds to the model.
    pub fn kind(&self) -> &AdapterKind {
        &self.kind
    }

    /// The base model named in a stored adapter's config.
    pub fn base(&self) -> Option<&str> {
        self.stored.as_ref()?.config["base_model_name_or_path"].as_str()
    }

    /// Fails if the adapter cannot be merged into the model's weights.
    pub fn check_merges(&self) -> Result<()> {
        match self.kind {
            AdapterKind::Lora(_) => Ok(()),
            AdapterKind::Prefix(_) => Err(usage!("a prefix cannot be merged into the weights; only LoRA can")),
        }
    }

    /// Whether it still has to be initialised.
    pub fn is_new(&self) -> bool {
        self.stored.is_none()
    }

    /// The rank and scale of the adapter of linear layer `name`, if it is adapted. A stored adapter's tensors decide,
    /// else the targets.
    pub(crate) fn rank(&self, name: &str) -> Option<(usize, f32)> {
        let AdapterKind::Lora(lora) = &self.kind else { return None };
        let adapts = match &self.stored {
            Some(stored) => stored.shapes.contains_key(&format!("{name}.lora_A.weight")),
            None => lora.targets(name),
        };
        adapts.then(|| (lora.r, lora.scale()))
    }

    /// Fails if a stored prefix was made for other heads or blocks.
    pub(crate) fn check_prefix(&self, heads: Heads, blocks: usize) -> Result<()> {
        let Some(stored) = &self.stored else { return Ok(()) };
        let Some((name, found, expected)) = peft::misfit(&stored.config, blocks, heads.keys, heads.keys * heads.dim) else {
            return Ok(());
        };
        Err(usage!(
            "`adapter` {}: it does not fit this model: its {name} is {found}, but the model needs {expected}{}",
            stored.folder.display(),
            self.made_for()
        ))
    }

    /// The tensors of a stored adapter.
    pub(crate) fn tensors(&self) -> Result<Option<Checkpoint>> {
        self.stored.as_ref().map(|stored| Self::checkpoint(&Source::Folder(stored.folder.clone()))).transpose()
    }

    /// Fails if a stored tensor is missing or its shape is not `shape`.
    pub(crate) fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        let Some(stored) = &self.stored else { return Ok(()) };
        match stored.shapes.get(name) {
            Some(found) if found == shape => Ok(()),
            Some(found) => Err(usage!(
                "`adapter` {}: it does not fit this model: its {name} has the shape {found:?}, but the model's layer needs \
                 {shape:?}{}",
                stored.folder.display(),
                self.made_for()
            )),
            None => Err(usage!("`adapter` {}: it has no {name}", stored.folder.display())),
        }
    }

    /// Fails if the model lacks what the adapter adapts. `layers`: the model's linear layers; `is_read`: whether a
    /// stored tensor was used.
    pub(crate) fn check_used(&self, layers: &[&str], is_read: impl Fn(&str) -> bool) -> Result<()> {
        if let Some(stored) = &self.stored {
            let Some(left) = stored.shapes.keys().find(|name| !is_read(name)) else { return Ok(()) };
            if left.contains("embed_tokens.") || left.starts_with("lm_head.") {
                return Err(usage!(
                    "`adapter` {}: it has {left}, but zotune does not support adapters of the embedding or the head; merge it \
                     with PEFT, and use the merged model",
                    stored.folder.display()
                ));
            }
            return Err(usage!(
                "`adapter` {}: it does not fit this model: the model has no layer for its {left}{}",
                stored.folder.display(),
                self.made_for()
            ));
        }
        let AdapterKind::Lora(lora) = &self.kind else { return Ok(()) };
        let alone = |target: &String| Lora { targets: vec![target.clone()], ..lora.clone() };
        let Some(idle) = lora.targets.iter().find(|target| !layers.iter().any(|name| alone(target).targets(name))) else {
            return Ok(());
        };
        let mut known: Vec<&str> = layers.iter().map(|name| last_part(name)).collect();
        known.sort();
        known.dedup();
        Err(usage!("`lora_target_modules` {idle}: the model has no linear layer of that name; {}", nearest(idle, known)))
    }

    fn made_for(&self) -> String {
        self.base().map_or(String::new(), |base| format!("; its base model is {base} ({CONFIG})"))
    }

    /// The adapter_config.json for PEFT: a stored adapter's own settings, else those of a new one, for the model `base`
    /// with these linear `layers`, number of blocks and heads.
    pub(crate) fn config(&self, base: &str, layers: &[&str], blocks: usize, heads: Heads) -> Value {
        let mut config = match (&self.stored, &self.kind) {
            (Some(stored), _) => stored.config.clone(),
            (None, AdapterKind::Lora(lora)) => {
                let mut targets: Vec<&str> =
                    layers.iter().filter(|name| lora.targets(name)).map(|name| last_part(name)).collect();
                targets.sort();
                targets.dedup();
                let alpha = if lora.alpha.fract() == 0.0 { json!(lora.alpha as u64) } else { json!(lora.alpha) };
                json!({
                    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": lora.r, "lora_alpha": alpha, "target_modules": targets,
                    "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": false, "use_rslora": lora.by_root, "use_dora": false,
                    "init_lora_weights": true, "modules_to_save": null, "rank_pattern": {}, "alpha_pattern": {},
                    "layers_to_transform": null, "layers_pattern": null,
                })
            }
            (None, AdapterKind::Prefix(tokens)) => {
                let width = heads.keys * heads.dim;
                json!({
                    "peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": tokens, "token_dim": width,
                    "num_transformer_submodules": 1, "num_attention_heads": heads.keys, "num_layers": blocks,
                    "encoder_hidden_size": width, "prefix_projection": false,
                })
            }
        };
        config["base_model_name_or_path"] = base.into();
        config["inference_mode"] = true.into();
        config
    }

    /// The name that a weight of an adapter is stored under; None for other weights.
    pub(crate) fn stored_name(name: &str) -> Option<String> {
        match name {
            PROMPT_EMBEDDINGS => Some(name.into()),
            name if name.ends_with(".lora_A.weight") || name.ends_with(".lora_B.weight") => {
                Some(format!("{STORED_PREFIX}{name}"))
            }
            _ => None,
        }
    }
}

/// The name in the model of a stored tensor.
pub fn own_name(stored: &str) -> &str {
    stored.strip_prefix(STORED_PREFIX).unwrap_or(stored)
}

/// Whether a weight belongs to an adapter, by its name.
pub fn is_adapters(name: &str) -> bool {
    Adapter::stored_name(name).is_some()
}

/// The error for an adapter folder given as a model, if `source` is one.
pub fn instead_of_model(source: &Source) -> Option<anyhow::Error> {
    let Source::Folder(folder) = source else { return None };
    let config: Value = serde_json::from_slice(&source.read(CONFIG).ok()??).ok()?;
    let base = config["base_model_name_or_path"].as_str().unwrap_or("MODEL");
    let folder = text::shell_quoted(&folder.to_string_lossy());
    Some(usage!("{folder} is an adapter; give the base model too: `model {}` `adapter {folder}`", text::shell_quoted(base)))
}

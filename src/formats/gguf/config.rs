//! A GGUF file's metadata as a config.json, and its tensors by the names that transformers has for them.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value as Json, json};

use super::fields;
use super::header::{Header, Value, required};
use crate::base::text::nearest;
use crate::formats::Layout;

/// An architecture as both know it.
pub struct GgufKind {
    /// `general.architecture`, which begins the names of its metadata too.
    name: &'static str,
    /// `model_type` of config.json.
    model_type: &'static str,
    /// The class in transformers.
    class: &'static str,
    /// Rotary pairs lie side by side in the rows of queries and keys.
    interleaved: bool,
    /// Norms are stored with one added.
    gemma: bool,
}

/// The architectures that are read.
const KINDS: &[GgufKind] = &[
    GgufKind { name: "llama", model_type: "llama", class: "LlamaForCausalLM", interleaved: true, gemma: false },
    GgufKind { name: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", interleaved: false, gemma: false },
    GgufKind { name: "qwen3", model_type: "qwen3", class: "Qwen3ForCausalLM", interleaved: false, gemma: false },
    GgufKind { name: "gemma", model_type: "gemma", class: "GemmaForCausalLM", interleaved: false, gemma: true },
    GgufKind { name: "gemma2", model_type: "gemma2", class: "Gemma2ForCausalLM", interleaved: false, gemma: true },
    GgufKind { name: "gemma3", model_type: "gemma3_text", class: "Gemma3ForCausalLM", interleaved: false, gemma: true },
];

/// Names outside of the blocks.
const STEM: &[(&str, &str)] = &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Names in a block.
const BLOCK: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_norm", "post_attention_layernorm"),
];

/// Names in a block of four norms, before those of [`BLOCK`].
const FOUR_NORMS: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

impl GgufKind {
    /// The architecture of a file, if it is one that is read.
    pub fn of(header: &Header) -> Result<&'static GgufKind> {
        if let Some(other) = header.text("general.type")?.filter(|kind| *kind != "model") {
            bail!("it is not a model; its type is \"{other}\"");
        }
        if header.integer("split.count")?.is_some_and(|parts| parts > 1) {
            bail!("it is one of several parts; join them with: llama-gguf-split --merge FIRST_PART WHOLE");
        }
        let name = required(header.text("general.architecture")?, "general.architecture")?;
        let kind = KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
            let near = nearest(name, KINDS.iter().map(|kind| kind.name));
            anyhow!("zotune does not read the architecture \"{name}\" from GGUF: {near}")
        })?;
        if kind.sized(header, "expert_count")?.is_some_and(|n| n > 0) {
            bail!("it is a mixture of experts, which zotune does not support");
        }
        fields::check(header, name, matches!(name, "gemma2" | "gemma3"))?;
        Ok(kind)
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn sized(&self, header: &Header, name: &str) -> Result<Option<usize>> {
        header.integer(&self.key(name))
    }

    fn needed(&self, header: &Header, name: &str) -> Result<usize> {
        required(self.sized(header, name)?, &self.key(name))
    }

    fn number(&self, header: &Header, name: &str) -> Result<Option<f64>> {
        header.float(&self.key(name))
    }

    /// Query heads and key heads.
    fn heads(&self, header: &Header) -> Result<(usize, usize)> {
        let heads = self.needed(header, "attention.head_count")?;
        Ok((heads, self.sized(header, "attention.head_count_kv")?.unwrap_or(heads)))
    }

    /// config.json; `rope_factors` are what each rotary frequency is divided by, where the file says so.
    pub fn config(&self, header: &Header, rope_factors: Option<&[f32]>) -> Result<Map<String, Json>> {
        let (heads, key_heads) = self.heads(header)?;
        let hidden = self.needed(header, "embedding_length")?;
        let head_dim = match self.sized(header, "attention.key_length")? {
            Some(dim) => dim,
            None => hidden / heads.max(1),
        };
        for (name, dim) in [
            ("attention.value_length", "values"),
            ("attention.key_length_swa", "those of blocks that slide"),
            ("attention.value_length_swa", "values of blocks that slide"),
            ("rope.dimension_count", "rotary positions"),
            ("rope.dimension_count_swa", "rotary positions of blocks that slide"),
        ] {
            if let Some(other) = self.sized(header, name)?.filter(|other| *other != head_dim) {
                bail!("its heads are {head_dim} wide, but {dim} {other}, which zotune does not support");
            }
        }
        let embedding = header.tensors.get("token_embd.weight").context("it has no tensor token_embd.weight")?;
        let has = |name: &str| header.tensors.contains_key(name);
        let mut config = json!({
            "architectures": [self.class],
            "model_type": self.model_type,
            "vocab_size": embedding.shape[0],
            "hidden_size": hidden,
            "intermediate_size": self.needed(header, "feed_forward_length")?,
            "num_hidden_layers": self.needed(header, "block_count")?,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "head_dim": head_dim,
            "max_position_embeddings": self.positions(header)?,
            "rms_norm_eps": self.eps(header)?,
            "rope_theta": self.number(header, "rope.freq_base")?.unwrap_or(10_000.0),
            "rope_scaling": self.rope_scaling(header, rope_factors)?,
            "tie_word_embeddings": !has("output.weight"),
            "hidden_act": if self.gemma { "gelu_pytorch_tanh" } else { "silu" },
        });
        match self.name {
            "llama" => {
                config["attention_bias"] = has("blk.0.attn_q.bias").into();
                config["mlp_bias"] = has("blk.0.ffn_gate.bias").into();
            }
            "gemma2" | "gemma3" => self.gemma(header, head_dim, &mut config)?,
            _ => {}
        }
        let Json::Object(mut config) = config else { bail!("a config.json is an object") };
        for (ours, theirs) in TOKEN_IDS {
            if let Some(id) = header.integer(&format!("tokenizer.ggml.{theirs}_token_id"))? {
                config.insert(format!("{ours}_token_id"), id.into());
            }
        }
        Ok(config)
    }

    fn eps(&self, header: &Header) -> Result<f64> {
        let key = "attention.layer_norm_rms_epsilon";
        required(self.number(header, key)?, &self.key(key))
    }

    /// The longest prompt. llama.cpp does not look at a window in architectures that do not slide; within it, it makes no difference.
    fn positions(&self, header: &Header) -> Result<usize> {
        let context = self.needed(header, "context_length")?;
        let window = self.sized(header, "attention.sliding_window")?.filter(|window| *window > 0 && !self.gemma);
        Ok(context.min(window.unwrap_or(context)))
    }

    /// What Gemma 2 and 3 have of their own.
    fn gemma(&self, header: &Header, head_dim: usize, config: &mut Json) -> Result<()> {
        let (heads, _) = self.heads(header)?;
        let (hidden, blocks) = (self.needed(header, "embedding_length")?, self.needed(header, "block_count")?);
        if blocks > header.tensors.len() {
            bail!("its metadata {} is {blocks}, but it has {} tensors", self.key("block_count"), header.tensors.len());
        }
        config["hidden_activation"] = "gelu_pytorch_tanh".into();
        // The metadata do not tell; llama.cpp knows the ones of 27 B by their blocks too.
        let largest = if self.name == "gemma2" { 46 } else { 62 };
        config["query_pre_attn_scalar"] = if blocks == largest { hidden / heads.max(1) } else { head_dim }.into();
        let window = self.sized(header, "attention.sliding_window")?.or((self.name == "gemma2").then_some(4096));
        let slides = match window {
            Some(window) if window > 0 || self.name == "gemma2" => {
                config["sliding_window"] = window.into();
                self.sliding(header, blocks)?
            }
            _ => vec![false; blocks],
        };
        let kind = |slides: &bool| if *slides { "sliding_attention" } else { "full_attention" };
        config["layer_types"] = slides.iter().map(kind).collect();
        for cap in ["attn_logit_softcapping", "final_logit_softcapping"] {
            match self.number(header, cap)? {
                // Absent: what the architecture usually has.
                None => {}
                Some(0.0) => config[cap] = Json::Null,
                Some(at) if cap == "attn_logit_softcapping" && self.name == "gemma3" => {
                    bail!("its metadata {} is {at}; llama.cpp has no such cap in Gemma 3", self.key(cap))
                }
                Some(at) => config[cap] = at.into(),
            }
        }
        let (base, local) = (self.number(header, "rope.freq_base")?, self.number(header, "rope.freq_base_swa")?);
        if self.name == "gemma3" {
            config["rope_local_base_freq"] = local.unwrap_or(10_000.0).into();
        } else if local.is_some_and(|local| local != base.unwrap_or(10_000.0)) {
            bail!(
                "its metadata gemma2.rope.freq_base_swa is not gemma2.rope.freq_base, and Gemma 2 has one base for all blocks"
            );
        }
        Ok(())
    }

    /// Which blocks slide: all but the last of every so many, or as a list says.
    fn sliding(&self, header: &Header, blocks: usize) -> Result<Vec<bool>> {
        let key = self.key("attention.sliding_window_pattern");
        if let Some(Value::List(_)) = header.get(&key) {
            let flags = header.list(&key, |value| match value {
                Value::Flag(flag) => Some(*flag),
                Value::Integer(n) => Some(*n != 0),
                _ => None,
            })?;
            let flags = flags.unwrap_or_default();
            if flags.len() < blocks {
                bail!("its metadata {key} is about {} blocks, but it has {blocks}", flags.len());
            }
            return Ok(flags[..blocks].to_vec());
        }
        let period = header.integer(&key)?.unwrap_or(if self.name == "gemma2" { 2 } else { 6 });
        Ok((0..blocks).map(|i| period == 0 || i % period + 1 < period).collect())
    }

    /// llama.cpp's rules: what names no type is linear, and a factor of 0 is none.
    fn rope_scaling(&self, header: &Header, factors: Option<&[f32]>) -> Result<Json> {
        let factor = match self.number(header, "rope.scaling.factor")? {
            Some(factor) => factor,
            None => self.number(header, "rope.scale_linear")?.unwrap_or(0.0),
        };
        let scaled = match header.text(&self.key("rope.scaling.type"))?.unwrap_or("linear") {
            "none" => false,
            "linear" => factor != 0.0 && factor != 1.0,
            other => bail!("its rotary positions are scaled by \"{other}\"; none, linear and LLaMA 3's are supported"),
        };
        // LLaMA 3 has its own, which llama.cpp stores as the factors that come of it; the rest of the formula's numbers
        // have been the same in every model, and whoever calls holds what comes of them to the factors.
        let largest = factors.map_or(1.0, |factors| factors.iter().copied().fold(1.0, f32::max));
        match (scaled, largest > 1.0) {
            (false, false) => Ok(Json::Null),
            (true, false) => Ok(json!({ "rope_type": "linear", "factor": factor })),
            (false, true) => Ok(json!({
                "rope_type": "llama3", "factor": largest, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            })),
            (true, true) => {
                bail!(
                    "its rotary positions are scaled by {factor} and by rope_freqs.weight, and both together are not \
                    supported"
                )
            }
        }
    }

    /// The name that transformers has for a tensor, and how its numbers lie; None for what it has not.
    pub fn tensor(&self, header: &Header, name: &str) -> Result<Option<(String, Layout)>> {
        let Some((stem, part)) = name.rsplit_once('.') else { return Ok(None) };
        let find = |names: &[(&str, &'static str)], name: &str| names.iter().find(|n| n.0 == name).map(|n| n.1);
        let block = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let theirs = match block {
            None => find(STEM, stem).map(str::to_string),
            Some((i, own)) => {
                let four = header.tensors.contains_key(&format!("blk.{i}.post_ffw_norm.weight"));
                let of_four = if four { find(FOUR_NORMS, own) } else { None };
                of_four.or_else(|| find(BLOCK, own)).map(|own| format!("model.layers.{i}.{own}"))
            }
        };
        let (heads, key_heads) = self.heads(header)?;
        let layout = match block.map_or(stem, |(_, own)| own) {
            "attn_q" if self.interleaved => Layout::RotaryPairs { heads },
            "attn_k" if self.interleaved => Layout::RotaryPairs { heads: key_heads },
            own if self.gemma && own.ends_with("norm") => Layout::Offset(1.0),
            _ => Layout::Plain,
        };
        Ok(theirs.map(|theirs| (format!("{theirs}.{part}"), layout)))
    }
}

/// config.json's names of special tokens and the metadata's.
pub const TOKEN_IDS: [(&str, &str); 4] = [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")];

/// A text as it is.
pub fn as_text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

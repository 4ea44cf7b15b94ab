//! Converts a GGUF file's metadata to config.json, and its tensor names to those of transformers.

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value as Json, json};

use super::fields;
use super::header::{Header, Value, required};
use crate::base::text::nearest;
use crate::formats::Layout;

/// An architecture's names in llama.cpp and in transformers, and its conventions.
pub struct GgufKind {
    /// `general.architecture`, also the prefix of its metadata keys.
    name: &'static str,
    /// `model_type` in config.json.
    model_type: &'static str,
    /// The class in transformers.
    class: &'static str,
    /// The rows of a rotary pair are adjacent in the query and key weights.
    interleaved: bool,
    /// Norm weights are stored plus one.
    gemma: bool,
}

/// The supported architectures.
const KINDS: &[GgufKind] = &[
    GgufKind { name: "llama", model_type: "llama", class: "LlamaForCausalLM", interleaved: true, gemma: false },
    GgufKind { name: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", interleaved: false, gemma: false },
    GgufKind { name: "qwen3", model_type: "qwen3", class: "Qwen3ForCausalLM", interleaved: false, gemma: false },
    GgufKind { name: "gemma", model_type: "gemma", class: "GemmaForCausalLM", interleaved: false, gemma: true },
    GgufKind { name: "gemma2", model_type: "gemma2", class: "Gemma2ForCausalLM", interleaved: false, gemma: true },
    GgufKind { name: "gemma3", model_type: "gemma3_text", class: "Gemma3ForCausalLM", interleaved: false, gemma: true },
];

/// Tensor names outside the blocks.
const STEM: &[(&str, &str)] = &[("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensor names in a block.
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

/// Tensor names in a block with four norms; they take precedence over [`BLOCK`].
const FOUR_NORMS: &[(&str, &str)] = &[
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

impl GgufKind {
    /// The architecture of a file. Fails if it is not supported.
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
        if kind.size(header, "expert_count")?.is_some_and(|n| n > 0) {
            bail!("it is a mixture of experts, which zotune does not support");
        }
        fields::check(header, name, matches!(name, "gemma2" | "gemma3"))?;
        Ok(kind)
    }

    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.name)
    }

    fn size(&self, header: &Header, name: &str) -> Result<Option<usize>> {
        header.integer(&self.key(name))
    }

    fn required_size(&self, header: &Header, name: &str) -> Result<usize> {
        required(self.size(header, name)?, &self.key(name))
    }

    fn number(&self, header: &Header, name: &str) -> Result<Option<f64>> {
        header.float(&self.key(name))
    }

    /// The numbers of query heads and of key-value heads.
    fn heads(&self, header: &Header) -> Result<(usize, usize)> {
        let heads = self.required_size(header, "attention.head_count")?;
        Ok((heads, self.size(header, "attention.head_count_kv")?.unwrap_or(heads)))
    }

    /// The config.json. `rope_factors` are the divisors of the rotary frequencies, if the file stores them.
    pub fn config(&self, header: &Header, rope_factors: Option<&[f32]>) -> Result<Map<String, Json>> {
        let (heads, key_heads) = self.heads(header)?;
        let hidden = self.required_size(header, "embedding_length")?;
        let head_dim = match self.size(header, "attention.key_length")? {
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
            if let Some(other) = self.size(header, name)?.filter(|other| *other != head_dim) {
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
            "intermediate_size": self.required_size(header, "feed_forward_length")?,
            "num_hidden_layers": self.required_size(header, "block_count")?,
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

    /// The maximum prompt length. For architectures without sliding windows llama.cpp ignores a window in the metadata;
    /// up to its length it makes no difference.
    fn positions(&self, header: &Header) -> Result<usize> {
        let context = self.required_size(header, "context_length")?;
        let window = self.size(header, "attention.sliding_window")?.filter(|window| *window > 0 && !self.gemma);
        Ok(context.min(window.unwrap_or(context)))
    }

    /// The settings of Gemma 2 and 3.
    fn gemma(&self, header: &Header, head_dim: usize, config: &mut Json) -> Result<()> {
        let (heads, _) = self.heads(header)?;
        let (hidden, blocks) = (self.required_size(header, "embedding_length")?, self.required_size(header, "block_count")?);
        if blocks > header.tensors.len() {
            bail!("its metadata {} is {blocks}, but it has {} tensors", self.key("block_count"), header.tensors.len());
        }
        config["hidden_activation"] = "gelu_pytorch_tanh".into();
        // The metadata do not state it; llama.cpp too recognises the 27B models by their number of blocks.
        let largest = if self.name == "gemma2" { 46 } else { 62 };
        config["query_pre_attn_scalar"] = if blocks == largest { hidden / heads.max(1) } else { head_dim }.into();
        let window = self.size(header, "attention.sliding_window")?.or((self.name == "gemma2").then_some(4096));
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
                // Absent: the architecture's default.
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

    /// Which blocks have sliding windows: all but the last of each period, or as listed.
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

    /// llama.cpp's rules: a missing type means linear, a factor of 0 none.
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
        // llama.cpp stores LLaMA 3's scaling as its factors. The other numbers of the formula are the same in all such
        // models; the caller verifies them against the factors.
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

    /// The name of a tensor in transformers and its layout; None if transformers has no such tensor.
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

/// The names of special tokens in config.json and in the metadata.
pub const TOKEN_IDS: [(&str, &str); 4] = [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")];

/// The text of a text value.
pub fn as_text(value: &Value) -> Option<&str> {
    match value {
        Value::Text(text) => Some(text),
        _ => None,
    }
}

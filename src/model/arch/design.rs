//! The [`Design`] of a model of LLaMA's family, from config.json; [`Llama`](super::llama::Llama) is built from it.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::base::{Table, Use};
use crate::device::{Activation, Heads, Scores};
use crate::formats::{Rope, limits};

/// The fields of config.json that LLaMA and its relatives share.
pub const FIELDS: Table = Table {
    file: "config.json",
    of: "LLaMA and its relatives",
    fields: &[
        ("vocab_size", Use::Read, "rows of the embedding and of the head"),
        ("hidden_size", Use::Read, ""),
        ("intermediate_size", Use::Read, ""),
        ("num_hidden_layers", Use::Read, ""),
        ("num_attention_heads", Use::Read, ""),
        ("num_key_value_heads", Use::Read, "absent: the architecture's usual number; null: as many as query heads"),
        ("head_dim", Use::Read, "absent: the architecture's usual width, else hidden_size / num_attention_heads"),
        ("max_position_embeddings", Use::Read, "the longest prompt; absent: the architecture's usual length"),
        ("rms_norm_eps", Use::Read, "absent: 1e-6"),
        ("hidden_act", Use::Read, "silu, or gelu in its tanh form for Gemma; Gemma 2 and 3 say it by hidden_activation"),
        ("tie_word_embeddings", Use::Read, "a pair that is stored as two different tensors is not tied, whatever this says"),
        ("rope_theta", Use::Read, "absent: 10000, or 1e6 for Gemma 3"),
        ("rope_scaling", Use::Read, "before rope_parameters, as in transformers"),
        ("rope_parameters", Use::Read, ""),
        ("original_max_position_embeddings", Use::Read, "before the one in the rope object, as in transformers"),
        ("partial_rotary_factor", Use::Only(&["1"]), "heads are turned whole"),
        ("rope_interleaved", Use::Only(&["false"]), "a note of nanotron's about what the model was converted from"),
        ("attention_dropout", Use::NoEffect, "scores are computed without"),
        ("pretraining_tp", Use::NoEffect, "in how many parts products were once added up"),
        ("initializer_range", Use::NoEffect, "of new weights"),
    ],
};

/// LLaMA's use of further fields.
pub const LLAMA_FIELDS: Table = Table {
    file: "config.json",
    of: "LLaMA",
    fields: &[
        ("attention_bias", Use::Read, "of queries, keys, values and the output"),
        ("mlp_bias", Use::Read, ""),
        ("sliding_window", Use::NoEffect, "it sees all tokens before it; transformers does not look at this"),
        ("layer_types", Use::NoEffect, "the same"),
        ("use_sliding_window", Use::NoEffect, "the same"),
        ("max_window_layers", Use::NoEffect, "the same"),
        ("is_llama_config", Use::NoEffect, "a note of nanotron's"),
    ],
};

/// Mistral's.
pub const MISTRAL_FIELDS: Table = Table {
    file: "config.json",
    of: "Mistral",
    fields: &[
        ("sliding_window", Use::Read, "the longest prompt is the window; absent: 4096, null: none"),
        ("layer_types", Use::NoEffect, "all blocks slide or none; transformers does not look at it"),
        ("use_sliding_window", Use::NoEffect, "the same"),
        ("max_window_layers", Use::NoEffect, "the same"),
        ("attention_bias", Use::Only(&["false"]), "it has none"),
        ("mlp_bias", Use::Only(&["false"]), "it has none"),
    ],
};

/// The part of config.json that LLaMA and its relatives share.
#[derive(Clone, Debug, Deserialize)]
pub struct LlamaConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default, deserialize_with = "explicit_null")]
    num_key_value_heads: Option<Option<usize>>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    #[serde(default = "eps")]
    rms_norm_eps: f64,
    /// The activation of the gate; None: the architecture's default.
    pub hidden_act: Option<String>,
    #[serde(default, deserialize_with = "explicit_null")]
    tie_word_embeddings: Option<Option<bool>>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    #[serde(default, deserialize_with = "explicit_null")]
    sliding_window: Option<Option<usize>>,
    layer_types: Option<Vec<String>>,
    /// The older spelling: the base here, the scaling in `rope_scaling`.
    pub rope_theta: Option<f64>,
    /// The scaling of the rotary frequencies.
    pub rope_scaling: Option<Map<String, Value>>,
    /// The newer spelling: base and scaling together.
    pub rope_parameters: Option<Map<String, Value>>,
    original_max_position_embeddings: Option<f64>,
}

fn eps() -> f64 {
    1e-6
}

/// Separates explicit null (`Some(None)`) from a missing key.
pub fn explicit_null<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(
    value: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// The defaults of an architecture's config.json: those of its class in transformers.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// The number of key-value heads; None: as many as query heads.
    pub key_heads: Option<usize>,
    /// The width of a head; None: hidden size / query heads.
    pub head_dim: Option<usize>,
    /// The maximum sequence length.
    pub positions: usize,
    /// Whether the head is tied to the embedding.
    pub tied: bool,
}

impl Defaults {
    /// LLaMA's defaults.
    pub const LLAMA: Defaults = Defaults { key_heads: None, head_dim: None, positions: 2048, tied: false };
    const MISTRAL: Defaults = Defaults { key_heads: Some(8), positions: 131_072, ..Self::LLAMA };
}

/// The parameters of a model of the family.
#[derive(Clone, Debug, Serialize)]
pub struct Design {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden: usize,
    /// The width between the gate and down projections.
    pub inner: usize,
    /// The number of blocks.
    pub num_blocks: usize,
    /// The attention heads.
    pub heads: Heads,
    /// The maximum sequence length: limited by positions and sliding windows, so that every query sees all before it.
    #[serde(skip)]
    pub max_length: usize,
    /// The epsilon of the norms.
    pub eps: f32,
    /// Whether the head is tied to the embedding.
    #[serde(skip)]
    pub tied: bool,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub out_bias: bool,
    /// Whether the feed-forward layers have biases.
    pub mlp_bias: bool,
    /// The activation of the gate.
    pub gate: Activation,
    /// Norms multiply by this plus their weight.
    pub norm_offset: f32,
    /// Whether each query and key head has a norm, before the rotation.
    pub qk_norm: bool,
    /// Whether the two outputs of a block have norms as well as its two inputs.
    pub sandwich_norm: bool,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f64,
    /// The scaling and soft cap of attention scores.
    pub scores: Scores,
    /// The soft cap of the logits: cap tanh(x / cap).
    pub logit_cap: Option<f32>,
    /// Rotary frequencies in radians per position: [head_dim / 2] for each kind of block.
    #[serde(serialize_with = "in_f32")]
    pub frequencies: Vec<Vec<f64>>,
    /// The kind of each block; empty if all are alike.
    pub kinds: Vec<usize>,
}

/// Serialises as f32, so that `pow` differing in the last bits on another machine does not change the model's identity.
fn in_f32<S: Serializer>(frequencies: &[Vec<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(frequencies.iter().map(|of_kind| of_kind.iter().map(|f| *f as f32).collect::<Vec<f32>>()))
}

impl LlamaConfig {
    /// LLaMA's design.
    pub fn llama(&self) -> Result<Design> {
        self.silu(&Defaults::LLAMA)
    }

    /// Mistral's design (Jiang et al. 2023, arXiv 2310.06825): its blocks may have sliding windows.
    pub fn mistral(&self) -> Result<Design> {
        let window = self.window(4096);
        self.silu(&Defaults::MISTRAL)?.with_window(&[window.is_some()], window)
    }

    /// The design of a relative with LLaMA's gate.
    pub fn silu(&self, defaults: &Defaults) -> Result<Design> {
        match self.hidden_act.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => bail!("config.json: hidden_act \"{other}\" is not supported for this architecture; silu is"),
        }
        let design = self.design(Activation::Silu, defaults)?;
        let frequencies = vec![self.rope()?.frequencies(design.heads.dim, design.max_length)?];
        Ok(Design { frequencies, ..design })
    }

    /// LLaMA's design with another gate and no rotary frequencies yet; the basis of its relatives' designs.
    pub fn design(&self, gate: Activation, defaults: &Defaults) -> Result<Design> {
        let queries = self.num_attention_heads;
        let keys = self.num_key_value_heads.unwrap_or(defaults.key_heads).unwrap_or(queries);
        let dim = self.head_dim.or(defaults.head_dim).unwrap_or(self.hidden_size / queries.max(1));
        let max_length = self.max_position_embeddings.unwrap_or(defaults.positions);
        limits::check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", queries),
            ("num_key_value_heads", keys),
            ("head_dim", dim),
            ("max_position_embeddings", max_length),
        ])?;
        limits::check_positive(&[("rms_norm_eps", Some(self.rms_norm_eps)), ("rope_theta", self.rope_theta)])?;
        if !queries.is_multiple_of(keys) {
            bail!("config.json: num_attention_heads {queries} is not a multiple of num_key_value_heads {keys}");
        }
        if self.head_dim.or(defaults.head_dim).is_none() && !self.hidden_size.is_multiple_of(queries) {
            bail!("config.json: hidden_size {} is not a multiple of num_attention_heads {queries}", self.hidden_size);
        }
        if !dim.is_multiple_of(2) {
            bail!("config.json: head_dim {dim} is odd, and rotary positions turn pairs");
        }
        let tied = match self.tie_word_embeddings {
            None => defaults.tied,
            Some(Some(tied)) => tied,
            Some(None) => bail!("config.json: tie_word_embeddings is null; it must be true or false"),
        };
        let heads = Heads { queries, keys, dim };
        Ok(Design {
            vocab_size: self.vocab_size,
            hidden: self.hidden_size,
            inner: self.intermediate_size,
            num_blocks: self.num_hidden_layers,
            heads,
            max_length,
            eps: self.rms_norm_eps as f32,
            tied,
            qkv_bias: self.attention_bias.unwrap_or(false),
            out_bias: self.attention_bias.unwrap_or(false),
            mlp_bias: self.mlp_bias.unwrap_or(false),
            gate,
            norm_offset: 0.0,
            qk_norm: false,
            sandwich_norm: false,
            embedding_scale: 1.0,
            scores: Scores::of(heads),
            logit_cap: None,
            frequencies: Vec::new(),
            kinds: Vec::new(),
        })
    }

    /// The rotary settings, for models with the same in all blocks.
    pub fn rope(&self) -> Result<Rope> {
        // An empty object counts as absent, as in transformers.
        let scaling = self.rope_scaling.as_ref().filter(|object| !object.is_empty());
        let rope = match (scaling, &self.rope_parameters) {
            (Some(object), _) => Rope::of("config.json: rope_scaling", object)?,
            (None, Some(object)) => Rope::of("config.json: rope_parameters", object)?,
            (None, None) => Rope::default(),
        };
        Ok(rope.with_base(self.rope_theta).with_original(self.original_max_position_embeddings))
    }

    /// The sliding window in tokens, including the query; `default` if config.json has none, None if it is null.
    pub fn window(&self, default: usize) -> Option<usize> {
        self.sliding_window.unwrap_or(Some(default))
    }

    /// Which blocks have a sliding window, by `layer_types`, else by `default`.
    pub fn local(&self, default: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
        let Some(kinds) = &self.layer_types else { return Ok((0..self.num_hidden_layers).map(default).collect()) };
        if kinds.len() != self.num_hidden_layers {
            let (given, blocks) = (kinds.len(), self.num_hidden_layers);
            bail!("config.json: layer_types names the kinds of {given} blocks, but num_hidden_layers is {blocks}");
        }
        let kind = |(i, kind): (usize, &String)| match kind.as_str() {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            _ => {
                bail!(
                    "config.json: layer_types has {kind:?} for block {i}; sliding_attention and full_attention are supported"
                )
            }
        };
        kinds.iter().enumerate().map(kind).collect()
    }
}

impl Design {
    /// Limits sequences to the sliding window if a block is `local`, so that every query sees all before it.
    pub fn with_window(self, local: &[bool], window: Option<usize>) -> Result<Design> {
        if !local.contains(&true) {
            return Ok(self);
        }
        let window = window.context("config.json: layer_types has sliding blocks, but no sliding_window is in use")?;
        limits::check_sizes(&[("sliding_window", window)])?;
        Ok(Design { max_length: self.max_length.min(window), ..self })
    }
}

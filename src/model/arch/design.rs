//! What config.json says of a model of LLaMA's family, as a [`Design`] of which [`Llama`](super::llama::Llama) is made.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::base::{Table, Use};
use crate::device::{Activation, Heads, Scores};
use crate::formats::{Rope, limits};

/// The fields of config.json that LLaMA and all of its relatives have.
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

/// What LLaMA alone does with some.
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

/// And Mistral.
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

/// config.json of LLaMA and its relatives, as far as they share it.
#[derive(Clone, Debug, Deserialize)]
pub struct LlamaConfig {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    #[serde(default, deserialize_with = "said")]
    num_key_value_heads: Option<Option<usize>>,
    head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    #[serde(default = "eps")]
    rms_norm_eps: f64,
    /// The gate's activation; None: the architecture's own.
    pub hidden_act: Option<String>,
    #[serde(default, deserialize_with = "said")]
    tie_word_embeddings: Option<Option<bool>>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    #[serde(default, deserialize_with = "said")]
    sliding_window: Option<Option<usize>>,
    layer_types: Option<Vec<String>>,
    /// The older spelling: the base here, the scaling beside it.
    pub rope_theta: Option<f64>,
    /// The scaling.
    pub rope_scaling: Option<Map<String, Value>>,
    /// The newer spelling: both in one.
    pub rope_parameters: Option<Map<String, Value>>,
    original_max_position_embeddings: Option<f64>,
}

fn eps() -> f64 {
    1e-6
}

/// What is null was said; what is absent was not.
pub fn said<'de, T: Deserialize<'de>, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// What an architecture's config.json means where it does not say: the defaults of its class in transformers.
#[derive(Clone, Copy, Debug)]
pub struct Usual {
    /// Heads of keys; None: as many as of queries.
    pub key_heads: Option<usize>,
    /// Numbers in a head; None: hidden size over heads.
    pub head_dim: Option<usize>,
    /// The longest sequence.
    pub positions: usize,
    /// Whether the head is the embedding.
    pub tied: bool,
}

impl Usual {
    /// LLaMA's.
    pub const LLAMA: Usual = Usual { key_heads: None, head_dim: None, positions: 2048, tied: false };
    const MISTRAL: Usual = Usual { key_heads: Some(8), positions: 131_072, ..Self::LLAMA };
}

/// What a model of the family is made of.
#[derive(Clone, Debug, Serialize)]
pub struct Design {
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Numbers of a token between blocks.
    pub hidden: usize,
    /// Numbers of a token between gate and down projection.
    pub inner: usize,
    /// How many blocks there are.
    pub num_blocks: usize,
    /// Of the attention.
    pub heads: Heads,
    /// The longest sequence that has positions and that every query sees all of.
    #[serde(skip)]
    pub max_length: usize,
    /// Of the norms.
    pub eps: f32,
    /// The head is the embedding.
    #[serde(skip)]
    pub tied: bool,
    /// Queries, keys and values have biases.
    pub qkv_bias: bool,
    /// The attention's output has one.
    pub out_bias: bool,
    /// The feed-forward layers have.
    pub mlp_bias: bool,
    /// What the gate goes through.
    pub gate: Activation,
    /// Norms multiply by this plus their weight.
    pub norm_offset: f32,
    /// Each head of queries and keys has a norm, before it is turned.
    pub qk_norm: bool,
    /// A block's two outputs have norms as well as its two inputs.
    pub sandwich_norm: bool,
    /// Embeddings are multiplied by it.
    pub embedding_scale: f64,
    /// Before the softmax.
    pub scores: Scores,
    /// What the logits go through: cap tanh(x / cap).
    pub logit_cap: Option<f32>,
    /// Rotary frequencies, in radians from one position to the next: [head_dim / 2] for each kind of block.
    #[serde(serialize_with = "in_f32")]
    pub frequencies: Vec<Vec<f64>>,
    /// The kind of each block where there are several.
    pub kinds: Vec<usize>,
}

/// Rounded, so that another machine's last bits of a power make no other model.
fn in_f32<S: Serializer>(frequencies: &[Vec<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(frequencies.iter().map(|of_kind| of_kind.iter().map(|f| *f as f32).collect::<Vec<f32>>()))
}

impl LlamaConfig {
    /// LLaMA's own design.
    pub fn llama(&self) -> Result<Design> {
        self.silu(&Usual::LLAMA)
    }

    /// Mistral's (Jiang et al. 2023, arXiv 2310.06825): its blocks may slide.
    pub fn mistral(&self) -> Result<Design> {
        let window = self.window(4096);
        self.silu(&Usual::MISTRAL)?.seen_within(&[window.is_some()], window)
    }

    /// That of a relative with LLaMA's gate.
    pub fn silu(&self, usual: &Usual) -> Result<Design> {
        match self.hidden_act.as_deref() {
            None | Some("silu" | "swish") => {}
            Some(other) => bail!("config.json: hidden_act \"{other}\" is not supported for this architecture; silu is"),
        }
        let design = self.design(Activation::Silu, usual)?;
        let frequencies = vec![self.rope()?.frequencies(design.heads.dim, design.max_length)?];
        Ok(Design { frequencies, ..design })
    }

    /// LLaMA's with another gate and no rotary frequencies yet, from which the designs of its relatives differ.
    pub fn design(&self, gate: Activation, usual: &Usual) -> Result<Design> {
        let queries = self.num_attention_heads;
        let keys = self.num_key_value_heads.unwrap_or(usual.key_heads).unwrap_or(queries);
        let dim = self.head_dim.or(usual.head_dim).unwrap_or(self.hidden_size / queries.max(1));
        let max_length = self.max_position_embeddings.unwrap_or(usual.positions);
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
        if self.head_dim.or(usual.head_dim).is_none() && !self.hidden_size.is_multiple_of(queries) {
            bail!("config.json: hidden_size {} is not a multiple of num_attention_heads {queries}", self.hidden_size);
        }
        if !dim.is_multiple_of(2) {
            bail!("config.json: head_dim {dim} is odd, and rotary positions turn pairs");
        }
        let tied = match self.tie_word_embeddings {
            None => usual.tied,
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

    /// One rope for all blocks.
    pub fn rope(&self) -> Result<Rope> {
        // An empty object is none, as in transformers.
        let scaling = self.rope_scaling.as_ref().filter(|object| !object.is_empty());
        let rope = match (scaling, &self.rope_parameters) {
            (Some(object), _) => Rope::of("config.json: rope_scaling", object)?,
            (None, Some(object)) => Rope::of("config.json: rope_parameters", object)?,
            (None, None) => Rope::default(),
        };
        Ok(rope.with_base(self.rope_theta).with_original(self.original_max_position_embeddings))
    }

    /// Tokens that a query sees, itself counted, in blocks that slide; `usual` where nothing is said.
    pub fn window(&self, usual: usize) -> Option<usize> {
        self.sliding_window.unwrap_or(Some(usual))
    }

    /// Which blocks look back no further than the window, by `layer_types`, or else as is `usual`.
    pub fn local(&self, usual: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
        let Some(kinds) = &self.layer_types else { return Ok((0..self.num_hidden_layers).map(usual).collect()) };
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
    /// With sequences no longer than the sliding window of the blocks that have one, the `local` ones, so that every query sees all
    /// of its own.
    pub fn seen_within(self, local: &[bool], window: Option<usize>) -> Result<Design> {
        if !local.contains(&true) {
            return Ok(self);
        }
        let window = window.context("config.json: layer_types has sliding blocks, but no sliding_window is in use")?;
        limits::check_sizes(&[("sliding_window", window)])?;
        Ok(Design { max_length: self.max_length.min(window), ..self })
    }
}

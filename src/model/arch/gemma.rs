//! Gemma (2024, arXiv 2403.08295): LLaMA with scaled embeddings, norms that multiply by one plus their weight, and a
//! GELU gate. Gemma 2 (arXiv 2408.00118): with norms on the outputs of a block, soft caps, and every other block local.
//! Gemma 3's text models (2025, arXiv 2503.19786): with norms on query and key heads instead of caps, and most blocks
//! local, with their own rotary base.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::design::{Defaults, Design, LlamaConfig, explicit_null};
use crate::base::{Table, Use, fields};
use crate::device::{Activation, Scores};
use crate::formats::{Rope, limits, rope};

/// The fields of config.json that all three have beside LLaMA's.
pub const FIELDS: Table = Table {
    file: "config.json",
    of: "Gemma, Gemma 2 and Gemma 3",
    fields: &[
        ("attention_bias", Use::Read, "of queries, keys, values and the output"),
        ("mlp_bias", Use::Only(&["false"]), "the feed-forward layers have none"),
        ("use_bidirectional_attention", Use::Only(&["false"]), "it is for embeddings; a language model looks back only"),
    ],
};

/// Gemma's further fields.
pub const GEMMA_FIELDS: Table = Table {
    file: "config.json",
    of: "Gemma",
    fields: &[(
        "hidden_activation",
        Use::Only(&["\"gelu_pytorch_tanh\""]),
        "hidden_act says the same; gelu means its tanh form there",
    )],
};

/// Further fields of Gemma 2 and Gemma 3.
pub const LATER_FIELDS: Table = Table {
    file: "config.json",
    of: "Gemma 2 and Gemma 3",
    fields: &[
        ("hidden_activation", Use::Read, "gelu_pytorch_tanh or gelu"),
        ("query_pre_attn_scalar", Use::Read, "scores are divided by its square root; absent: 256"),
        ("attn_logit_softcapping", Use::Read, "absent: 50 in Gemma 2, none in Gemma 3; null: none"),
        ("final_logit_softcapping", Use::Read, "absent: 30 in Gemma 2, none in Gemma 3; null: none"),
        ("sliding_window", Use::Read, "the longest prompt is the window, where a block slides; absent: 4096"),
        ("layer_types", Use::Read, "sliding_attention and full_attention are known; before sliding_window_pattern"),
        ("_sliding_window_pattern", Use::NoEffect, "a note beside layer_types"),
        ("cache_implementation", Use::NoEffect, "of generation"),
    ],
};

/// Gemma 2's further fields.
pub const GEMMA2_FIELDS: Table = Table {
    file: "config.json",
    of: "Gemma 2",
    fields: &[("sliding_window_pattern", Use::Only(&["2"]), "every other block slides")],
};

/// Gemma 3's.
pub const GEMMA3_FIELDS: Table = Table {
    file: "config.json",
    of: "Gemma 3",
    fields: &[
        ("sliding_window_pattern", Use::Read, "every so many-th block sees all; absent: 6"),
        ("rope_local_base_freq", Use::Read, "the rotary base of blocks that slide; absent: 10000"),
    ],
};

const GEMMA: Defaults = Defaults { key_heads: Some(16), head_dim: Some(256), positions: 8192, tied: true };

const GEMMA2: Defaults = Defaults { key_heads: Some(4), ..GEMMA };

const GEMMA3: Defaults = Defaults { positions: 131_072, ..GEMMA2 };

/// The fields of Gemma's config.json that are read.
#[derive(Clone, Debug, Deserialize)]
pub struct GemmaConfig {
    #[serde(flatten)]
    base: LlamaConfig,
    hidden_activation: Option<String>,
    query_pre_attn_scalar: Option<f64>,
    sliding_window_pattern: Option<usize>,
    rope_local_base_freq: Option<f64>,
    #[serde(default, deserialize_with = "explicit_null")]
    attn_logit_softcapping: Option<Option<f32>>,
    #[serde(default, deserialize_with = "explicit_null")]
    final_logit_softcapping: Option<Option<f32>>,
}

impl GemmaConfig {
    /// Gemma's design; its first files say `gelu` for its tanh form.
    pub fn gemma(&self) -> Result<Design> {
        match self.base.hidden_act.as_deref() {
            None | Some("gelu" | "gelu_pytorch_tanh") => {}
            Some(other) => bail!("config.json: hidden_act \"{other}\" is not supported for Gemma; gelu_pytorch_tanh is"),
        }
        let design = self.design(Activation::GeluNew, &GEMMA)?;
        let frequencies = vec![self.base.rope()?.frequencies(design.heads.dim, design.max_length)?];
        Ok(Design { frequencies, ..design })
    }

    /// Gemma 2's design.
    pub fn gemma2(&self) -> Result<Design> {
        let design = self.design(self.gate()?, &GEMMA2)?;
        Design {
            sandwich_norm: true,
            scores: self.scores(self.attn_logit_softcapping.unwrap_or(Some(50.0)))?,
            logit_cap: cap(self.final_logit_softcapping.unwrap_or(Some(30.0)))?,
            frequencies: vec![self.base.rope()?.frequencies(design.heads.dim, design.max_length)?],
            ..design
        }
        .with_window(&self.base.local(|i| i % 2 == 0)?, self.base.window(4096))
    }

    /// Gemma 3's design.
    pub fn gemma3(&self) -> Result<Design> {
        let design = self.design(self.gate()?, &GEMMA3)?;
        let pattern = self.sliding_window_pattern.unwrap_or(6).max(1);
        let local = self.base.local(|i| !(i + 1).is_multiple_of(pattern))?;
        let ropes = self.ropes()?;
        let frequencies = ropes.iter().map(|rope| rope.frequencies(design.heads.dim, design.max_length));
        Design {
            qk_norm: true,
            sandwich_norm: true,
            scores: self.scores(self.attn_logit_softcapping.flatten())?,
            logit_cap: cap(self.final_logit_softcapping.flatten())?,
            frequencies: frequencies.collect::<Result<_>>()?,
            kinds: local.iter().copied().map(usize::from).collect(),
            ..design
        }
        .with_window(&local, self.base.window(4096))
    }

    fn design(&self, gate: Activation, defaults: &Defaults) -> Result<Design> {
        let design = self.base.design(gate, defaults)?;
        limits::check_positive(&[
            ("query_pre_attn_scalar", self.query_pre_attn_scalar),
            ("rope_local_base_freq", self.rope_local_base_freq),
        ])?;
        Ok(Design { norm_offset: 1.0, embedding_scale: (design.hidden as f64).sqrt(), ..design })
    }

    /// Gemma 3's rotary settings: for global blocks and for local ones. `rope_scaling` applies to the first.
    fn ropes(&self) -> Result<[Rope; 2]> {
        let objects = self.base.rope_parameters.clone().unwrap_or_default();
        fields::check(&[rope::KINDS], "config.json: rope_parameters", &objects)?;
        let object = |kind: &str| -> Result<Map<String, Value>> {
            match objects.get(kind) {
                None | Some(Value::Null) => Ok(Map::new()),
                Some(object) => object.as_object().cloned().with_context(|| format!("config.json: rope_parameters: {kind}")),
            }
        };
        let mut full = object("full_attention")?;
        full.extend(self.base.rope_scaling.clone().unwrap_or_default());
        let full = Rope::of("config.json: the rope settings of full_attention", &full)?;
        let sliding = Rope::of("config.json: the rope settings of sliding_attention", &object("sliding_attention")?)?;
        Ok([
            full.with_base(Some(self.base.rope_theta.unwrap_or(1e6))),
            sliding.with_base(Some(self.rope_local_base_freq.unwrap_or(1e4))),
        ])
    }

    fn scores(&self, at_most: Option<f32>) -> Result<Scores> {
        Ok(Scores { scale: self.query_pre_attn_scalar.unwrap_or(256.0).powf(-0.5) as f32, cap: cap(at_most)? })
    }

    /// The gate's activation; Gemma 2 and 3 ignore `hidden_act`.
    fn gate(&self) -> Result<Activation> {
        match self.hidden_activation.as_deref() {
            Some("gelu_pytorch_tanh") | None => Ok(Activation::GeluNew),
            Some("gelu") => Ok(Activation::Gelu),
            Some(other) => {
                bail!("config.json: hidden_activation \"{other}\" is not supported for Gemma; gelu_pytorch_tanh is")
            }
        }
    }
}

/// Checks a soft cap.
fn cap(cap: Option<f32>) -> Result<Option<f32>> {
    match cap {
        Some(cap) if !cap.is_finite() || cap <= 0.0 => bail!("config.json: a soft cap is {cap}; it must be above 0"),
        cap => Ok(cap),
    }
}

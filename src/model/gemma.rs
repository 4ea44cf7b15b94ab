//! Gemma (2024, arXiv 2403.08295) and Gemma 3's text models (2025, arXiv 2503.19786): LLaMA with larger embeddings, norms about one
//! and a GELU gate; then with norms on heads and on what a block adds, and most blocks local, with positions of their own.

use anyhow::{Result, bail};
use serde::Deserialize;

use super::llama::{self, Design};
use super::ops::Activation;
use super::rope::Rope;

/// Gemma's config.json, as far as it matters.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    #[serde(flatten)]
    base: llama::Config,
    tie_word_embeddings: Option<bool>,
    /// What counts where `hidden_act` is there too.
    hidden_activation: Option<String>,
    query_pre_attn_scalar: Option<f64>,
    layer_types: Option<Vec<String>>,
    sliding_window_pattern: Option<usize>,
    rope_local_base_freq: Option<f64>,
    rope_parameters: Option<Ropes>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    use_bidirectional_attention: Option<bool>,
}

/// The newer spelling: Gemma's one rope, or Gemma 3's for each kind of block.
#[derive(Clone, Debug, Default, Deserialize)]
struct Ropes {
    #[serde(flatten)]
    only: Rope,
    sliding_attention: Option<Rope>,
    full_attention: Option<Rope>,
}

impl Config {
    /// Gemma's.
    pub fn gemma(&self) -> Result<Design> {
        self.check()?;
        let design = self.base.design(self.gate()?)?;
        let rope = self.rope_parameters.clone().map(|ropes| ropes.only).or(self.base.rope_scaling.clone());
        Ok(Design {
            tied: self.tie_word_embeddings.unwrap_or(true),
            mlp_bias: false,
            norm_offset: 1.0,
            embedding_scale: (design.hidden as f64).sqrt(),
            frequencies: vec![rope.unwrap_or_default().with_base(self.base.rope_theta).frequencies(design.heads.dim)?],
            ..design
        })
    }

    /// Gemma 3's.
    pub fn gemma3(&self) -> Result<Design> {
        let design = self.gemma()?;
        let ropes = self.rope_parameters.clone().unwrap_or_default();
        let full = ropes.full_attention.or(self.base.rope_scaling.clone()).unwrap_or_default();
        let full = full.with_base(self.base.rope_theta).with_base(Some(1e6));
        let local = ropes.sliding_attention.unwrap_or_default();
        let local = local.with_base(self.rope_local_base_freq).with_base(Some(1e4));
        let kinds = (0..design.num_blocks).map(|i| self.is_local(i).map(usize::from)).collect::<Result<Vec<_>>>()?;
        let window = self.base.sliding_window.filter(|_| kinds.contains(&1));
        Design {
            head_norms: true,
            four_norms: true,
            score_scale: self.query_pre_attn_scalar.unwrap_or(256.0).powf(-0.5) as f32,
            frequencies: vec![full.frequencies(design.heads.dim)?, local.frequencies(design.heads.dim)?],
            kinds,
            ..design
        }
        .seen_within(window)
    }

    /// Whether block `i` looks back no further than the window.
    fn is_local(&self, i: usize) -> Result<bool> {
        let Some(kinds) = &self.layer_types else {
            return Ok(!(i + 1).is_multiple_of(self.sliding_window_pattern.unwrap_or(6).max(1)));
        };
        match kinds.get(i).map(String::as_str) {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            other => {
                bail!("config.json: layer_types has {other:?} for block {i}; sliding_attention and full_attention are known")
            }
        }
    }

    /// The first models' files say `gelu` and mean its tanh form.
    fn gate(&self) -> Result<Activation> {
        match self.hidden_activation.as_ref().or(self.base.hidden_act.as_ref()).map(String::as_str) {
            None | Some("gelu" | "gelu_pytorch_tanh") => Ok(Activation::GeluNew),
            Some(other) => bail!("config.json: hidden_activation \"{other}\" is not known for Gemma; gelu_pytorch_tanh is"),
        }
    }

    fn check(&self) -> Result<()> {
        if self.attn_logit_softcapping.is_some() || self.final_logit_softcapping.is_some() {
            bail!("config.json: soft caps on scores and logits, which Gemma 2 has, are not known");
        }
        if self.use_bidirectional_attention == Some(true) {
            bail!("config.json: use_bidirectional_attention is for embeddings; a language model looks back only");
        }
        Ok(())
    }
}

//! Gemma (2024, arXiv 2403.08295): LLaMA with larger embeddings, norms about one and a GELU gate. Gemma 2 (arXiv 2408.00118): with norms
//! on what a block adds, soft caps, and every other block local. Gemma 3's text models (2025, arXiv 2503.19786): with norms on heads
//! for the caps, and most blocks local, with positions of their own.

use anyhow::{Result, bail};
use serde::Deserialize;

use super::llama::{self, Design};
use super::ops::{Activation, Scores};
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
    #[serde(default, deserialize_with = "said")]
    attn_logit_softcapping: Option<Option<f32>>,
    #[serde(default, deserialize_with = "said")]
    final_logit_softcapping: Option<Option<f32>>,
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

/// What is null was said; what is absent was not.
fn said<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<f32>>, D::Error> {
    Option::deserialize(value).map(Some)
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

    /// Gemma 2's.
    pub fn gemma2(&self) -> Result<Design> {
        let design = self.gemma()?;
        let local = self.local(design.num_blocks, 2)?;
        Design {
            four_norms: true,
            scores: self.scores(self.attn_logit_softcapping.unwrap_or(Some(50.0))),
            logit_cap: self.final_logit_softcapping.unwrap_or(Some(30.0)),
            ..design
        }
        .seen_within(self.base.sliding_window.filter(|_| local.contains(&true)))
    }

    /// Gemma 3's.
    pub fn gemma3(&self) -> Result<Design> {
        let design = self.gemma()?;
        let ropes = self.rope_parameters.clone().unwrap_or_default();
        let full = ropes.full_attention.or(self.base.rope_scaling.clone()).unwrap_or_default();
        let full = full.with_base(self.base.rope_theta).with_base(Some(1e6));
        let sliding = ropes.sliding_attention.unwrap_or_default();
        let sliding = sliding.with_base(self.rope_local_base_freq).with_base(Some(1e4));
        let local = self.local(design.num_blocks, self.sliding_window_pattern.unwrap_or(6))?;
        Design {
            head_norms: true,
            four_norms: true,
            scores: self.scores(self.attn_logit_softcapping.flatten()),
            logit_cap: self.final_logit_softcapping.flatten(),
            frequencies: vec![full.frequencies(design.heads.dim)?, sliding.frequencies(design.heads.dim)?],
            kinds: local.iter().copied().map(usize::from).collect(),
            ..design
        }
        .seen_within(self.base.sliding_window.filter(|_| local.contains(&true)))
    }

    fn scores(&self, cap: Option<f32>) -> Scores {
        Scores { scale: self.query_pre_attn_scalar.unwrap_or(256.0).powf(-0.5) as f32, cap }
    }

    /// Which blocks look back no further than the window: all but every `pattern`-th, if the config does not say.
    fn local(&self, num_blocks: usize, pattern: usize) -> Result<Vec<bool>> {
        let kind = |i: usize| match &self.layer_types {
            None => Ok(!(i + 1).is_multiple_of(pattern.max(1))),
            Some(kinds) => match kinds.get(i).map(String::as_str) {
                Some("sliding_attention") => Ok(true),
                Some("full_attention") => Ok(false),
                other => bail!(
                    "config.json: layer_types has {other:?} for block {i}; sliding_attention and full_attention are known"
                ),
            },
        };
        (0..num_blocks).map(kind).collect()
    }

    /// The first models' files say `gelu` and mean its tanh form.
    fn gate(&self) -> Result<Activation> {
        match self.hidden_activation.as_ref().or(self.base.hidden_act.as_ref()).map(String::as_str) {
            None | Some("gelu" | "gelu_pytorch_tanh") => Ok(Activation::GeluNew),
            Some(other) => bail!("config.json: hidden_activation \"{other}\" is not known for Gemma; gelu_pytorch_tanh is"),
        }
    }

    fn check(&self) -> Result<()> {
        let caps = [self.attn_logit_softcapping, self.final_logit_softcapping];
        if let Some(cap) = caps.into_iter().flatten().flatten().find(|cap| cap.is_nan() || *cap <= 0.0) {
            bail!("config.json: a soft cap is {cap}; it must be above 0");
        }
        if self.use_bidirectional_attention == Some(true) {
            bail!("config.json: use_bidirectional_attention is for embeddings; a language model looks back only");
        }
        Ok(())
    }
}

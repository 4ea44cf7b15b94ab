//! Qwen2 (Yang et al. 2024, arXiv 2407.10671): LLaMA with biases on queries, keys and values. Qwen3 (2025, arXiv
//! 2505.09388): without the biases, with a norm on each query and key head.

use anyhow::Result;
use serde::Deserialize;

use super::design::{Defaults, Design, LlamaConfig};
use crate::base::{Table, Use};

/// The fields of config.json that both have beside LLaMA's.
pub const FIELDS: Table = Table {
    file: "config.json",
    of: "Qwen2 and Qwen3",
    fields: &[
        ("use_sliding_window", Use::Read, "whether sliding_window counts"),
        ("sliding_window", Use::Read, "the longest prompt is the window; absent: 4096"),
        ("max_window_layers", Use::Read, "blocks from this one on slide; absent: 28"),
        ("layer_types", Use::Read, "sliding_attention and full_attention are known; before max_window_layers"),
        ("mlp_bias", Use::Only(&["false"]), "the feed-forward layers have none"),
        ("use_mrope", Use::Only(&["false"]), "positions of images and videos"),
        (
            "dual_chunk_attention_config",
            Use::NoEffect,
            "vLLM's, for prompts longer than the model's positions; transformers has it not",
        ),
    ],
};

/// Qwen2's use of one of them.
pub const QWEN2_FIELDS: Table = Table {
    file: "config.json",
    of: "Qwen2",
    fields: &[("attention_bias", Use::NoEffect, "queries, keys and values always have biases, the output never")],
};

/// Qwen3's.
pub const QWEN3_FIELDS: Table = Table {
    file: "config.json",
    of: "Qwen3",
    fields: &[("attention_bias", Use::Read, "of queries, keys, values and the output")],
};

const QWEN2: Defaults = Defaults { key_heads: Some(32), positions: 32_768, ..Defaults::LLAMA };

const QWEN3: Defaults = Defaults { head_dim: Some(128), ..QWEN2 };

/// The fields of Qwen's config.json that are read.
#[derive(Clone, Debug, Deserialize)]
pub struct QwenConfig {
    #[serde(flatten)]
    base: LlamaConfig,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
}

impl QwenConfig {
    /// Qwen2's design; its biases are not in config.json.
    pub fn qwen2(&self) -> Result<Design> {
        let design = Design { qkv_bias: true, out_bias: false, mlp_bias: false, ..self.base.silu(&QWEN2)? };
        self.with_window(design)
    }

    /// Qwen3's design.
    pub fn qwen3(&self) -> Result<Design> {
        self.with_window(Design { qk_norm: true, mlp_bias: false, ..self.base.silu(&QWEN3)? })
    }

    /// Applies the sliding window, which config.json may name without using it.
    fn with_window(&self, design: Design) -> Result<Design> {
        let window = self.base.window(4096).filter(|_| self.use_sliding_window == Some(true));
        let first = self.max_window_layers.unwrap_or(28);
        let local = self.base.local(|i| window.is_some() && i >= first)?;
        design.with_window(&local, window)
    }
}

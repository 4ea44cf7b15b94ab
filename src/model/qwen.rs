//! Qwen2 (Yang et al. 2024, arXiv 2407.10671) and Qwen3 (2025, arXiv 2505.09388): LLaMA with biases on queries, keys and values;
//! then without them and with a norm on each head of queries and keys.

use anyhow::Result;
use serde::Deserialize;

use super::llama::{self, Design};

/// Qwen's config.json, as far as it matters.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    #[serde(flatten)]
    base: llama::Config,
    #[serde(default)]
    use_sliding_window: bool,
}

impl Config {
    /// Qwen2's, which config.json does not tell the biases of.
    pub fn qwen2(&self) -> Result<Design> {
        let design = Design { qkv_bias: true, out_bias: false, mlp_bias: false, ..self.base.llama()? };
        design.seen_within(self.window())
    }

    /// Qwen3's.
    pub fn qwen3(&self) -> Result<Design> {
        Design { head_norms: true, mlp_bias: false, ..self.base.llama()? }.seen_within(self.window())
    }

    /// The window is named whether or not it is used.
    fn window(&self) -> Option<usize> {
        self.base.sliding_window.filter(|_| self.use_sliding_window)
    }
}

//! The vocabulary projection.

use anyhow::Result;
use candle_core::{D, Tensor};

use super::Linear;
use crate::ops;
use crate::params::Weights;

/// The vocabulary projection as handles.
pub struct Head {
    pub(super) projection: Linear,
    /// What the logits go through: cap tanh(x / cap).
    pub(super) cap: Option<f32>,
}

impl Head {
    /// [rows, inner] -> [rows, vocab], f32.
    pub(super) fn logits(&self, weights: Weights, x: &Tensor) -> Result<Tensor> {
        self.capped(self.projection.apply(weights, x)?)
    }

    /// The logits of `picks` = (row of x [rows, inner], token) alone: [picks], f32. Of each point's rows the same.
    pub(super) fn logits_of(&self, weights: Weights, x: &Tensor, picks: &[(usize, u32)]) -> Result<Tensor> {
        let (rows, tokens): (Vec<u32>, Vec<u32>) = picks.iter().map(|&(row, token)| (row as u32, token)).unzip();
        let x = x.index_select(&Tensor::new(rows, x.device())?, 0)?;
        self.capped((x * ops::embed(weights, self.projection.weight, &tokens)?)?.sum(D::Minus1)?)
    }

    fn capped(&self, logits: Tensor) -> Result<Tensor> {
        self.cap.map_or(Ok(logits.clone()), |cap| ops::soft_cap(&logits, cap))
    }
}

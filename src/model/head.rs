//! The vocabulary projection.

use anyhow::Result;

use super::Linear;
use crate::device::Activations;
use crate::ops;
use crate::params::Weights;

/// The vocabulary projection as handles to its weights.
pub struct Head {
    pub(super) projection: Linear,
    /// The soft cap of the logits: cap tanh(x / cap).
    pub(super) cap: Option<f32>,
}

impl Head {
    /// [rows, inner] -> [rows, vocab], f32.
    pub(super) fn logits(&self, weights: Weights, x: &Activations) -> Result<Activations> {
        self.capped(self.projection.apply(weights, x)?)
    }

    /// The logits of `picks` = (row of x [rows, inner], token) only: [picks], f32. The picks apply to the rows of all
    /// points.
    pub(super) fn logits_of(&self, weights: Weights, x: &Activations, picks: &[(usize, u32)]) -> Result<Activations> {
        let (rows, tokens): (Vec<u32>, Vec<u32>) = picks.iter().map(|&(row, token)| (row as u32, token)).unzip();
        let x = x.select(&rows)?;
        self.capped(x.row_dots(&ops::embed(weights, self.projection.weight, &tokens)?)?)
    }

    fn capped(&self, logits: Activations) -> Result<Activations> {
        self.cap.map_or(Ok(logits.clone()), |cap| ops::soft_cap(&logits, cap))
    }
}

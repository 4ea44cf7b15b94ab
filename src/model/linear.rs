//! Linear layers as handles to their weights, with low-rank adapters.

use anyhow::Result;

use crate::device::{Activation, Activations};
use crate::ops::{self, Part};
use crate::params::{ParamId, Weights};

/// A linear layer as handles to its weights.
#[derive(Clone, Copy, Debug)]
pub struct Linear {
    pub(super) weight: ParamId,
    pub(super) bias: Option<ParamId>,
    /// Rows of the weight.
    pub(super) outer: usize,
    pub(super) low_rank: Option<LowRank>,
}

/// LoRA's addition to a linear layer, scale x A^T B^T, as handles: A [r, inner], B [outer, r], f32.
#[derive(Clone, Copy, Debug)]
pub(super) struct LowRank {
    pub(super) a: ParamId,
    pub(super) b: ParamId,
    pub(super) scale: f32,
}

impl Linear {
    fn part(&self, weights: Weights) -> Part {
        Part { weight: weights.leaf(self.weight), bias: self.bias.map(|b| weights.leaf(b)) }
    }

    /// x W^T + b: [tokens, inner] -> [tokens, outer].
    pub(super) fn apply(&self, weights: Weights, x: &Activations) -> Result<Activations> {
        self.apply_with(weights, x, Activation::None)
    }

    /// activation(x W^T + b).
    pub(super) fn apply_with(&self, weights: Weights, x: &Activations, activation: Activation) -> Result<Activations> {
        if self.low_rank.is_none() {
            return ops::linear(x, vec![self.part(weights)], activation);
        }
        let y = ops::linear(x, vec![self.part(weights)], Activation::None)?;
        ops::activated(&Self::adapted([self], weights, x, y)?, activation)
    }

    /// onto + x W^T + b.
    pub(super) fn apply_onto(&self, weights: Weights, onto: &Activations, x: &Activations) -> Result<Activations> {
        Self::adapted([self], weights, x, ops::linear_onto(onto, x, self.part(weights))?)
    }

    /// Several layers of one input, their outputs concatenated: [tokens, inner] -> [tokens, sum of outer].
    pub(super) fn apply_all<const N: usize>(layers: [&Linear; N], weights: Weights, x: &Activations) -> Result<Activations> {
        let y = ops::linear(x, layers.map(|layer| layer.part(weights)).into(), Activation::None)?;
        Self::adapted(layers, weights, x, y)
    }

    /// The layers' output y for input x, with their adapters' additions.
    fn adapted<const N: usize>(
        layers: [&Linear; N],
        weights: Weights,
        x: &Activations,
        y: Activations,
    ) -> Result<Activations> {
        let (mut down, mut up, mut column) = (Vec::new(), Vec::new(), 0);
        for layer in layers {
            if let Some(LowRank { a, b, scale }) = layer.low_rank {
                down.push(Part { weight: weights.leaf(a), bias: None });
                up.push(ops::LowRank { b: weights.leaf(b), scale, column });
            }
            column += layer.outer;
        }
        match down.is_empty() {
            true => Ok(y),
            false => ops::add_low_rank(&y, &ops::linear(x, down, Activation::None)?, up),
        }
    }
}

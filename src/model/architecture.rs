//! The interface of an architecture: a causal language model without its weights.

use anyhow::Result;
use serde_json::Value;

use super::head::Head;
use super::packed::Packed;
use crate::device::{Activations, Heads};
use crate::params::Weights;

/// The sizes of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the vocabulary projection.
    pub vocab_size: usize,
    /// The maximum sequence length.
    pub max_length: usize,
}

/// A causal language model without its weights.
pub trait Architecture: Send + Sync {
    /// The sizes.
    fn shape(&self) -> Shape;

    /// The parameters of its function that names and shapes of weights do not determine, as an object; with
    /// config.json's defaults filled in.
    fn numbers(&self) -> Value;

    /// The number of blocks between the embedding and the head.
    fn num_blocks(&self) -> usize;

    /// The attention heads.
    fn heads(&self) -> Heads;

    /// Adds what all blocks use of a batch, such as rotary angles.
    fn prepare<'a>(&self, packed: Packed<'a>) -> Result<Packed<'a>> {
        Ok(packed)
    }

    /// The input of the first block: [tokens, hidden], f32.
    fn embed(&self, weights: Weights, packed: &Packed) -> Result<Activations>;

    /// Block `i`: [tokens, hidden] -> [tokens, hidden], f32. The last one returns only the predicting rows, [states,
    /// hidden]: after its attention no other rows are needed.
    fn block(&self, weights: Weights, i: usize, x: Activations, packed: &Packed) -> Result<Activations>;

    /// The final norm, and any projection before the head: [rows, hidden] -> [rows, inner], f32.
    fn to_head(&self, weights: Weights, hidden: &Activations) -> Result<Activations>;

    /// The vocabulary projection.
    fn head(&self) -> &Head;
}

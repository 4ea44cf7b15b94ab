//! What an architecture is: a causal language model without its weights.

use anyhow::Result;
use serde_json::Value;

use super::head::Head;
use super::packed::Packed;
use crate::device::{Activations, Heads};
use crate::params::Weights;

/// What the rest of the program needs to know of a model's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the vocabulary projection.
    pub vocab_size: usize,
    /// The longest sequence that has positions.
    pub max_length: usize,
}

/// A causal language model without its weights.
pub trait Architecture: Send + Sync {
    /// Its sizes.
    fn shape(&self) -> Shape;

    /// What it computes of its weights, beside what their names and shapes say: an object of numbers, those that config.json leaves to
    /// defaults among them.
    fn numbers(&self) -> Value;

    /// How many blocks there are between the embedding and the head.
    fn num_blocks(&self) -> usize;

    /// How its attention's heads are made.
    fn heads(&self) -> Heads;

    /// Adds what is derived from a batch once and used by every block.
    fn prepare<'a>(&self, packed: Packed<'a>) -> Result<Packed<'a>> {
        Ok(packed)
    }

    /// The packed tokens as the first block takes them: [tokens, hidden], f32.
    fn embed(&self, weights: Weights, packed: &Packed) -> Result<Activations>;

    /// Block `i`: [tokens, hidden] -> [tokens, hidden], f32; the last one -> [states, hidden], the predicting rows alone, for
    /// once they have been mixed nobody looks at the others.
    fn block(&self, weights: Weights, i: usize, x: Activations, packed: &Packed) -> Result<Activations>;

    /// The final norm, and whatever else stands between the last block and the head: [rows, hidden] -> [rows, inner], f32.
    fn to_head(&self, weights: Weights, hidden: &Activations) -> Result<Activations>;

    /// The vocabulary projection.
    fn head(&self) -> &Head;
}

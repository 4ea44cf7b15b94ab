//! A batch as the blocks of a model take it: positions, prefix, rotary angles.

use std::cell::RefCell;

use anyhow::Result;

use crate::data::Batch;
use crate::device::cpu::Displaced;
use crate::device::cpu::attention::PrefixRows;
use crate::device::{Activations, Heads, Scores};
use crate::ops::{self, Place};
use crate::params::{ParamId, Weights};

/// A batch, prepared for an architecture.
pub struct Packed<'a> {
    pub(super) batch: &'a Batch,
    /// The position of each token in its sequence, after the prefix.
    pub(super) positions: Vec<u32>,
    pub(super) mode: PrefixMode,
    /// cos and sin of the rotary angles for each kind of block: [tokens, head_dim / 2] each.
    pub(super) angles: Vec<(Activations, Activations)>,
}

/// What precedes every sequence.
pub(super) enum PrefixMode {
    None,
    Prefix(Prefix),
    /// No prefix; records the keys and values of each block, from which a prefix of these tokens is made.
    CaptureKv(RefCell<Vec<Activations>>),
}

/// A prefix as a handle.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prefix {
    /// [tokens, blocks * 2 * keys * dim], f32.
    pub(super) embeddings: ParamId,
    pub(super) tokens: usize,
}

impl<'a> Packed<'a> {
    pub(super) fn new(batch: &'a Batch, mode: PrefixMode) -> Self {
        let shift = if let PrefixMode::Prefix(prefix) = &mode { prefix.tokens as u32 } else { 0 };
        Packed { batch, positions: batch.positions.iter().map(|p| p + shift).collect(), mode, angles: Vec::new() }
    }

    /// Attention in block `block` on concatenated q, k and v: [tokens, (queries + 2 keys) * dim] -> [tokens, queries *
    /// dim].
    pub(super) fn attend(
        &self,
        weights: Weights,
        block: usize,
        qkv: &Activations,
        heads: Heads,
        scores: Scores,
    ) -> Result<Activations> {
        match &self.mode {
            PrefixMode::None => {}
            PrefixMode::Prefix(prefix) => {
                let embeddings = weights.leaf(prefix.embeddings);
                let points = embeddings.displaced().map_or(1, Displaced::points);
                let rows = PrefixRows { rows: prefix.tokens, points };
                let qkv = ops::with_prefix(qkv, embeddings, Place { heads, block })?;
                return ops::attention(&qkv, self.batch.blocks(), rows, heads, scores);
            }
            PrefixMode::CaptureKv(noted) => {
                let (first, width) = (heads.queries * heads.dim, 2 * heads.keys * heads.dim);
                noted.borrow_mut().push(qkv.columns(first, width)?);
            }
        }
        ops::attention(qkv, self.batch.blocks(), PrefixRows::NONE, heads, scores)
    }

    /// The rows of x [tokens, ..] needed after a block's attention: all; in the last block the predicting ones,
    /// [states, ..].
    pub(super) fn needed_rows(&self, is_last: bool, x: &Activations) -> Result<Activations> {
        if !is_last {
            return Ok(x.clone());
        }
        x.select(&self.batch.states)
    }
}

//! A named weight.

use std::sync::Arc;

use anyhow::{Context, Result};

use super::role::Role;
use crate::device::{Array, ViewMut};
use crate::direction::{Direction, Key};

pub(super) struct Param {
    pub(super) name: String,
    /// Shared with operations while they read it.
    pub(super) array: Arc<Array>,
    /// Whether weight decay applies: to matrices and embeddings, not to biases and norms.
    pub(super) decays: bool,
    /// The weight's part of a direction's key.
    pub(super) tensor_id: u64,
    pub(super) role: Role,
}

impl Param {
    /// The key of a direction on this weight.
    pub(super) fn key(&self, direction: Direction, seed: u64) -> Key {
        Key::new(direction, seed, self.tensor_id)
    }

    /// The elements, for writing. Fails while an operation holds the array.
    pub(super) fn numbers_mut(&mut self) -> Result<ViewMut<'_>> {
        let array = Arc::get_mut(&mut self.array);
        Ok(array.with_context(|| format!("weight {} is to move while it is read", self.name))?.buffer_mut().view_mut())
    }
}

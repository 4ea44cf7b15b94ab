//! Accumulation of first-order gradients during a backward pass.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};

use super::gradient::Gradient;
use super::role::ParamId;

/// Length and sum of a weight's gradient; None if no gradient is wanted.
type Accumulator = Option<(usize, Mutex<Option<Gradient>>)>;

/// Accumulates the gradients of the weights that are differentiated.
///
/// Operations capture their weights and add to these buffers during the backward pass; candle's graph holds activations
/// only. So a weight's gradient is one f32 buffer, allocated at its first contribution, without copies.
pub struct Recorder {
    accumulators: Vec<Accumulator>,
    root: Var,
}

impl Recorder {
    /// `wanted`: per weight, the length of its gradient, or None.
    pub(super) fn new(wanted: impl Iterator<Item = Option<usize>>) -> Result<Self> {
        let accumulators = wanted.map(|len| len.map(|len| (len, Mutex::new(None)))).collect();
        let root = Var::zeros(1, DType::F32, &Device::Cpu)?;
        Ok(Recorder { accumulators, root })
    }

    /// Whether a gradient of `id` is wanted.
    pub fn wants(&self, id: ParamId) -> bool {
        self.accumulators[id.0].is_some()
    }

    /// Takes the gradient of `id`; None if nothing was added.
    pub fn take(&self, id: ParamId) -> Option<Gradient> {
        let (_, sum) = self.accumulators[id.0].as_ref()?;
        sum.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn root(&self) -> Tensor {
        self.root.as_tensor().clone()
    }

    pub(super) fn add(&self, id: ParamId, add: impl FnOnce(&mut [f32])) {
        let Some((len, sum)) = &self.accumulators[id.0] else { return };
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        add(sum.get_or_insert_with(|| Gradient::zeros(*len)));
    }
}

//! TODO

use std::sync::Arc;

use candle_core::Tensor;

use super::recorder::Recorder;
use super::role::ParamId;
use crate::device::cpu::Displaced;

/// A weight as an operation reads it.
#[derive(Clone)]
pub struct Leaf {
    tensor: Tensor,
    recorder: Option<Arc<Recorder>>,
    id: ParamId,
    displaced: Option<Displaced>,
}

impl Leaf {
    pub(super) fn new(tensor: Tensor, recorder: Option<&Arc<Recorder>>, id: ParamId, displaced: Option<Displaced>) -> Self {
        Leaf { tensor, recorder: recorder.filter(|r| r.wants(id)).cloned(), id, displaced }
    }

    /// Where it is to be read, if not as it stands.
    pub fn displaced(&self) -> Option<&Displaced> {
        self.displaced.as_ref()
    }

    /// The weight itself as it stands, sharing its storage.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Adds a share of the weight's gradient: `add` is lent the buffer. Not called where no gradient is wanted.
    pub fn add_gradient(&self, add: impl FnOnce(&mut [f32])) {
        if let Some(recorder) = &self.recorder {
            recorder.add(self.id, add);
        }
    }
}

//! A weight as an operand.

use std::sync::Arc;

use super::recorder::Recorder;
use super::role::ParamId;
use crate::device::Array;
use crate::device::cpu::Displaced;

/// A weight as an operand: its array, its displacement, and the accumulator of its gradient.
#[derive(Clone)]
pub struct Leaf {
    array: Arc<Array>,
    recorder: Option<Arc<Recorder>>,
    id: ParamId,
    displaced: Option<Displaced>,
}

impl Leaf {
    pub(super) fn new(
        array: Arc<Array>,
        recorder: Option<&Arc<Recorder>>,
        id: ParamId,
        displaced: Option<Displaced>,
    ) -> Self {
        Leaf { array, recorder: recorder.filter(|r| r.wants(id)).cloned(), id, displaced }
    }

    /// The points to read the weight at, if not at theta.
    pub fn displaced(&self) -> Option<&Displaced> {
        self.displaced.as_ref()
    }

    /// The weight at theta.
    pub fn array(&self) -> &Array {
        &self.array
    }

    /// Adds to the weight's gradient through `add`, which gets the buffer. Without a recorder `add` is not called.
    pub fn add_gradient(&self, add: impl FnOnce(&mut [f32])) {
        if let Some(recorder) = &self.recorder {
            recorder.add(self.id, add);
        }
    }
}

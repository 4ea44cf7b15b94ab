//! A weight as an operation reads it.

use std::sync::Arc;

use super::recorder::Recorder;
use super::role::ParamId;
use crate::device::Array;
use crate::device::cpu::Displaced;

/// A weight as an operation reads it.
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

    /// Where it is to be read, if not as it stands.
    pub fn displaced(&self) -> Option<&Displaced> {
        self.displaced.as_ref()
    }

    /// The weight as it stands.
    pub fn array(&self) -> &Array {
        &self.array
    }

    /// Adds a share of the weight's gradient: `add` is lent the buffer. Not called where no gradient is wanted.
    pub fn add_gradient(&self, add: impl FnOnce(&mut [f32])) {
        if let Some(recorder) = &self.recorder {
            recorder.add(self.id, add);
        }
    }
}

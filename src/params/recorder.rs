//! Where first-order gradients gather while a graph is walked back.

use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};

use super::gradient::Gradient;
use super::role::ParamId;

/// A gradient's place: how long it is to be, and what has gathered. None where none is wanted.
type Place = Option<(usize, Mutex<Option<Gradient>>)>;

/// Gathers the gradients of the weights that are to be differentiated.
///
/// Operations capture their weights and add to these buffers as the graph is walked back; candle's graph itself holds
/// activations alone. So a weight's gradient is one f32 buffer, made when its first share comes, without copies.
pub struct Recorder {
    places: Vec<Place>,
    root: Var,
}

impl Recorder {
    /// `wanted`: for each weight, the length of the gradient that is wanted of it.
    pub(super) fn new(wanted: impl Iterator<Item = Option<usize>>) -> Result<Self> {
        let places = wanted.map(|len| len.map(|len| (len, Mutex::new(None)))).collect();
        let root = Var::zeros(1, DType::F32, &Device::Cpu)?;
        Ok(Recorder { places, root })
    }

    /// Whether a gradient is wanted of `id`.
    pub fn wants(&self, id: ParamId) -> bool {
        self.places[id.0].is_some()
    }

    /// What has gathered for `id`: None if nothing has.
    pub fn take(&self, id: ParamId) -> Option<Gradient> {
        let (_, gathered) = self.places[id.0].as_ref()?;
        gathered.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn root(&self) -> Tensor {
        self.root.as_tensor().clone()
    }

    pub(super) fn add(&self, id: ParamId, add: impl FnOnce(&mut [f32])) {
        let Some((len, gathered)) = &self.places[id.0] else { return };
        let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        add(gathered.get_or_insert_with(|| Gradient::zeros(*len)));
    }
}

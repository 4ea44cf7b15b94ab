//! Where first-order gradients gather while a graph is walked back.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use candle_core::{DType, Device, Tensor, Var};

use super::{Displaced, ParamId};
use crate::memory::SetAside;
use crate::simd;

/// A weight's gradient, in f32 whatever the weight is held in. Its bytes are counted apart from the activations'.
#[derive(Debug)]
pub struct Gradient {
    values: Vec<f32>,
    _counted: SetAside,
}

impl Gradient {
    /// Of `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let counted = SetAside::new(4 * len);
        Gradient { values: vec![0.0; len], _counted: counted }
    }

    /// The sum of its squares.
    pub fn squared_norm(&self) -> f64 {
        squared_norm(&self.values)
    }
}

vectorize! {
    /// f32 sums over short runs, joined in f64.
    fn squared_norm(x: &[f32]) -> f64 {
        let mut total = 0f64;
        for run in x.chunks(1024) {
            total += f64::from(simd::sum(run, #[inline(always)] |x| x * x));
        }
        total
    }
}

impl Deref for Gradient {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values
    }
}

impl DerefMut for Gradient {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }
}

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

    fn add(&self, id: ParamId, add: impl FnOnce(&mut [f32])) {
        let Some((len, gathered)) = &self.places[id.0] else { return };
        let mut gathered = gathered.lock().unwrap_or_else(PoisonError::into_inner);
        add(gathered.get_or_insert_with(|| Gradient::zeros(*len)));
    }
}

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

//! First-order gradients.

use std::ops::{Deref, DerefMut};

use crate::base::SetAside;
use crate::device::cpu::math;

/// The first-order gradient of one weight, f32 [len] for any storage precision. Its bytes are counted as set aside.
#[derive(Debug)]
pub struct Gradient {
    values: Vec<f32>,
    _counted: SetAside,
}

impl Gradient {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let counted = SetAside::new(4 * len);
        Gradient { values: vec![0.0; len], _counted: counted }
    }

    /// The squared Euclidean norm.
    pub fn squared_norm(&self) -> f64 {
        squared_norm(&self.values)
    }
}

vectorize! {
    /// f32 sums over 1,024 numbers, added in f64.
    fn squared_norm(x: &[f32]) -> f64 {
        let mut total = 0f64;
        for run in x.chunks(1024) {
            total += f64::from(math::sum(run, #[inline(always)] |x| x * x));
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

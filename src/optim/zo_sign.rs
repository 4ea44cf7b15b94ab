//! ZO-signSGD: theta <- theta - lr sign(g), coordinate by coordinate (Liu et al. 2019, ICLR).

use super::rule::Equations;
use crate::estimator::At;
use crate::noise::Kernel;

/// No state, but a pass of its own: the sign is not linear in the direction.
#[derive(Clone, Copy)]
pub struct ZoSign {
    lr: f32,
}

impl ZoSign {
    /// There is nothing to choose.
    pub fn new() -> Self {
        ZoSign { lr: 0.0 }
    }
}

impl Kernel<0> for ZoSign {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, []: [f32; 0]) -> (f32, [f32; 0]) {
        let sign = if g > 0.0 { 1.0 } else { 0.0 } - if g < 0.0 { 1.0 } else { 0.0 };
        (self.lr.mul_add(-sign, theta), [])
    }
}

impl Equations<0> for ZoSign {
    const STATE: [&'static str; 0] = [];

    fn set(&mut self, at: &At) {
        self.lr = at.learning_rate;
    }

    fn definition(&self) -> String {
        "theta -= lr sign(g), coordinate by coordinate".into()
    }
}

//! ZO-signSGD: theta <- theta - lr sign(g), coordinate by coordinate (Liu et al. 2019, ICLR).

use anyhow::Result;

use super::{Rule, Settings, decay};
use crate::estimator::Estimate;
use crate::noise::Kernel;
use crate::params::{Params, State};

/// No state, but a pass of its own: the sign is not linear in the direction.
pub struct ZoSign {
    kernel: Sign,
    weight_decay: Option<f32>,
    state: State<0>,
}

#[derive(Clone, Copy)]
struct Sign {
    lr: f32,
}

impl Kernel<0> for Sign {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, []: [f32; 0]) -> (f32, [f32; 0]) {
        let sign = if g > 0.0 { 1.0 } else { 0.0 } - if g < 0.0 { 1.0 } else { 0.0 };
        (self.lr.mul_add(-sign, theta), [])
    }
}

impl ZoSign {
    /// State of zeros for `params`.
    pub fn new(settings: &Settings, params: &Params) -> Self {
        let kernel = Sign { lr: 0.0 };
        ZoSign { kernel, weight_decay: settings.weight_decay, state: params.state() }
    }
}

impl Rule for ZoSign {
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()> {
        decay(lr, self.weight_decay, params);
        self.kernel.lr = lr;
        params.update(&estimate.terms, &mut self.state, &self.kernel)
    }

    fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    fn definition(&self) -> String {
        "theta -= lr sign(g), coordinate by coordinate".into()
    }
}

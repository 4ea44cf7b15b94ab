//! ZO-SGD with momentum: m <- b m + g; theta <- theta - lr m (ZO-Bench, arXiv 2402.11592).

use anyhow::Result;

use super::{Rule, Settings, decay};
use crate::estimator::Estimate;
use crate::noise::Kernel;
use crate::params::{Params, State};

/// One moment of state.
pub struct ZoSgdMomentum {
    kernel: Momentum,
    weight_decay: Option<f32>,
    state: State<1>,
}

#[derive(Clone, Copy)]
struct Momentum {
    lr: f32,
    momentum: f32,
}

impl Kernel<1> for Momentum {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, [m]: [f32; 1]) -> (f32, [f32; 1]) {
        let m = self.momentum.mul_add(m, g);
        (self.lr.mul_add(-m, theta), [m])
    }
}

impl ZoSgdMomentum {
    /// State of zeros for `params`.
    pub fn new(settings: &Settings, params: &Params) -> Self {
        let kernel = Momentum { lr: 0.0, momentum: settings.momentum.unwrap_or(0.9) };
        ZoSgdMomentum { kernel, weight_decay: settings.weight_decay, state: params.state() }
    }
}

impl Rule for ZoSgdMomentum {
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()> {
        decay(lr, self.weight_decay, params);
        self.kernel.lr = lr;
        params.update(&estimate.terms, &mut self.state, &self.kernel)
    }

    fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    fn definition(&self) -> String {
        format!("m = {} m + g; theta -= lr m", self.kernel.momentum)
    }
}

//! ZO-RMSProp: the baseline of R-AdaZO (arXiv 2502.01014).
//!
//! ```text
//! v <- b2 v + (1 - b2) g^2;   theta <- theta - lr g / sqrt(v + zeta)
//! ```

use anyhow::Result;

use super::{Rule, Settings, decay};
use crate::estimator::Estimate;
use crate::noise::Kernel;
use crate::params::{Params, State};

/// The second moment of the estimate.
pub struct ZoRmsProp {
    kernel: RmsProp,
    weight_decay: Option<f32>,
    state: State<1>,
}

#[derive(Clone, Copy)]
struct RmsProp {
    lr: f32,
    beta2: f32,
    zeta: f32,
}

impl Kernel<1> for RmsProp {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, [v]: [f32; 1]) -> (f32, [f32; 1]) {
        let v = self.beta2 * v + (1.0 - self.beta2) * (g * g);
        (theta - self.lr * g / (v + self.zeta).sqrt(), [v])
    }
}

impl ZoRmsProp {
    /// State of zeros for `params`.
    pub fn new(settings: &Settings, params: &Params) -> Self {
        let kernel = RmsProp { lr: 0.0, beta2: settings.beta2.unwrap_or(0.99), zeta: settings.zeta.unwrap_or(1e-8) };
        ZoRmsProp { kernel, weight_decay: settings.weight_decay, state: params.state() }
    }
}

impl Rule for ZoRmsProp {
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()> {
        decay(lr, self.weight_decay, params);
        self.kernel.lr = lr;
        params.update(&estimate.terms, &mut self.state, &self.kernel)
    }

    fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    fn definition(&self) -> String {
        let RmsProp { beta2, zeta, .. } = self.kernel;
        format!("v = {beta2} v + {} g^2; theta -= lr g / sqrt(v + {zeta:e})", 1.0 - beta2)
    }
}

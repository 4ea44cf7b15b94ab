//! ZO-Adam: Adam with bias correction on the estimate (ZO-Bench, arXiv 2402.11592).
//!
//! ```text
//! m <- b1 m + (1 - b1) g;   v <- b2 v + (1 - b2) g^2
//! theta <- theta - lr [m / (1 - b1^t)] / (sqrt(v / (1 - b2^t)) + zeta)
//! ```

use anyhow::Result;

use super::{Rule, Settings, decay};
use crate::estimator::Estimate;
use crate::noise::Kernel;
use crate::params::{Params, State};

/// Both moments, and how many steps there were.
pub struct ZoAdam {
    kernel: Adam,
    weight_decay: Option<f32>,
    state: State<2>,
    steps: i32,
}

#[derive(Clone, Copy)]
struct Adam {
    lr: f32,
    beta1: f32,
    beta2: f32,
    zeta: f32,
    /// 1 - b1^t and 1 - b2^t.
    correction1: f32,
    correction2: f32,
}

impl Kernel<2> for Adam {
    #[inline(always)]
    fn apply(&self, theta: f32, g: f32, [m, v]: [f32; 2]) -> (f32, [f32; 2]) {
        let m = self.beta1 * m + (1.0 - self.beta1) * g;
        let v = self.beta2 * v + (1.0 - self.beta2) * (g * g);
        (theta - self.lr * (m / self.correction1) / ((v / self.correction2).sqrt() + self.zeta), [m, v])
    }
}

impl ZoAdam {
    /// State of zeros for `params`.
    pub fn new(settings: &Settings, params: &Params) -> Self {
        let kernel = Adam {
            lr: 0.0,
            beta1: settings.beta1.unwrap_or(0.9),
            beta2: settings.beta2.unwrap_or(0.999),
            zeta: settings.zeta.unwrap_or(1e-8),
            correction1: 1.0,
            correction2: 1.0,
        };
        ZoAdam { kernel, weight_decay: settings.weight_decay, state: params.state(), steps: 0 }
    }
}

impl Rule for ZoAdam {
    fn step(&mut self, lr: f32, params: &mut Params, estimate: &Estimate) -> Result<()> {
        decay(lr, self.weight_decay, params);
        self.steps += 1;
        let correction = |beta: f32| (1.0 - f64::from(beta).powi(self.steps)) as f32;
        let Adam { beta1, beta2, .. } = self.kernel;
        self.kernel = Adam { lr, correction1: correction(beta1), correction2: correction(beta2), ..self.kernel };
        params.update(&estimate.terms, &mut self.state, &self.kernel)
    }

    fn state_bytes(&self) -> usize {
        self.state.bytes()
    }

    fn definition(&self) -> String {
        let Adam { beta1, beta2, zeta, .. } = self.kernel;
        let (c1, c2) = (1.0 - beta1, 1.0 - beta2);
        format!("m = {beta1} m + {c1} g; v = {beta2} v + {c2} g^2; bias-corrected; theta -= lr m / (sqrt(v) + {zeta:e})")
    }
}
